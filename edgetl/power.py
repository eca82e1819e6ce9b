"""How many images a proof of parity takes, before any is looked at."""

import math
from statistics import NormalDist

import numpy as np

from edgetl.checks import check_between
from edgetl.searches import falling_root, smallest
from edgetl.trinomial import (
    GAMMA,
    TOLERANCE,
    chance,
    likely_discordance,
    p_value,
    possible_drop,
    tables_scoring,
)

MOST_IMAGES = 10_000_000
_NORMAL = NormalDist()


def images_needed(
    max_drop: float,
    discordance: float,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    drop: float = 0.0,
    exact: bool = True,
) -> int:
    """How many images prove "the drop is below `max_drop`" with probability `power`, if it is `drop`.

    `discordance`, at least |drop|, is the share of images on which one of the two models alone is right. The
    proof is `exact_upper`, or `tango_upper` if not `exact`. The probability is summed over all tables, not
    simulated; as it rises with the number in small jumps up and down, the number returned has it and one less
    has not, but a smaller one may. At most `MOST_IMAGES`.
    """
    max_drop = possible_drop(max_drop)
    check_between(drop, -1, max_drop, "expected drop")
    check_between(power, 0, 1, "power")
    check_between(alpha, GAMMA + TOLERANCE, 0.5, "error probability")
    if not abs(drop) <= discordance <= 1:
        raise ValueError(f"the discordance must lie in {abs(drop)}..1, not {discordance}")
    z, room = _NORMAL.inv_cdf(1 - alpha), max_drop - drop
    psi, harmful_share = np.array([discordance]), np.array([0.5 + 0.5 * drop / (discordance or 1)])

    def suffices(images: int) -> bool:
        bound = _greatest_bound(max_drop, discordance, images, alpha) if exact else max_drop
        tables = tables_scoring(-z, bound, images, (discordance, discordance))
        return float(chance(tables, psi, harmful_share)[0]) >= power

    textbook = (z + _NORMAL.inv_cdf(power)) ** 2 * discordance / room**2
    return smallest(suffices, math.ceil(max(textbook, -math.log(alpha) / room)), MOST_IMAGES)


def _greatest_bound(max_drop: float, discordance: float, images: int, alpha: float) -> float:
    """The greatest `tango_upper` that still `proves` whatever number of discordant images comes up."""
    expected = images * discordance
    far = 5 * math.sqrt(expected * (1 - discordance))
    fewest, most = max(0, math.floor(expected - far)), min(images, math.ceil(expected + far))
    asked = likely_discordance(fewest, images)[0], likely_discordance(most, images)[1]
    z = _NORMAL.inv_cdf(1 - alpha)

    def room(bound: float) -> float:
        return math.log(alpha / p_value(tables_scoring(-z, bound, images, asked), max_drop, asked))

    within = 1e-4 * max_drop
    return falling_root(room, max_drop, 0.05 * max_drop, (-1.0, 1.0), within) - within
