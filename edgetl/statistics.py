"""Proof that a small model is as accurate as its reference, and the scores that go with it.

Arrays in, frozen records out; pure functions on numpy and the standard library, so they also run on a device.
Accuracies, drops and bounds are shares in 0..1 (a drop may be negative), never percentage points.
Impossible input (no images, unequal shapes, counts out of range) raises `ValueError`; callers guard.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

MOST_FURTHER_IMAGES = 1_000_000


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval of a share."""

    low: float
    high: float


class Verdict(StrEnum):
    """What the images given say about the promise "the drop is smaller than allowed"."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class PairedDrop:
    """How much accuracy a candidate loses against its reference on the same images.

    `harmful` counts images only the reference gets right, `helpful` those only the candidate does;
    `drop = (harmful - helpful) / images`. `upper` and `lower` each hold with probability 1 - `alpha`, not
    jointly. `p_mcnemar` tests "no difference at all"; a large value is no proof of parity.
    """

    images: int
    harmful: int
    helpful: int
    drop: float
    upper: float
    lower: float
    alpha: float
    p_mcnemar: float


@dataclass(frozen=True)
class ClassScore:
    """Precision, recall and F1 of one class; a ratio whose denominator is zero is 0.0, as without images."""

    images: int
    precision: float
    recall: float
    f1: float


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Two-sided score interval of a proportion (Wilson 1927, without continuity correction)."""
    _check_count(successes, trials, "successes")
    _check_alpha(1 - confidence, below=1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # Rounding must not push the share itself outside at 0 and at 1.
    return Interval(max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share)))


def clopper_pearson_upper(events: int, trials: int, alpha: float = 0.05) -> float:
    """Exact one-sided upper bound of a probability: the p at which P(at most `events`) is `alpha`.

    Equals the 1 - alpha quantile of Beta(events + 1, trials - events) (Clopper & Pearson 1934).
    """
    _check_count(events, trials, "events")
    _check_alpha(alpha, below=1.0)
    if events == trials:
        return 1.0
    log_tail = _log_binomial_tail(events, trials)
    log_alpha = math.log(alpha)
    return _bisect(lambda p: log_tail(p) > log_alpha, 0.0, 1.0)


def tango_upper(harmful: float, helpful: float, images: float, alpha: float = 0.05) -> float:
    """One-sided upper bound of the paired drop `(harmful - helpful) / images`, by inverting the score test.

    Counts may be fractional, which answers "what if this share went on"; `alpha` is below 0.5. Without
    discordant images it is z^2 / (images + z^2). Source: Tango 1998, Statistics in Medicine 17:891-908.
    The error rate is close to `alpha`, not below it: where every discordant image is harmful and few are
    expected it reaches 1.4 `alpha`. `clopper_pearson_upper(harmful, images)` never exceeds it.
    """
    _check_count(harmful, images, "harmful")
    _check_count(helpful, images, "helpful")
    # Fractional counts that add up to all images may exceed them by rounding.
    if harmful + helpful > images * (1 + 1e-9):
        raise ValueError(f"harmful {harmful} and helpful {helpful} together exceed images {images}")
    _check_alpha(alpha, below=0.5)
    z = NormalDist().inv_cdf(1 - alpha)
    difference = harmful - helpful

    def not_rejected(drop: float) -> bool:
        variance = _tango_variance(harmful, helpful, images, drop)
        return images * drop - difference <= z * math.sqrt(images * variance)

    return _bisect(not_rejected, difference / images, 1.0)


def tango_lower(harmful: float, helpful: float, images: float, alpha: float = 0.05) -> float:
    """One-sided lower bound of the paired drop: `tango_upper` with the two models exchanged, negated."""
    return -tango_upper(helpful, harmful, images, alpha)


def mcnemar_exact(harmful: int, helpful: int) -> float:
    """Two-sided exact p-value of "both models are equally accurate" (McNemar 1947); 1.0 for counts 0, 0."""
    discordant = harmful + helpful
    if discordant == 0:
        return 1.0
    _check_count(harmful, discordant, "harmful")
    return min(1.0, 2 * math.exp(_log_binomial_tail(min(harmful, helpful), discordant)(0.5)))


def paired_drop(
    reference_correct: NDArray[np.bool_], candidate_correct: NDArray[np.bool_], alpha: float = 0.05
) -> PairedDrop:
    """Compare two models image by image: two bool arrays [N] in the same image order."""
    _check_pair(reference_correct, candidate_correct)
    if reference_correct.dtype != np.bool_ or candidate_correct.dtype != np.bool_:
        raise ValueError("paired_drop takes two arrays of bool: was each image classified correctly?")
    images = reference_correct.size
    harmful = int(np.count_nonzero(reference_correct & ~candidate_correct))
    helpful = int(np.count_nonzero(candidate_correct & ~reference_correct))
    return PairedDrop(
        images=images,
        harmful=harmful,
        helpful=helpful,
        drop=(harmful - helpful) / images,
        upper=tango_upper(harmful, helpful, images, alpha),
        lower=tango_lower(harmful, helpful, images, alpha),
        alpha=alpha,
        p_mcnemar=mcnemar_exact(harmful, helpful),
    )


