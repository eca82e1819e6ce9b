"""`edgetl.statistics`, and what it stands on, against scipy, published numbers and exact error rates."""

import math
from functools import cache
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import gammaln, xlogy
from scipy.stats import beta, binom, binomtest, bootstrap, multinomial

from edgetl.binomial import binomial_cdf, clopper_pearson_lower, clopper_pearson_upper, log_factorial
from edgetl.power import images_needed
from edgetl.searches import falling_root, smallest
from edgetl.statistics import (
    MOST_FURTHER_IMAGES,
    ClassDrop,
    PairedDrop,
    Verdict,
    bca_upper,
    class_drops,
    disagreement_upper,
    drop_of,
    exact_lower,
    exact_p,
    exact_upper,
    holm,
    judge,
    mcnemar_exact,
    paired_drop,
    proves,
    tango_lower,
    tango_upper,
    wilson_interval,
)
from edgetl.trinomial import (
    GAMMA,
    TOLERANCE,
    chance,
    greatest_chance,
    likely_discordance,
    score,
    tables_scoring,
)

Z95 = NormalDist().inv_cdf(0.95)

# A busy machine must not fail a property.
unhurried = settings(deadline=None, max_examples=60)


@st.composite
def paired_counts(draw: st.DrawFn, most: int = 5000) -> tuple[int, int, int]:
    """(harmful, helpful, images) of a possible paired table."""
    images = draw(st.integers(1, most))
    harmful = draw(st.integers(0, images))
    return harmful, draw(st.integers(0, images - harmful)), images


