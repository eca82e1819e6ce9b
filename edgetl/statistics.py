"""Proof that a small model is as accurate as its reference.

Counts and arrays in, frozen records out; pure functions on numpy and the standard library, so they also run
on a device. Accuracies, drops and bounds are shares in 0..1 (a drop may be negative), never points.
Impossible input (no images, unequal shapes, counts out of range) raises `ValueError`; callers guard.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edgetl.binomial import binomial_cdf, clopper_pearson_upper
from edgetl.checks import check_between, check_count, check_labels, check_pair, check_table
from edgetl.searches import falling_root, smallest
from edgetl.trinomial import (
    GAMMA,
    TOLERANCE,
    Tables,
    likely_discordance,
    p_value,
    possible_drop,
    score,
    tables_scoring,
)

ALPHA = 0.05  # of all verdicts of one command together
MOST_FURTHER_IMAGES = 1_000_000
_NORMAL = NormalDist()


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
    `drop = (harmful - helpful) / images`. `upper` and `lower` are the exact bounds; each is wrong with a
    probability of at most `alpha`, not jointly. `p_mcnemar` tests "no difference at all"; a large value is no
    proof of parity.
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
class ClassDrop:
    """How the images of one class changed; `p_worse` tests "no more harmful than helpful ones there"."""

    images: int
    harmful: int
    helpful: int
    p_worse: float
    p_adjusted: float  # of all classes together (Holm)


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Two-sided score interval of a proportion (Wilson 1927, without continuity correction)."""
    check_count(successes, trials, "successes")
    check_between(1 - confidence, 0, 1, "error probability")
    z = _NORMAL.inv_cdf((1 + confidence) / 2)
    share = successes / trials
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # Rounding must not push the share itself outside at 0 and at 1.
    return Interval(max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share)))


def tango_upper(harmful: float, helpful: float, images: float, alpha: float = 0.05) -> float:
    """One-sided upper bound of the paired drop `(harmful - helpful) / images`, by inverting the score test.

    Counts may be fractional, which answers "what if this share went on"; `alpha` is below 0.5. Without
    discordant images it is z^2 / (images + z^2). Source: Tango 1998, Statistics in Medicine 17:891-908.
    The error rate is close to `alpha`, not below it: where every discordant image is harmful and few are
    expected it reaches 1.4 `alpha`. That of `exact_upper` is never above `alpha`.
    """
    check_table(harmful, helpful, images)
    check_between(alpha, 0, 0.5, "error probability")
    z, drop = _NORMAL.inv_cdf(1 - alpha), (harmful - helpful) / images
    step = z * math.sqrt(harmful + helpful + z * z) / images
    guess = min(drop + step, (1 + drop) / 2)
    return falling_root(lambda d: score(harmful, helpful, images, d) + z, guess, step / 4, (drop, 1.0))


def tango_lower(harmful: float, helpful: float, images: float, alpha: float = 0.05) -> float:
    """One-sided lower bound of the paired drop: `tango_upper` with the two models exchanged, negated."""
    return -tango_upper(helpful, harmful, images, alpha)


def exact_p(harmful: int, helpful: int, images: int, max_drop: float) -> float:
    """The p-value of "the drop is `max_drop` or more", -1 < max_drop <= 1, from 1e-4 to 1.

    Where that is true, a value of at most p comes up with a probability of at most p. It is the greatest
    chance, over the shares of discordant images, of a table whose `score` at `max_drop` is at most the one
    observed. Shares outside a Clopper-Pearson interval of error `GAMMA` are not asked, and `GAMMA` is added.
    Sources: Sidik 2003, Statistics in Medicine 22:265-278 (the test); Berger & Boos 1994, Journal of the
    American Statistical Association 89:1012-1016 (the interval).
    """
    check_table(harmful, helpful, images)
    max_drop = possible_drop(max_drop)
    discordance = likely_discordance(harmful + helpful, images)
    observed = score(float(harmful), float(helpful), images, max_drop)
    return p_value(tables_scoring(observed, max_drop, images, discordance), max_drop, discordance)


