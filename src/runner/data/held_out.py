"""The test samples that are held out of `data.path`, and the classes of other parts: one rule for tables and images."""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from runner.data.division import first_groups
from runner.data.listing import list_names
from runner.errors import ConfigError, Problem

TEST_FRACTION = 0.2
KEY = "data.test_fraction"


def check_test_fraction(fraction: float | None) -> list[Problem]:
    """Check that the share of test samples is a number from 0 up to, but not including, 1."""
    if fraction is None or (isinstance(fraction, int | float) and 0 <= fraction < 1):
        return []
    return [
        Problem(KEY, f"{KEY}={fraction} is not a number of at least 0 and below 1", f"write {KEY}=0.2", topic="range")
    ]


def contradicting_fraction(fraction: float, test_part: str) -> Problem:
    """Make the problem of a share that is given although there is a test part."""
    return Problem(KEY, f"{KEY}={fraction} contradicts {test_part}", f"write {KEY}=null", topic="conflict")


def choose_test_samples(count: int, fraction: float, groups: Sequence[Hashable] | None = None) -> np.ndarray:
    """Choose the samples of the test part: the same ones for every seed, so that runs of different seeds compare.

    Args:
        count: the number of all samples.
        fraction: the share of the test part.
        groups: of the samples, by `data.split_by`: none is in both parts, and the test part has at least its share.

    Returns:
        For each sample whether it is held out, bool (count,); at least one sample on each side, unless `fraction` is 0.

    Raises:
        ConfigError: there is only one sample.
    """
    if fraction and count < 2:
        text = "data.path has only one sample, which cannot be both a training and a test sample"
        raise ConfigError(Problem(KEY, text, f"write {KEY}=0", topic="data"))
    held_out = min(max(round(count * fraction), 1), count - 1) if fraction else 0
    if groups is not None and held_out:
        shuffled = [groups[index] for index in np.random.RandomState(0).permutation(count)]
        chosen = first_groups(shuffled, held_out)
        return np.array([group in chosen for group in groups])
    # RandomState, not Generator: NumPy guarantees its stream across versions (NEP 19).
    is_test = np.arange(count) < held_out
    np.random.RandomState(0).shuffle(is_test)  # as `permutation` would the numbers, in half the time
    return is_test


def untrained_classes(key: str, place: str, names: Iterable[str]) -> Problem:
    """Make the problem of a part with classes that the training part lacks.

    Args:
        key: names the part.
        place: its file or folder.
        names: of these classes.
    """
    text = f"{place} has classes that the training part lacks: {list_names(names)}"
    return Problem(key, text, "rename them, or move some of their samples to the training part", topic="data")
