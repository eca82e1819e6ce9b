"""How many channels each layer keeps: a ladder of ever smaller networks, each step the cheapest loss.

Damage is counted as the share of the next layer's power that the channels kept do not explain (see
`selection`), cost as milliseconds on this machine: each step removes channels where the damage for a
millisecond is least. Weights count as well, so that a network which has to be small gets small.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgetl.compression.selection import Ranking
from edgetl.vgg16 import COLOURS

ALIGNED = 16  # channels that int8 kernels work on at once: MLAS, XNNPACK on x86 and on arm64
KERNEL = 9  # weights of a 3x3 kernel for each pair of channels
_WEIGHTS_SHARE = 0.5  # how much weights count beside milliseconds, both as shares of the whole network
_LEAST_DAMAGE = 1e-6


@dataclass(frozen=True)
class Rung:
    """One network of the ladder."""

    widths: tuple[int, ...]
    latency_ms: float  # expected
    parameters: int  # of the convolutions
    damage: float  # sum over layers


def parameters_of(widths: Sequence[int]) -> int:
    """Weights and biases of the convolutions."""
    inputs = (COLOURS, *widths[:-1])
    return sum((KERNEL * before + 1) * after for before, after in zip(inputs, widths, strict=True))


def aligned(widths: Sequence[float]) -> tuple[int, ...]:
    """The nearest numbers of channels that kernels are made for, at least one such number."""
    return tuple(max(ALIGNED, ALIGNED * round(width / ALIGNED)) for width in widths)


def ladder(rankings: Sequence[Ranking], latency: Callable[[Sequence[int]], float]) -> Iterator[Rung]:
    """Networks from whole to least, each with up to `ALIGNED` channels of one layer less than before."""
    widths = [len(ranking.order) for ranking in rankings]
    whole_ms, whole_parameters = latency(widths), parameters_of(widths)
    while True:
        damages = [ranking.missing[width - 1] for ranking, width in zip(rankings, widths, strict=True)]
        yield Rung(tuple(widths), latency(widths), parameters_of(widths), float(sum(damages)))
        now = _cost(latency(widths) / whole_ms, parameters_of(widths) / whole_parameters)
        prices = {}
        for layer, ranking in enumerate(rankings):
            fewer = ALIGNED * ((widths[layer] - 1) // ALIGNED)
            if fewer == 0:
                continue
            trial = [*widths[:layer], fewer, *widths[layer + 1 :]]
            saved = now - _cost(latency(trial) / whole_ms, parameters_of(trial) / whole_parameters)
            harm = max(_LEAST_DAMAGE, ranking.missing[fewer - 1] - damages[layer])
            prices[layer] = (harm / max(saved, np.finfo(np.float64).tiny), fewer)
        if not prices:
            return
        chosen = min(prices, key=lambda layer: prices[layer][0])
        widths[chosen] = prices[chosen][1]


def _cost(time_share: float, weights_share: float) -> float:
    return (1 - _WEIGHTS_SHARE) * time_share + _WEIGHTS_SHARE * weights_share
