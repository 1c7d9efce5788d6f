"""Repetitions of configurations with given values."""

import numpy as np

from runner.comparison.objectives import Objective
from runner.comparison.repetitions import Repetition

ACCURACY, LOSS = Objective("val/accuracy", "max"), Objective("val/loss", "min")

SHARED = np.array([0.3, -0.5, 0.1, 0.6, -0.4, 0.2, -0.1, 0.5, -0.6, -0.1])
OWN = np.array([0.1, 0.2, -0.2, 0.05, -0.15, 0.12, -0.08, 0.03, -0.11, 0.04])


def repeated(means: dict[str, float], seeds: int, spread: float = 0.01, key: str = "optimizer.lr") -> list[Repetition]:
    """Make configurations by their values of one key, with noise that a seed shares and noise of their own."""
    return [
        Repetition({key: name}, str(seed), mean + spread * float(SHARED[seed] + np.roll(OWN, 3 * place)[seed]))
        for place, (name, mean) in enumerate(means.items())
        for seed in range(seeds)
    ]


def paused(repetitions: list[Repetition], ended: int) -> list[Repetition]:
    """Pause all configurations but the first ones, as halving does: with their first seed."""
    names = list(dict.fromkeys(tuple(each.point.values()) for each in repetitions))
    return [
        each
        if names.index(tuple(each.point.values())) < ended
        else Repetition(each.point, each.seed, None, paused=each.seed == "0")
        for each in repetitions
    ]


def without(repetitions: list[Repetition], name: str, seed: int, value: float | None = None) -> list[Repetition]:
    """Replace the value of one run."""
    return [
        Repetition(each.point, each.seed, value) if name in each.point.values() and each.seed == str(seed) else each
        for each in repetitions
    ]
