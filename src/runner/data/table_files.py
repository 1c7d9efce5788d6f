"""The files of a table: of the training part and, if they are given, of the others."""

from collections.abc import Mapping
from pathlib import Path

from runner.data.held_out import check_test_fraction, contradicting_fraction, untrained_classes
from runner.data.named_path import NamedPath
from runner.data.paths import find_data_file
from runner.data.source import Samples, Source
from runner.errors import ConfigError, Problem

TRAIN, VAL, TEST = "data.path", "data.val_path", "data.test_path"


def check_classes(source: Source, files: Mapping[str, NamedPath]) -> None:
    """Check that the training part has every class of the other files."""
    if not source.classes:
        return
    for key, part in ((VAL, source.val), (TEST, source.test)):
        if key in files and (untrained := _labels(part) - _labels(source.train)):
            names = {source.classes[label] for label in untrained}
            raise ConfigError(untrained_classes(key, str(files[key]), names))


def _labels(part: Samples | None) -> set[int]:
    return set(part[1].unique().tolist()) if isinstance(part, tuple) else set()


def find_files(name: str, paths: Mapping[str, str | Path | None], test_fraction: float | None) -> dict[str, NamedPath]:
    """Find the files, by their keys, and check all that can be checked without reading them.

    Args:
        name: of the data set.
        paths: by their keys, as they were typed.
        test_fraction: excludes a test file.

    Raises:
        ConfigError: a file does not exist, or settings contradict each other.
    """
    problems: list[Problem] = []
    files: dict[str, NamedPath] = {}
    if paths[TRAIN] is None:
        text = f"{TRAIN} is not set, and data={name} reads a file"
        problems.append(Problem(TRAIN, text, f"write {TRAIN}=<table.csv>", topic="missing"))
    for key, value in paths.items():
        if value is not None:
            try:
                files[key] = NamedPath(key, str(value), find_data_file(value, key))
            except ConfigError as error:
                problems += error.problems
    if test_fraction is not None and paths[TEST] is not None:
        problems.append(contradicting_fraction(test_fraction, TEST))
    problems += check_test_fraction(test_fraction)
    if problems:
        raise ConfigError(*problems)
    return files