def correctness(harmful: int, helpful: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Two bool arrays [images] with these discordant counts."""
    reference, candidate = np.ones(images, bool), np.ones(images, bool)
    candidate[:harmful] = False
    reference[harmful : harmful + helpful] = False
    return reference, candidate


def some_tables(count: int, seed: int = 0) -> list[tuple[int, int, int]]:
    """Tables (harmful, helpful, images) as verification meets them: few discordant images."""
    random = np.random.default_rng(seed)
    tables = []
    for _ in range(count):
        images = int(random.choice([5, 40, 200, 1000, 4000]))
        discordant = int(min(images, random.choice([0, 1, 2, 3, 8, 30])))
        harmful = int(random.integers(0, discordant + 1))
        tables.append((harmful, discordant - harmful, images))
    return tables


def all_tables(images: int) -> tuple[np.ndarray, np.ndarray]:
    """Every (harmful, helpful), as two arrays."""
    harmful, helpful = np.meshgrid(np.arange(images + 1), np.arange(images + 1), indexing="ij")
    possible = harmful + helpful <= images
    return harmful[possible], helpful[possible]


def chances_of(harmful: np.ndarray, helpful: np.ndarray, images: int, drop: float, psi: float) -> np.ndarray:
    """The probability of each table, by scipy."""
    shares = ((psi + drop) / 2, (psi - drop) / 2, 1 - psi)
    return multinomial(images, shares).pmf(np.stack([harmful, helpful, images - harmful - helpful], axis=1))


# --- where functions turn, binomial chances


@pytest.mark.parametrize("guess", [-0.9, 0.1, 0.3, 0.8])
@pytest.mark.parametrize("root", [-0.5, 0.0, 0.3, 0.30001, 0.999])
def test_the_root_of_smooth_and_of_broken_functions(root, guess):
    for function in (lambda x: root - x, lambda x: math.exp(-30 * x) - math.exp(-30 * root)):
        assert falling_root(function, guess, 0.01, (-1.0, 1.0)) == pytest.approx(root, rel=1e-13, abs=1e-15)
    calls = []
    found = falling_root(lambda x: calls.append(x) or (1 if x < root else -1), guess, 0.01, (-1, 1), 1e-6)
    assert root <= found <= root + 1e-6
    assert all(-1 < x < 1 for x in calls)
    assert len(calls) < 60


def test_a_function_without_a_root_turns_at_an_end():
    assert falling_root(lambda _: 1.0, 0.5, 0.1, (0.0, 1.0)) == 1.0
    assert falling_root(lambda _: -1.0, 0.5, 0.1, (0.0, 1.0), 1e-9) <= 1e-9


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(1, 20))
@unhurried
def test_the_smallest_number_that_holds(first, guess, within):
    assert smallest(lambda n: n >= first, guess, 1000) == first
    assert first <= smallest(lambda n: n >= first, guess, 1000, within) < first + within
    assert smallest(lambda _: False, guess, 1000) == 1000


def test_log_factorials():
    counts = np.array([0, 1, 2, 170, 255, 256, 257, 10**4, 10**6])
    np.testing.assert_allclose(log_factorial(counts), gammaln(counts + 1.0), rtol=1e-15)


@pytest.mark.parametrize(
    ("events", "trials"),
    [(-1, 4), (0, 5), (3, 10), (50, 1000), (999, 1000), (5, 5), (9, 4), (5 * 10**5, 10**6)],
)
def test_binomial_chances_equal_scipy(events, trials):
    shares = np.array([0, 1e-6, 0.001, 0.049, 0.05, 0.3, 0.4997, 0.5, 0.5003, 0.999, 1])
    expected = binom.cdf(events, trials, shares)
    np.testing.assert_allclose(binomial_cdf(events, trials, shares), expected, rtol=2e-9, atol=1e-290)


# --- intervals of one share


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 40), (3, 40), (40, 40), (951, 1000)])
def test_wilson_equals_scipy(successes, trials, confidence):
    expected = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    got = wilson_interval(successes, trials, confidence)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= got.low <= successes / trials <= got.high <= 1


@pytest.mark.parametrize("alpha", [0.00005, 0.001, 0.05, 0.5, 0.9])
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
        (500_000, 10**6),
        (10**6 - 1, 10**6),
    ],
)
def test_clopper_pearson_equals_the_beta_quantile(events, trials, alpha):
    upper = beta.ppf(1 - alpha, events + 1, trials - events)
    assert clopper_pearson_upper(events, trials, alpha) == pytest.approx(upper, rel=1e-8)
    lower = beta.ppf(alpha, events, trials - events + 1) if events else 0.0
    assert clopper_pearson_lower(events, trials, alpha) == pytest.approx(lower, rel=1e-8)


@pytest.mark.parametrize(
    ("events", "trials", "low", "high"),
    [(81, 263, 0.2527, 0.3676), (0, 20, 0.0, 0.1684), (1, 29, 0.0009, 0.1776), (13, 16, 0.5435, 0.9595)],
)
def test_clopper_pearson_as_published(events, trials, low, high):
    """Newcombe 1998, Statistics in Medicine 17:857-872, table I; Fagerland, Lydersen & Laake 2017, chapter 2."""
    assert clopper_pearson_lower(events, trials, 0.025) == pytest.approx(low, abs=5e-5)
    assert clopper_pearson_upper(events, trials, 0.025) == pytest.approx(high, abs=5e-5)


def test_clopper_pearson_of_certainty_and_of_nothing():
    assert clopper_pearson_upper(7, 7) == 1.0
    assert clopper_pearson_lower(0, 7) == 0.0
    assert clopper_pearson_upper(0, 299) == pytest.approx(1 - 0.05 ** (1 / 299), rel=1e-12)


@pytest.mark.parametrize("trials", [10, 60, 300])
def test_coverage_of_the_intervals_of_one_share(trials):
    """Summed over all outcomes: Clopper-Pearson is never below 95 %, Wilson is 95 % on average."""
    counts = range(trials + 1)
    exact = [
        (clopper_pearson_lower(x, trials, 0.025), clopper_pearson_upper(x, trials, 0.025)) for x in counts
    ]
    wilson = [(one.low, one.high) for one in (wilson_interval(x, trials) for x in counts)]
    shares = np.linspace(0.0005, 0.9995, 1999)
    chances = binom.pmf(np.arange(trials + 1), trials, shares[:, None])

    def coverage(intervals):
        low, high = np.array(intervals).T
        return (chances * ((low <= shares[:, None]) & (shares[:, None] <= high))).sum(axis=1)

    assert coverage(exact).min() >= 0.95
    assert 0.95 <= coverage(wilson).mean() < 0.957
    assert coverage(wilson).min() > 0.8


def test_disagreement_bounds_the_drop_without_labels():
    assert disagreement_upper(0, 1000) == pytest.approx(3 / 1000, rel=0.003)
    assert [round(disagreement_upper(0, n), 4) for n in (500, 1000, 2000)] == [0.006, 0.003, 0.0015]
    assert disagreement_upper(5, 1000) == clopper_pearson_upper(5, 1000)
    assert disagreement_upper(8, 500) > tango_upper(8, 0, 500)


# --- the score bound


@pytest.mark.parametrize(
    ("harmful", "helpful", "images", "low", "high"),
    [(1, 7, 21, -0.517, -0.026), (6, 16, 161, -0.1240, -0.0054)],
)
def test_tango_as_published(harmful, helpful, images, low, high):
    """Fagerland, Lydersen & Laake 2014, Statistics in Medicine 33:2850-2875: two-sided 95 % intervals."""
    digits = 3 if images == 21 else 4
    assert round(tango_lower(harmful, helpful, images, 0.025), digits) == low
    assert round(tango_upper(harmful, helpful, images, 0.025), digits) == high


@pytest.mark.parametrize(
    ("harmful", "helpful", "images", "tango", "harmful_alone"),
    [
        (0, 0, 500, 0.0054, 0.0060),
        (2, 1, 500, 0.0102, 0.0125),
        (5, 5, 1000, 0.0058, 0.0105),
        (10, 6, 1000, 0.0113, 0.0169),
        (3, 3, 2000, 0.0024, 0.0039),
    ],
)
def test_worked_examples(harmful, helpful, images, tango, harmful_alone):
    assert round(tango_upper(harmful, helpful, images), 4) == tango
    assert round(clopper_pearson_upper(harmful, images), 4) == harmful_alone
    exact = exact_upper(harmful, helpful, images)
    assert 0.98 * tango < exact < harmful_alone * 1.001


@pytest.mark.parametrize("images", [1, 268, 500, 10_000])
def test_tango_of_identical_models_has_a_closed_form(images):
    expected = Z95**2 / (images + Z95**2)
    assert tango_upper(0, 0, images) == pytest.approx(expected, rel=1e-12)
    assert tango_lower(0, 0, images) == -tango_upper(0, 0, images)


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


@given(paired_counts(), st.floats(-0.99, 0.99))
@unhurried
def test_harm_raises_and_help_lowers_the_score(counts, drop):
    harmful, helpful, images = map(float, counts)
    middle = score(harmful, helpful, images + 1, drop)
    assert score(harmful + 1, helpful, images + 1, drop) >= middle - 1e-9
    assert score(harmful, helpful + 1, images + 1, drop) <= middle + 1e-9


@given(paired_counts(), st.sampled_from([0.001, 0.05, 0.2]))
@unhurried
def test_tango_bounds_enclose_the_drop(counts, alpha):
    harmful, helpful, images = counts
    upper, lower = tango_upper(*counts, alpha), tango_lower(*counts, alpha)
    assert -1 <= lower <= (harmful - helpful) / images <= upper <= 1


@given(paired_counts(), st.floats(1.01, 50))
@unhurried
def test_more_images_of_the_same_kind_tighten_the_bound(counts, factor):
    harmful, helpful, images = counts
    scaled = tango_upper(harmful * factor, helpful * factor, images * factor)
    assert scaled <= tango_upper(harmful, helpful, images) + 1e-12


@given(paired_counts())
@unhurried
def test_more_harm_raises_and_more_help_lowers_tango(counts):
    harmful, helpful, images = counts
    upper = tango_upper(harmful, helpful, images + 1)
    assert tango_upper(harmful + 1, helpful, images + 1) >= upper - 1e-12
    assert tango_upper(harmful, helpful + 1, images + 1) <= upper + 1e-12


@given(paired_counts())
@unhurried
def test_smaller_error_probability_widens_tango(counts):
    assert tango_upper(*counts, alpha=0.01) >= tango_upper(*counts, alpha=0.05) - 1e-12


def test_harm_alone_is_where_the_score_bound_is_most_optimistic():
    """268 flawless images: a model that harms exactly 1 % shows them in 6.8 %; the exact bound knows."""
    assert float(binom.cdf(0, 268, 0.01)) == pytest.approx(0.0677, abs=1e-4)
    assert tango_upper(0, 0, 268) < 0.01 < exact_upper(0, 0, 268)
    assert exact_upper(0, 0, 299) < 0.01 < exact_upper(0, 0, 298)


# --- chances of paired tables


@pytest.mark.parametrize(("images", "bound"), [(9, 0.3), (25, 0.1), (25, -0.2), (40, 0.02)])
def test_chances_of_tables_equal_the_trinomial(images, bound):
    harmful, helpful = all_tables(images)
    tables = tables_scoring(-1.0, bound, images, (0.0, 1.0))
    inside = score(harmful.astype(float), helpful.astype(float), images, bound) <= -1.0 + 1e-9
    for drop, psi in [(0.0, 0.01), (0.05, 0.05), (0.05, 0.4), (-0.1, 0.3), (0.3, 0.9), (-0.5, 0.5)]:
        expected = chances_of(harmful, helpful, images, drop, psi)[inside].sum()
        got = chance(tables, np.array([psi]), np.array([0.5 + drop / psi / 2]))
        assert float(got[0]) == pytest.approx(expected, abs=1e-12)


def test_chances_in_a_window_equal_those_of_all_tables():
    images, bound, discordance = 5000, 0.008, (0.035, 0.05)
    cut = tables_scoring(-Z95, bound, images, discordance)
    whole = tables_scoring(-Z95, bound, images, (0.0, 1.0))
    assert cut.discordant[0] > 0
    assert cut.discordant[-1] < images
    psi = np.linspace(*discordance, 7)
    shares = 0.5 + 0.5 * bound / psi
    np.testing.assert_allclose(chance(cut, psi, shares), chance(whole, psi, shares), atol=1e-11)


def test_the_greatest_chance_is_missed_by_less_than_the_tolerance():
    random = np.random.default_rng(2)
    for harmful, helpful, images in some_tables(25):
        bound, discordance = (
            tango_upper(harmful, helpful, images),
            likely_discordance(harmful + helpful, images),
        )
        drop = bound * random.uniform(0.5, 1.4)
        if not 0 < drop < discordance[1]:
            continue
        tables = tables_scoring(-Z95, bound, images, discordance)
        psi = np.linspace(max(drop, discordance[0]), discordance[1], 4001)
        best = max(
            float(chance(tables, some, 0.5 + 0.5 * drop / some).max()) for some in np.array_split(psi, 8)
        )
        assert best - TOLERANCE <= greatest_chance(tables, drop, discordance) <= best + TOLERANCE


@pytest.mark.parametrize(("images", "drop"), [(20, 0.005), (60, 0.02), (60, 0.3)])
def test_no_chance_bends_more_than_the_search_assumes(images, drop):
    """The set of tables with the largest second derivative: all whose probability has a positive one."""
    harmful, helpful = all_tables(images)

    def chances(place):
        psi = drop + (1 - drop) * math.sin(place / math.sqrt(images)) ** 2
        return chances_of(harmful, helpful, images, drop, psi)

    step, last = 0.01, math.sqrt(images) * math.pi / 2 - 0.02
    for place in np.linspace(0.02, last, 12):
        second = (chances(place + step) - 2 * chances(place) + chances(place - step)) / step**2
        assert second[second > 0].sum() < 2


# --- the exact test and bounds


def test_the_exact_unconditional_mcnemar_test_as_published():
    """P = 0.034053, two-sided, gamma = 0.0001: R package contingencytables 3.0.0 on Cavo et al. 2012."""
    assert 2 * (exact_p(6, 16, 161, 0.0) - GAMMA - TOLERANCE) + GAMMA == pytest.approx(0.034053, abs=3e-6)


def p_by_enumeration(harmful: int, helpful: int, images: int, drop: float) -> float:
    """The definition of `exact_p`, slowly: every table, scipy's chances, a fine grid of shares."""
    every_harmful, every_helpful = all_tables(images)
    scores = score(every_harmful.astype(float), every_helpful.astype(float), images, drop)
    inside = scores <= score(float(harmful), float(helpful), images, drop) + 1e-9
    interval = binomtest(harmful + helpful, images).proportion_ci(1 - GAMMA, method="exact")
    chances = [
        chances_of(every_harmful, every_helpful, images, drop, psi)[inside].sum()
        for psi in np.linspace(max(abs(drop), interval.low), max(abs(drop), interval.high), 400)
    ]
    return min(1.0, max(chances) + GAMMA)


@pytest.mark.parametrize(
    ("harmful", "helpful", "images", "drop"),
    [
        (0, 0, 20, 0.1),
        (1, 2, 20, 0.15),
        (3, 0, 30, 0.3),
        (2, 5, 30, 0.02),
        (5, 2, 30, 0.0),
        (1, 6, 25, -0.05),
    ],
)
def test_exact_p_equals_enumeration(harmful, helpful, images, drop):
    expected = p_by_enumeration(harmful, helpful, images, drop)
    assert exact_p(harmful, helpful, images, drop) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("harmful", "helpful", "images"), [(0, 0, 20), (1, 2, 20), (3, 0, 30), (2, 5, 30), (0, 9, 25)]
)
def test_exact_bounds_equal_enumeration(harmful, helpful, images):
    every_harmful, every_helpful = all_tables(images)
    observed = tango_upper(harmful, helpful, images)
    bounds = [
        tango_upper(b, c, images) for b, c in zip(every_harmful.tolist(), every_helpful.tolist(), strict=True)
    ]
    inside = np.array(bounds) <= observed + 1e-9
    upper = exact_upper(harmful, helpful, images)
    interval = binomtest(harmful + helpful, images).proportion_ci(1 - GAMMA, method="exact")
    chances = [
        chances_of(every_harmful, every_helpful, images, upper, psi)[inside].sum()
        for psi in np.linspace(max(abs(upper), interval.low), interval.high, 400)
    ]
    assert max(chances) + GAMMA == pytest.approx(0.05, abs=2e-5)


