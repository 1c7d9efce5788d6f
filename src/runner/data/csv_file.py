"""`data=csv`: a table with one sample per row, numeric features and one target column."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from runner.data import csv_0_1_0
from runner.data.columns import find_faults
from runner.data.held_out import (
    TEST_FRACTION,
    choose_test_samples,
)
from runner.data.listing import list_names
from runner.data.named_path import NamedPath
from runner.data.paths import shared_samples
from runner.data.rows import together
from runner.data.source import Source
from runner.data.table_files import TEST, TRAIN, VAL, check_classes, find_files
from runner.data.table_index import find_name
from runner.data.table_layout import Table, read_table
from runner.data.table_target import Takes, Target, TargetType, read_target
from runner.errors import ConfigError, Problem, did_you_mean
from runner.util.ranges import Choice


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
    split_by: str | None = None,
    sample_weight: str | None = None,
) -> Source:
    """Load a table separated by commas, semicolons, tabs or bars, with or without a header.

    Runner 0.1.0 did not have `index`, `header` and `target_type`. By its rules integers are raw class labels, features
    are float32, and a first column without a name is an error.

    Args:
        path: the file.
        target: the column to predict; None is the last one. Without a header columns are called 0, 1, ...
        test_path: a file with the same columns to test on; None holds the test part out of `path`.
        test_fraction: the share of rows that is held out, the same ones for every seed; None is `TEST_FRACTION`.
            It excludes `test_path`.
        mean: subtracted from the features; None computes it from the training samples.
        std: divides the features; None computes it from the training samples.
        index: the column that numbers or names the rows and is left out: `auto` (None), `none` or a name.
        header: whether the first row has the names: `auto` (None), True or False.
        target_type: `auto` (None), `category` or `number`.
        val_path: a file with the same columns to validate on; None leaves it to `data.val_fraction`.
        loss_takes: what the loss takes as targets, for `target_type=auto`; None if it is not known.
        old_rules: whether to read the table as runner 0.1.0 did; None: if all later arguments are None.
        split_by: the column of groups, of which none is in two parts; None if there are no groups. It is no feature.
        sample_weight: the column of the weights by which samples are drawn; None if there are none. It is no feature.

    Returns:
        Inputs are float64 (N, features). Targets (N,) are int64 class indices, with the names of the classes, or
        float64 numbers.

    Raises:
        ConfigError: if a file cannot be used; it names the columns.
    """
    files = find_files("csv", {TRAIN: path, VAL: val_path, TEST: test_path}, test_fraction)
    fraction = TEST_FRACTION if test_fraction is None else test_fraction
    if old_rules is None:
        old_rules = index is None and header is None and target_type is None and val_path is None
    if old_rules:
        source = csv_0_1_0.read(files, target, fraction)
    else:
        source = _read(files, target, fraction, index, header, target_type, loss_takes, split_by, sample_weight)
        shared = shared_samples({key: file.path for key, file in files.items()})
        source = replace(source, notes=[*source.notes, *shared])
    check_classes(source, files)
    return replace(source, mean=mean, std=std, origin=", ".join(str(file.path) for file in files.values()))


def _read(
    files: Mapping[str, NamedPath],
    target: str | int | None,
    fraction: float,
    index: str | int | None,
    header: bool | Literal["auto"] | None,
    target_type: TargetType | None,
    loss_takes: Takes | None,
    split_by: str | None,
    sample_weight: str | None,
) -> Source:
    """Read the tables of all parts by today's rules."""
    known = [str(name) for name in (target, index) if name not in (None, "auto", "none")]
    tables = _read_tables(files, index, header, known)
    whole = tables[TRAIN]
    name = _find_target(whole, target, index, files[TRAIN])
    named = [each for each in (split_by, sample_weight) if each not in (None, name) and each in whole.columns]
    arrays = {each: whole.columns[each].text.to_pylist() for each in named}
    tables = {key: _without(table, arrays) for key, table in tables.items()}
    whole = tables[TRAIN]
    _check_tables(tables, files, name)
    targets = [table.columns[name] for table in tables.values()]
    column, is_test = together(
        partial(read_target, name, targets, target_type, loss_takes),
        lambda: None if TEST in files else choose_test_samples(whole.rows, fraction, arrays.get(split_by or "")),
    )
    held_out: dict[str, np.ndarray] = {}
    if is_test is not None:
        arrays = {name: [values[at] for at in np.flatnonzero(~is_test)] for name, values in arrays.items()}
        held_out = {TRAIN: ~is_test, TEST: is_test}
    parts = _split_by_table(tables, name, column, held_out)
    train, test = parts[TRAIN], parts[TEST]
    divided = {"train": train, "val": parts.get(VAL), "test": test if len(test[0]) else None}
    pairs = {name: None if tensors is None else tensors[:2] for name, tensors in divided.items()}
    last = " (the last column)" if target is None else ""
    notes = dict.fromkeys(note for table in tables.values() for note in table.notes)
    return Source(
        name="csv",
        train=pairs["train"],
        val=pairs["val"],
        test=pairs["test"],
        places={part: tensors[2] for part, tensors in divided.items() if tensors is not None},
        classes=column.classes,
        columns=list(whole.columns),
        target=name,
        notes=[f"target {name}{last}: {column.note}", *notes],
        reading=whole.reading,
        arrays=arrays,
    )


