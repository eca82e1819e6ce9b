"""Binomial chances and the exact interval of one share: numpy and the standard library only."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgetl.checks import check_between, check_count
from edgetl.searches import falling_root

_LOG_FACTORIALS = np.array([math.lgamma(count + 1) for count in range(256)])
TINY = float(np.finfo(np.float64).tiny)  # in place of a zero whose logarithm is multiplied by a count


def log_factorial(counts: ArrayLike) -> NDArray[np.float64]:
    """Natural logarithm of n! for whole numbers n >= 0, to rounding: a table, then Stirling's series."""
    whole = np.asarray(counts, dtype=np.int64)
    n = np.maximum(whole, _LOG_FACTORIALS.size).astype(np.float64)
    # The next term of the series, 1 / (1260 n^5), is below 1e-15.
    series = n * np.log(n) - n + 0.5 * np.log(2 * math.pi * n) + 1 / (12 * n) - 1 / (360 * n**3)
    table = _LOG_FACTORIALS[np.minimum(whole, _LOG_FACTORIALS.size - 1)]
    return np.where(whole < _LOG_FACTORIALS.size, table, series)


def log_choose(trials: ArrayLike, events: ArrayLike) -> NDArray[np.float64]:
    """Natural logarithm of the binomial coefficient, for 0 <= events <= trials."""
    rest = np.asarray(trials) - np.asarray(events)
    return log_factorial(trials) - log_factorial(events) - log_factorial(rest)


def binomial_cdf(events: int, trials: int, shares: ArrayLike) -> NDArray[np.float64]:
    """P(Binomial(trials, share) <= events) for an array of shares in 0..1; `events` may be any whole number.

    Adds up the chances on that side of `events` on which they fall, so that a small result keeps its digits.
    """
    p = np.asarray(shares, dtype=np.float64)
    if not 0 <= events < trials:
        return np.full(p.shape, float(events >= trials))
    return np.where(
        events < trials * p,
        _falling_tail(events, trials, p),
        1 - _falling_tail(trials - events - 1, trials, 1 - p),
    )


def clopper_pearson_upper(events: int, trials: int, alpha: float = 0.05) -> float:
    """Exact one-sided upper bound of a probability: the p at which P(at most `events`) is `alpha`.

    Equals the 1 - alpha quantile of Beta(events + 1, trials - events) (Clopper & Pearson 1934).
    """
    check_count(events, trials, "events")
    check_between(alpha, 0, 1, "error probability")
    if events == trials:
        return 1.0

    def excess(share: float) -> float:
        return math.log(max(TINY, float(binomial_cdf(events, trials, share))) / alpha)

    step = math.sqrt(events + 1) / trials
    return falling_root(excess, min((events + 1) / trials, 0.5 + 0.5 * events / trials), step, (0.0, 1.0))


def clopper_pearson_lower(events: int, trials: int, alpha: float = 0.05) -> float:
    """Exact one-sided lower bound of a probability: the p at which P(at least `events`) is `alpha`."""
    return 1 - clopper_pearson_upper(trials - events, trials, alpha)


def _falling_tail(events: int, trials: int, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(at most `events`) where that is below the mean: the terms fall quickly from `events` down to 0."""
    # So many terms later they are below 1e-17 of the first (Bernstein's inequality).
    counts = np.arange(events, max(-1, events - 6 * math.isqrt(trials) - 40), -1, dtype=np.int64)
    odd, even = np.log(np.maximum(shares, TINY)), np.log(np.maximum(1 - shares, TINY))
    logs = log_choose(trials, counts) + counts * odd[..., None] + (trials - counts) * even[..., None]
    tail: NDArray[np.float64] = np.exp(logs).sum(axis=-1)
    return tail