def exact_upper(harmful: int, helpful: int, images: int, alpha: float = 0.05) -> float:
    """One-sided upper bound of the paired drop, too low with a probability of at most `alpha`, in 1e-4..0.5.

    The drop at which a table whose `tango_upper` is at most the one observed has the greatest chance `alpha`,
    as in `exact_p`. (Inverting `exact_p` would give no interval: as its order of the tables depends on the
    drop, it may rise with it. The two decide alike but for about one table in a thousand at the border.)
    At most 1e-9 too high; without discordant images 1 - (alpha - GAMMA)^(1 / images), up to 9 % more for an
    `alpha` below 0.02. Sources: Buehler 1957, Journal of the American Statistical Association 52:482-493
    (bounds by an order of outcomes), and those of `exact_p`.
    """
    tables, discordance, tango = _no_worse(harmful, helpful, images, alpha)
    if harmful == images:
        return 1.0
    step = 0.02 * (tango - (harmful - helpful) / images) + 1e-6

    def excess(drop: float) -> float:
        return math.log(p_value(tables, drop, discordance) / alpha)

    return falling_root(excess, tango, step, (-1.0, 1.0), within=1e-9)


def exact_lower(harmful: int, helpful: int, images: int, alpha: float = 0.05) -> float:
    """One-sided lower bound of the paired drop: `exact_upper` with the two models exchanged, negated."""
    return -exact_upper(helpful, harmful, images, alpha)


def proves(harmful: int, helpful: int, images: int, max_drop: float, alpha: float = 0.05) -> bool:
    """Whether `exact_upper` is below `max_drop`, -1 < max_drop <= 1, without searching for it."""
    max_drop = possible_drop(max_drop)
    tables, discordance, _ = _no_worse(harmful, helpful, images, alpha)
    return p_value(tables, max_drop, discordance) <= alpha


def mcnemar_exact(harmful: int, helpful: int) -> float:
    """Two-sided exact p-value of "both models are equally accurate" (McNemar 1947); 1.0 for counts 0, 0."""
    check_table(harmful, helpful, max(1, harmful + helpful))
    return min(1.0, 2 * _mcnemar_tail(min(harmful, helpful), harmful + helpful))


def paired_drop(
    reference_correct: NDArray[np.bool_], candidate_correct: NDArray[np.bool_], alpha: float = 0.05
) -> PairedDrop:
    """Compare two models image by image: two bool arrays [N] in the same image order."""
    harmful, helpful = (int(flags.sum()) for flags in _discordant(reference_correct, candidate_correct))
    return drop_of(harmful, helpful, reference_correct.size, alpha)


def drop_of(harmful: int, helpful: int, images: int, alpha: float = 0.05) -> PairedDrop:
    """The same from counts."""
    return PairedDrop(
        images=images,
        harmful=harmful,
        helpful=helpful,
        drop=(harmful - helpful) / images,
        upper=exact_upper(harmful, helpful, images, alpha),
        lower=exact_lower(harmful, helpful, images, alpha),
        alpha=alpha,
        p_mcnemar=mcnemar_exact(harmful, helpful),
    )


