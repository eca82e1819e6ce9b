"""Weights with few values or many zeros: a compressed file of them is smaller. No engine gets faster by it.

Han, Mao & Dally, "Deep Compression", ICLR 2016, sections 2 and 3: small weights become 0, the others share
few values. Here the levels of an int8 file are shared, not float weights: int8 has a scale for each output
channel, so 32 floats that a layer shares become more than a hundred different bytes; 32 levels stay 32.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Levels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Limit:
    """What the weights [..., O] of one layer may be."""

    levels: int  # of int8 on either side of 0; the largest weight of each output channel has the last one
    kept: NDArray[np.bool_] | None  # of the weights' shape; the others are 0. None: all may be anything
    codebook: Levels | None  # ascending levels that weights may have; None: any


def limit_of(kernel: Array, clusters: int | None, sparsity: float | None, levels: int) -> Limit:
    """The limit that changes weights [..., O] least: the smallest become 0, the others share levels.

    0 is one of the levels where there is a sparsity, a share 0..1.
    """
    kept = None if sparsity is None else largest(kernel, sparsity)
    if clusters is None:
        return Limit(levels, kept, None)
    pruned = kernel if kept is None else kernel * kept
    found = np.rint(pruned / _scales(pruned, levels)).astype(np.int64)
    if kept is not None:
        found = found[kept]
    counts = np.bincount(found.ravel() + levels, minlength=2 * levels + 1)
    fixed = (-levels, levels) if kept is None else (-levels, 0, levels)
    return Limit(levels, kept, shared_levels(counts, clusters, fixed))


def largest(kernel: Array, sparsity: float) -> NDArray[np.bool_]:
    """Which weights are kept when the smallest, `sparsity` of all, become 0; of equal ones the last are."""
    count = min(kernel.size, int(np.ceil(sparsity * kernel.size)))
    order = np.argsort(np.abs(kernel).ravel(), kind="stable")
    kept = np.ones(kernel.size, np.bool_)
    kept[order[:count]] = False
    return kept.reshape(kernel.shape)


def shared_levels(counts: Levels, clusters: int, fixed: tuple[int, ...]) -> Levels:
    """At most `clusters` whole levels, `fixed` ones among them, with the least squared error there can be.

    counts [2 * L + 1]: how many weights are on each level from -L to L. In one dimension clusters are
    intervals, so the best k-means is found, not approached (Fisher, "On Grouping for Maximum Homogeneity",
    1958): the best division of all levels below a border, from those with one cluster fewer.
    Raises `ValueError` for fewer clusters than fixed levels.
    """
    if clusters < len(fixed):
        raise ValueError(f"{clusters} clusters cannot hold the {len(fixed)} fixed levels {fixed}")
    points = len(counts)
    costs, centres = _intervals(counts, fixed)
    least = np.full(points + 1, np.inf)  # of the levels below each border, in so many clusters
    least[0] = 0.0
    begins = np.zeros((clusters, points + 1), np.int64)
    used = np.zeros(clusters)
    for number in range(clusters):
        sums = least[:points, None] + costs
        begins[number, 1:] = sums.argmin(axis=0)
        least = np.concatenate([[np.inf], sums.min(axis=0)])
        used[number] = least[points]
    chosen, end = [], points
    for number in range(int(used.argmin()), -1, -1):
        begin = begins[number, end]
        chosen.append(centres[begin, end - 1])
        end = begin
    return np.unique(chosen)


def _intervals(counts: Levels, fixed: tuple[int, ...]) -> tuple[NDArray[np.float64], Levels]:
    """For the levels from each to each, inclusive: the squared error around their centre, and the centre.

    The centre is the fixed level among them, or the rounded mean; two fixed levels are never together.
    """
    half = len(counts) // 2
    levels = np.arange(-half, half + 1)
    number, total, square = (
        np.concatenate([[0], np.cumsum(counts * levels**power)]).astype(np.float64) for power in range(3)
    )
    ones, sums, squares = (part[None, 1:] - part[:-1, None] for part in (number, total, square))
    centres = np.rint(np.where(ones > 0, sums / np.maximum(ones, 1), levels[:, None])).astype(np.int64)
    held = np.zeros_like(centres)
    for level in fixed:
        inside = (levels[:, None] <= level) & (level <= levels)
        centres[inside] = level
        held += inside
    costs = squares - 2 * centres * sums + np.square(centres) * ones
    costs[(held > 1) | (levels[:, None] > levels)] = np.inf
    return costs, centres


def limited(kernel: Array, limit: Limit) -> Array:
    """The weights [..., O] that keep to a limit and are nearest."""
    if limit.kept is not None:
        kernel = kernel * limit.kept
    if limit.codebook is None:
        return np.asarray(kernel, np.float32)
    scales = _scales(kernel, limit.levels)
    borders = (limit.codebook[1:] + limit.codebook[:-1]) / 2
    chosen = limit.codebook[np.searchsorted(borders, kernel / scales)] * scales
    return np.asarray(chosen if limit.kept is None else chosen * limit.kept, np.float32)


def _scales(kernel: Array, levels: int) -> Array:
    """[O] the step between levels; 1 for a channel of zeros."""
    highest = np.abs(kernel).reshape(-1, kernel.shape[-1]).max(axis=0)
    return np.asarray(np.where(highest > 0, highest / np.float32(levels), 1), np.float32)