@pytest.mark.parametrize("images", [1, 20, 299, 5000])
@pytest.mark.parametrize("alpha", [0.025, 0.05])
def test_identical_models_reach_what_exactness_permits(images, alpha):
    permitted = 1 - alpha ** (1 / images)
    assert permitted < exact_upper(0, 0, images, alpha) < (1 - (alpha - GAMMA) ** (1 / images)) * 1.001
    assert exact_lower(0, 0, images, alpha) == -exact_upper(0, 0, images, alpha)


@given(paired_counts(most=400), st.sampled_from([0.001, 0.05, 0.2]))
@unhurried
def test_exact_bounds_enclose_the_drop(counts, alpha):
    harmful, helpful, images = counts
    upper, lower = exact_upper(*counts, alpha), exact_lower(*counts, alpha)
    assert -1 <= lower <= (harmful - helpful) / images <= upper <= 1


@given(paired_counts(most=400))
@unhurried
def test_exchanging_the_models_mirrors_the_bounds(counts):
    harmful, helpful, images = counts
    result, mirrored = drop_of(*counts), drop_of(helpful, harmful, images)
    assert (result.lower, result.upper, result.drop) == (-mirrored.upper, -mirrored.lower, -mirrored.drop)
    assert result.p_mcnemar == mirrored.p_mcnemar


