"""Paired differences: their intervals and tests, and how many pairs would tell a difference. Arrays of any batch shape.

**Several comparisons.** The best of k configurations is chosen by the data that then compare it with the others, so any
of the k(k-1)/2 pairs may be looked at: the error is divided by their number (Bonferroni). This holds whatever the
spreads of the configurations are and however they depend on each other. What is sharper does not fit:

- Tukey's studentised range assumes one common variance, but a learning rate changes the spread.
- Sidak's inequality (1967, JASA 62:626) is proved for a common or independent estimates of the variances, not for those
  of pairs that share a configuration; it would gain less than 3 % of the level.
- Holm's steps give no intervals.
- Hsu's comparison with the best (1984, Annals of Statistics 12:1136) needs only k-1 one-sided comparisons, but says
  only which configurations are not the best. That is what `sequential.py` asks.

**The test of a pair.** Student's t of the differences. It is exact for normal ones and errs on the safe side for
symmetric ones with heavier tails; two configurations that are equally good, and alike in their spread and skew, have
symmetric differences. Where seeds are many, the sign-flip test, which is exact for all symmetric ones (Fisher 1935, The
Design of Experiments). Its interval has the ends at which the test just accepts: ordered means of all subsets of the
differences (Hartigan 1969, JASA 64:1303).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

ERROR = 0.05
"""The probability that any of the simultaneous intervals misses its difference."""

POWER = 0.8
MIN_PAIRS = 3
FINEST = 0.1
"""The sign-flip test is used if its smallest p is below this share of the level."""

ALL_SUBSETS = 16
"""Up to so many pairs, all sign flips are tried; beyond, as many random ones."""

MANY = 100_000
"""Pairs, more than which are not counted."""

LARGE_SHIFT = 1e4
"""Of a noncentral t: from here on its normal part counts for less than 1e-8; scipy's is NaN from 1e6 on."""

LARGEST = 1e150
"""A value beyond it counts as not finite: the squares of such have no place in a float."""

ROUNDING = 1e-12
"""Differences are equal if they are by this share of the largest value: subtraction leaves the last digits."""


@dataclass(frozen=True)
class Paired:
    """Mean differences with their intervals; arrays of one shape, NaN where there is no interval.

    Attributes:
        mean: of the differences.
        sd: their standard deviation (n - 1).
        low: lower end of the interval at the level asked for.
        high: its upper end.
        plain_low: lower end of the uncorrected 95 % interval.
        plain_high: its upper end.
        p: two-sided and uncorrected.
        sign_flip: whether they are of the sign-flip test.
    """

    mean: Floats
    sd: Floats
    low: Floats
    high: Floats
    plain_low: Floats
    plain_high: Floats
    p: Floats
    sign_flip: bool


def count_pairs(configurations: int) -> int:
    """Return the number of pairs of configurations."""
    return configurations * (configurations - 1) // 2


def level_of_pair(configurations: int) -> float:
    """Return the error of a single pair at which all pairs of configurations together have `ERROR`."""
    return ERROR / max(1, count_pairs(configurations))


def choose_best(values: Floats) -> NDArray[np.intp]:
    """Return the index of the configuration with the highest mean.

    Args:
        values: (..., configurations, seeds), higher is better.
    """
    best: NDArray[np.intp] = values.mean(axis=-1).argmax(axis=-1)
    return best


def known(values: Floats) -> Floats:
    """Return the values, with NaN for those that are not finite or beyond `LARGEST`."""
    return np.where(np.abs(values) <= LARGEST, values, np.nan)


def are_equal(differences: Floats, scale: Floats | float) -> Bools:
    """Return whether the differences (..., n) are all the same, given the largest value that they are of (...)."""
    equal: Bools = np.ptp(differences, axis=-1) <= ROUNDING * np.asarray(scale)
    return equal


