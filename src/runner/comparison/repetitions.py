"""Repetitions: runs that differ in nothing but their seed. A configuration is what they have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from runner.comparison.paired import Floats, known

Point = Mapping[str, str]
"""The values that tell a configuration from others, by key."""


@dataclass(frozen=True)
class Repetition:
    """One run of a configuration.

    Attributes:
        point: of the configuration, without the seed.
        seed: as it is typed.
        value: of the metric; None if the run has none, or not yet.
        paused: whether halving has paused it.
    """

    point: Point
    seed: str
    value: float | None
    paused: bool = False


def name_points(points: Sequence[Point]) -> list[str]:
    """Return the name of each configuration: `lr=0.03 model=cnn`, by the keys in which they differ."""
    keys = varied_keys(points)
    leaves = [key.rpartition(".")[2] for key in keys]
    short = [leaf if leaves.count(leaf) == 1 else key for leaf, key in zip(leaves, keys, strict=True)]
    parts = [
        [f"{name}={point[key]}" for key, name in zip(keys, short, strict=True) if key in point] for point in points
    ]
    return [" ".join(each) or "the configuration" for each in parts]


def varied_keys(points: Sequence[Point]) -> list[str]:
    """Return the keys in which the configurations differ."""
    keys = dict.fromkeys(key for point in points for key in point)
    return [key for key in keys if len({point.get(key) for point in points}) > 1]


def tabulate(repetitions: Sequence[Repetition]) -> tuple[list[Point], list[str], Floats]:
    """Return the configurations, the seeds, and the values (configurations, seeds), NaN where none can be compared."""
    places = {_key(each.point): each.point for each in repetitions}
    rows = {key: row for row, key in enumerate(places)}
    columns = {seed: column for column, seed in enumerate(dict.fromkeys(each.seed for each in repetitions))}
    values = np.full((len(rows), len(columns)), np.nan)
    for each in repetitions:
        if each.value is not None:
            values[rows[_key(each.point)], columns[each.seed]] = each.value
    return list(places.values()), list(columns), known(values)


def find_paused(points: Sequence[Point], repetitions: Sequence[Repetition]) -> set[int]:
    """Return the places of the configurations of which a run is paused."""
    paused = {_key(each.point) for each in repetitions if each.paused}
    return {place for place, point in enumerate(points) if _key(point) in paused}


def are_repeated(repetitions: Sequence[Repetition]) -> bool:
    """Return whether any configuration has several seeds."""
    runs = {(_key(each.point), each.seed) for each in repetitions}
    return len({point for point, _ in runs}) < len(runs)


def _key(point: Point) -> frozenset[tuple[str, str]]:
    return frozenset(point.items())
