"""`data=csv`: a table with one sample a row, numbers as features and one target column."""

import csv
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from runner.data.paths import find_data_file
from runner.data.source import Source
from runner.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

TEST_FRACTION = 0.2
NAMES_SHOWN = 5


def csv_file(
    path: str | Path | None,
    target: str | int | None = None,
    test_path: str | Path | None = None,
    test_fraction: float | None = None,
    mean: float | list[float] | None = None,
    std: float | list[float] | None = None,
) -> Source:
    """Load a table separated by commas, semicolons, tabs or bars, with or without a header.

    Args:
        path: the file.
        target: the column to predict; None is the last one. Without a header they are called 0, 1, ...
        test_path: a file of the same columns to test on; None splits the test part off `path`.
        test_fraction: the share of rows that is split off, always the same ones whatever the run's seed;
            None is `TEST_FRACTION`. Not to be combined with `test_path`.
        mean: subtracted from the features; None is that of the training samples.
        std: divides the features; None is that of the training samples.

    Returns:
        Inputs are float32 (N, columns - 1). Targets (N,) are int64 for integers; int64 class indices for
        text and booleans, the class names sorted; float32 for other numbers.

    Raises:
        ConfigError: if a file cannot be used, naming the columns at fault.
    """
    files = _find_files(path, test_path, test_fraction)
    problems: list[str] = []
    frames: dict[str, pd.DataFrame] = {}
    for key, file in files.items():
        try:
            frames[key] = read_frame(file, key, target)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    train = frames["data.path"]
    target = _find_target(train, target, files["data.path"])
    test = frames.get("data.test_path")

    problems = _find_faults(train, target, f"data.path={path}")
    if test is not None:
        if set(test.columns) != set(train.columns):
            different = _list_names(set(test.columns) ^ set(train.columns))
            problems.append(f"data.test_path={test_path} lacks or adds columns: {different}; give both the same")
        else:
            problems += _find_faults(test, target, f"data.test_path={test_path}")
    if problems:
        raise ConfigError(*problems)

    if test is None:
        train, test = _split(train, TEST_FRACTION if test_fraction is None else test_fraction)
    targets, classes = _encode([train[target], test[target]])
    if classes and test_path is not None:
        untrained = set(targets[1].tolist()) - set(targets[0].tolist())
        if untrained:
            names = _list_names({classes[index] for index in untrained})
            raise ConfigError(
                f"data.test_path={test_path} has classes that data.path lacks: {names}; mend the names, or "
                "move some of their rows to data.path"
            )
    features = [column for column in train.columns if column != target]
    inputs = [torch.from_numpy(frame[features].to_numpy(np.float32, copy=True)) for frame in (train, test)]
    return Source(
        name="csv",
        train=(inputs[0], targets[0]),
        test=(inputs[1], targets[1]) if len(test) else None,
        mean=mean,
        std=std,
        classes=classes,
        origin=", ".join(str(file) for file in files.values()),
        columns=[str(column) for column in train.columns],
        target=str(target),
    )


def _find_files(path: str | Path | None, test_path: str | Path | None, test_fraction: float | None) -> dict[str, Path]:
    """Return the files by their knobs, after checking what can be checked without reading them."""
    problems: list[str] = []
    files: dict[str, Path] = {}
    if path is None:
        problems.append("data.path is not set: data=csv reads a file, such as data.path=table.csv")
    for key, value in {"data.path": path, "data.test_path": test_path}.items():
        if value is not None:
            try:
                files[key] = find_data_file(value, key)
            except ConfigError as error:
                problems += error.problems
    if test_fraction is not None:
        if test_path is not None:
            problems.append(f"data.test_fraction={test_fraction} contradicts data.test_path; give one of them")
        if not (isinstance(test_fraction, int | float) and 0 <= test_fraction < 1):
            problems.append(f"data.test_fraction={test_fraction} must be at least 0 and below 1, such as 0.2")
    if problems:
        raise ConfigError(*problems)
    return files


