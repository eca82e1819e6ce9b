"""Chances of paired tables: how often do two models give counts at least as favourable as these?

A paired table counts, among N images, the harmful ones (only the reference is right) and the helpful ones
(only the candidate is). With a true drop D and a true share psi >= |D| of discordant images, their number n
is Binomial(N, psi) and the harmful among them are Binomial(n, (1 + D / psi) / 2).
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgetl.binomial import TINY, binomial_cdf, clopper_pearson_lower, clopper_pearson_upper, log_choose
from edgetl.checks import check_between

# In units of sqrt(N) * angle, see `greatest_chance`, the Fisher information is at most 4 and the second
# derivative of any chance at most 2 (computed; 1.94 as N grows): points h apart miss at most h^2 / 4.
_FIRST_STEP, _SPLITS, _LEVELS = 0.125, 4, 3
TOLERANCE: float = (_FIRST_STEP / _SPLITS**_LEVELS) ** 2 / 4  # 1e-6

# The error probability set aside for the interval of the share of discordant images, as chosen in Fagerland,
# Lydersen & Laake 2017, Statistical Analysis of Contingency Tables, chapter 8.
GAMMA = 1e-4

Count = TypeVar("Count", float, NDArray[np.float64])


@dataclass(frozen=True)
class Tables:
    """All tables with at most `most_harmful[i]` harmful ones of `discordant[i]` images; -1 stands for none.

    `discordant` are consecutive numbers; other numbers of discordant images are rare enough to be left out.
    """

    images: int
    discordant: NDArray[np.int64]
    most_harmful: NDArray[np.int64]


def score(harmful: Count, helpful: Count, images: float, drop: float) -> Count:
    """Tango's score statistic of "the drop is `drop`", -1 < drop < 1: about standard normal if that is so.

    T = (harmful - helpful - N D) / sqrt(N (2 q + D (1 - D))), q the likeliest share of helpful images under
    that drop: the larger root of 2 N q^2 + B q - helpful D (1 - D), with B = (2 N - harmful + helpful) D -
    harmful - helpful. Rises with `harmful`, falls with `helpful`. Source: Tango 1998, Statistics in Medicine
    17:891-908, sections 2 and 3.
    """
    b = (2 * images - harmful + helpful) * drop - harmful - helpful
    root = abs(b * b + 8 * images * drop * (1 - drop) * helpful) ** 0.5
    variance = (root - b) / (2 * images) + drop * (1 - drop)
    statistic: Count = (harmful - helpful - images * drop) / (images * abs(variance) + TINY) ** 0.5
    return statistic


@lru_cache(maxsize=64)  # the bounds and the p-value of one table ask for the same
def likely_discordance(discordant: int, images: int) -> tuple[float, float]:
    """Clopper and Pearson's two-sided interval of the share of discordant images, of error `GAMMA`."""
    return (
        clopper_pearson_lower(discordant, images, GAMMA / 2),
        clopper_pearson_upper(discordant, images, GAMMA / 2),
    )


def tables_scoring(most: float, drop: float, images: int, discordance: tuple[float, float]) -> Tables:
    """The tables whose `score` at `drop` is at most `most`, as far as the given shares make them likely."""
    lowest, highest = (images * share for share in discordance)
    first = max(0, math.floor(lowest - 7 * math.sqrt(lowest)) - 15)
    last = min(images, math.ceil(highest + 7 * math.sqrt(highest)) + 15)
    discordant = np.arange(first, last + 1)
    most += 1e-9 * (1 + abs(most))  # rounding must not leave out the table that was observed
    low, high = np.full_like(discordant, -1), discordant.copy()
    while (open_ := low < high).any():
        middle = (low + high + 1) // 2
        harmful = middle.astype(np.float64)
        inside = score(harmful, discordant - harmful, images, drop) <= most
        low, high = np.where(open_ & inside, middle, low), np.where(open_ & ~inside, middle - 1, high)
    return Tables(images, discordant, low)