def _read_tables(
    files: Mapping[str, NamedPath], index: str | int | None, header: bool | Literal["auto"] | None, known: list[str]
) -> dict[str, Table]:
    """Read each file; the problems of all are reported together."""
    problems: list[Problem] = []
    tables: dict[str, Table] = {}
    for key, file in files.items():
        try:
            tables[key] = read_table(file, index, header, known)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    return tables


def _without(table: Table, columns: Collection[str]) -> Table:
    """Return a table without some columns."""
    return replace(table, columns={name: column for name, column in table.columns.items() if name not in columns})


def _find_target(table: Table, target: str | int | None, index: str | int | None, file: NamedPath) -> str:
    """Return the name of the column to predict."""
    if target is None:
        return list(table.columns)[-1]
    name = find_name(str(target), table.columns)
    if name is None:
        key = "data.target"
        if str(target) == str(index):
            text = f"{key}={target} is also data.index, which is left out"
            raise ConfigError(Problem(key, text, "name another column", topic="conflict"))
        text = f"{key}={target} is not a column of {file.path}"
        raise ConfigError(Problem(key, text, did_you_mean(str(target), table.columns), topic="unknown"))
    return name


def _check_tables(tables: Mapping[str, Table], files: Mapping[str, NamedPath], target: str) -> None:
    """Check that all tables have samples, the same columns, and numbers as features."""
    whole = tables[TRAIN]
    if len(whole.columns) == 1:
        raise ConfigError(files[TRAIN].problem(f"only one column ({target})", "give it features and a target"))
    problems: list[Problem] = []
    for key, table in tables.items():
        if table.columns.keys() != whole.columns.keys():
            different = list_names(table.columns.keys() ^ whole.columns.keys())
            problems.append(files[key].problem(f"lacks or adds columns: {different}", "give both tables the same"))
        elif table.rows == 0:
            problems.append(files[key].problem("no samples, only a header", "name a file with samples"))
        else:
            problems += find_faults(table.columns, files[key], target)
    if problems:
        raise ConfigError(*problems)


def _split_by_table(
    tables: Mapping[str, Table], target: str, column: Target, held_out: Mapping[str, np.ndarray]
) -> dict[str, tuple[Tensor, ...]]:
    """Return inputs, targets and row numbers of each part; the target column continues from one table to the next.

    Args:
        tables: by their keys.
        target: the name of the target.
        column: the target.
        held_out: the rows of `TRAIN` and `TEST` in the training table, if there is no table to test on.
    """
    features = [name for name in tables[TRAIN].columns if name != target]
    parts: dict[str, tuple[Tensor, ...]] = {}
    first = 0
    for key, table in tables.items():
        targets = column.values[first : first + table.rows]
        chosen = held_out if key == TRAIN and held_out else {key: np.ones(table.rows, dtype=bool)}
        inputs = table.numbers(features, list(chosen.values()))
        for (part, rows), tensor in zip(chosen.items(), inputs, strict=True):
            places = np.flatnonzero(rows)
            parts[part] = torch.from_numpy(tensor), torch.from_numpy(targets[places]), torch.from_numpy(places)
        first += table.rows
    return parts
