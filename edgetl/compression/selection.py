"""Which channels a convolution can do without, and new weights for what reads the others.

He, Zhang & Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, and Luo et al.,
"ThiNet", TPAMI 2019: what one layer's channels contribute to the next layer's sums is measured on images of
the target. Channels are taken one after the other, each time the one that explains most of what is left
(orthogonal least squares, Chen, Billings & Luo 1989), and the next layer is fitted anew. No labels,
no backpropagation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Exact = NDArray[np.float64]
_SMALLEST = 1e-12  # of a channel's power that is left, as a share: below it the channel says nothing new


@dataclass(frozen=True, eq=False)
class Ranking:
    """Channels in the order in which they are worth keeping."""

    order: NDArray[np.int64]  # [C]
    missing: Exact  # [C] share of the next layer's power that is not explained by the first 1 .. C of them

    def kept(self, count: int) -> NDArray[np.int64]:
        """The `count` best channels, ascending."""
        return np.sort(self.order[:count])


@dataclass(frozen=True, eq=False)
class Contributions:
    """What the channels of one layer contribute to the sums of the next, gathered over any number of rows.

    gram [C, C] and aim [C]: products of the contributions with each other and with the whole sums; power: of
    the whole sums.
    """

    gram: Exact
    aim: Exact
    power: float


_ROWS_AT_ONCE = 64


def contributions(patches: Array, kernel: Array) -> Contributions:
    """Of patches [N, taps, C] that a layer with `kernel` [taps, C, M] reads; a 3x3 convolution has 9 taps."""
    rows, _, channels = patches.shape
    gram, aim, power = np.zeros((channels, channels)), np.zeros(channels), 0.0
    for start in range(0, rows, _ROWS_AT_ONCE):
        some = patches[start : start + _ROWS_AT_ONCE].transpose(2, 0, 1)  # [C, n, 9]
        parts = np.matmul(some, kernel.transpose(1, 0, 2))  # [C, n, M]
        parts = parts.reshape(channels, -1)
        whole = parts.sum(axis=0)
        gram += parts @ parts.T
        aim += parts @ whole
        power += float(np.square(whole, dtype=np.float64).sum())
    return Contributions(gram, aim, power)


def together(parts: Sequence[Contributions]) -> Contributions:
    """For channels that several layers read: each counts by the share of its own power."""
    gram, aim, power = np.zeros_like(parts[0].gram), np.zeros_like(parts[0].aim), 0.0
    for part in parts:
        if part.power > 0:
            gram += part.gram / part.power
            aim += part.aim / part.power
            power += 1.0
    return Contributions(gram, aim, power)


def rank(found: Contributions) -> Ranking:
    """Orthogonal least squares over all channels; what is left over comes last, in its own order."""
    channels = len(found.aim)
    own, aim = found.gram.diagonal().copy(), found.aim.copy()
    smallest = _SMALLEST * np.maximum(own, np.finfo(np.float64).tiny)
    basis = np.zeros((channels, channels))
    left, explained, order = np.ones(channels, bool), 0.0, np.zeros(channels, np.int64)
    missing = np.zeros(channels)
    for step in range(channels):
        usable = left & (own > smallest)
        gains = np.where(usable, np.square(aim) / np.where(usable, own, 1.0), -1.0)
        best = int(gains.argmax()) if usable.any() else int(left.argmax())
        if usable[best]:
            scale = np.sqrt(own[best])
            direction = (found.gram[:, best] - basis[:, :step] @ basis[best, :step]) / scale
            basis[:, step] = direction
            explained += gains[best]
            aim -= direction * (aim[best] / scale)
            own -= np.square(direction)
        left[best] = False
        order[step] = best
        missing[step] = max(0.0, 1.0 - explained / found.power) if found.power > 0 else 0.0
    return Ranking(order, missing)


def refit(inputs: Array, outputs: Array, weights: Array, ridge: float) -> tuple[Array, Array]:
    """Weights [D, M] and bias [M] that turn inputs [N, D] into outputs [N, M] with the least squared error.

    ridge: how strongly they are drawn to `weights` [D, M], as a share of the mean power of an input.
    """
    centre, target = inputs.mean(axis=0, dtype=np.float64), outputs.mean(axis=0, dtype=np.float64)
    seen = (inputs - centre).astype(np.float32)
    square = (seen.T @ seen).astype(np.float64)
    power = float(square.diagonal().mean())
    pull = ridge * max(power, float(np.finfo(np.float32).tiny))
    square[np.diag_indices_from(square)] += pull
    right = (seen.T @ (outputs - target).astype(np.float32)).astype(np.float64) + pull * weights
    found = np.linalg.solve(square, right)
    return found.astype(np.float32), (target - centre @ found).astype(np.float32)