@given(paired_counts())
@unhurried
def test_an_image_turned_from_help_to_harm_never_lowers_the_bound(counts):
    harmful, helpful, images = counts
    if helpful:
        assert exact_upper(harmful + 1, helpful - 1, images) >= exact_upper(*counts) - 2e-9


@pytest.mark.parametrize("counts", some_tables(30, seed=1))
def test_exact_bounds_move_the_right_way(counts):
    harmful, helpful, images = counts
    upper = exact_upper(*counts)
    assert exact_upper(2 * harmful, 2 * helpful, 2 * images) <= upper + 2e-9
    assert exact_upper(*counts, alpha=0.01) >= upper - 2e-9
    if harmful + helpful < images:
        assert exact_upper(harmful + 1, helpful, images) >= upper - 2e-9
        assert exact_upper(harmful, helpful + 1, images) <= upper + 2e-9


@pytest.mark.parametrize("counts", some_tables(30, seed=2))
def test_exact_bounds_are_near_tango(counts):
    """A little below where harm alone is seen, clearly above where nothing is: there Tango is liberal."""
    harmful, helpful, images = counts
    drop, exact, tango = (harmful - helpful) / images, exact_upper(*counts), tango_upper(*counts)
    if tango < 1:
        assert 0.9 * (tango - drop) < exact - drop < 2.4 * (tango - drop)
    if images >= 200 and harmful + helpful >= 8:
        assert exact - drop == pytest.approx(tango - drop, rel=0.12)


