"""The target of `data=table`: classes or numbers. What `data=csv` refuses as doubtful is decided here, and said."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from runner.data.listing import list_names
from runner.data.table_target import KEY, MOST_CLASSES, Takes, TargetType
from runner.errors import ConfigError, Problem

if TYPE_CHECKING:
    import pandas as pd

NAMES = 10  # a text target with as many rows or more, of which most differ, names the rows


@dataclass(frozen=True)
class Answer:
    """The target of each row.

    Attributes:
        values: class indices, int64 (N,), or numbers, float64 (N,); those of rows without a target mean nothing.
        known: whether a row has a target, bool (N,).
        classes: the names of the classes 0, 1, ...; None for numbers.
        note: a short phrase about the decision.
    """

    values: np.ndarray
    known: np.ndarray
    classes: list[str] | None
    note: str


def read_answer(
    name: str, series: "pd.Series", target_type: TargetType | None, takes: Takes | None, comma: bool = False
) -> Answer:
    """Decide whether a target is classes or numbers.

    Text, and true and false, are classes. Whole numbers are classes if there are few: at most `MOST_CLASSES`, and a
    tenth of the rows. Other numbers, and dates as days, are numbers.

    Args:
        name: of the column.
        series: its cells, of all parts.
        target_type: `category` or `number` decides; `auto`, or None, depends on the column.
        takes: what the loss takes as targets; None if that is not known.
        comma: whether a comma probably separates decimals.

    Raises:
        ConfigError: the target does not fit the loss, or has nothing to predict.
    """
    from runner.data.tabular import cells, columns

    column, note = columns.decide(name, series, comma)
    wanted = target_type if target_type in ("category", "number") else None
    if wanted is None and column.kind != "date" and takes in ("classes", "values"):
        wanted = "category" if takes == "classes" else "number"
    values = column.values(series)[:, 0] if column.kind != "category" else None
    if wanted == "number" and (values is None or takes == "classes"):
        raise _contradicts(name, series, values is None, takes)
    if wanted == "category" and takes == "values":
        text = f"{KEY}=category makes classes of the target {name}, and the loss takes values"
        raise ConfigError(Problem(KEY, text, f"write {KEY}=number, or loss=cross_entropy", topic="conflict"))
    if values is not None and column.kind != "boolean" and wanted != "category":
        known = ~np.isnan(values)
        count = len(np.unique(values[known]))
        whole = column.kind == "number" and not (values[known] % 1 != 0).any()
        few = count <= MOST_CLASSES and count * 10 <= known.sum()
        if wanted == "number" or not whole or not few:
            return _numbers(name, values, known, note, column.kind, whole and wanted is None)
    if values is not None and wanted == "number":
        return _numbers(name, values, ~np.isnan(values), note, column.kind, False)
    texts = cells.trimmed(series)
    known = ~texts.str.lower().isin(cells.BLANK_NUMBER if values is not None else cells.BLANK).to_numpy()
    if values is not None and column.kind != "boolean":
        known = ~np.isnan(values)
        return _classes(name, values, known, [_shown(value) for value in np.unique(values[known])], note)
    return _text_classes(name, texts.to_numpy(dtype=object), known, values, wanted is not None)


def _contradicts(name: str, series: "pd.Series", is_text: bool, takes: Takes | None) -> ConfigError:
    if is_text:
        from runner.data.tabular import cells

        texts = cells.trimmed(series)
        shown = next(
            (text for text in texts if np.isnan(cells._number(text, ".")) and text.lower() not in cells.BLANK), ""
        )
        as_classes = f"{KEY}=category loss=cross_entropy" if takes == "values" else f"{KEY}=category"
        text = f"the target {name} has text ({shown!r}), and a number is wanted"
        return ConfigError(
            Problem(KEY, text, f"write {as_classes}, or name another data.target=<column>", topic="data")
        )
    text = f"{KEY}=number makes values of the target {name}, and the loss takes classes"
    return ConfigError(Problem(KEY, text, f"write {KEY}=category, or loss=mse", topic="conflict"))


def _numbers(name: str, values: np.ndarray, known: np.ndarray, note: str, kind: str, doubted: bool) -> Answer:
    present = values[known]
    _check_different(name, sorted({_shown(value) for value in present[:1000]}), len(np.unique(present)))
    what = "days since 1970" if kind == "date" else "numbers"
    count = len(np.unique(present))
    if doubted:
        what = f"numbers ({count} different whole ones; {KEY}=category makes classes of them)"
    return Answer(np.where(known, values, 0.0), known, None, _with(what, note))


def _classes(name: str, values: np.ndarray, known: np.ndarray, classes: list[str], note: str) -> Answer:
    _check_different(name, classes, len(classes))
    encoded = np.zeros(len(values), dtype=np.int64)
    encoded[known] = np.unique(values[known], return_inverse=True)[1]
    return Answer(encoded, known, classes, _with(f"{len(classes)} classes ({list_names(classes)})", note))


def _text_classes(name: str, texts: np.ndarray, known: np.ndarray, values: np.ndarray | None, typed: bool) -> Answer:
    """Make classes of texts, or of true and false: of several spellings one class."""
    present = texts[known]
    if values is not None and len(set(present)) > 2:
        texts = np.where(values == 1, "true", "false").astype(object)
        present = texts[known]
    count = len(set(present))
    if not typed and len(present) >= NAMES and 2 * count > len(present):
        text = (
            f"data.target: the target {name} has {count:,} different texts in {len(present):,} rows, too many to learn"
        )
        suggestion = f"name another column with data.target=<column>, or write {KEY}=category if they are classes"
        raise ConfigError(Problem("data.target", text, suggestion, topic="data"))
    return _classes(name, texts, known, sorted(set(present)), "")


def _check_different(name: str, values: list[str], count: int) -> None:
    """Check that there is something to predict."""
    if count == 0:
        text, instead = f"the target {name} has no values", "name another column with data.target=<column>"
    elif count == 1:
        text, instead = f"the target {name} is {values[0]} in all rows", "name another column with data.target=<column>"
    else:
        return
    raise ConfigError(Problem("data.target", f"data.target: {text}", instead, topic="data"))


def _shown(value: float) -> str:
    return str(int(value)) if value % 1 == 0 else repr(float(value))


def _with(what: str, note: str) -> str:
    return f"{what}; {note}" if note else what
