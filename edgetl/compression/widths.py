"""How many channels each layer keeps: down from the whole network, by the least damage for what is saved.

Damage is the share of the next layer's power that the channels kept do not explain (see `selection`). What
counts as saved are the costs that are still above their limits, each as a share of its limit: milliseconds on
this machine, multiply-adds, weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgetl.compression.selection import Ranking
from edgetl.vgg16 import COLOURS

ALIGNED = 16  # channels that int8 kernels work on at once: MLAS, XNNPACK on x86 and on arm64
KERNEL = 9  # weights of a 3x3 kernel for each pair of channels
_LEAST_DAMAGE = 1e-6

Widths = tuple[int, ...]


@dataclass(frozen=True)
class Limit:
    """What a network with certain channels costs, and the most it may."""

    cost: Callable[[Sequence[int]], float]
    most: float


def parameters_of(widths: Sequence[int]) -> int:
    """Weights and biases of the convolutions."""
    inputs = (COLOURS, *widths[:-1])
    return sum((KERNEL * before + 1) * after for before, after in zip(inputs, widths, strict=True))


def aligned(widths: Sequence[float]) -> Widths:
    """The nearest numbers of channels that kernels are made for, at least one such number."""
    return tuple(max(ALIGNED, ALIGNED * round(width / ALIGNED)) for width in widths)


def within(rankings: Sequence[Ranking], limits: Sequence[Limit]) -> Widths | None:
    """The channels of a network that keeps to all limits; None where the smallest exceeds one.

    Every step leaves a layer with the next smaller multiple of `ALIGNED`.
    """
    widths = tuple(len(ranking.order) for ranking in rankings)
    while above := [limit for limit in limits if limit.cost(widths) > limit.most]:
        steps = [(_price(rankings, widths, step, above), step) for step in _steps(widths)]
        if not steps:
            return None
        widths = min(steps)[1]
    return widths


def _steps(widths: Widths) -> list[Widths]:
    """The networks with one layer less by one step."""
    fewer = [ALIGNED * ((width - 1) // ALIGNED) for width in widths]
    return [(*widths[:layer], few, *widths[layer + 1 :]) for layer, few in enumerate(fewer) if few > 0]


def _price(rankings: Sequence[Ranking], widths: Widths, step: Widths, above: Sequence[Limit]) -> float:
    """Damage of a step for what it saves."""
    harm = sum(
        ranking.missing[few - 1] - ranking.missing[many - 1]
        for ranking, many, few in zip(rankings, widths, step, strict=True)
    )
    saved = sum((limit.cost(widths) - limit.cost(step)) / limit.most for limit in above)
    return float(max(harm, _LEAST_DAMAGE) / max(saved, _LEAST_DAMAGE**2))