@given(paired_counts(most=800), st.floats(0.001, 0.3), st.sampled_from([0.01, 0.05]))
@unhurried
def test_proof_without_a_bound_agrees_with_the_bound(counts, max_drop, alpha):
    upper = exact_upper(*counts, alpha)
    if abs(upper - max_drop) > 2e-9:
        assert proves(*counts, max_drop, alpha) == (upper < max_drop)


@pytest.mark.parametrize("counts", some_tables(30, seed=3))
def test_p_value_and_bound_all_but_agree(counts):
    upper = exact_upper(*counts)
    if counts[2] >= 40:
        assert exact_p(*counts, min(1.0, upper + 0.02 * abs(upper))) < 0.05 * 1.15
        assert exact_p(*counts, upper - 0.02 * abs(upper)) > 0.05 / 1.15


@pytest.mark.parametrize("counts", [(0, 0, 1), (5, 5, 5000), (3000, 2500, 60_000)])
def test_p_values_at_the_ends(counts):
    assert exact_p(*counts, -0.99) == 1.0
    assert GAMMA <= exact_p(*counts, 1.0) <= GAMMA + 2 * TOLERANCE
    assert exact_p(7, 0, 7, 1.0) == 1.0


# --- how often a proof is false


@cache
def most_harm_that_passes(images: int) -> dict[float, np.ndarray]:
    """For each margin and number of discordant images, the most harmful ones with the verdict PASS."""
    discordant = range(min(images, int(binom.ppf(1 - 1e-10, images, 0.3)) + 1) + 1)
    limits: dict[float, list[int]] = {max_drop: [] for max_drop in MARGINS}
    for n in discordant:
        for max_drop, found in limits.items():
            # One more discordant image allows one more harmful one, or none: where the search begins.
            limit = found[-1] if found else -1
            while limit < n and proves(limit + 1, n - limit - 1, images, max_drop):
                limit += 1
            found.append(limit)
    return {max_drop: np.array(found) for max_drop, found in limits.items()}


MARGINS = (0.005, 0.01, 0.02, 0.05)


@pytest.mark.parametrize("max_drop", MARGINS)
@pytest.mark.parametrize("images", [50, 300, 1000])
def test_a_pass_is_false_with_a_probability_of_at_most_alpha(images, max_drop):
    """The whole probability of PASS, summed over all tables, where the drop is exactly the one excluded."""
    limits = most_harm_that_passes(images)[max_drop]
    discordant = np.arange(limits.size)
    psi = np.unique(
        np.concatenate([np.linspace(max_drop, 0.3, 120), max_drop + np.geomspace(1e-6, 0.05, 60)])
    )
    chances = binom.pmf(discordant, images, psi[:, None])
    passing = binom.cdf(limits, discordant, (0.5 + 0.5 * max_drop / psi)[:, None])
    rates = (chances * np.where(limits >= 0, passing, 0)).sum(axis=1)
    assert rates.max() <= 0.05
    if images * max_drop > 3:  # images enough to prove anything
        assert rates.max() > 0.04, "no more careful than it has to be"


