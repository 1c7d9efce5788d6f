"""The corrected interval of a mean over folds."""

import numpy as np
import pytest
from scipy import stats
from sklearn.model_selection import KFold

from runner.comparison.overlapping import overlapping_interval


def test_the_formula_of_nadeau_and_bengio() -> None:
    values = [0.91, 0.88, 0.93, 0.9, 0.87]
    error = np.sqrt(np.var(values, ddof=1) * (1 / 5 + 20 / 80))
    expected = stats.t.interval(0.95, 4, np.mean(values), error)
    assert overlapping_interval(values, 5) == pytest.approx(expected)
    repeated = overlapping_interval(values * 2, 5)
    assert repeated is not None and repeated[1] - repeated[0] < expected[1] - expected[0]
    assert overlapping_interval([0.9], 5) is None


def test_it_covers_what_an_uncorrected_one_misses() -> None:
    rng, sweeps = np.random.default_rng(0), []
    for _ in range(250):
        inputs = rng.normal(size=(40, 3))
        targets = inputs.sum(1) + rng.normal(size=40)
        folds, excess = [], []
        for seed in range(4):
            for train, test in KFold(5, shuffle=True, random_state=seed).split(inputs):
                weights = np.linalg.lstsq(inputs[train], targets[train])[0]
                folds.append(float(np.mean((inputs[test] @ weights - targets[test]) ** 2)))
                excess.append(((weights - 1) ** 2).sum())
        sweeps.append((folds, np.mean(excess)))
    truth = 1 + np.mean([excess for _, excess in sweeps])
    corrected = [overlapping_interval(folds, 5) or (0.0, 0.0) for folds, _ in sweeps]
    plain = [stats.t.interval(0.95, 19, np.mean(folds), stats.sem(folds)) for folds, _ in sweeps]
    covered, uncorrected = (np.mean([low <= truth <= high for low, high in each]) for each in (corrected, plain))
    assert uncorrected < 0.75 and covered > 0.87, (uncorrected, covered)
