"""Did what a model says about images change? Two samples in, distances with intervals and a verdict out.

Pure functions on numpy. Two kinds of samples are compared: histograms (counts of classes, of confidences, of
refused images) by Kullback-Leibler divergence and population stability index, and vectors (probabilities,
embeddings) by maximum mean discrepancy. Both have a permutation test of "nothing changed", which is exact for
rows that are independent of each other, and a bootstrap interval of the distance. Impossible input (no rows,
unequal widths) raises `ValueError`; callers guard.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edgetl.statistics import holm

ALPHA = 0.05  # of all tests together, and of both ends of an interval together
PERMUTATIONS = 999
RESAMPLES = 999
CONFIDENCE_BINS = 10
ROWS_PER_BIN = 5  # on average and in each sample: below that the smoothing decides, not the rows
_ROUNDING = 1e-6  # of sums in float32: permutations that only exchange equals, or the samples, must tie
_MOST_ROWS = 500_000_000  # in one histogram; numpy's hypergeometric counts end at a billion
_CELLS = 1024
_LOG_ODDS = (-10.0, 17.0)  # of float32 probabilities: 17 is the largest below 1
# By the normal curve, the upper end of a distance that is zero lies in 80 of 100 samples below this number of
# standard deviations of its permuted values: 0.84 for chance, 1.96 sqrt(3.5) for the interval, whose variance
# is that of a quadratic form at its own size, and some for skewness.
_UPPER_END_DEVIATIONS = 5.2

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


class DriftVerdict(StrEnum):
    """What the rows say about "nothing changed that matters"."""

    NOT_DRIFTED = "not drifted"  # every distance is proven to lie below its threshold
    DRIFTED = "drifted"  # a difference is proven, and not proven to be small
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Distance:
    """How far two samples lie apart, with a 95 % interval."""

    measure: str
    value: float  # what chance alone adds is taken off; never negative
    low: float
    high: float
    threshold: float


@dataclass(frozen=True)
class Comparison:
    """Two samples seen from one side, before the others are known."""

    distances: tuple[Distance, ...]
    p_value: float  # of "nothing changed", by permutation
    enough_rows: bool  # whether the interval may be trusted to prove that little changed
    rows_needed: (
        float  # in the new sample, to prove in 80 of 100 cases that nothing changed; inf: reference too small
    )
    reference_rows_needed: int  # the same, in each of two samples of equal size


def smoothed(counts: NDArray[np.integer]) -> Floats:
    """Shares of counts [..., bins], half a row added to each bin (Krichevsky and Trofimov 1981)."""
    added = counts + 0.5
    return cast("Floats", added / added.sum(axis=-1, keepdims=True))


def kl_divergence(now: NDArray[np.integer], reference: NDArray[np.integer]) -> Floats:
    """KL(now || reference) in nats of smoothed counts [..., bins] -> [...]."""
    q, p = smoothed(now), smoothed(reference)
    return cast("Floats", (q * np.log(q / p)).sum(axis=-1))


def stability_index(now: NDArray[np.integer], reference: NDArray[np.integer]) -> Floats:
    """Population stability index of smoothed counts [..., bins] -> [...]: KL one way and the other."""
    q, p = smoothed(now), smoothed(reference)
    return cast("Floats", ((q - p) * np.log(q / p)).sum(axis=-1))


def compare_counts(
    reference: Counts, now: Counts, tolerance: float, random: np.random.Generator
) -> Comparison:
    """Two histograms of the same bins, int64 [bins]; `tolerance` is the KL divergence allowed, nats.

    Bins that are empty on both sides are left out. Permuting the rows of two histograms is drawing from a
    multivariate hypergeometric distribution, so the work does not depend on the number of rows.
    """
    if reference.shape != now.shape or reference.ndim != 1:
        raise ValueError(f"histograms must have the same bins, not {reference.shape} and {now.shape}")
    if not (reference.sum() and now.sum()):
        raise ValueError("there must be at least one row on each side")
    seen = (reference + now) > 0
    old, new = _drawable(reference[seen], now[seen])
    sizes = int(old.sum()), int(new.sum())
    drawn = random.multivariate_hypergeometric(old + new, sizes[1], PERMUTATIONS, method="marginals")
    permuted = kl_divergence(drawn, old + new - drawn)
    olds = random.multinomial(sizes[0], smoothed(old), RESAMPLES)
    news = random.multinomial(sizes[1], smoothed(new), RESAMPLES)
    divergence = float(kl_divergence(new, old))
    return Comparison(
        (
            _distance("KL", divergence, kl_divergence(news, olds), tolerance),
            _distance("PSI", float(stability_index(new, old)), stability_index(news, olds), 2 * tolerance),
        ),
        _permutation_p(divergence, permuted),
        min(sizes) >= ROWS_PER_BIN * len(old),
        *_counts_needed(old + new, tolerance, sizes, random),
    )


def _drawable(old: Counts, new: Counts) -> tuple[Counts, Counts]:
    """Two histograms with the same shares and no more rows than the generator can draw from."""
    parts = -(-int(old.sum() + new.sum()) // _MOST_ROWS)
    return (
        (old, new) if parts <= 1 else (np.maximum(old // parts, old > 0), np.maximum(new // parts, new > 0))
    )


def confidence_cells(confidences: NDArray[np.floating]) -> Counts:
    """Counts of confidences (0..1, any number) in many cells of equal width in log-odds, int64 [cells]."""
    low, high = _LOG_ODDS
    inside = np.clip(np.asarray(confidences, np.float64), 1e-12, 1 - 1e-12)
    places = (np.log(inside) - np.log1p(-inside) - low) * (_CELLS / (high - low))
    return np.bincount(np.clip(places, 0, _CELLS - 1).astype(np.int64), minlength=_CELLS).astype(np.int64)


def in_equal_bins(reference: Counts, now: Counts, bins: int = CONFIDENCE_BINS) -> tuple[Counts, Counts]:
    """Join neighbouring cells [cells] to at most `bins` bins that hold equally many rows of both together.

    The bins do not know which row is of which sample, so the permutation test stays exact.
    """
    both = reference + now
    middle_ranks = np.cumsum(both) - both / 2
    place = np.minimum((middle_ranks * bins / max(1, both.sum())).astype(np.int64), bins - 1)
    old, new = (np.bincount(place, weights=cells, minlength=bins) for cells in (reference, now))
    return old.astype(np.int64), new.astype(np.int64)


def compare_vectors(
    reference: NDArray[np.floating], now: NDArray[np.floating], tolerance: float, random: np.random.Generator
) -> Comparison:
    """Two samples of vectors [N, D] and [M, D] by MMD with a Gaussian kernel (Gretton et al. 2012).

    The bandwidth is the median distance of all pairs. The distance is told as a share, of which `tolerance`
    is allowed: replacing that share of the reference by vectors that are like none of it, and as like each
    other, gives the same MMD. What really replaces images is somewhat like them, so their share is larger.
    """
    if reference.ndim != 2 or now.ndim != 2 or reference.shape[1] != now.shape[1]:
        raise ValueError(f"vectors must have the same width, not {reference.shape} and {now.shape}")
    sizes = len(reference), len(now)
    if min(sizes) < 2:
        raise ValueError("there must be at least two rows on each side")
    kernel = _gaussian_kernel(np.concatenate([reference, now]))
    squared = _squared_mmd(kernel, *(np.full((size, 1), 1 / size) for size in sizes))[0]
    permuted = _permuted_mmd(kernel, sizes, random)
    resampled = _squared_mmd(kernel, *(_bootstrap_weights(size, random) for size in sizes))
    own = kernel[: sizes[0], : sizes[0]]
    alike = (float(own.sum(dtype=np.float64)) - sizes[0]) / (sizes[0] * (sizes[0] - 1))
    allowed = 2 * alike * tolerance**2
    distance = _distance("moved share", float(squared), resampled, allowed)
    return Comparison(
        (_as_share(distance, 2 * alike),),
        _permutation_p(float(squared), permuted),
        min(sizes) >= ROWS_PER_BIN * CONFIDENCE_BINS,
        *_at_least(ROWS_PER_BIN * CONFIDENCE_BINS, _rows_needed(permuted, allowed, sizes), sizes),
    )


def top_vectors(probabilities: NDArray[np.floating], top: int) -> NDArray[np.float32]:
    """What the `top` largest of probabilities [N, C] tell: the rest is shared evenly by the other classes.

    So that full probabilities can be compared with results that hold only the most likely classes.
    """
    rows, classes = probabilities.shape
    if top >= classes:
        return probabilities.astype(np.float32)
    best = np.argpartition(-probabilities, top - 1, axis=1)[:, :top]
    kept = np.take_along_axis(probabilities, best, axis=1)
    rest = np.maximum(0, 1 - kept.sum(axis=1, keepdims=True)) / (classes - top)
    vectors = np.broadcast_to(rest, (rows, classes)).astype(np.float32)
    np.put_along_axis(vectors, best, kept.astype(np.float32), axis=1)
    return vectors


def judge(comparisons: Sequence[Comparison]) -> tuple[tuple[float, DriftVerdict], ...]:
    """The adjusted p-value (Holm) and the verdict of each of several comparisons of the same two samples."""
    adjusted = holm([one.p_value for one in comparisons])
    return tuple((p, _verdict(one, p)) for one, p in zip(comparisons, adjusted, strict=True))


def overall(verdicts: Sequence[DriftVerdict]) -> DriftVerdict:
    """Drifted if one is; not drifted only if all are not."""
    if DriftVerdict.DRIFTED in verdicts:
        return DriftVerdict.DRIFTED
    small = bool(verdicts) and all(verdict is DriftVerdict.NOT_DRIFTED for verdict in verdicts)
    return DriftVerdict.NOT_DRIFTED if small else DriftVerdict.CANNOT_TELL


def _verdict(comparison: Comparison, p_adjusted: float) -> DriftVerdict:
    if comparison.enough_rows and all(one.high < one.threshold for one in comparison.distances):
        return DriftVerdict.NOT_DRIFTED
    return DriftVerdict.DRIFTED if p_adjusted <= ALPHA else DriftVerdict.CANNOT_TELL


def _distance(measure: str, value: float, resampled: Floats, threshold: float) -> Distance:
    """A distance whose estimate chance only makes larger, with the bias taken off and a bootstrap interval.

    Resampling adds the same bias once more, which is how it is known. An estimate below its bias counts as
    zero, and keeps the whole width of its interval: luck in one sample proves nothing about the next.
    """
    middle = float(resampled.mean())
    corrected = max(0.0, value - max(0.0, middle - value))
    low, high = np.quantile(resampled, [ALPHA / 2, 1 - ALPHA / 2]) - middle
    return Distance(measure, corrected, max(0.0, corrected + float(low)), corrected + float(high), threshold)


def _as_share(squared: Distance, whole: float) -> Distance:
    parts = (squared.value, squared.low, squared.high, squared.threshold)
    return Distance(squared.measure, *(min(1.0, math.sqrt(part / max(whole, 1e-12))) for part in parts))


def _permutation_p(value: float, permuted: Floats) -> float:
    """The share of permutations, the sample among them, that lie as far apart or farther."""
    as_far = int((permuted >= value - _ROUNDING * (1 + abs(value))).sum())
    return (1 + as_far) / (1 + len(permuted))


def _counts_needed(
    both: Counts, tolerance: float, sizes: tuple[int, int], random: np.random.Generator
) -> tuple[float, int]:
    """Like `_rows_needed`, by drawing samples without a shift that are not ruled by the smoothing."""
    least = ROWS_PER_BIN * len(both)
    enough = max(sizes[0], least), max(sizes[1], least)
    olds, news = (random.multinomial(size, both / both.sum(), PERMUTATIONS) for size in enough)
    by_kl = _rows_needed(kl_divergence(news, olds), tolerance, enough)
    by_index = _rows_needed(stability_index(news, olds), 2 * tolerance, enough)
    return _at_least(least, max(by_kl, by_index), sizes)


def _at_least(least: int, needed: tuple[float, int], sizes: tuple[int, int]) -> tuple[float, int]:
    """No fewer rows than an interval needs to be trusted, on both sides."""
    return (max(needed[0], least) if sizes[0] >= least else math.inf), max(needed[1], least)


def _rows_needed(permuted: Floats, threshold: float, sizes: tuple[int, int]) -> tuple[float, int]:
    """Rows of the new sample, and of each of two equal ones, with which chance stays below the threshold.

    What chance does to a squared distance is proportional to 1/N + 1/M.
    """
    noise = _UPPER_END_DEVIATIONS * float(permuted.std())
    if noise <= 0:
        return 0.0, 0
    allowed = (1 / sizes[0] + 1 / sizes[1]) * threshold / noise
    room = allowed - 1 / sizes[0]
    return (1 / room if room > 0 else math.inf), math.ceil(2 / allowed)


def _gaussian_kernel(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """exp(-distance^2 / median distance^2), float32 [N, N]."""
    centred = vectors.astype(np.float32) - vectors.mean(axis=0, dtype=np.float32)
    lengths = np.square(centred).sum(axis=1)
    squares = np.maximum(0, lengths[:, None] + lengths - 2 * (centred @ centred.T))
    np.fill_diagonal(squares, 0)
    between = squares[np.triu_indices(len(squares), 1)]
    median = (
        float(np.median(between)) or float(between.mean()) or 1.0
    )  # many equal vectors: their median is zero
    return cast("NDArray[np.float32]", np.exp(-squares / np.float32(median)))


def _squared_mmd(kernel: NDArray[np.float32], old: Floats, new: Floats) -> Floats:
    """Squared MMD for weights of the rows, [N, tries] and [M, tries], that add up to 1 in each column."""
    weights = np.concatenate([-old, new]).astype(np.float32)
    return cast("Floats", np.einsum("ij,ij->j", weights, kernel @ weights, dtype=np.float64))


def _permuted_mmd(kernel: NDArray[np.float32], sizes: tuple[int, int], random: np.random.Generator) -> Floats:
    order = np.argsort(random.random((sum(sizes), PERMUTATIONS)), axis=0)
    weights = np.where(order < sizes[0], -1 / sizes[0], 1 / sizes[1])
    return _squared_mmd(kernel, -weights[: sizes[0]], weights[sizes[0] :])


def _bootstrap_weights(size: int, random: np.random.Generator) -> Floats:
    """How often each of `size` rows is drawn in a resample, over `size`: float64 [size, RESAMPLES]."""
    drawn = random.integers(0, size, (RESAMPLES, size)) + size * np.arange(RESAMPLES)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * RESAMPLES).reshape(RESAMPLES, size).T / size