@pytest.mark.parametrize("max_drop", MARGINS)
@pytest.mark.parametrize("images", [50, 300, 1000])
def test_the_limits_are_those_of_the_verdict(images, max_drop):
    limits = most_harm_that_passes(images)[max_drop]
    for n in {0, 1, limits.size // 20, limits.size // 4, limits.size - 1}:
        limit = int(limits[n])
        if limit >= 0:
            assert exact_upper(limit, n - limit, images) < max_drop
        if limit < n:
            assert exact_upper(limit + 1, n - limit - 1, images) >= max_drop


def test_tango_alone_would_be_false_more_often():
    harmful, helpful = np.arange(0, 40), np.zeros(40, int)
    proven = [tango_upper(b, 0, 268) < 0.01 for b in harmful.tolist()]
    assert chances_of(harmful, helpful, 268, 0.01, 0.01)[proven].sum() > 0.067


# --- the paired comparison


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80), st.randoms())
@unhurried
def test_order_of_images_does_not_matter(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    reference, candidate = np.array(pairs).T
    assert paired_drop(reference, candidate) == paired_drop(*np.array(shuffled).T)
    assert paired_drop(reference, candidate).drop == pytest.approx(reference.mean() - candidate.mean())


@pytest.mark.parametrize("counts", [(0, 0, 3), (2, 1, 500), (9, 4, 13)])
def test_counts_and_images_give_the_same(counts):
    assert paired_drop(*correctness(*counts), alpha=0.01) == drop_of(*counts, alpha=0.01)


@pytest.mark.parametrize("images", [1, 2, 30])
def test_all_images_harmful(images):
    result = drop_of(images, 0, images)
    assert (result.drop, result.upper) == (1.0, 1.0)
    assert -1 < result.lower < 1


def test_one_image():
    assert (drop_of(0, 1, 1).drop, drop_of(0, 1, 1).lower) == (-1.0, -1.0)
    assert judge(drop_of(0, 0, 1), 0.01) == (Verdict.UNDECIDED, 298)


@pytest.mark.parametrize(
    ("harmful", "helpful"), [(0, 0), (1, 0), (0, 5), (5, 5), (6, 5), (10, 6), (300, 340), (9000, 9500)]
)
def test_mcnemar_equals_the_binomial_test(harmful, helpful):
    expected = binomtest(harmful, harmful + helpful).pvalue if harmful + helpful else 1.0
    assert mcnemar_exact(harmful, helpful) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("harmful", "helpful", "p"), [(1, 7, 0.0703), (6, 16, 0.052479)])
def test_mcnemar_as_published(harmful, helpful, p):
    """Fagerland, Lydersen & Laake 2013, BMC Medical Research Methodology 13:91, and 2017, chapter 8."""
    assert mcnemar_exact(harmful, helpful) == pytest.approx(p, abs=5e-5)


# --- the verdict


@pytest.mark.parametrize(("max_drop", "images"), [(0.01, 299), (0.005, 599), (0.02, 149)])
def test_fewest_images_that_can_prove_parity(max_drop, images):
    assert judge(drop_of(0, 0, images), max_drop) == (Verdict.PASS, 0)
    assert judge(drop_of(0, 0, images - 1), max_drop) == (Verdict.UNDECIDED, 1)


