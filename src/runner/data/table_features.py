"""The columns of a table that a model learns from: which they are, and of what kind."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runner.data.listing import list_names
from runner.data.named_path import NamedPath
from runner.data.table_files import TRAIN
from runner.data.table_reader import Frame
from runner.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from runner.data.tabular.columns import Column


def join_column(frames: Mapping[str, Frame], name: str) -> "pd.Series":
    """Return the cells of a column in all tables."""
    import pandas as pd

    if len(frames) == 1:
        return frames[TRAIN].cells[name]
    return pd.concat([frame.cells[name] for frame in frames.values()], ignore_index=True)


def uses_decimal_comma(frames: Mapping[str, Frame]) -> bool:
    """Whether a comma in doubtful numbers is a decimal separator: as in another column, or between semicolons."""
    from runner.data.tabular.columns import has_decimal_comma

    whole = frames[TRAIN]
    return whole.comma or any(has_decimal_comma(whole.cells[name]) for name in whole.cells)


def decide_features(
    frames: Mapping[str, Frame], names: list[str], file: NamedPath, comma: bool
) -> "tuple[list[Column], list[str]]":
    """Decide on the kind of each feature, and which are of no use.

    Returns:
        The features, and notes.

    Raises:
        ConfigError: none is of use.
    """
    from runner.data.tabular import columns as kinds

    columns, notes, useless = list[kinds.Column](), list[str](), list[str]()
    for name in names:
        column, note = kinds.decide(name, join_column(frames, name), comma)
        if why := kinds.why_left_out(column, frames[TRAIN].cells[name]):
            useless.append(f"{name} ({why})")
            continue
        columns.append(column)
        notes += [note] if note else []
    if not columns:
        text = f"no column to learn from: {list_names(useless)}"
        raise ConfigError(file.problem(text, "give it features that differ from row to row"))
    texts = [column.name for column in columns if column.kind == "category"]
    booleans = [column.name for column in columns if column.kind == "boolean"]
    notes += [f"categories: {list_names(texts)}"] if texts else []
    notes += [f"true or false: {list_names(booleans)}"] if booleans else []
    return columns, notes + ([f"left out: {list_names(useless)}"] if useless else [])


def find_features(fitted: Mapping[str, Any], whole: Frame, file: NamedPath) -> "list[Column]":
    """Return the columns of an earlier run, which the table must have."""
    from runner.data.tabular.columns import columns_of

    columns = columns_of(fitted["encoder"]["columns"])
    if lacking := [column.name for column in columns if column.name not in whole.cells]:
        text = f"lacks the columns {list_names(lacking)}, which the model was trained on"
        raise ConfigError(file.problem(text, "name the columns as in the training table", topic="missing"))
    return columns
