"""`edgetl.measures` against scipy and scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import kl_div
from sklearn.metrics import (
    accuracy_score,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from edgetl.measures import (
    ClassScore,
    centred_logits,
    class_scores,
    confusion_matrix,
    expected_calibration_error,
    mean_kl,
    negative_log_likelihood,
    softmax_log,
    sqnr_db,
    top_k_accuracy,
)

# A busy machine must not fail a property.
unhurried = settings(deadline=None, max_examples=60)


def random_probabilities(seed: int, rows: int = 60, classes: int = 5, sharpness: float = 2.0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, sharpness, (rows, classes))
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


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

NO_NUMBERS, NO_LABELS = np.zeros((0, 3)), np.zeros(0, int)


@pytest.mark.parametrize(
    "call",
    [
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