def compare(differences: Floats, level: float, scale: Floats | float = 0.0) -> Paired:
    """Compare by differences (..., n).

    Args:
        differences: of the pairs.
        level: the error of each interval `low` to `high`.
        scale: the largest values that they are differences of, see `are_equal`.
    """
    n = differences.shape[-1]
    mean = differences.mean(axis=-1)
    if n < MIN_PAIRS:
        none = np.full_like(mean, np.nan)
        return Paired(mean, none, none, none, none, none, none, False)
    sd = differences.std(axis=-1, ddof=1)
    sign_flip = uses_sign_flip(n, level)
    if sign_flip:
        means = _subset_means(differences, scale)
        ends, p = [_order_statistics(means, each) for each in (level, ERROR)], _sign_flip_p(means)
    else:
        error = sd / np.sqrt(n)
        halves = [critical_t(each / 2, n - 1) * error for each in (level, ERROR)]
        ends, p = [(mean - half, mean + half) for half in halves], _t_p(mean, error, n)
    differ = ~are_equal(differences, scale)
    (low, high), (plain_low, plain_high) = (tuple(np.where(differ, end, np.nan) for end in pair) for pair in ends)
    return Paired(mean, sd, low, high, plain_low, plain_high, np.where(differ, p, np.nan), sign_flip)


def critical_t(level: float, degrees: int) -> float:
    """Return the value that Student's t exceeds with probability `level`."""
    from scipy import special  # late: 0.3 s

    return float(-special.stdtrit(degrees, level))


def uses_sign_flip(n: int, level: float) -> bool:
    """Return whether n pairs have a p so small that the sign-flip test is fine enough for the level."""
    return n >= MIN_PAIRS and 2.0 ** (1 - min(n, ALL_SUBSETS)) < FINEST * level


def pairs_needed(difference: float, sd: float, level: float) -> int | None:
    """Return how many pairs tell a difference with probability `POWER`, by the noncentral t; None above `MANY`.

    Args:
        difference: the true mean difference, above 0.
        sd: the standard deviation of the differences.
        level: the two-sided error of the test.
    """

    def tells(n: int) -> bool:
        return _power(difference * math.sqrt(n) / sd, n - 1, critical_t(level / 2, n - 1)) >= POWER

    if not tells(MANY):
        return None
    low, high = MIN_PAIRS - 1, MIN_PAIRS
    while not tells(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if tells(middle) else (middle, high)
    return high


def _power(shift: float, degrees: int, critical: float) -> float:
    """Return the probability that a noncentral t is above its critical value."""
    from scipy import special  # late: 0.3 s

    if shift < LARGE_SHIFT:
        return float(1 - special.nctdtr(degrees, shift, critical))
    return float(special.gammainc(degrees / 2, degrees * min(shift / critical, LARGE_SHIFT) ** 2 / 2))


def _t_p(mean: Floats, error: Floats, n: int) -> Floats:
    from scipy import special  # late: 0.3 s

    with np.errstate(divide="ignore", invalid="ignore"):
        p: Floats = 2 * special.stdtr(n - 1, -np.abs(mean / error))
    return p


@lru_cache(maxsize=4)
def _subsets(n: int) -> Floats:
    """Return the weights (subsets, n) that make the mean of each non-empty subset of n differences."""
    if n <= ALL_SUBSETS:
        chosen = (np.arange(1, 2**n)[:, None] >> np.arange(n) & 1).astype(np.float64)
    else:  # a random sample of them is exact as well
        chosen = np.random.default_rng(0).integers(0, 2, (2**ALL_SUBSETS - 1, n)).astype(np.float64)
        chosen = chosen[chosen.any(axis=1)]
    weights: Floats = chosen / chosen.sum(axis=1, keepdims=True)
    return weights


def _subset_means(differences: Floats, scale: Floats | float) -> Floats:
    """Return the means of the subsets in ascending order (..., subsets); what rounding leaves of a zero is 0."""
    means = differences @ _subsets(differences.shape[-1]).T
    means[np.abs(means) <= ROUNDING * np.asarray(scale)[..., None]] = 0.0
    return np.sort(means, axis=-1)


def _order_statistics(means: Floats, level: float) -> tuple[Floats, Floats]:
    """Return the ends of the interval: the true difference lies between any two neighbours equally likely."""
    place = int(level / 2 * (means.shape[-1] + 1)) - 1
    return means[..., place], means[..., -1 - place]


def _sign_flip_p(means: Floats) -> Floats:
    """Return two-sided p: the share of sign flips by which the mean difference does not fall, or does not rise."""
    flips = means.shape[-1] + 1
    below, above = (1 + (means <= 0).sum(axis=-1)) / flips, (1 + (means >= 0).sum(axis=-1)) / flips
    p: Floats = np.minimum(1.0, 2 * np.minimum(below, above))
    return p
