"""`data=csv`: a table with one sample a row, numbers as features and one target column."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from runner.data import csv_0_1_0
from runner.data.columns import find_faults, list_names
from runner.data.paths import find_data_file, shared_samples
from runner.data.source import Samples, Source
from runner.data.table_layout import Table, find_name, read_table
from runner.data.table_target import Takes, TargetType, read_target
from runner.errors import ConfigError, did_you_mean
from runner.util.ranges import Choice

TEST_FRACTION = 0.2


def csv_file(
    path: str | Path | None,
    target: str | int | None = None,
    test_path: str | Path | None = None,
    test_fraction: float | None = None,
    mean: float | list[float] | None = None,
    std: float | list[float] | None = None,
    index: str | int | None = None,
    header: Annotated[bool | Literal["auto"] | None, Choice(("auto", True, False))] = None,
    target_type: Annotated[TargetType | None, Choice(("auto", "category", "number"))] = None,
    val_path: str | Path | None = None,
    loss_takes: Takes | None = None,
    old_rules: bool | None = None,
) -> Source:
    """Load a table separated by commas, semicolons, tabs or bars, with or without a header.

    Runner 0.1.0 had no `index`, `header` and `target_type`. By its rules integers are raw class labels, features are
    float32, and a first column without a name is refused.

    Args:
        path: the file.
        target: the column to predict; None is the last one. Without a header they are called 0, 1, ...
        test_path: a file of the same columns to test on; None splits the test part off `path`.
        test_fraction: the share of rows that is split off, always the same ones whatever the run's seed;
            None is `TEST_FRACTION`. Not to be combined with `test_path`.
        mean: subtracted from the features; None is that of the training samples.
        std: divides the features; None is that of the training samples.
        index: the column that numbers or names the rows and is left out: `auto` (None), `none` or a name.
        header: whether the first row holds the names: `auto` (None), True or False.
        target_type: what the target is: `auto` (None), `category` or `number`.
        val_path: a file of the same columns to validate on; None leaves it to `data.val_fraction`.
        loss_takes: what the loss takes as targets, for `target_type=auto`; None if it is not known.
        old_rules: whether the table is read as runner 0.1.0 did; None: if nothing that is new since then is given.

    Returns:
        Inputs are float64 (N, features). Targets (N,) are int64 class indices, with the names of the classes, or
        float64 numbers.

    Raises:
        ConfigError: if a file cannot be used, naming the columns at fault.
    """
    paths = {"data.path": path, "data.val_path": val_path, "data.test_path": test_path}
    files = _find_files(paths, test_fraction)
    given = {key: f"{key}={value}" for key, value in paths.items()}
    fraction = TEST_FRACTION if test_fraction is None else test_fraction
    if old_rules is None:
        old_rules = index is None and header is None and target_type is None and val_path is None
    if old_rules:
        source = csv_0_1_0.read(files, given, target, lambda rows: _split(rows, fraction))
    else:
        index, header = index if index is not None else "auto", header if header is not None else "auto"
        source = _read(files, given, target, fraction, index, header, target_type or "auto", loss_takes)
        source = replace(source, notes=[*source.notes, *shared_samples(files)])
    for key, part in (("data.val_path", source.val), ("data.test_path", source.test)):
        if key in files:
            _check_classes(source, part, given[key])
    return replace(source, mean=mean, std=std, origin=", ".join(str(file) for file in files.values()))


def _read(
    files: Mapping[str, Path],
    given: Mapping[str, str],
    target: str | int | None,
    fraction: float,
    index: str | int | None,
    header: bool | Literal["auto"] | None,
    target_type: TargetType | None,
    loss_takes: Takes | None,
) -> Source:
    problems: list[str] = []
    tables: dict[str, Table] = {}
    known = [str(name) for name in (target, index) if name not in (None, "auto", "none")]
    for key, file in files.items():
        try:
            tables[key] = read_table(file, given[key], index, header, known)
        except ConfigError as error:
            problems += map(str, error.problems)
    if problems:
        raise ConfigError(*problems)
    whole = tables["data.path"]
    name = _find_target(whole, target, index, files["data.path"])
    for key, table in tables.items():
        if table.columns.keys() != whole.columns.keys():
            different = list_names(table.columns.keys() ^ whole.columns.keys())
            problems.append(f"{given[key]} lacks or adds columns: {different}; give both the same")
        elif table.rows == 0:
            problems.append(f"{given[key]} has no samples, only a header; name a file with samples")
        else:
            problems += find_faults(table.columns, given[key], name)
    if len(whole.columns) == 1:
        problems = [f"{given['data.path']} has only one column ({name}); give it features and a target"]
    if problems:
        raise ConfigError(*problems)
    read = read_target(name, [table.columns[name].text for table in tables.values()], target_type, loss_takes)
    features = [column for column in whole.columns if column != name]
    parts: dict[str, tuple[Tensor, Tensor]] = {}
    first = 0
    for key, table in tables.items():
        targets = torch.from_numpy(read.values[first : first + table.rows])
        parts[key] = torch.from_numpy(table.numbers(features)), targets
        first += table.rows
    train, test = parts["data.path"], parts.get("data.test_path")
    if test is None:
        is_test = torch.from_numpy(_split(whole.rows, fraction))
        train, test = (train[0][~is_test], train[1][~is_test]), (train[0][is_test], train[1][is_test])
    last = " (the last column)" if target is None else ""
    return Source(
        name="csv",
        train=train,
        val=parts.get("data.val_path"),
        test=test if len(test[0]) else None,
        classes=read.classes,
        columns=list(whole.columns),
        target=name,
        notes=[f"target {name}{last}: {read.note}", *dict.fromkeys(note for t in tables.values() for note in t.notes)],
        reading=whole.reading,
    )


def _find_target(table: Table, target: str | int | None, index: str | int | None, file: Path) -> str:
    if target is None:
        return list(table.columns)[-1]
    found = find_name(str(target), table.columns)
    if found is None and str(target) == str(index):
        raise ConfigError(f"data.target={target} is data.index too; name another column")
    if found is None:
        hint = did_you_mean(str(target), table.columns)
        raise ConfigError(f"data.target={target} is not a column of {file}; {hint}")
    return found


def _check_classes(source: Source, part: Samples | None, given: str) -> None:
    """See that a part has no class that training lacks."""
    if not source.classes or not isinstance(part, tuple) or not isinstance(source.train, tuple):
        return
    if untrained := set(part[1].tolist()) - set(source.train[1].tolist()):
        names = list_names({source.classes[number] for number in untrained})
        raise ConfigError(
            f"{given} has classes that data.path lacks: {names}; correct the names, or move some of their rows to"
            " data.path"
        )


def _find_files(paths: Mapping[str, str | Path | None], test_fraction: float | None) -> dict[str, Path]:
    """Return the files by their knobs, after checking what can be checked without reading them."""
    problems: list[str] = []
    files: dict[str, Path] = {}
    if paths["data.path"] is None:
        problems.append("data.path is not set: data=csv reads a file, such as data.path=table.csv")
    for key, value in paths.items():
        if value is not None:
            try:
                files[key] = find_data_file(value, key)
            except ConfigError as error:
                problems += map(str, error.problems)
    if test_fraction is not None:
        if paths["data.test_path"] is not None:
            problems.append(f"data.test_fraction={test_fraction} contradicts data.test_path; give one of them")
        if not (isinstance(test_fraction, int | float) and 0 <= test_fraction < 1):
            problems.append(f"data.test_fraction={test_fraction} must be at least 0 and below 1, such as 0.2")
    if problems:
        raise ConfigError(*problems)
    return files


def _split(rows: int, fraction: float) -> np.ndarray:
    """Whether a row is split off: the same rows at every run, as figures of different seeds are compared."""
    if fraction and rows < 2:
        raise ConfigError("data.path has one sample, which cannot be split; write data.test_fraction=0")
    count = min(max(round(rows * fraction), 1), rows - 1) if fraction else 0
    # RandomState, not Generator: NumPy promises its stream for all versions (NEP 19).
    return np.random.RandomState(0).permutation(rows) < count
