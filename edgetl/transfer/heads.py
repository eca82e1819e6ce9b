"""Multinomial logistic regression by L-BFGS: the linear head in seconds.

Penalties go from strong to weak, each fit starting where the last ended; the tuning images choose.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits

Array = NDArray[np.float32]
Labels = NDArray[np.int64]
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class FeatureScale:
    """x -> x * factor + offset for each of D features: zero mean, and a deviation that suits the penalty."""

    factor: Array  # [D]
    offset: Array


@dataclass(frozen=True, eq=False)
class LinearHead:
    """logits = features @ kernel + bias."""

    kernel: Array  # [D, classes]
    bias: Array  # [classes]

    def logits(self, features: Array) -> Array:
        """float32 [N, classes]."""
        return np.asarray(features @ self.kernel + self.bias, np.float32)


@dataclass(frozen=True, eq=False)
class Fit:
    """One head and how it does on the tuning images."""

    head: LinearHead
    penalty: float  # of the squared weights, in nats per image
    tuning_losses: NDArray[np.float64]  # [N] nats of each tuning image at the best temperature
    tuning_accuracy: float
    train_loss: float
    train_accuracy: float

    @property
    def tuning_loss(self) -> float:
        """Mean over the tuning images, nats."""
        return float(self.tuning_losses.mean())


def feature_scale(features: Array) -> FeatureScale:
    """Standardisation of [N, D]; features that hardly move stay small.

    All are divided by sqrt(D / 512) as well, so that one penalty means the same for any number of features.
    """
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation = np.maximum(deviation, 0.05 * deviation.mean() + 1e-6) * np.sqrt(features.shape[1] / 512)
    return FeatureScale((1 / deviation).astype(np.float32), (-mean / deviation).astype(np.float32))


def scale_in_place(features: Array, scale: FeatureScale) -> None:
    """Apply the scale to [N, D] without a copy."""
    features *= scale.factor
    features += scale.offset


def penalties(images: int) -> tuple[float, ...]:
    """From strong to weak around 60 / images, which suits features of unit deviation."""
    return tuple(60 / images * 10**power for power in (1.0, 0.5, 0.0, -0.5, -1.0, -1.5))


@dataclass(frozen=True, eq=False)
class Images:
    """What a head is fitted, or chosen, on."""

    features: Array  # [N, D], scaled
    labels: Labels  # [N]
    weights: Array  # [N], how much each image counts


def alike(features: Array, labels: Labels) -> Images:
    """Images that count the same."""
    return Images(features, labels, np.ones(len(labels), np.float32))


@dataclass(frozen=True, eq=False)
class _Rotated:
    """Features in the directions in which they vary: no more of them than images."""

    basis: Array  # [D, R]
    values: Array  # [N, R]
    variances: Array  # [R], mean squares


def best_fit(
    train: Images,
    tuning: Images,
    classes: int,
    *,
    strengths: Sequence[float] | None = None,
    iterations: int = 100,
) -> Fit:
    """The head whose penalty suits the tuning images best.

    Stops when weaker penalties have become worse twice.
    """
    # Several threads on matrices this small, beside anything else that runs, wait for each other: 40 times
    # slower was measured.
    with threadpool_limits(1, user_api="blas"):
        return _best_fit(train, tuning, classes, strengths or penalties(len(train.labels)), iterations)


def _best_fit(
    train: Images, tuning: Images, classes: int, strengths: Sequence[float], iterations: int
) -> Fit:
    rotated = _rotate(train.features)
    tuning_values = tuning.features @ rotated.basis
    start = np.zeros((rotated.values.shape[1] + 1, classes))
    tried: list[tuple[float, float, NDArray[np.float64]]] = []  # tuning loss, penalty, weights
    for penalty in strengths:
        start = _minimise(train, rotated, start, penalty, iterations)
        logits = tuning_values @ start[:-1].astype(np.float32) + start[-1].astype(np.float32)
        tried.append((float(losses_of(logits, tuning.labels)[0].mean()), penalty, start))
        losses = [loss for loss, _, _ in tried]
        if len(losses) - 1 - losses.index(min(losses)) >= 2:
            break
    _, penalty, found = min(tried, key=lambda one: one[0])
    kernel = rotated.basis @ found[:-1].astype(np.float32)
    head = LinearHead(kernel, found[-1].astype(np.float32))
    losses_there, accuracy = losses_of(head.logits(tuning.features), tuning.labels)
    train_losses, train_accuracy = losses_of(head.logits(train.features), train.labels)
    return Fit(head, penalty, losses_there, accuracy, float(train_losses.mean()), train_accuracy)


def _rotate(features: Array) -> _Rotated:
    """By the eigenvectors of the smaller Gram matrix; the penalised optimum lies in the space they span."""
    images, width = features.shape
    wide = width > images
    gram = features @ features.T if wide else features.T @ features
    squares, vectors = np.linalg.eigh(gram)
    kept = squares > 1e-6 * squares[-1]
    squares, vectors = squares[kept], np.ascontiguousarray(vectors[:, kept])
    if wide:
        lengths = np.sqrt(squares)
        return _Rotated(features.T @ (vectors / lengths), vectors * lengths, squares / images)
    return _Rotated(vectors, features @ vectors, squares / images)


def _minimise(
    train: Images, rotated: _Rotated, start: NDArray[np.float64], penalty: float, iterations: int
) -> NDArray[np.float64]:
    """Weights [R + 1, classes] of the rotated features and the bias.

    Directions are stretched by the curvature expected there, so that few steps are enough.
    """
    classes = start.shape[1]
    shares = (train.weights / train.weights.sum()).astype(np.float32)
    stretch = np.append(1 / np.sqrt(rotated.variances / classes + penalty), 1.0)[:, None]
    found = minimize(
        _objective,
        (start / stretch).ravel(),
        args=(Images(rotated.values, train.labels, shares), penalty, stretch),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": iterations, "ftol": 1e-7, "gtol": 1e-5},
    )
    weights_found: NDArray[np.float64] = found.x.reshape(-1, classes) * stretch
    return weights_found


def _objective(
    packed: NDArray[np.float64], images: Images, penalty: float, stretch: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Weighted cross-entropy plus penalty / 2 * |kernel|^2, and its gradient; the bias is free."""
    values, labels, shares = images.features, images.labels, images.weights
    weights = packed.reshape(len(stretch), -1) * stretch
    kernel, bias = weights[:-1].astype(np.float32), weights[-1].astype(np.float32)
    loss, gradient = 0.0, np.zeros(weights.shape)
    for begin in range(0, len(labels), _ROWS_AT_ONCE):
        some = slice(begin, begin + _ROWS_AT_ONCE)
        logits = values[some] @ kernel + bias
        logits -= logits.max(axis=1, keepdims=True)
        shown = np.exp(logits)
        totals = shown.sum(axis=1)
        rows = np.arange(len(logits))
        loss += float((np.log(totals) - logits[rows, labels[some]]) @ shares[some])
        shown /= totals[:, None]
        shown[rows, labels[some]] -= 1
        shown *= shares[some, None]
        gradient[:-1] += values[some].T @ shown
        gradient[-1] += shown.sum(axis=0)
    gradient[:-1] += penalty * weights[:-1]
    loss += 0.5 * penalty * float((weights[:-1] ** 2).sum())
    return loss, (gradient * stretch).ravel()