def judge(drop: PairedDrop, max_drop: float) -> tuple[Verdict, int]:
    """Decide non-inferiority with margin `max_drop`, a share.

    Returns the verdict and the number of further images, behaving like these, that would decide it: 0 when
    decided, at most `MOST_FURTHER_IMAGES` (the answer whenever the drop sits on the margin itself).
    """
    if drop.upper < max_drop:
        return Verdict.PASS, 0
    if drop.lower >= max_drop:
        return Verdict.FAIL, 0

    def decided(further_images: int) -> bool:
        images = drop.images + further_images
        harmful, helpful = (count * images / drop.images for count in (drop.harmful, drop.helpful))
        return (
            tango_upper(harmful, helpful, images, drop.alpha) < max_drop
            or tango_lower(harmful, helpful, images, drop.alpha) >= max_drop
        )

    candidates = range(1, MOST_FURTHER_IMAGES)
    return Verdict.UNDECIDED, 1 + bisect_left(candidates, True, key=decided)


def softmax_log(probabilities: ArrayLike) -> NDArray[np.float64]:
    """Natural logarithm of probabilities, float64, with zeros lifted to the smallest normal float32."""
    return np.log(np.maximum(_float64(probabilities), float(np.finfo(np.float32).tiny)))


def centred_logits(probabilities: ArrayLike) -> NDArray[np.float64]:
    """Logits recovered from probabilities [N, C], float64, each row with mean zero.

    Softmax ignores a row's offset, which would otherwise flatter `sqnr_db` and cosine similarity.
    """
    logs = softmax_log(probabilities)
    centred: NDArray[np.float64] = logs - logs.mean(axis=1, keepdims=True)
    return centred


def sqnr_db(reference: ArrayLike, candidate: ArrayLike) -> float:
    """Signal to quantization noise, 10 log10(sum x^2 / sum (x - y)^2) in dB, of two arrays of one shape.

    Equal arrays give inf; an all-zero reference with any noise gives -inf.
    """
    signal, other = _float64(reference), _float64(candidate)
    _check_pair(signal, other)
    noise_power = float(np.square(signal - other).sum())
    signal_power = float(np.square(signal).sum())
    if noise_power == 0:
        return math.inf
    return 10 * math.log10(signal_power / noise_power) if signal_power else -math.inf


def mean_kl(reference: ArrayLike, candidate: ArrayLike) -> float:
    """Mean over N rows of KL(reference || candidate) in nats, for probabilities [N, C]; never negative."""
    p, q = _float64(reference), _float64(candidate)
    _check_pair(p, q)
    # float32 rows add up to 1 only within 1e-7; "- p + q" cancels that and keeps every term above zero.
    terms = p * (softmax_log(p) - softmax_log(q)) - p + q
    return max(0.0, float(terms.sum(axis=1).mean()))


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """Mean |accuracy - confidence| over bins of (nearly) equal numbers of images, for two arrays [N].

    Equal confidences share a bin, so the result does not depend on the order of the images. A perfectly
    calibrated model does not score 0: expect about 0.03 at N = 700 and 15 bins.
    Source: Guo et al. 2017, with the equal-mass bins of Nguyen & O'Connor 2015.
    """
    confidences, hits = _float64(confidence), _float64(correct)
    _check_pair(confidences, hits)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    _, group, group_sizes = np.unique(confidences, return_inverse=True, return_counts=True)
    middle_ranks = np.cumsum(group_sizes) - group_sizes / 2
    bin_of_group = (middle_ranks * bins / confidences.size).astype(np.int64)
    gaps = np.bincount(bin_of_group[group], weights=hits - confidences)
    return float(np.abs(gaps).sum()) / confidences.size


def confusion_matrix(
    truth: NDArray[np.integer], predicted: NDArray[np.integer], classes: int
) -> NDArray[np.int64]:
    """Count images by true class (rows) and predicted class (columns): two int arrays [N] -> int64 [C, C]."""
    _check_pair(truth, predicted)
    _check_labels(truth, classes)
    _check_labels(predicted, classes)
    cells = truth.astype(np.int64) * classes + predicted.astype(np.int64)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def class_scores(confusion: NDArray[np.int64]) -> list[ClassScore]:
    """Score every class of a confusion matrix [C, C] with true classes in rows, in class order."""
    hits, images, named = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    # A denominator of zero comes with zero hits, so that any other denominator gives the 0.0 wanted.
    precision, recall = hits / np.maximum(named, 1), hits / np.maximum(images, 1)
    f1 = 2 * hits / np.maximum(images + named, 1)
    columns = (images.tolist(), precision.tolist(), recall.tolist(), f1.tolist())
    return [ClassScore(*row) for row in zip(*columns, strict=True)]