def chance(
    tables: Tables, discordance: NDArray[np.float64], harmful_share: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The probability of `tables` for arrays [A] of psi and of (1 + D / psi) / 2 -> [A].

    P = sum over n of P(n) F(n), with F(n) = P(harmful <= limit(n) | n). As the limit grows by 0 or 1 with n,
    F(n + 1) = F(n) - share * P(harmful = limit(n) | n) + (P(harmful = limit(n + 1) | n + 1) if it grew).
    """
    images, n, limit = tables.images, tables.discordant, tables.most_harmful
    psi, share = discordance[:, None], harmful_share[:, None]
    weights = np.exp(log_choose(images, n) + n * _log(psi) + (images - n) * _log(1 - psi))
    at = np.maximum(limit, 0)
    at_limit = np.exp(log_choose(n, at) + at * _log(share) + (n - at) * _log(1 - share)) * (limit >= 0)
    first = binomial_cdf(int(limit[0]), int(n[0]), harmful_share)[:, None]
    changes = at_limit[:, 1:] * (np.diff(limit) > 0) - share * at_limit[:, :-1]
    inside = np.clip(np.cumsum(np.concatenate((first, changes), axis=1), axis=1), 0, 1)
    # What is left out, 1e-12 or less, counts as inside: a p-value must not be too small.
    left_out = np.maximum(0, 1 - weights.sum(axis=1))
    total: NDArray[np.float64] = (weights * inside).sum(axis=1) + left_out
    return total


def greatest_chance(tables: Tables, drop: float, discordance: tuple[float, float]) -> float:
    """The largest probability of favourable `tables` with a true drop of `drop` or more, -1 < drop < 1.

    Favourable means: with a table also those with a harmful image less or turned helpful, or a helpful one
    more. Then the drop `drop` itself is worst. The share psi of discordant images lies in the given interval;
    psi = |D| + (1 - |D|) sin(angle)^2 is searched in steps of the angle that suit N images. The result is at
    most `TOLERANCE` too small; 0.0 when no such psi allows the drop.
    """
    size, root = abs(drop), math.sqrt(tables.images)
    low, high = discordance
    if high < size:  # a drop that large needs more discordant images; else the worst is that all are helpful
        return 0.0 if drop > 0 else float(chance(tables, np.array([high]), np.zeros(1))[0])
    start, end = (math.asin(math.sqrt(max(0.0, psi - size) / (1 - size))) for psi in (low, high))

    def chances(angles: NDArray[np.float64]) -> NDArray[np.float64]:
        psi = size + (1 - size) * np.sin(angles) ** 2
        return chance(tables, psi, 0.5 + 0.5 * drop / np.maximum(psi, TINY))

    steps = max(1, math.ceil((end - start) * root / _FIRST_STEP))
    places = np.arange(steps + 1)
    greatest = 0.0
    for level in range(_LEVELS + 1):
        found = chances(np.minimum(start + (end - start) * places / steps, end))
        greatest = max(greatest, float(found.max()))
        if level < _LEVELS:
            near = places[found + ((end - start) / steps * root) ** 2 / 4 >= greatest] * _SPLITS
            steps *= _SPLITS
            around = near[:, None] + np.arange(1 - _SPLITS, _SPLITS)
            places = np.unique(np.clip(around, 0, steps))
    return greatest


def p_value(tables: Tables, drop: float, discordance: tuple[float, float]) -> float:
    """The `greatest_chance` made an upper limit over all shares of discordant images, likely or not."""
    return min(1.0, greatest_chance(tables, drop, discordance) + TOLERANCE + GAMMA)


def possible_drop(drop: float) -> float:
    """The drop itself; 1 becomes the number below, where the score still has a variance."""
    check_between(drop, -1, math.nextafter(1, 2), "drop")
    return min(drop, math.nextafter(1, 0))


def _log(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    logs: NDArray[np.float64] = np.log(np.maximum(shares, TINY))
    return logs