def losses_of(logits: NDArray[np.float32], labels: Labels) -> tuple[NDArray[np.float64], float]:
    """Cross-entropy in nats of each image [N] at the best temperature, and accuracy.

    The network that ships is calibrated, so candidates are compared as if they were: confidence that grows
    too fast would otherwise hide accuracy that still grows. Berta et al., "Rethinking early stopping: refine,
    then calibrate", 2025. The losses are not finite where training diverged.
    """
    scaled = logits.astype(np.float64)
    if np.isfinite(scaled).all():
        scaled /= fit_temperature(scaled, labels)
    with np.errstate(over="ignore", invalid="ignore"):
        losses = -log_softmax(scaled, axis=1)[np.arange(len(labels)), labels]
    return losses, float((logits.argmax(axis=1) == labels).mean())


def fit_temperature(logits: NDArray[np.floating], labels: Labels) -> float:
    """The T > 0 that minimises the loss of softmax(logits / T). Guo et al., ICML 2017.

    The labels are smoothed by 1 / (N + 2), as Platt (1999) does for two classes: a few images that are all
    right are no evidence for boundless confidence.
    """
    smoothing = 1 / (len(labels) + 2)

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=1)
        right = scaled[np.arange(len(labels)), labels]
        return float(-((1 - smoothing) * right + smoothing * scaled.mean(axis=1)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))