@pytest.mark.parametrize(
    ("harmful", "helpful", "images", "max_drop", "verdict"),
    [
        (0, 0, 500, 0.01, Verdict.PASS),
        (10, 6, 1000, 0.02, Verdict.PASS),
        (10, 6, 1000, 0.01, Verdict.UNDECIDED),
        (60, 5, 1000, 0.01, Verdict.FAIL),
        (30, 0, 30, 0.5, Verdict.FAIL),
        (0, 30, 1000, 0.01, Verdict.PASS),
        (30, 0, 30, 1.0, Verdict.UNDECIDED),
        (29, 0, 30, 1.0, Verdict.PASS),
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
    """Whether these shares go on to a verdict, in whole images and with fractions against it."""
    exact = [count * images / drop.images for count in (drop.harmful, drop.helpful)]
    if drop.drop < max_drop:
        return exact_upper(math.ceil(exact[0]), math.floor(exact[1]), images, drop.alpha) < max_drop
    return exact_lower(math.floor(exact[0]), math.ceil(exact[1]), images, drop.alpha) >= max_drop


@pytest.mark.parametrize(
    ("counts", "max_drop"),
    [((1, 0, 100), 0.02), ((3, 1, 90), 0.01), ((0, 0, 20), 0.02), ((7, 7, 150), 0.03), ((40, 9, 300), 0.08)],
)
def test_further_images_decide_and_one_fewer_does_not(counts, max_drop):
    drop = drop_of(*counts)
    verdict, further = judge(drop, max_drop)
    assert verdict is Verdict.UNDECIDED
    assert decided_with(drop, drop.images + further, max_drop)
    assert not decided_with(drop, drop.images + further - 1 - further // 400, max_drop)


@given(paired_counts(most=2000), st.sampled_from([0.005, 0.01, 0.03]), st.sampled_from([0.05, 0.05 / 3]))
@settings(deadline=None, max_examples=15)
def test_the_number_of_further_images_decides(counts, max_drop, alpha):
    drop = drop_of(*counts, alpha)
    verdict, further = judge(drop, max_drop)
    assert (further > 0) == (verdict is Verdict.UNDECIDED)
    if 0 < further < 20_000:
        assert decided_with(drop, drop.images + further, max_drop)


def test_a_drop_on_the_margin_is_never_decided():
    assert judge(drop_of(4, 0, 400), 0.01) == (Verdict.UNDECIDED, MOST_FURTHER_IMAGES)


def test_verdict_is_plain_text():
    assert f"{Verdict.PASS} {Verdict.FAIL} {Verdict.UNDECIDED}" == "pass fail undecided"


# --- how many images a proof takes


@pytest.mark.parametrize(
    ("max_drop", "tango", "exact"), [(0.01, 268, 299), (0.005, 539, 599), (0.02, 133, 149)]
)
def test_images_needed_when_nothing_differs(max_drop, tango, exact):
    assert images_needed(max_drop, 0.0, exact=False) == tango
    assert images_needed(max_drop, 0.0) == exact
    assert images_needed(max_drop, 0.0, power=0.99) == exact


SIMULATED = {  # 80 % power of Tango's test at 5 %, true drop 0
    0.005: {0.005: 1690, 0.01: 2861, 0.02: 5128, 0.03: 7714, 0.05: 12300},
    0.01: {0.005: 519, 0.01: 885, 0.02: 1336, 0.03: 2015, 0.05: 3215},
    0.02: {0.005: 223, 0.01: 268, 0.02: 385, 0.03: 551, 0.05: 834},
}


@pytest.mark.parametrize(
    ("max_drop", "discordance"), [(drop, psi) for drop, row in SIMULATED.items() for psi in row]
)
def test_images_needed_reproduce_the_simulated_table(max_drop, discordance):
    got = images_needed(max_drop, discordance, exact=False)
    assert got == pytest.approx(SIMULATED[max_drop][discordance], rel=0.1)
    powers = [power_of_tango(max_drop, discordance, images) for images in (got - 1, got)]
    assert powers[0] < 0.8 <= powers[1]


def power_of_tango(max_drop: float, discordance: float, images: int) -> float:
    """The same sum with scipy's chances, table by table."""
    most = int(binom.ppf(1 - 1e-9, images, discordance / 2)) + 1
    harmful, helpful = np.divmod(np.arange((most + 1) ** 2), most + 1)
    passing = score(harmful.astype(float), helpful.astype(float), images, max_drop) <= -Z95
    return float(chances_of(harmful, helpful, images, 0.0, discordance)[passing].sum())


@pytest.mark.parametrize(
    ("max_drop", "discordance", "drop"), [(0.02, 0.01, 0.0), (0.05, 0.03, 0.01), (0.03, 0.02, -0.01)]
)
def test_images_needed_give_the_verdict_that_power(max_drop, discordance, drop):
    images = images_needed(max_drop, discordance, drop=drop)
    tables = [(b, c) for b in range(13) for c in range(13)]
    passing = [proves(b, c, images, max_drop) for b, c in tables]
    harmful, helpful = np.array(tables).T
    power = chances_of(harmful, helpful, images, drop, discordance)[passing].sum()
    assert 0.8 <= power < 0.86


def test_more_asked_takes_more_images():
    usual = images_needed(0.02, 0.02)
    assert images_needed(0.02, 0.02, power=0.95) > usual
    assert images_needed(0.02, 0.02, alpha=0.01) > usual
    assert images_needed(0.02, 0.03) > usual
    assert images_needed(0.02, 0.02, drop=0.01) > usual
    assert images_needed(0.01, 0.02) > usual
    assert images_needed(1.0, 0.0) == 1


# --- several proofs at once


def test_holm_as_published():
    """Holm 1979: the smallest against alpha / m, the next against alpha / (m - 1), until one fails."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.5, 0.003, 0.32, 0.054, 0.0003]) == pytest.approx((0.64, 0.012, 0.64, 0.162, 0.0015))
    assert holm([]) == ()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.sampled_from([0.01, 0.05, 0.3]))
@unhurried
def test_holm_rejects_step_by_step(p_values, alpha):
    adjusted = holm(p_values)
    assert all(p <= q <= min(1, len(p_values) * p) for p, q in zip(p_values, adjusted, strict=True))
    rejected = set()
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] * (len(p_values) - rank) > alpha:
            break
        rejected.add(index)
    assert rejected == {index for index, q in enumerate(adjusted) if q <= alpha}


def test_classes_that_become_worse():
    truth = np.array([0] * 10 + [1] * 6 + [2] * 4)
    reference, candidate = np.ones(20, bool), np.ones(20, bool)
    candidate[:5] = False  # class 0: 5 harmful
    candidate[10], reference[11] = False, False  # class 1: one of each
    worst, mixed, same, empty = class_drops(reference, candidate, truth.astype(np.uint8), 4)
    assert worst == ClassDrop(10, 5, 0, pytest.approx(1 / 32), pytest.approx(4 / 32))
    assert mixed == ClassDrop(6, 1, 1, pytest.approx(3 / 4), 1.0)
    assert same == ClassDrop(4, 0, 0, 1.0, 1.0)
    assert empty == ClassDrop(0, 0, 0, 1.0, 1.0)


@given(st.integers(0, 30), st.integers(0, 30))
@unhurried
def test_the_test_of_a_class_is_one_sided_mcnemar(harmful, helpful):
    truth = np.zeros(70, int)
    (found,) = class_drops(*correctness(harmful, helpful, 70), truth, 1)
    discordant = harmful + helpful
    expected = binomtest(harmful, discordant, alternative="greater").pvalue if discordant else 1.0
    assert found.p_worse == pytest.approx(expected, rel=1e-9)
    assert (found.harmful, found.helpful, found.images) == (harmful, helpful, 70)


# --- the bootstrap


@pytest.mark.parametrize("counts", [(20, 12, 400), (30, 5, 300), (4, 9, 250)])
def test_bca_equals_scipy(counts):
    harmful, helpful, images = counts
    differences = np.repeat([1, -1, 0], [harmful, helpful, images - harmful - helpful])
    expected = bootstrap(
        (differences,),
        np.mean,
        confidence_level=0.9,
        n_resamples=9999,
        batch=500,
        method="BCa",
        vectorized=True,
        rng=np.random.default_rng(1),
    ).confidence_interval
    spread = expected.high - expected.low
    assert bca_upper(*counts, resamples=20_000) == pytest.approx(
        expected.high, abs=0.04 * spread + 1 / images
    )
    assert -bca_upper(helpful, harmful, images) == pytest.approx(expected.low, abs=0.05 * spread + 1 / images)


def test_bca_is_near_the_other_bounds_and_repeats():
    assert bca_upper(10, 6, 1000) == pytest.approx(tango_upper(10, 6, 1000), abs=0.001)
    assert bca_upper(10, 6, 1000) == bca_upper(10, 6, 1000)
    found = {bca_upper(1000, 900, 10**6, seed=seed) for seed in range(3)}
    assert len(found) == 3
    assert max(found) == pytest.approx(tango_upper(1000, 900, 10**6), rel=0.05)


@pytest.mark.parametrize("counts", [(0, 0, 500), (7, 0, 7), (0, 7, 7)])
def test_bca_without_variation_is_the_exact_bound(counts):
    assert bca_upper(*counts) == exact_upper(*counts)


# --- input that cannot be answered

NO_FLAGS = np.zeros(0, bool)


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson_interval(0, 0),
        lambda: clopper_pearson_upper(0, 0),
        lambda: disagreement_upper(0, 0),
        lambda: tango_upper(0, 0, 0),
        lambda: tango_lower(0, 0, 0),
        lambda: exact_upper(0, 0, 0),
        lambda: exact_p(0, 0, 0, 0.01),
        lambda: bca_upper(0, 0, 0),
        lambda: paired_drop(NO_FLAGS, NO_FLAGS),
        lambda: class_drops(NO_FLAGS, NO_FLAGS, np.zeros(0, int), 2),
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
        (lambda: exact_upper(3, 2, 4), "together exceed"),
        (lambda: exact_upper(1, 1, 4, 0.5), "error probability"),
        (lambda: exact_upper(1, 1, 4, GAMMA), "error probability"),
        (lambda: exact_p(5, 0, 4, 0.1), "harmful must lie in"),
        (lambda: exact_p(1, 0, 4, -1.0), "the drop must lie"),
        (lambda: exact_p(1, 0, 4, 1.1), "the drop must lie"),
        (lambda: proves(1, 0, 4, math.nan), "the drop must lie"),
        (lambda: mcnemar_exact(-1, 3), "harmful must lie in"),
        (lambda: mcnemar_exact(1, -1), "helpful must lie in"),
        (lambda: paired_drop(np.ones(2, bool), np.ones(3, bool)), "same shape"),
        (lambda: paired_drop(np.ones(2, int), np.ones(2, int)), "arrays of bool"),
        (lambda: class_drops(np.ones(2, bool), np.ones(2, bool), np.zeros(3, int), 2), "same shape"),
        (lambda: class_drops(np.ones(2, bool), np.ones(2, bool), np.full(2, 2), 2), "labels must be"),
        (lambda: holm([0.1, 1.1]), "p-values must lie"),
        (lambda: holm([math.nan]), "p-values must lie"),
        (lambda: images_needed(0.01, 0.02, power=1.0), "power must lie"),
        (lambda: images_needed(0.01, 0.02, alpha=0.6), "error probability"),
        (lambda: images_needed(0.01, 0.02, drop=0.01), "expected drop must lie"),
        (lambda: images_needed(0.05, 0.02, drop=0.03), "discordance must lie"),
    ],
)
def test_impossible_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
