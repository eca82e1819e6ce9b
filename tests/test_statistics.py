"""`edgetl.statistics` against scipy, scikit-learn, published numbers and exact error rates."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import kl_div, xlogy
from scipy.stats import beta, binom, binomtest, multinomial, norm
from sklearn.metrics import (
    accuracy_score,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from edgetl.statistics import (
    MOST_FURTHER_IMAGES,
    ClassScore,
    PairedDrop,
    Verdict,
    centred_logits,
    class_scores,
    clopper_pearson_upper,
    confusion_matrix,
    expected_calibration_error,
    judge,
    mcnemar_exact,
    mean_kl,
    negative_log_likelihood,
    paired_drop,
    softmax_log,
    sqnr_db,
    tango_lower,
    tango_upper,
    top_k_accuracy,
    wilson_interval,
)

Z95 = float(norm.ppf(0.95))

# A busy machine must not fail a property.
unhurried = settings(deadline=None, max_examples=60)


@st.composite
def paired_counts(draw: st.DrawFn) -> tuple[int, int, int]:
    """(harmful, helpful, images) of a possible paired table."""
    images = draw(st.integers(1, 5000))
    harmful = draw(st.integers(0, images))
    return harmful, draw(st.integers(0, images - harmful)), images


def correctness(harmful: int, helpful: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Two bool arrays [images] with these discordant counts."""
    reference, candidate = np.ones(images, bool), np.ones(images, bool)
    candidate[:harmful] = False
    reference[harmful : harmful + helpful] = False
    return reference, candidate


def drop_of(harmful: int, helpful: int, images: int, alpha: float = 0.05) -> PairedDrop:
    return paired_drop(*correctness(harmful, helpful, images), alpha=alpha)


def random_probabilities(seed: int, rows: int = 60, classes: int = 5, sharpness: float = 2.0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, sharpness, (rows, classes))
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


# --- intervals of one share


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 40), (3, 40), (40, 40), (951, 1000)])
def test_wilson_equals_scipy(successes, trials, confidence):
    expected = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    got = wilson_interval(successes, trials, confidence)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= got.low <= successes / trials <= got.high <= 1


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.5])
@pytest.mark.parametrize(
    ("events", "trials"),
    [
        (0, 1),
        (0, 500),
        (2, 500),
        (5, 1000),
        (17, 20),
        (499, 500),
        (0, 10**6),
        (1234, 10**6),
        (10**6 - 1, 10**6),
    ],
)
def test_clopper_pearson_equals_the_beta_quantile(events, trials, alpha):
    expected = beta.ppf(1 - alpha, events + 1, trials - events)
    assert clopper_pearson_upper(events, trials, alpha) == pytest.approx(expected, rel=1e-8)


def test_clopper_pearson_stays_stable_with_a_million_trials_and_many_events():
    expected = beta.ppf(0.95, 500_001, 500_000)
    assert clopper_pearson_upper(500_000, 10**6) == pytest.approx(expected, rel=1e-9)


def test_clopper_pearson_of_certainty_and_of_nothing():
    assert clopper_pearson_upper(7, 7) == 1.0
    assert clopper_pearson_upper(0, 299) == pytest.approx(1 - 0.05 ** (1 / 299), rel=1e-12)


# --- the paired drop


@pytest.mark.parametrize(
    ("harmful", "helpful", "images", "drop", "tango", "exact"),
    [
        (0, 0, 500, 0.0, 0.0054, 0.0060),
        (2, 1, 500, 0.002, 0.0102, 0.0125),
        (5, 5, 1000, 0.0, 0.0058, 0.0105),
        (10, 6, 1000, 0.004, 0.0113, 0.0169),
        (3, 3, 2000, 0.0, 0.0024, 0.0039),
    ],
)
def test_worked_examples(harmful, helpful, images, drop, tango, exact):
    result = drop_of(harmful, helpful, images)
    assert result.drop == drop
    assert round(result.upper, 4) == tango
    assert round(clopper_pearson_upper(harmful, images), 4) == exact


