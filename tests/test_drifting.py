"""`edgetl.drifting`: distances that are known, tests that keep their level, intervals that keep their promise."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr
from scipy.stats import binom

from edgetl.drifting import (
    ALPHA,
    CONFIDENCE_BINS,
    PERMUTATIONS,
    Comparison,
    Distance,
    DriftVerdict,
    compare_counts,
    compare_vectors,
    confidence_cells,
    in_equal_bins,
    judge,
    kl_divergence,
    overall,
    smoothed,
    stability_index,
    top_vectors,
)

TOLERANCE = 0.1
RUNS = 100
# A sound test with level 5 % alarms more often than this in 1 of 1,000 series of 100 runs.
MOST_ALARMS = int(binom.ppf(0.999, RUNS, ALPHA))
counts = st.lists(st.integers(0, 1000), min_size=4, max_size=4).map(np.array)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def drawn(random: np.random.Generator, rows: int, shares) -> np.ndarray:
    return random.multinomial(rows, shares).astype(np.int64)


def at_divergence(shares: np.ndarray, divergence: float, place: int) -> np.ndarray:
    """The shares after moving rows to one class until KL(new || old) is as asked."""
    unit, low, high = np.eye(len(shares))[place], 0.0, 0.999
    for _ in range(50):
        part = (low + high) / 2
        moved = (1 - part) * shares + part * unit
        low, high = (part, high) if rel_entr(moved, shares).sum() < divergence else (low, part)
    return (1 - low) * shares + low * unit


# --- worked examples and properties


def test_smoothing_adds_half_a_row_to_each_bin():
    assert smoothed(np.array([3, 0, 1])).tolist() == pytest.approx([3.5 / 5.5, 0.5 / 5.5, 1.5 / 5.5])


def test_distances_of_a_worked_example():
    now, reference = np.array([9, 1]), np.array([5, 5])  # 9.5 and 1.5 of 11, against half and half
    q, r = 9.5 / 11, 1.5 / 11
    expected = q * math.log(2 * q) + r * math.log(2 * r)
    assert kl_divergence(now, reference) == pytest.approx(expected)
    assert stability_index(now, reference) == pytest.approx((q - r) / 2 * math.log(q / r))


@given(counts, counts)
def test_distances_equal_scipy_and_are_never_negative(now, reference):
    q, p = smoothed(now), smoothed(reference)
    assert kl_divergence(now, reference) == pytest.approx(rel_entr(q, p).sum(), abs=1e-12)
    both_ways = rel_entr(q, p).sum() + rel_entr(p, q).sum()
    assert stability_index(now, reference) == pytest.approx(both_ways, abs=1e-12)
    assert stability_index(now, reference) == pytest.approx(stability_index(reference, now))
    assert kl_divergence(now, reference) >= -1e-15


@given(counts, counts, st.permutations(range(4)))
def test_the_order_of_classes_does_not_matter(now, reference, order):
    assert kl_divergence(now[order], reference[order]) == pytest.approx(kl_divergence(now, reference))


@given(st.lists(st.floats(0, 1), max_size=200), st.lists(st.floats(0, 1), max_size=200))
def test_bins_keep_every_row_and_share_them_evenly(before, now):
    cells = confidence_cells(np.array(before)), confidence_cells(np.array(now))
    old, new = in_equal_bins(*cells)
    assert (old.sum(), new.sum()) == (len(before), len(now))
    largest_cell = (cells[0] + cells[1]).max()
    assert (old + new).max() <= (len(before) + len(now)) / CONFIDENCE_BINS + largest_cell


def test_confidences_near_one_are_told_apart():
    near = 1 - np.array([1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
    assert (confidence_cells(near) > 0).sum() == len(near)
    assert confidence_cells(np.array([0.0, 1.0])).sum() == 2


def test_top_vectors_share_what_is_not_known():
    full = np.array([[0.6, 0.1, 0.2, 0.1]], np.float32)
    assert top_vectors(full, 1)[0] == pytest.approx([0.6, 0.4 / 3, 0.4 / 3, 0.4 / 3])
    assert top_vectors(full, 2)[0] == pytest.approx([0.6, 0.1, 0.2, 0.1])
    assert top_vectors(full, 4)[0] == pytest.approx(full[0])


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 100))
def test_top_vectors_of_top_vectors_are_those_of_the_fewer(first, second, seed):
    full = generator(seed).dirichlet(np.ones(6), 3).astype(np.float32)
    fewer = min(first, second)
    np.testing.assert_allclose(
        top_vectors(top_vectors(full, first), second), top_vectors(full, fewer), atol=1e-6
    )
    assert top_vectors(full, fewer).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_moved_share_of_a_worked_example():
    """A tenth of equal vectors replaced by others that are alike: far apart, that is a share of a tenth."""
    before = np.zeros((400, 2))
    now = np.repeat([[0.0, 0.0], [50.0, 0.0]], [360, 40], axis=0)
    (distance,) = compare_vectors(before, now, TOLERANCE, generator()).distances
    # The kernel's bandwidth is the mean squared distance here (the median is zero), so "far" is beyond doubt.
    assert distance.value == pytest.approx(0.1, abs=0.01)
    assert distance.low < 0.1 < distance.high
    assert distance.threshold == pytest.approx(TOLERANCE)


def test_permutation_tests_are_exact_where_all_permutations_can_be_counted():
    before, now = np.array([[0.0], [0.1], [0.2], [0.3]]), np.array([[5.0], [6.0], [7.0], [8.0]])
    ways = len(list(combinations(range(8), 4)))
    p_value = compare_vectors(before, now, TOLERANCE, generator()).p_value
    assert p_value == pytest.approx(2 / ways, abs=4 * math.sqrt(2 / ways / PERMUTATIONS))
    p_value = compare_counts(np.array([4, 0]), np.array([0, 4]), TOLERANCE, generator()).p_value
    assert p_value == pytest.approx(2 / ways, abs=4 * math.sqrt(2 / ways / PERMUTATIONS))


def test_equal_samples_are_no_proof_when_they_are_small():
    few = np.array([3, 3, 3])
    assert judge([compare_counts(few, few, TOLERANCE, generator())])[0][1] is DriftVerdict.CANNOT_TELL
    many = 100 * few
    assert judge([compare_counts(many, many, TOLERANCE, generator())])[0][1] is DriftVerdict.NOT_DRIFTED


def test_smoothing_that_outweighs_the_rows_proves_nothing():
    """A thousand classes and fifty rows of each: all shares are near 1 / 1000 by smoothing alone."""
    random = generator()
    before, now = (drawn(random, 50, np.full(1000, 1e-3)) for _ in range(2))
    found = compare_counts(before, now, TOLERANCE, random)
    assert not found.enough_rows
    assert judge([found])[0][1] is DriftVerdict.CANNOT_TELL


def test_a_class_that_the_reference_never_saw_is_seen():
    found = compare_counts(np.array([100, 100, 0]), np.array([90, 90, 40]), TOLERANCE, generator())
    assert judge([found])[0][1] is DriftVerdict.DRIFTED


@given(st.integers(0, 1000))
def test_intervals_hold_their_value_and_are_not_negative(seed):
    random = generator(seed)
    shares = random.dirichlet(np.ones(5))
    found = compare_counts(drawn(random, 80, shares), drawn(random, 60, shares), TOLERANCE, random)
    for distance in found.distances:
        assert 0 <= distance.low <= distance.value <= distance.high


def test_equal_vectors_have_no_distance():
    same = np.ones((20, 3), np.float32)
    (distance,) = compare_vectors(same, same, TOLERANCE, generator()).distances
    assert distance.value == pytest.approx(0, abs=1e-3)
    assert distance.high == pytest.approx(0, abs=1e-3)


# --- verdicts


def comparison(high: float, p_value: float, enough: bool = True) -> Comparison:
    return Comparison((Distance("KL", high / 2, 0, high, TOLERANCE),), p_value, enough, 10.0, 10)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (comparison(0.05, 0.5), DriftVerdict.NOT_DRIFTED),
        (comparison(0.05, 0.001), DriftVerdict.NOT_DRIFTED),  # proven, and proven to be small
        (comparison(0.2, 0.001), DriftVerdict.DRIFTED),
        (comparison(0.2, 0.5), DriftVerdict.CANNOT_TELL),
        (comparison(TOLERANCE, 0.5), DriftVerdict.CANNOT_TELL),
        (comparison(0.05, 0.5, enough=False), DriftVerdict.CANNOT_TELL),
        (comparison(0.05, 0.001, enough=False), DriftVerdict.DRIFTED),
    ],
)
def test_verdict_of_one_comparison(found, verdict):
    assert judge([found])[0][1] is verdict


def test_several_comparisons_are_judged_together():
    judged = judge([comparison(0.2, 0.03), comparison(0.2, 0.9)])
    assert [p for p, _ in judged] == pytest.approx([0.06, 0.9])
    assert judged[0][1] is DriftVerdict.CANNOT_TELL


def test_overall_verdict():
    no, yes, unknown = DriftVerdict.NOT_DRIFTED, DriftVerdict.DRIFTED, DriftVerdict.CANNOT_TELL
    assert overall([no, no]) is no
    assert overall([no, unknown]) is unknown
    assert overall([no, unknown, yes]) is yes
    assert overall([]) is unknown


# --- promises, counted over many runs


@pytest.mark.parametrize(("classes", "rows"), [(2, (60, 60)), (15, (232, 100)), (40, (300, 1000))])
def test_no_shift_of_classes_is_seldom_called_drifted(classes, rows):
    random, shares = generator(1), generator(2).dirichlet(np.ones(classes))
    samples = [[drawn(random, size, shares) for size in rows] for _ in range(RUNS)]
    verdicts = [judge([compare_counts(*pair, TOLERANCE, random)])[0][1] for pair in samples]
    assert verdicts.count(DriftVerdict.DRIFTED) <= MOST_ALARMS


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize(
    ("classes", "rows"),
    [
        (2, (100, 100)),
        (15, (100, 100)),
        (15, (232, 1000)),
        (15, (1000, 300)),
        pytest.param(100, (500, 500), marks=pytest.mark.slow),
    ],
)
def test_a_shift_as_large_as_the_threshold_is_seldom_called_none(classes, rows, place):
    random = generator(3)
    before = np.arange(classes, 0, -1) / (classes * (classes + 1) / 2)
    now = at_divergence(before, TOLERANCE, place)
    pairs = [(drawn(random, rows[0], before), drawn(random, rows[1], now)) for _ in range(RUNS)]
    verdicts = [judge([compare_counts(*pair, TOLERANCE, random)])[0][1] for pair in pairs]
    assert verdicts.count(DriftVerdict.NOT_DRIFTED) <= MOST_ALARMS


@pytest.mark.parametrize(("classes", "reference"), [(3, 300), (15, 1000), (15, 400)])
def test_the_rows_asked_for_are_enough(classes, reference):
    random, shares = generator(4), np.full(classes, 1 / classes)
    first = compare_counts(drawn(random, reference, shares), drawn(random, 60, shares), TOLERANCE, random)
    needed = math.ceil(first.rows_needed)
    pairs = [(drawn(random, reference, shares), drawn(random, needed, shares)) for _ in range(RUNS)]
    verdicts = [judge([compare_counts(*pair, TOLERANCE, random)])[0][1] for pair in pairs]
    assert 65 <= verdicts.count(DriftVerdict.NOT_DRIFTED) <= 97  # 80 are promised, "about"


def test_billions_of_rows_are_compared():
    many = np.array([3_000_000_000, 2_000_000_000, 1])
    assert judge([compare_counts(many, many, TOLERANCE, generator())])[0][1] is DriftVerdict.NOT_DRIFTED
    other = compare_counts(many, many[[1, 0, 2]] * 3, TOLERANCE, generator())
    assert judge([other])[0][1] is DriftVerdict.NOT_DRIFTED  # KL of 0.08
    assert other.p_value <= 1 / PERMUTATIONS
    far = compare_counts(many, np.array([1, 4_000_000_000, 1]), TOLERANCE, generator())
    assert judge([far])[0][1] is DriftVerdict.DRIFTED


def test_a_reference_that_is_too_small_is_told():
    found = compare_counts(np.full(15, 5), np.full(15, 500), TOLERANCE, generator())
    assert found.rows_needed == math.inf
    assert found.reference_rows_needed > 75


def test_vectors_without_shift_are_seldom_called_drifted():
    random = generator(5)
    pairs = [(random.normal(size=(60, 8)), random.normal(size=(80, 8))) for _ in range(RUNS)]
    verdicts = [judge([compare_vectors(*pair, TOLERANCE, random)])[0][1] for pair in pairs]
    assert verdicts.count(DriftVerdict.DRIFTED) <= MOST_ALARMS


@pytest.mark.parametrize("change", [lambda x: x + 0.5, lambda x: 1.5 * x])
def test_vectors_that_moved_are_found(change):
    random = generator(6)
    pairs = [(random.normal(size=(200, 8)), change(random.normal(size=(200, 8)))) for _ in range(20)]
    verdicts = [judge([compare_vectors(*pair, TOLERANCE, random)])[0][1] for pair in pairs]
    assert verdicts.count(DriftVerdict.DRIFTED) >= 19


# --- input that cannot be answered


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare_counts(np.zeros(2, int), np.ones(2, int), 0.1, generator()), "at least one row"),
        (lambda: compare_counts(np.ones(2, int), np.ones(3, int), 0.1, generator()), "same bins"),
        (lambda: compare_vectors(np.ones((1, 2)), np.ones((9, 2)), 0.1, generator()), "at least two rows"),
        (lambda: compare_vectors(np.ones((3, 2)), np.ones((9, 3)), 0.1, generator()), "same width"),
    ],
)
def test_impossible_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
