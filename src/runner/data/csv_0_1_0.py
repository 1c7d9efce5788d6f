"""How runner 0.1.0 read tables: for its saved runs, whose figures stay as they were."""

import csv
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from runner.data.columns import list_names
from runner.data.source import Source
from runner.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd


def read(
    files: Mapping[str, Path],
    given: Mapping[str, str],
    target: str | int | None,
    split: Callable[[int], np.ndarray],
) -> Source:
    """Read one table, or one to train and one to test on.

    Args:
        files: by their keys: `data.path` and, perhaps, `data.test_path`.
        given: keys and values that named them, to begin errors with.
        target: the column to predict; None is the last one.
        split: number of rows -> which of them are the test part.

    Raises:
        ConfigError: if a file cannot be used.
    """
    problems: list[str] = []
    frames: dict[str, pd.DataFrame] = {}
    for key, file in files.items():
        try:
            frames[key] = read_frame(file, key, target)
        except ConfigError as error:
            problems += map(str, error.problems)
    if problems:
        raise ConfigError(*problems)
    train, test = frames["data.path"], frames.get("data.test_path")
    target = _find_target(train, target, files["data.path"])
    problems = _find_faults(train, target, given["data.path"])
    if test is not None:
        if set(test.columns) != set(train.columns):
            different = list_names(set(test.columns) ^ set(train.columns))
            problems.append(f"{given['data.test_path']} lacks or adds columns: {different}; give both the same")
        else:
            problems += _find_faults(test, target, given["data.test_path"])
    if problems:
        raise ConfigError(*problems)
    if test is None:
        is_test = split(len(train))
        train, test = train[~is_test], train[is_test]
    targets, classes = _encode([train[target], test[target]])
    features = [column for column in train.columns if column != target]
    inputs = [torch.from_numpy(frame[features].to_numpy(np.float32, copy=True)) for frame in (train, test)]
    return Source(
        name="csv",
        train=(inputs[0], targets[0]),
        test=(inputs[1], targets[1]) if len(test) else None,
        classes=classes,
        columns=[str(column) for column in train.columns],
        target=str(target),
    )


def read_new(path: Path, given: str, features: Sequence[str], columns: Sequence[str]) -> np.ndarray:
    """Read new samples for a model that was trained on another table.

    Args:
        path: a table.
        given: key and value that named it: `input=new.csv`.
        features: names of the columns that the model takes.
        columns: names of all columns of the other table.

    Returns:
        (N, features), found by name, or by place if there is no header.

    Raises:
        ConfigError: it has other columns, or cells that are not numbers.
    """
    import pandas as pd

    target = next(iter({*columns} - {*features}))
    frame = read_frame(path, given.partition("=")[0], target)
    if len(frame) == 0:
        raise ConfigError(f"{given} has no samples, only a header: give one at least")
    headless = list(frame.columns) == [str(number) for number in range(len(frame.columns))]
    if headless and len(frame.columns) in (len(features), len(columns)):
        frame = frame.set_axis(features if len(frame.columns) == len(features) else columns, axis=1)
    elif headless:
        raise ConfigError(
            f"{given} has {len(frame.columns)} columns, the model was trained on {len(features)}:"
            f" {list_names(features)}"
        )
    if lacking := [name for name in features if name not in frame.columns]:
        raise ConfigError(
            f"{given} lacks the columns {list_names(lacking)}, which the model was trained on; it has"
            f" {list_names(frame.columns)}"
        )
    frame = frame[list(features)]
    if text := [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]:
        raise ConfigError(f"{given} has text where numbers are needed, in {list_names(text)}: correct it")
    if missing := [name for name in frame.columns if frame[name].isna().any()]:
        raise ConfigError(f"{given} has missing values in {list_names(missing)}: fill them in, or drop the rows")
    frame = frame.astype(dict.fromkeys(frame.select_dtypes(bool), np.float32))  # beside numbers they were objects
    return frame.to_numpy()


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
        problems.append(f"{given} has missing values in {list_names(counts)}; fill them in or drop the rows")
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
            f"{given} has text where features must be numbers: {list_names(text)}; "
            "encode or drop these columns, or name the target with data.target=<column>"
        )
    if not_finite:
        problems.append(f"{given} has infinite values (beyond 3e38) in {list_names(not_finite)}; drop these rows")
    return problems


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