@pytest.mark.parametrize("images", [1, 268, 500, 10_000])
def test_identical_models_have_a_closed_form(images):
    expected = Z95**2 / (images + Z95**2)
    result = drop_of(0, 0, images)
    assert (result.upper, result.lower) == pytest.approx((expected, -expected), rel=1e-12)
    assert (result.drop, result.harmful, result.helpful, result.p_mcnemar) == (0.0, 0, 0, 1.0)


def test_identical_models_on_five_hundred_images():
    assert drop_of(0, 0, 500).upper == pytest.approx(0.005382, abs=5e-7)


@pytest.mark.parametrize(("max_drop", "images"), [(0.01, 268), (0.005, 539), (0.02, 133)])
def test_fewest_images_that_can_prove_parity(max_drop, images):
    assert judge(drop_of(0, 0, images), max_drop) == (Verdict.PASS, 0)
    assert judge(drop_of(0, 0, images - 1), max_drop) == (Verdict.UNDECIDED, 1)


def score_by_maximum_likelihood(harmful: int, helpful: int, images: int, drop: float) -> float:
    """Tango's statistic with the nuisance parameter from a numeric search instead of the quadratic."""

    def minus_log_likelihood(share_helpful: float) -> float:
        shares = (share_helpful + drop, share_helpful, 1 - 2 * share_helpful - drop)
        counts = (harmful, helpful, images - harmful - helpful)
        return -sum(xlogy(count, max(share, 1e-300)) for count, share in zip(counts, shares, strict=True))

    bounds = (max(0.0, -drop), (1 - drop) / 2)
    share = minimize_scalar(minus_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    return (harmful - helpful - images * drop) / math.sqrt(images * (2 * share + drop * (1 - drop)))


@pytest.mark.parametrize(
    ("harmful", "helpful", "images"),
    [(10, 6, 1000), (2, 1, 500), (0, 9, 50), (9, 0, 50), (20, 3, 30), (1, 1, 2)],
)
def test_tango_bounds_solve_the_score_equation(harmful, helpful, images):
    upper, lower = tango_upper(harmful, helpful, images), tango_lower(harmful, helpful, images)
    assert score_by_maximum_likelihood(harmful, helpful, images, upper) == pytest.approx(-Z95, rel=1e-4)
    assert score_by_maximum_likelihood(harmful, helpful, images, lower) == pytest.approx(Z95, rel=1e-4)


@cache
def cached_upper(harmful: int, helpful: int, images: int) -> float:
    return tango_upper(harmful, helpful, images)


def share_of_false_proofs(max_drop: float, discordance: float, images: int, runs: int) -> float:
    """How often "drop < max_drop" is declared proven although the true drop is exactly max_drop."""
    shares = ((discordance + max_drop) / 2, (discordance - max_drop) / 2, 1 - discordance)
    tables = np.random.default_rng(11).multinomial(images, shares, size=runs)
    proven = [cached_upper(int(harmful), int(helpful), images) < max_drop for harmful, helpful, _ in tables]
    return float(np.mean(proven))


@pytest.mark.parametrize(
    ("max_drop", "discordance", "images"),
    [(0.01, 0.02, 600), (0.01, 0.03, 1000), (0.02, 0.05, 300), (0.005, 0.01, 2000)],
)
def test_simulated_false_proofs_stay_at_alpha(max_drop, discordance, images):
    assert share_of_false_proofs(max_drop, discordance, images, runs=2000) <= 0.06


@pytest.mark.parametrize(
    ("max_drop", "discordance", "images"), [(0.02, 0.03, 150), (0.01, 0.02, 600), (0.05, 0.10, 100)]
)
def test_exact_false_proof_rate_stays_at_alpha(max_drop, discordance, images):
    shares = ((discordance + max_drop) / 2, (discordance - max_drop) / 2, 1 - discordance)
    tables = [(b, c, images - b - c) for b in range(31) for c in range(31)]
    chances = multinomial(images, shares).pmf(tables)
    proven = [cached_upper(harmful, helpful, images) < max_drop for harmful, helpful, _ in tables]
    assert chances.sum() == pytest.approx(1, abs=1e-6)
    assert float(chances @ proven) <= 0.06


@given(paired_counts(), st.sampled_from([0.001, 0.05, 0.2]))
@unhurried
def test_bounds_enclose_the_drop(counts, alpha):
    harmful, helpful, images = counts
    upper, lower = tango_upper(*counts, alpha), tango_lower(*counts, alpha)
    assert -1 <= lower <= (harmful - helpful) / images <= upper <= 1


@given(paired_counts())
@unhurried
def test_exchanging_the_models_mirrors_the_bounds(counts):
    harmful, helpful, images = counts
    result, mirrored = drop_of(*counts), drop_of(helpful, harmful, images)
    assert (result.lower, result.upper, result.drop) == (-mirrored.upper, -mirrored.lower, -mirrored.drop)
    assert result.p_mcnemar == mirrored.p_mcnemar


@given(paired_counts())
@unhurried
def test_more_harm_raises_and_more_help_lowers_the_bound(counts):
    harmful, helpful, images = counts
    upper = tango_upper(harmful, helpful, images + 1)
    assert tango_upper(harmful + 1, helpful, images + 1) >= upper - 1e-12
    assert tango_upper(harmful, helpful + 1, images + 1) <= upper + 1e-12


@given(paired_counts(), st.floats(1.01, 50))
@unhurried
def test_more_images_of_the_same_kind_tighten_the_bound(counts, factor):
    harmful, helpful, images = counts
    scaled = tango_upper(harmful * factor, helpful * factor, images * factor)
    assert scaled <= tango_upper(harmful, helpful, images) + 1e-12


@given(paired_counts())
@unhurried
def test_smaller_error_probability_widens_the_bound(counts):
    assert tango_upper(*counts, alpha=0.01) >= tango_upper(*counts, alpha=0.05) - 1e-12


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80), st.randoms())
@unhurried
def test_order_of_images_does_not_matter(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    reference, candidate = np.array(pairs).T
    assert paired_drop(reference, candidate) == paired_drop(*np.array(shuffled).T)
    assert paired_drop(reference, candidate).drop == pytest.approx(reference.mean() - candidate.mean())


@pytest.mark.parametrize("images", [1, 2, 30])
def test_all_images_harmful(images):
    result = drop_of(images, 0, images)
    assert (result.drop, result.upper) == (1.0, 1.0)
    assert -1 < result.lower < 1


def test_one_image():
    assert (drop_of(0, 1, 1).drop, drop_of(0, 1, 1).lower) == (-1.0, -1.0)
    assert judge(drop_of(0, 0, 1), 0.01) == (Verdict.UNDECIDED, 267)


@pytest.mark.parametrize(
    ("harmful", "helpful"), [(0, 0), (1, 0), (0, 5), (5, 5), (6, 5), (10, 6), (300, 340), (9000, 9500)]
)
def test_mcnemar_equals_the_binomial_test(harmful, helpful):
    expected = binomtest(harmful, harmful + helpful).pvalue if harmful + helpful else 1.0
    assert mcnemar_exact(harmful, helpful) == pytest.approx(expected, rel=1e-8)


def test_harm_alone_is_where_the_score_bound_is_most_optimistic():
    """268 flawless images prove a drop below 1 %, yet a model that harms exactly 1 % shows them in 6.8 %."""
    assert float(binom.cdf(0, 268, 0.01)) == pytest.approx(0.0677, abs=1e-4)
    assert tango_upper(0, 0, 268) < 0.01 < clopper_pearson_upper(0, 268)
    assert tango_upper(1, 0, 268) > 0.01


# --- the verdict


@pytest.mark.parametrize(
    ("harmful", "helpful", "images", "max_drop", "verdict"),
    [
        (0, 0, 500, 0.01, Verdict.PASS),
        (10, 6, 1000, 0.02, Verdict.PASS),
        (10, 6, 1000, 0.01, Verdict.UNDECIDED),
        (60, 5, 1000, 0.01, Verdict.FAIL),
        (30, 0, 30, 0.5, Verdict.FAIL),
        (0, 30, 1000, 0.01, Verdict.PASS),
    ],
)
def test_verdicts(harmful, helpful, images, max_drop, verdict):
    result = judge(drop_of(harmful, helpful, images), max_drop)
    assert result[0] is verdict
    assert (result[1] == 0) == (verdict is not Verdict.UNDECIDED)


def test_verdict_at_the_bound_itself():
    drop = drop_of(10, 6, 1000)
    assert judge(drop, drop.upper)[0] is Verdict.UNDECIDED
    assert judge(drop, math.nextafter(drop.upper, 1))[0] is Verdict.PASS
    assert judge(drop, drop.lower)[0] is Verdict.FAIL
    assert judge(drop, math.nextafter(drop.lower, 1))[0] is Verdict.UNDECIDED


def decided_with(drop: PairedDrop, images: int, max_drop: float) -> bool:
    harmful, helpful = drop.harmful * images / drop.images, drop.helpful * images / drop.images
    upper = tango_upper(harmful, helpful, images, drop.alpha)
    return upper < max_drop or tango_lower(harmful, helpful, images, drop.alpha) >= max_drop


@pytest.mark.parametrize(
    ("counts", "max_drop"), [((1, 0, 100), 0.02), ((3, 1, 90), 0.01), ((0, 0, 20), 0.02), ((7, 7, 150), 0.03)]
)
def test_further_images_are_the_fewest_that_decide(counts, max_drop):
    drop = drop_of(*counts)
    verdict, further = judge(drop, max_drop)
    assert verdict is Verdict.UNDECIDED
    first = next(n for n in range(1, 20_000) if decided_with(drop, drop.images + n, max_drop))
    assert further == first


@given(paired_counts(), st.sampled_from([0.005, 0.01, 0.03]))
@unhurried
def test_further_images_decide_and_one_fewer_does_not(counts, max_drop):
    drop = drop_of(*counts)
    verdict, further = judge(drop, max_drop)
    assert (further > 0) == (verdict is Verdict.UNDECIDED)
    if 0 < further < MOST_FURTHER_IMAGES:
        assert decided_with(drop, drop.images + further, max_drop)
        assert further == 1 or not decided_with(drop, drop.images + further - 1, max_drop)


def test_a_drop_on_the_margin_is_never_decided():
    assert judge(drop_of(4, 0, 400), 0.01) == (Verdict.UNDECIDED, MOST_FURTHER_IMAGES)


def test_verdict_is_plain_text():
    assert f"{Verdict.PASS} {Verdict.FAIL} {Verdict.UNDECIDED}" == "pass fail undecided"


# --- how far probabilities moved


def test_softmax_log_lifts_zeros_to_a_finite_number():
    logs = softmax_log(np.array([[1.0, 0.0]], np.float32))
    assert logs.dtype == np.float64
    assert logs[0].tolist() == pytest.approx([0.0, math.log(np.finfo(np.float32).tiny)])


@given(st.integers(0, 1000))
@unhurried
def test_centred_logits_undo_softmax(seed):
    logits = np.random.default_rng(seed).normal(0, 3, (8, 6))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = logits - logits.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(centred_logits(probabilities.astype(np.float32)), expected, atol=1e-5)


def test_sqnr_of_known_noise():
    signal = np.array([3.0, -4.0], np.float32)
    assert sqnr_db(signal, signal * np.float32(1.5)) == pytest.approx(20 * math.log10(2))
    assert sqnr_db(signal, signal) == math.inf
    assert sqnr_db(np.zeros(3), np.zeros(3)) == math.inf
    assert sqnr_db(np.zeros(3), np.ones(3)) == -math.inf


@pytest.mark.parametrize("seed", range(5))
def test_kl_equals_scipy(seed):
    reference, candidate = random_probabilities(seed), random_probabilities(seed + 100)
    expected = kl_div(reference.astype(np.float64), candidate.astype(np.float64)).sum(axis=1).mean()
    assert mean_kl(reference, candidate) == pytest.approx(expected, rel=1e-12)


def test_kl_with_zeros_is_finite_and_never_negative():
    certain, other = np.array([[1.0, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32)
    assert mean_kl(certain, certain) == 0.0
    assert mean_kl(certain, other) == pytest.approx(-math.log(np.finfo(np.float32).tiny))
    probabilities = random_probabilities(3)
    assert 0 <= mean_kl(probabilities, probabilities * np.float32(1 - 1e-7)) < 1e-12


# --- calibration


@pytest.mark.parametrize("bins", [1, 7, 15])
@pytest.mark.parametrize("images", [3, 150, 1001])
def test_calibration_error_equals_equal_mass_bins_without_ties(images, bins):
    random = np.random.default_rng(images)
    confidence, correct = random.permutation(np.linspace(0.2, 1, images)), random.random(images) < 0.7
    order = np.argsort(confidence)
    bin_of_rank = ((np.arange(images) + 0.5) * bins / images).astype(int)
    parts = [order[bin_of_rank == index] for index in range(bins)]
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    expected = sum(len(p) / images * abs(correct[p].mean() - confidence[p].mean()) for p in parts if len(p))
    assert expected_calibration_error(confidence, correct, bins) == pytest.approx(expected, abs=1e-12)


def test_calibration_error_of_known_cases():
    assert expected_calibration_error([1.0] * 4, [1, 1, 1, 0]) == pytest.approx(0.25)
    assert expected_calibration_error([0.75] * 4, [1, 1, 1, 0]) == pytest.approx(0.0)
    assert expected_calibration_error([0.9], [0]) == pytest.approx(0.9)


def test_calibration_error_of_a_perfectly_calibrated_model_is_not_zero():
    random = np.random.default_rng(5)
    confidence = random.uniform(0.3, 1.0, (200, 700))
    errors = [expected_calibration_error(row, random.random(700) < row) for row in confidence]
    assert 0.02 < np.mean(errors) < 0.05


@given(st.lists(st.tuples(st.sampled_from([0.3, 0.5, 0.9, 1.0]), st.booleans()), min_size=1), st.randoms())
@unhurried
def test_calibration_error_ignores_the_order_of_images(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    error = expected_calibration_error(*np.array(pairs, np.float32).T)
    assert error == pytest.approx(expected_calibration_error(*np.array(shuffled, np.float32).T), abs=1e-12)
    assert 0 <= error <= 1 + 1e-6


# --- scores per class and per image


@given(st.integers(2, 6), st.integers(1, 50), st.integers(0, 1000))
@unhurried
def test_class_scores_equal_sklearn(classes, images, seed):
    random = np.random.default_rng(seed)
    truth, predicted = random.integers(0, classes, (2, images))
    labels = list(range(classes))
    confusion = confusion_matrix(truth, predicted, classes)
    assert confusion.dtype == np.int64
    np.testing.assert_array_equal(confusion, sklearn_confusion_matrix(truth, predicted, labels=labels))
    columns = precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0)
    for score, (precision, recall, f1, support) in zip(
        class_scores(confusion), zip(*columns, strict=True), strict=True
    ):
        assert score.images == support
        assert (score.precision, score.recall, score.f1) == pytest.approx((precision, recall, f1))


def test_a_class_without_images_scores_zero():
    confusion = confusion_matrix(np.array([0, 0], np.uint8), np.array([0, 1], np.uint8), 3)
    assert class_scores(confusion) == [
        ClassScore(images=2, precision=1.0, recall=0.5, f1=pytest.approx(2 / 3)),
        ClassScore(images=0, precision=0.0, recall=0.0, f1=0.0),
        ClassScore(images=0, precision=0.0, recall=0.0, f1=0.0),
    ]


def test_labels_of_one_byte_do_not_overflow():
    truth = np.full(3, 250, np.uint8)
    assert confusion_matrix(truth, truth, 251)[250, 250] == 3


@pytest.mark.parametrize("seed", range(4))
def test_likelihood_and_top_k_equal_sklearn(seed):
    probabilities = random_probabilities(seed).astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    truth = np.random.default_rng(seed).integers(0, 5, 60)
    labels = list(range(5))
    assert negative_log_likelihood(probabilities, truth) == pytest.approx(
        log_loss(truth, probabilities, labels=labels)
    )
    assert top_k_accuracy(probabilities, truth, 1) == accuracy_score(truth, probabilities.argmax(axis=1))
    for k in (2, 3, 4):
        expected = top_k_accuracy_score(truth, probabilities, k=k, labels=labels)
        assert top_k_accuracy(probabilities, truth, k) == pytest.approx(expected)


def test_top_k_with_ties_and_with_few_classes():
    tied = np.full((3, 3), 1 / 3, np.float32)
    truth = np.arange(3)
    assert [top_k_accuracy(tied, truth, k) for k in (1, 2, 3, 5)] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert top_k_accuracy(tied[:1], np.array([0]), 1) == 1.0
    assert top_k_accuracy(tied[:1], np.array([2]), 2) == 0.0


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_model_that_answers_nan_is_wrong(k):
    probabilities = np.full((2, 2), np.nan, np.float32)
    assert top_k_accuracy(probabilities, np.array([0, 1]), k) == 0.0


def test_likelihood_of_an_impossible_answer_is_finite():
    assert negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(87.3365, abs=1e-3)


# --- input that cannot be answered

NO_FLAGS, NO_NUMBERS, NO_LABELS = np.zeros(0, bool), np.zeros((0, 3)), np.zeros(0, int)


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson_interval(0, 0),
        lambda: clopper_pearson_upper(0, 0),
        lambda: tango_upper(0, 0, 0),
        lambda: tango_lower(0, 0, 0),
        lambda: paired_drop(NO_FLAGS, NO_FLAGS),
        lambda: sqnr_db(NO_NUMBERS, NO_NUMBERS),
        lambda: mean_kl(NO_NUMBERS, NO_NUMBERS),
        lambda: expected_calibration_error([], []),
        lambda: confusion_matrix(NO_LABELS, NO_LABELS, 3),
        lambda: negative_log_likelihood(NO_NUMBERS, NO_LABELS),
        lambda: top_k_accuracy(NO_NUMBERS, NO_LABELS, 1),
    ],
)
def test_no_images_is_refused(call):
    with pytest.raises(ValueError, match="at least one image"):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson_interval(5, 4), "successes must lie in"),
        (lambda: wilson_interval(1, 4, 1.0), "error probability"),
        (lambda: clopper_pearson_upper(-1, 4), "events must lie in"),
        (lambda: clopper_pearson_upper(1, 4, 0.0), "error probability"),
        (lambda: tango_upper(3, 2, 4), "together exceed"),
        (lambda: tango_upper(1, 1, 4, 0.5), "error probability"),
        (lambda: tango_upper(math.nan, 1, 4), "harmful must lie in"),
        (lambda: mcnemar_exact(-1, 3), "harmful must lie in"),
        (lambda: paired_drop(np.ones(2, bool), np.ones(3, bool)), "same shape"),
        (lambda: paired_drop(np.ones(2, int), np.ones(2, int)), "arrays of bool"),
        (lambda: sqnr_db(np.ones((2, 1)), np.ones(2)), "same shape"),
        (lambda: expected_calibration_error([0.5], [1], 0), "bins must be"),
        (lambda: confusion_matrix(np.array([3]), np.array([0]), 3), "labels must be"),
        (lambda: confusion_matrix(np.array([0]), np.array([-1]), 3), "labels must be"),
        (lambda: negative_log_likelihood(np.ones((2, 3)), np.array([0])), "expected probabilities"),
        (lambda: top_k_accuracy(np.ones((1, 3)), np.array([0]), 0), "k must be"),
    ],
)
def test_impossible_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
