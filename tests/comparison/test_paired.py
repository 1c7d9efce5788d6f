"""Intervals and tests of paired differences: against scipy, and against the truth in simulated sweeps."""

import warnings

import numpy as np
import pytest
from scipy import stats

from helpers.simulated import CONFIGURATIONS, SEEDS, Rates, Scene, rates, scenes
from runner.comparison import paired

RNG = np.random.default_rng(1)

SWEEPS = 40_000
"""Of 2,000, intervals that cover 95 % cover less than 94 % by chance in one scene of fifty."""


@pytest.mark.parametrize("n", [3, 5, 8])
def test_few_pairs_are_compared_by_student_s_t(n: int) -> None:
    first, second = RNG.normal(size=(2, 7, n)) + 0.3
    found = paired.compare(first - second, level=0.01)
    theirs = stats.ttest_rel(first, second, axis=-1)
    assert not found.sign_flip
    np.testing.assert_allclose(found.p, theirs.pvalue)
    for level, ends in ((0.99, (found.low, found.high)), (0.95, (found.plain_low, found.plain_high))):
        np.testing.assert_allclose(ends, theirs.confidence_interval(level))


def test_many_pairs_are_compared_by_sign_flips() -> None:
    differences = RNG.normal(0.5, 1, size=(4, 9))
    found = paired.compare(differences, level=0.05)
    assert found.sign_flip
    for row, p in zip(differences, found.p, strict=True):
        theirs = stats.permutation_test((row,), np.mean, permutation_type="samples", n_resamples=2**9)
        assert p == pytest.approx(theirs.pvalue)


def test_the_ends_of_the_interval_are_where_the_sign_flip_test_just_accepts() -> None:
    differences, level = RNG.normal(0.5, 1, size=10), 0.05
    found = paired.compare(differences, level)

    def p(true: float) -> float:
        return float(paired.compare(differences - true, level).p)

    for end, outward in ((found.low, -1e-6), (found.high, 1e-6)):
        assert p(float(end) + outward) <= level < p(float(end) - outward)


@pytest.mark.parametrize(
    ("n", "level", "fine"),
    [(8, 0.05, False), (9, 0.05, True), (10, 0.005, False), (12, 0.005, True), (99, 1e-4, False)],
)
def test_sign_flips_are_used_where_their_smallest_p_is_a_tenth_of_the_level(n: int, level: float, fine: bool) -> None:
    assert paired.uses_sign_flip(n, level) is fine


def test_beyond_sixteen_pairs_random_sign_flips_agree_with_t() -> None:
    differences = RNG.normal(0.2, 1, size=40)
    found, theirs = paired.compare(differences, level=0.05), stats.ttest_1samp(differences, 0)
    assert found.sign_flip
    assert float(found.p) == pytest.approx(theirs.pvalue, rel=0.15)
    np.testing.assert_allclose((found.low, found.high), theirs.confidence_interval(), atol=0.02)


@pytest.mark.parametrize("n", [2, 3, 9])
@pytest.mark.parametrize("values", [(0.1, 0.3), (0.2, 0.2)])
def test_equal_differences_have_no_interval_and_no_warning(n: int, values: tuple[float, float]) -> None:
    first = np.linspace(0.7, 0.9, n)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = paired.compare(first + values[1] - (first + values[0]), level=0.05, scale=1.2)
    assert float(found.mean) == pytest.approx(values[1] - values[0])
    assert np.isnan([found.low, found.high, found.plain_low, found.plain_high, found.p]).all()


@pytest.mark.parametrize(("difference", "level"), [(0.5, 0.05), (1.5, 0.005), (8.0, 0.05)])
def test_so_many_pairs_tell_a_difference_in_four_of_five_experiments(difference: float, level: float) -> None:
    n = paired.pairs_needed(difference, 1.0, level)
    assert n is not None

    def power(pairs: int) -> float:
        differences = RNG.normal(difference, 1, size=(4000, pairs))
        return float((stats.ttest_1samp(differences, 0, axis=-1).pvalue < level).mean())

    assert power(n) > 0.77
    assert n == paired.MIN_PAIRS or power(n - 1) < 0.83


def test_a_difference_far_below_the_noise_needs_more_than_anyone_runs() -> None:
    assert paired.pairs_needed(1e-6, 1.0, 0.05) is None


@pytest.mark.parametrize("sd", [1e-4, 1e-9, 1e-300])
def test_a_difference_far_above_the_noise_needs_three(sd: float) -> None:
    assert paired.pairs_needed(1.0, sd, 0.05) == 3


def check(found: Rates, scene: Scene, seeds: int) -> None:
    """Check the figures; t and sign flips err on the safe side where values are so coarse that many are equal."""
    coarse = scene.shape == "rounded" and scene.correlation > 0
    assert 0.93 <= found.plain <= (0.99 if coarse else 0.97), (scene, seeds, found)
    assert found.simultaneous >= 0.94 and found.false <= 0.06, (scene, seeds, found)


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("shape", ["normal", "skewed"])
def test_intervals_hold_in_simulated_sweeps(seeds: int, shape: str) -> None:
    scene = Scene(5, shape, 0.8, "equal")
    check(rates(scene, seeds, SWEEPS, np.random.default_rng(0)), scene, seeds)


@pytest.mark.soak
@pytest.mark.parametrize("configurations", CONFIGURATIONS)
def test_intervals_hold_in_all_scenes(configurations: int) -> None:
    for scene in scenes(configurations):
        for seeds in SEEDS:
            check(rates(scene, seeds, SWEEPS, np.random.default_rng(0)), scene, seeds)
