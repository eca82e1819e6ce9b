"""Multinomial logistic regression by L-BFGS: the linear head in seconds.

Penalties go from strong to weak, each fit starting where the last ended; the tuning images choose.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
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
    return standardising(features, np.sqrt(features.shape[1] / 512))


def standardising(features: Array, divisor: float = 1.0) -> FeatureScale:
    """Zero mean and unit deviation of each column of [N, D], except those that hardly move; then divided."""
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation = np.maximum(deviation, 0.05 * deviation.mean() + 1e-6) * divisor
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
class _Spanned:
    """Training features in coordinates of the space that they span: no more of those than images."""

    features: Array  # [N, D]
    values: Array  # [N, R]
    products: Array  # [R, R], their means over the images
    factor: Array | None  # [N, N], lower, of the features' inner products; None: values are the features

    def head(self, weights: NDArray[np.float64]) -> LinearHead:
        """What weights [R + 1, classes] of the values, with the bias last, are for the features."""
        kernel, bias = weights[:-1].astype(np.float32), weights[-1].astype(np.float32)
        if self.factor is not None:
            kernel = self.features.T @ solve_triangular(self.factor, kernel, lower=True, trans="T")
        return LinearHead(kernel, bias)


def one_thread_each() -> threadpool_limits:
    """Linear algebra in the thread that asks for it.

    Several threads on matrices this small, beside anything else that runs, wait for each other: 40 times
    slower was measured.
    """
    return threadpool_limits(1, user_api="blas")


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
    with one_thread_each():
        return _best_fit(train, tuning, classes, strengths or penalties(len(train.labels)), iterations)


def _best_fit(
    train: Images, tuning: Images, classes: int, strengths: Sequence[float], iterations: int
) -> Fit:
    spanned = _span(train.features)
    start = np.zeros((spanned.values.shape[1] + 1, classes))
    tried: list[tuple[float, float, LinearHead]] = []  # tuning loss, penalty, head
    for penalty in strengths:
        start = _minimise(train, spanned, start, penalty, iterations)
        head = spanned.head(start)
        losses_there, _ = losses_of(head.logits(tuning.features), tuning.labels)
        tried.append((float(losses_there.mean()), penalty, head))
        losses = [loss for loss, _, _ in tried]
        if len(losses) - 1 - losses.index(min(losses)) >= 2:
            break
    _, penalty, head = min(tried, key=lambda one: one[0])
    losses_there, accuracy = losses_of(head.logits(tuning.features), tuning.labels)
    train_losses, train_accuracy = losses_of(head.logits(train.features), train.labels)
    return Fit(head, penalty, losses_there, accuracy, float(train_losses.mean()), train_accuracy)


def _span(features: Array) -> _Spanned:
    """The penalised optimum lies in the space that the images span: for few images the smaller one."""
    images, width = features.shape
    if width <= images:
        return _Spanned(features, features, features.T @ features / np.float32(images), None)
    exact = features.astype(np.float64)
    inner = exact @ exact.T
    inner[np.diag_indices(images)] += 1e-6 * np.trace(inner) / images + 1e-12  # copies make it singular
    factor = np.linalg.cholesky(inner).astype(np.float32)
    return _Spanned(features, factor, factor.T @ factor / np.float32(images), factor)


def _minimise(
    train: Images, spanned: _Spanned, start: NDArray[np.float64], penalty: float, iterations: int
) -> NDArray[np.float64]:
    """Weights [R + 1, classes] of the values and the bias.

    Directions are stretched by the curvature expected there, so that few steps are enough.
    """
    classes = start.shape[1]
    shares = (train.weights / train.weights.sum()).astype(np.float32)
    curvature = spanned.products.astype(np.float64) / classes
    rounding = 1e-5 * float(curvature.diagonal().max())  # of float32: it must not be indefinite
    curvature[np.diag_indices(len(curvature))] += penalty + rounding
    stretch = np.linalg.cholesky(curvature).astype(np.float32)
    packed = np.vstack([stretch.T @ start[:-1], start[-1:]])
    found = minimize(
        _objective,
        packed.ravel(),
        args=(Images(spanned.values, train.labels, shares), penalty, stretch),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": iterations, "ftol": 1e-7, "gtol": 1e-5},
    )
    return _unpacked(found.x, stretch)


def _unpacked(packed: NDArray[np.float64], stretch: Array) -> NDArray[np.float64]:
    """Weights and bias [R + 1, classes] behind the stretched ones."""
    stretched = packed.reshape(len(stretch) + 1, -1)
    kernel = solve_triangular(
        stretch, stretched[:-1].astype(np.float32), lower=True, trans="T", check_finite=False
    )
    return np.vstack([kernel, stretched[-1:]])


def _objective(
    packed: NDArray[np.float64], images: Images, penalty: float, stretch: Array
) -> tuple[float, NDArray[np.float64]]:
    """Weighted cross-entropy plus penalty / 2 * |kernel|^2, and its gradient; the bias is free."""
    values, labels, shares = images.features, images.labels, images.weights
    weights = _unpacked(packed, stretch)
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
    gradient[:-1] = solve_triangular(
        stretch, gradient[:-1].astype(np.float32), lower=True, check_finite=False
    )
    return loss, gradient.ravel()


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
