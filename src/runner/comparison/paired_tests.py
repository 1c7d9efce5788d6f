"""Two models on the same samples: is one of them surely better, or may the difference be chance?

Which of two classifiers is right more often is decided by the samples that only one of them classifies correctly. If
the two were equally good, each of these would be right with either by a half: the exact test of McNemar (Psychometrika
12, 1947), a binomial test, which Dietterich (Neural Computation 10, 1998) recommends for two classifiers and one test
set. Losses are compared by the t-test of their differences (Student, Biometrika 6, 1908). Both tests are two-sided.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
"""A difference with a smaller p-value is taken for real."""

EQUAL = 1e-9
"""Differences that vary by less than this, relative to their size, are equal but for rounding."""


@dataclass(frozen=True)
class PairedTest:
    """The result of a test of a new model against an old one.

    Attributes:
        measure: `accuracy`, or `loss`.
        new: mean over the samples of the new model.
        old: mean over the same samples of the old model.
        samples: their number.
        p: the probability of such a difference, or a larger one, if both were equally good; None if no test can tell.
        reason: what the test counted, or why it cannot tell.
    """

    measure: str
    new: float
    old: float
    samples: int
    p: float | None
    reason: str

    @property
    def is_better(self) -> bool:
        """Whether the new model is surely better."""
        better = self.new > self.old if self.measure == "accuracy" else self.new < self.old
        return better and self.p is not None and self.p < LEVEL


def mcnemar(new: NDArray[np.bool_], old: NDArray[np.bool_]) -> PairedTest:
    """Compare two classifiers by the exact test of McNemar.

    Args:
        new: (N,), whether the new one is right.
        old: (N,), whether the old one is.

    Raises:
        ValueError: there are no samples, or they do not match.
    """
    samples = _count(new, old)
    gained, lost = int((new & ~old).sum()), int((old & ~new).sum())
    means = float(new.mean()), float(old.mean())
    if not gained + lost:
        return PairedTest("accuracy", *means, samples, 1.0, "right for the same samples")
    from scipy.stats import binomtest  # late: 0.5 s

    p = float(binomtest(gained, gained + lost).pvalue)
    reason = f"right only now {gained}, only before {lost}; exact McNemar test"
    return PairedTest("accuracy", *means, samples, p, reason)


def paired_t(
    new: NDArray[np.float64], old: NDArray[np.float64], weights: NDArray[np.float64] | None = None
) -> PairedTest:
    """Compare two models by the t-test of the differences of their losses, sample by sample.

    Args:
        new: (N,), of the new one.
        old: (N,), of the old one.
        weights: (N,), of the samples in the mean; None: each counts once.

    Raises:
        ValueError: there are no samples, or they do not match, or all weights are 0.
    """
    samples = _count(new, old)
    shares = np.ones(samples) if weights is None else weights
    if (counted := shares != 0).sum() < samples:  # a loss that does not count may be anything
        return paired_t(new[counted], old[counted], shares[counted])
    shares = shares / shares.mean()
    means = float((shares * new).mean()), float((shares * old).mean())

    def result(p: float | None, reason: str) -> PairedTest:
        return PairedTest("loss", *means, samples, p, reason)

    if not all(map(math.isfinite, means)):
        wrong = int((~np.isfinite(new) | ~np.isfinite(old)).sum())
        return result(None, f"no test can tell: losses of {wrong} samples are not finite")
    differences = shares * (new - old)
    if not differences.any():
        return result(1.0, "the same loss for every sample")
    if samples < 2:
        return result(None, "no test can tell by one sample")
    if np.ptp(differences) <= EQUAL * np.abs(differences).max():
        return result(None, "no t-test can tell: the loss of every sample differs by the same amount")
    from scipy.stats import ttest_1samp  # late: 0.5 s

    return result(float(ttest_1samp(differences, 0.0).pvalue), "paired t-test of the losses")


def _count(new: NDArray[np.generic], old: NDArray[np.generic]) -> int:
    if new.shape != old.shape or new.ndim != 1 or not len(new):
        raise ValueError(f"not the same samples: {new.shape} and {old.shape}")
    return len(new)
