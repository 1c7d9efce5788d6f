"""Whether one of two models is surely better: McNemar's exact test, and the t-test of paired losses."""

import math

import numpy as np
import pytest
from scipy import stats

from runner.comparison.paired_tests import mcnemar, paired_t


def answers(both: int, gained: int, lost: int, neither: int = 0) -> tuple[np.ndarray, np.ndarray]:
    new = [True] * both + [True] * gained + [False] * lost + [False] * neither
    old = [True] * both + [False] * gained + [True] * lost + [False] * neither
    return np.array(new), np.array(old)


@pytest.mark.parametrize(("gained", "lost", "better"), [(10, 2, True), (2, 10, False), (9, 2, False), (5, 5, False)])
def test_mcnemar_is_the_binomial_test_of_the_samples_that_only_one_has_right(
    gained: int, lost: int, better: bool
) -> None:
    found = mcnemar(*answers(80, gained, lost, neither=8))
    tail = sum(math.comb(gained + lost, count) for count in range(min(gained, lost) + 1)) / 2 ** (gained + lost)
    assert found.p == pytest.approx(min(1.0, 2 * tail))
    assert found.is_better is better
    assert (found.new, found.old, found.samples) == ((80 + gained) / (n := 88 + gained + lost), (80 + lost) / n, n)
    assert f"right only now {gained}, only before {lost}" in found.reason


def test_samples_that_both_have_right_say_nothing() -> None:
    assert mcnemar(*answers(0, 6, 0)).p == mcnemar(*answers(10_000, 6, 0)).p == pytest.approx(2 / 2**6)
    same = mcnemar(*answers(5, 0, 0, 2))
    assert same.p == 1.0 and not same.is_better


def test_losses_are_compared_by_scipys_paired_t_test() -> None:
    random = np.random.default_rng(0)
    old = random.exponential(size=50)
    new = old - 0.1 + 0.2 * random.normal(size=50)
    found = paired_t(new, old)
    assert found.p == pytest.approx(stats.ttest_rel(new, old).pvalue)
    assert found.is_better and (found.new, found.old) == (pytest.approx(new.mean()), pytest.approx(old.mean()))
    assert paired_t(old, new).p == pytest.approx(found.p) and not paired_t(old, new).is_better


def test_the_difference_of_weighted_losses_is_that_of_the_weighted_means() -> None:
    random = np.random.default_rng(1)
    new, old, weights = random.normal(size=40), random.normal(size=40), random.integers(0, 4, 40).astype(float)
    found, counted = paired_t(new, old, weights), weights != 0
    assert found.samples == counted.sum() < 40
    assert found.new == pytest.approx(np.average(new, weights=weights))
    share = weights[counted] / weights[counted].mean()
    assert found.p == pytest.approx(stats.ttest_1samp(share * (new - old)[counted], 0).pvalue)
    new[~counted] = np.nan  # a sample that does not count may have any loss
    assert paired_t(new, old, weights) == found


@pytest.mark.parametrize(
    ("new", "p", "reason"),
    [
        ([1.0, 2.0, 3.0], 1.0, "the same loss"),
        ([1.1, 2.1, 3.1], None, "by the same amount"),  # scipy: p = 0
        ([0.5, math.nan, 2.0], None, "losses of 1 samples are not finite"),
        ([0.5, math.inf, math.nan], None, "losses of 2 samples are not finite"),
    ],
)
def test_what_no_t_test_can_tell_is_never_better(new: list[float], p: float | None, reason: str) -> None:
    old = np.array([1.0, 2.0, 3.0])
    for found in (paired_t(np.array(new), old), paired_t(old, np.array(new))):
        assert found.p == p and reason in found.reason and not found.is_better


def test_one_sample_tells_nothing_and_none_is_an_error() -> None:
    assert paired_t(np.array([1.0]), np.array([2.0])).p is None
    for wrong in (np.array([]), np.array([1.0, 2.0])):
        with pytest.raises(ValueError, match="not the same samples"):
            paired_t(wrong, np.array([1.0]) if len(wrong) else wrong)
