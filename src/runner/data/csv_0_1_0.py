"""Read tables as runner 0.1.0 did, so that its saved runs are reproduced exactly."""

import csv
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from runner.data.held_out import choose_test_samples
from runner.data.listing import list_names
from runner.data.named_path import NamedPath
from runner.data.source import Source
from runner.errors import ConfigError, Problem, did_you_mean

if TYPE_CHECKING:
    import pandas as pd


def read(files: Mapping[str, NamedPath], target: str | int | None, test_fraction: float) -> Source:
    """Read one table, or one for training and one for the test.

    Args:
        files: by their keys: `data.path` and, optionally, `data.test_path`.
        target: the column to predict; None is the last one.
        test_fraction: the share of rows of `data.path` that is held out if there is no `data.test_path`.

    Raises:
        ConfigError: if a file cannot be used.
    """
    problems: list[Problem] = []
    frames: dict[str, pd.DataFrame] = {}
    for key, file in files.items():
        try:
            frames[key] = read_frame(file, target)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    train, test = frames["data.path"], frames.get("data.test_path")
    target = _find_target(train, target, files["data.path"].path)
    problems = _find_faults(train, target, files["data.path"])
    if test is not None:
        if set(test.columns) != set(train.columns):
            different = list_names(set(test.columns) ^ set(train.columns))
            how = "give both tables the same"
            problems.append(files["data.test_path"].problem(f"lacks or adds columns: {different}", how))
        else:
            problems += _find_faults(test, target, files["data.test_path"])
    if problems:
        raise ConfigError(*problems)
    if test is None:
        is_test = choose_test_samples(len(train), test_fraction)
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


def read_new(file: NamedPath, features: Sequence[str], columns: Sequence[str]) -> np.ndarray:
    """Read new samples for a model that was trained on another table.

    Args:
        file: the new table.
        features: names of the columns that the model takes.
        columns: names of all columns of the training table.

    Returns:
        (N, features), found by name, or by position if there is no header.

    Raises:
        ConfigError: it has other columns, or cells that are not numbers.
    """
    import pandas as pd

    target = next(iter({*columns} - {*features}))
    frame = read_frame(file, target)
    if len(frame) == 0:
        raise ConfigError(file.problem("no samples, only a header", "give at least one"))
    headless = list(frame.columns) == [str(number) for number in range(len(frame.columns))]
    if headless and len(frame.columns) in (len(features), len(columns)):
        frame = frame.set_axis(features if len(frame.columns) == len(features) else columns, axis=1)
    elif headless:
        text = f"{len(frame.columns)} columns, the model was trained on {len(features)}: {list_names(features)}"
        raise ConfigError(file.problem(text, "write these names into the first row", topic="shape"))
    if lacking := [name for name in features if name not in frame.columns]:
        text = f"lacks the columns {list_names(lacking)}, which the model was trained on"
        how = f"name the columns as in the training table, instead of {list_names(frame.columns)}"
        raise ConfigError(file.problem(text, how, topic="missing"))
    frame = frame[list(features)]
    if text_columns := [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]:
        raise ConfigError(file.problem(f"text instead of numbers in {list_names(text_columns)}", "correct it"))
    if missing := [name for name in frame.columns if frame[name].isna().any()]:
        raise ConfigError(file.problem(f"missing values in {list_names(missing)}", "fill them in, or drop the rows"))
    frame = frame.astype(dict.fromkeys(frame.select_dtypes(bool), np.float32))  # else numbers would become objects
    return frame.to_numpy()


def read_frame(file: NamedPath, target: str | int | None) -> "pd.DataFrame":
    """Read a file into columns whose names are strings."""
    import pandas as pd  # late: its import takes half a second, and only tables need it

    try:
        with file.path.open(encoding="utf-8-sig", newline="") as lines:
            head = list(itertools.islice(filter(str.strip, lines), 2))
        delimiter = max(",;\t|", key="".join(head[:1]).count)
        rows = [[cell.strip() for cell in row] for row in csv.reader(head, delimiter=delimiter)]
        has_header = _has_header(rows, target)
        frame = pd.read_csv(
            file.path,
            sep=delimiter,
            header=0 if has_header else None,
            index_col=False,
            skipinitialspace=True,
            encoding="utf-8-sig",
            low_memory=False,  # else the type of a column may change from chunk to chunk
        )
    except (UnicodeDecodeError, csv.Error, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        text = f"the file is not a table in UTF-8 text ({' '.join(str(error).split())})"
        raise ConfigError(file.problem(text, "correct it, or name another")) from error
    except OSError as error:
        text = f"cannot be read ({error.strerror or error})"
        raise ConfigError(file.problem(text, "make it readable, or name another file", topic="file")) from error
    if has_header and "" in rows[0]:
        text = f"column {rows[0].index('') + 1} has no name"
        how = "name it, or remove it if it only counts the rows (pandas: to_csv(index=False))"
        raise ConfigError(file.problem(text, how))
    frame.columns = pd.Index([str(name).strip() for name in frame.columns])
    return frame


def _has_header(rows: list[list[str]], target: str | int | None) -> bool:
    """Whether the first of two rows has names: the target's name, or text above a number, or nothing but text.

    `5.1,3.5,setosa` is a sample, because the row below has text in the same place.
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
        text = f"data.target={target} is not a column of {file}"
        raise ConfigError(Problem("data.target", text, did_you_mean(str(target), frame.columns), topic="unknown"))
    return str(target)


def _find_faults(frame: "pd.DataFrame", target: str, file: NamedPath) -> list[Problem]:
    """Find the columns that cannot be used."""
    import pandas as pd

    if len(frame) == 0:
        return [file.problem("no samples, only a header", "name a file with samples")]
    if len(frame.columns) == 1:
        return [file.problem(f"only one column ({target})", "separate features and target by commas")]

    problems = []
    missing = frame.isna().sum()
    if missing.any():
        counts = [f"{column} ({count})" for column, count in missing.items() if count]
        problems.append(file.problem(f"missing values in {list_names(counts)}", "fill them in, or drop the rows"))
    text, infinite = [], []
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
                infinite.append(f"{column} ({count})")
    if text:
        how = "encode or drop these columns, or name another data.target=<column>"
        problems.append(file.problem(f"text instead of numbers in {list_names(text)}", how))
    if infinite:
        problems.append(file.problem(f"infinite values (beyond 3e38) in {list_names(infinite)}", "drop these rows"))
    return problems


def _encode(columns: "list[pd.Series]") -> tuple[list[torch.Tensor], list[str] | None]:
    """Encode the target columns as tensors of one dtype, and return the names of classes (text, true and false)."""
    import pandas as pd

    values = pd.concat(columns, ignore_index=True)
    classes = None
    if pd.api.types.is_bool_dtype(values) or not pd.api.types.is_numeric_dtype(values):
        names, encoded = np.unique(values.astype(str).to_numpy(object), return_inverse=True)
        classes, array = names.tolist(), encoded.astype(np.int64)
    elif pd.api.types.is_integer_dtype(values):
        array = values.to_numpy(np.int64, copy=True)  # torch needs a writable array
    else:
        array = values.to_numpy(np.float32, copy=True)
    lengths = [len(column) for column in columns]
    return list(torch.from_numpy(array).split(lengths)), classes