def read_frame(file: Path, key: str, target: str | int | None) -> "pd.DataFrame":
    """Read a file into columns named by strings."""
    import pandas as pd  # late: it takes half a second, and only tables need it

    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            head = list(itertools.islice(filter(str.strip, lines), 2))
        delimiter = max(",;\t|", key="".join(head[:1]).count)
        rows = [[cell.strip() for cell in row] for row in csv.reader(head, delimiter=delimiter)]
        has_header = _has_header(rows, target)
        frame = pd.read_csv(
            file,
            sep=delimiter,
            header=0 if has_header else None,
            index_col=False,
            skipinitialspace=True,
            encoding="utf-8-sig",
            low_memory=False,  # or a column's type may change from one chunk to the next
        )
    except (UnicodeDecodeError, csv.Error, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{key}={file} is not a table in UTF-8 text: {reason}") from error
    except OSError as error:
        raise ConfigError(f"{key}={file} cannot be read: {error.strerror or error}") from error
    if has_header and "" in rows[0]:
        number = rows[0].index("") + 1
        raise ConfigError(
            f"{key}={file}: column {number} has no name; name it, or remove it if it only counts the rows "
            "(pandas: to_csv(index=False))"
        )
    frame.columns = pd.Index([str(name).strip() for name in frame.columns])
    return frame


def _has_header(rows: list[list[str]], target: str | int | None) -> bool:
    """Tell from the first two rows whether the first one holds names.

    It does if it holds the target's name, or text above a number, or nothing but text. So
    `5.1,3.5,setosa` is a sample: where it has text, so has the row below.
    """
    if not rows:
        return False
    first = rows[0]
    if str(target) in first and not _is_number(str(target)):
        return True
    is_text = [bool(cell) and not _is_number(cell) for cell in first]
    below = [_is_number(cell) for cell in rows[1]] if len(rows) > 1 else []
    return all(is_text) or any(text and number for text, number in zip(is_text, below, strict=False))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _find_target(frame: "pd.DataFrame", target: str | int | None, file: Path) -> str:
    if target is None:
        return str(frame.columns[-1])
    if str(target) not in frame.columns:
        hint = did_you_mean(str(target), frame.columns)
        raise ConfigError(f"data.target={target} is not a column of {file}; {hint}")
    return str(target)


def _find_faults(frame: "pd.DataFrame", target: str, given: str) -> list[str]:
    """Say which columns cannot be used; `given` is the knob and its value, to begin each sentence with."""
    import pandas as pd

    if len(frame) == 0:
        return [f"{given} has no samples, only a header; name a file with samples"]
    if len(frame.columns) == 1:
        return [f"{given} has only one column ({target}); separate features and target by commas"]

    problems = []
    missing = frame.isna().sum()
    if missing.any():
        counts = [f"{column} ({count})" for column, count in missing.items() if count]
        problems.append(f"{given} has missing values in {_list_names(counts)}; fill them in or drop the rows")
    text, not_finite = [], []
    for column in frame.columns:
        values = frame[column]
        if not pd.api.types.is_numeric_dtype(values):
            if column != target:
                is_text = pd.to_numeric(values, errors="coerce").isna() & values.notna()
                text.append(f"{column} ({values[is_text].iloc[0]!r})" if is_text.any() else column)
        else:
            with np.errstate(over="ignore"):
                count = int(np.isinf(values.to_numpy(np.float32)).sum())
            if count:
                not_finite.append(f"{column} ({count})")
    if text:
        problems.append(
            f"{given} has text where features must be numbers: {_list_names(text)}; "
            "encode or drop these columns, or name the target with data.target=<column>"
        )
    if not_finite:
        problems.append(f"{given} has infinite values (beyond 3e38) in {_list_names(not_finite)}; drop these rows")
    return problems


def _list_names(names: Iterable[str]) -> str:
    listed = sorted(names) if isinstance(names, set) else list(names)
    return ", ".join(listed[:NAMES_SHOWN]) + (", ..." if len(listed) > NAMES_SHOWN else "")


def _split(frame: "pd.DataFrame", test_fraction: float) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Split the same rows off at every run: figures of different seeds are compared with one another."""
    if test_fraction and len(frame) < 2:
        raise ConfigError("data.path has one sample, which cannot be split; write data.test_fraction=0")
    num_test = min(max(round(len(frame) * test_fraction), 1), len(frame) - 1) if test_fraction else 0
    # RandomState, not Generator: NumPy promises its stream for all versions (NEP 19).
    is_test = np.random.RandomState(0).permutation(len(frame)) < num_test
    return frame[~is_test], frame[is_test]


def _encode(columns: "list[pd.Series]") -> tuple[list[torch.Tensor], list[str] | None]:
    """Turn the target columns into tensors of one kind, with the names if they are classes."""
    import pandas as pd

    values = pd.concat(columns, ignore_index=True)
    classes = None
    if pd.api.types.is_bool_dtype(values) or not pd.api.types.is_numeric_dtype(values):
        names, encoded = np.unique(values.astype(str).to_numpy(object), return_inverse=True)
        classes, array = names.tolist(), encoded.astype(np.int64)
    elif pd.api.types.is_integer_dtype(values):
        array = values.to_numpy(np.int64, copy=True)  # torch wants it writable
    else:
        array = values.to_numpy(np.float32, copy=True)
    lengths = [len(column) for column in columns]
    return list(torch.from_numpy(array).split(lengths)), classes
