"""Scores of one model, and how far the probabilities of two lie apart.

Arrays in, numbers and frozen records out; pure functions on numpy and the standard library, so they also run
on a device. Accuracies are shares in 0..1. Impossible input (no images, unequal shapes, labels out of range)
raises `ValueError`; callers guard.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgetl.checks import check_labels, check_pair


@dataclass(frozen=True)
class ClassScore:
    """Precision, recall and F1 of one class; a ratio whose denominator is zero is 0.0, as without images."""

    images: int
    precision: float
    recall: float
    f1: float


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
    check_pair(signal, other)
    noise_power = float(np.square(signal - other).sum())
    signal_power = float(np.square(signal).sum())
    if noise_power == 0:
        return math.inf
    return 10 * math.log10(signal_power / noise_power) if signal_power else -math.inf


def mean_kl(reference: ArrayLike, candidate: ArrayLike) -> float:
    """Mean over N rows of KL(reference || candidate) in nats, for probabilities [N, C]; never negative."""
    p, q = _float64(reference), _float64(candidate)
    check_pair(p, q)
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
    check_pair(confidences, hits)
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
    check_pair(truth, predicted)
    check_labels(truth, classes)
    check_labels(predicted, classes)
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


def _float64(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


def _check_scores(probabilities: ArrayLike, truth: NDArray[np.integer]) -> NDArray[np.float64]:
    scores = _float64(probabilities)
    if scores.ndim != 2 or truth.shape != scores.shape[:1]:
        raise ValueError(f"expected probabilities [N, C] and truth [N], not {scores.shape} and {truth.shape}")
    check_labels(truth, scores.shape[1])
    return scores