def judge(drop: PairedDrop, max_drop: float) -> tuple[Verdict, int]:
    """Decide non-inferiority with margin `max_drop`, a share in 0..1.

    Returns the verdict and the number of further images, behaving like these, that would decide it: 0 when
    decided, at most `MOST_FURTHER_IMAGES` (the answer whenever the drop sits on the margin itself). It does
    decide if the shares go on, with fractions of an image counted against it; one 0.2 % smaller may do.
    """
    if drop.upper < max_drop:
        return Verdict.PASS, 0
    if drop.lower >= max_drop:
        return Verdict.FAIL, 0
    better = drop.drop < max_drop
    against, in_favour = (drop.harmful, drop.helpful) if better else (drop.helpful, drop.harmful)
    margin = max_drop if better else -max_drop

    def nearly_decided(further: int) -> bool:
        growth = 1 + further / drop.images
        return tango_upper(against * growth, in_favour * growth, drop.images * growth, drop.alpha) < margin

    def decided(further: int) -> bool:
        images = drop.images + further
        rounded_up = -(-against * images // drop.images)
        return proves(rounded_up, in_favour * images // drop.images, images, margin, drop.alpha)

    guess = 1 + bisect_left(range(1, MOST_FURTHER_IMAGES), True, key=nearly_decided)
    if guess == MOST_FURTHER_IMAGES:
        return Verdict.UNDECIDED, guess
    return Verdict.UNDECIDED, smallest(decided, guess, MOST_FURTHER_IMAGES, within=1 + guess // 500)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p-values of several tests, in their order: those at most alpha are together wrong that rarely.

    The i-th smallest of m becomes the largest of (m - j + 1) p(j), j <= i, at most 1. Source: Holm 1979,
    Scandinavian Journal of Statistics 6:65-70.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values must lie in 0..1, not {list(p_values)}")
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * np.asarray(p_values, np.float64)[order]))
    return tuple(adjusted.tolist())


def disagreement_upper(disagreements: int, images: int, alpha: float = 0.05) -> float:
    """Upper bound of |drop| without labels: accuracies differ at most where the predicted classes do.

    The Clopper-Pearson bound of the share of images with another predicted class; 0 of N gives about 3 / N.
    """
    return clopper_pearson_upper(disagreements, images, alpha)


def bca_upper(
    harmful: int, helpful: int, images: int, alpha: float = 0.05, *, resamples: int = 4000, seed: int = 0
) -> float:
    """One-sided upper bound of the paired drop by the bootstrap, corrected for bias and skewness (BCa).

    Images are drawn with replacement, which makes the three counts multinomial. An approximation to compare
    with; where all images behave alike there is nothing to draw, and the result is `exact_upper`.
    Source: Efron 1987, Journal of the American Statistical Association 82:171-185.
    """
    check_table(harmful, helpful, images)
    check_between(alpha, 0, 0.5, "error probability")
    if images in (harmful, helpful, images - harmful - helpful):
        return exact_upper(harmful, helpful, images, alpha)
    drop = (harmful - helpful) / images
    counts = np.array([harmful, helpful, images - harmful - helpful])
    drawn = np.random.default_rng(seed).multinomial(images, counts / images, size=resamples)
    drops = (drawn[:, 0] - drawn[:, 1]) / images
    below = float(((drops < drop).mean() + (drops <= drop).mean()) / 2)
    bias = _NORMAL.inv_cdf(min(max(below, 0.5 / resamples), 1 - 0.5 / resamples))
    away = np.array([1, -1, 0]) - drop
    acceleration = float(counts @ away**3) / (6 * float(counts @ away**2) ** 1.5)
    z = bias + _NORMAL.inv_cdf(1 - alpha)
    return float(np.quantile(drops, _NORMAL.cdf(bias + z / (1 - acceleration * z))))


def class_drops(
    reference_correct: NDArray[np.bool_],
    candidate_correct: NDArray[np.bool_],
    truth: NDArray[np.integer],
    classes: int,
) -> tuple[ClassDrop, ...]:
    """Where the candidate is worse: two bool arrays [N] and the true classes, int [N] -> one entry per class.

    `p_worse` is McNemar's exact test, one-sided: P(at least `harmful` heads in harmful + helpful throws).
    """
    both = _discordant(reference_correct, candidate_correct)
    check_pair(reference_correct, truth)
    check_labels(truth, classes)
    harmful, helpful = (np.bincount(truth[flags], minlength=classes).tolist() for flags in both)
    p_values = [_mcnemar_tail(good, bad + good) for bad, good in zip(harmful, helpful, strict=True)]
    images = np.bincount(truth, minlength=classes).tolist()
    columns = (images, harmful, helpful, p_values, holm(p_values))
    return tuple(ClassDrop(*row) for row in zip(*columns, strict=True))


def _no_worse(
    harmful: int, helpful: int, images: int, alpha: float
) -> tuple[Tables, tuple[float, float], float]:
    """The tables with no greater `tango_upper`, the shares of discordant images to ask, and that bound."""
    check_between(alpha, GAMMA + TOLERANCE, 0.5, "error probability")
    bound = possible_drop(tango_upper(harmful, helpful, images, alpha))
    discordance = likely_discordance(harmful + helpful, images)
    observed = score(float(harmful), float(helpful), images, bound)
    return tables_scoring(observed, bound, images, discordance), discordance, bound


def _discordant(
    reference_correct: NDArray[np.bool_], candidate_correct: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which images only the reference, and which only the candidate, gets right."""
    check_pair(reference_correct, candidate_correct)
    if reference_correct.dtype != np.bool_ or candidate_correct.dtype != np.bool_:
        raise ValueError("the comparison takes two arrays of bool: was each image classified correctly?")
    return reference_correct & ~candidate_correct, candidate_correct & ~reference_correct


def _mcnemar_tail(events: int, discordant: int) -> float:
    return float(binomial_cdf(events, discordant, 0.5))