def negative_log_likelihood(probabilities: ArrayLike, truth: NDArray[np.integer]) -> float:
    """Mean -log probability of the true class in nats; probabilities [N, C], truth int [N]."""
    scores = _check_scores(probabilities, truth)
    return -float(softmax_log(scores[np.arange(truth.size), truth]).mean())


def top_k_accuracy(probabilities: ArrayLike, truth: NDArray[np.integer], k: int) -> float:
    """Share of images whose true class is among the k most probable; probabilities [N, C], truth int [N].

    The lower class wins a tie, as with argmax. A true class with probability NaN is never among them.
    """
    scores = _check_scores(probabilities, truth)
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    own = scores[np.arange(truth.size), truth][:, None]
    # "not <=" rather than ">": NaN must count against the model.
    ahead = ~(scores <= own) | ((scores == own) & (np.arange(scores.shape[1]) < truth[:, None]))
    return float((ahead.sum(axis=1) < min(k, scores.shape[1])).mean())


def _tango_variance(harmful: float, helpful: float, images: float, drop: float) -> float:
    """Variance of one image's contribution under the hypothesis `drop` (Tango 1998, eq. for q21 and T)."""
    b = -harmful - helpful + (2 * images - harmful + helpful) * drop
    c = -helpful * drop * (1 - drop)
    root = math.sqrt(max(0.0, b * b - 8 * images * c))
    # Both are the same root of the quadratic; each form avoids subtracting nearly equal numbers.
    share_helpful = -2 * c / (root + b) if b > 0 else (root - b) / (4 * images)
    return max(0.0, 2 * share_helpful + drop * (1 - drop))


def _log_binomial_tail(events: int, trials: int) -> Callable[[float], float]:
    """Make the function p -> log P(Binomial(trials, p) <= events), for 0 < p < 1."""
    log_choose = math.lgamma(trials + 1) - math.lgamma(events + 1) - math.lgamma(trials - events + 1)
    count = np.arange(events, 0, -1, dtype=np.float64)
    # The terms from `events` down to 0, relative to the first, at p = 1/2: the odds enter as a power.
    log_steps = np.concatenate(([0.0], np.cumsum(np.log(count / (trials - count + 1)))))
    steps = np.arange(events + 1, dtype=np.float64)

    def log_tail(p: float) -> float:
        log_p, log_not_p = math.log(p), math.log1p(-p)
        logs = log_steps + steps * (log_not_p - log_p)
        peak = float(logs.max())
        log_sum = peak + math.log(float(np.exp(logs - peak).sum()))
        return min(0.0, log_choose + events * log_p + (trials - events) * log_not_p + log_sum)

    return log_tail


def _bisect(go_up: Callable[[float], bool], low: float, high: float) -> float:
    """Return the point of [low, high] at which `go_up` turns false, as exactly as float64 allows."""
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if go_up(middle) else (low, middle)
    return high


def _float64(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


def _check_count(count: float, total: float, name: str) -> None:
    if not total > 0:
        raise ValueError(f"there must be at least one image, not {total}")
    if not 0 <= count <= total:
        raise ValueError(f"{name} must lie in 0..{total}, not {count}")


def _check_alpha(alpha: float, below: float) -> None:
    if not 0 < alpha < below:
        raise ValueError(f"the error probability must lie between 0 and {below}, not {alpha}")


def _check_pair(first: NDArray[np.generic], second: NDArray[np.generic]) -> None:
    if first.shape != second.shape:
        raise ValueError(f"both arrays must have the same shape, not {first.shape} and {second.shape}")
    if first.size == 0:
        raise ValueError("there must be at least one image, the arrays are empty")


def _check_labels(labels: NDArray[np.integer], classes: int) -> None:
    if labels.size == 0:
        raise ValueError("there must be at least one image, the arrays are empty")
    if labels.ndim != 1 or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must be one array of class numbers in 0..{classes - 1}")


def _check_scores(probabilities: ArrayLike, truth: NDArray[np.integer]) -> NDArray[np.float64]:
    scores = _float64(probabilities)
    if scores.ndim != 2 or truth.shape != scores.shape[:1]:
        raise ValueError(f"expected probabilities [N, C] and truth [N], not {scores.shape} and {truth.shape}")
    _check_labels(truth, scores.shape[1])
    return scores
