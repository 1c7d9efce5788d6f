"""The target of `data=table`: classes or numbers. What `data=csv` refuses as doubtful is decided here, and said."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from runner.config.keys import format_value
from runner.data.columns import find_different, is_whole
from runner.data.listing import list_names
from runner.data.table_target import (
    KEY,
    MOST_CLASSES,
    Takes,
    TargetType,
    refuse_many_numbers,
    too_many,
    too_many_to_learn,
)
from runner.errors import ConfigError, Problem

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Answer:
    """The target of each row.

    Attributes:
        values: class indices, int64 (N,), or numbers, float64 (N,), of several targets (N, K); those of rows without a
            target mean nothing.
        known: whether a row has a target, bool (N,).
        classes: the names of the classes 0, 1, ...; None for numbers.
        note: a short phrase about the decision.
    """

    values: np.ndarray
    known: np.ndarray
    classes: list[str] | None
    note: str


def read_answers(
    targets: "Mapping[str, pd.Series]", target_type: TargetType | None, takes: Takes | None, comma: bool = False
) -> Answer:
    """Read several targets: numbers, or labels, each of which is 0 or 1, or true or false.

    A row that lacks one of them has no target. The arguments are those of `read_answer`.

    Raises:
        ConfigError: a target has text, or is the same in all rows; or classes are wanted.
    """
    from runner.data.tabular import columns

    if target_type == "category" or takes == "classes":
        key, wrong = (KEY, f"{KEY}=category") if target_type == "category" else ("loss", "the loss takes classes")
        text = f"data.target={format_value(list(targets))}: several targets are numbers or labels, and {wrong}"
        raise ConfigError(Problem(key, text, f"write {KEY}=auto loss=auto, or name a single target", topic="conflict"))
    read, notes = list[np.ndarray](), list[str]()
    for name, series in targets.items():
        column, note = columns.decide(name, series, comma)
        if column.kind == "category":
            text = (
                f"data.target={format_value(list(targets))}: {name} has text, and several targets are numbers or labels"
            )
            instead = "write its labels as columns of 0 and 1, or name it alone"
            raise ConfigError(Problem("data.target", text, instead, topic="data"))
        read.append(column.values(series)[:, 0])
        notes += [note] if note else []
    values = np.stack(read, axis=1)
    known = ~np.isnan(values).any(axis=1)
    for name, present in zip(targets, values[known].T, strict=True):
        _check_different(name, [_shown(value) for value in present[:1]], len(np.unique(present)))
    labels = takes != "values" and bool(np.isin(values[known], (0, 1)).all())
    what = f"{len(read)} {'labels of yes or no' if labels else 'numbers a row'}"
    return Answer(np.where(known[:, None], values, 0.0), known, None, _with(what, "; ".join(notes)))


def read_answer(
    target: "Mapping[str, pd.Series]", target_type: TargetType | None, takes: Takes | None, comma: bool = False
) -> Answer:
    """Decide whether a target is classes or numbers.

    Text, and true and false, are classes. Whole numbers are classes if there are few: at most `MOST_CLASSES`, and a
    tenth of the rows. Other numbers, and dates as days, are numbers.

    Args:
        target: the cells of the column, of all parts, by its name.
        target_type: `category` or `number` decides; `auto`, or None, depends on the column.
        takes: what the loss takes as targets; None if that is not known.
        comma: whether a comma probably separates decimals.

    Raises:
        ConfigError: the target does not fit the loss, or has nothing to predict.
    """
    from runner.data.tabular import cells, columns

    ((name, series),) = target.items()
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
        different, _ = find_different(values[known])
        count = len(different)
        whole = column.kind == "number" and is_whole(different)
        few = count <= MOST_CLASSES and count * 10 <= known.sum()
        if wanted == "number" or not whole or not few:
            return _numbers(name, values, known, note, column.kind, whole and wanted is None)
    if values is not None and wanted == "number":
        return _numbers(name, values, ~np.isnan(values), note, column.kind, False)
    if values is not None and column.kind != "boolean":
        known = ~np.isnan(values)
        different, places = find_different(values[known])
        refuse_many_numbers(name, different, len(places), target_type, takes)
        return _classes(name, places, known, [_shown(value) for value in different], note)
    texts = cells.trimmed(series)
    known = ~texts.str.lower().isin(cells.BLANK_NUMBER if values is not None else cells.BLANK).to_numpy()
    return _text_classes(name, texts.to_numpy(dtype=object), known, values, target_type == "category")


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
    count = len(find_different(present)[0])
    _check_different(name, sorted({_shown(value) for value in present[:1000]}), count)
    what = "days since 1970" if kind == "date" else "numbers"
    if doubted:
        what = f"numbers ({count} different whole ones; {KEY}=category makes classes of them)"
    return Answer(np.where(known, values, 0.0), known, None, _with(what, note))


def _classes(name: str, places: np.ndarray, known: np.ndarray, classes: list[str], note: str) -> Answer:
    """Return classes; `places` are those of the rows that have one, among `classes`."""
    _check_different(name, classes, len(classes))
    encoded = np.zeros(len(known), dtype=np.int64)
    encoded[known] = places
    return Answer(encoded, known, classes, _with(f"{len(classes)} classes ({list_names(classes)})", note))


def _text_classes(name: str, texts: np.ndarray, known: np.ndarray, values: np.ndarray | None, typed: bool) -> Answer:
    """Make classes of texts, or of true and false: of several spellings one class."""
    present = texts[known]
    if values is not None and len(set(present)) > 2:
        texts = np.where(values == 1, "true", "false").astype(object)
        present = texts[known]
    count = len(set(present))
    if not typed and too_many(count, len(present)):
        suggestion = f"name another column with data.target=<column>, or write {KEY}=category if they are classes"
        raise too_many_to_learn(name, count, "texts", len(present), suggestion)
    classes, places = np.unique(present, return_inverse=True)
    return _classes(name, places, known, list(classes), "")


def describe_lost(targets: "Mapping[str, pd.Series]", known: np.ndarray) -> str:
    """Say how many rows have no target, and which words stand for a missing one: `NA` could be meant as a class.

    Args:
        targets: the cells of the targets by name.
        known: whether a row has a target, bool (N,).
    """
    from runner.data.tabular import cells

    texts = {text for series in targets.values() for text in cells.trimmed(series[~known])}
    words = sorted(text for text in texts if text and text.lower() in cells.BLANK_NUMBER)
    named = f" ({list_names(words)})" if words else ""
    meant = f"; if {words[0]} is a class, write another word in the file" if words else ""
    lost = int((~known).sum())
    rows = "1 row" if lost == 1 else f"{lost:,} rows"
    return f"{rows} without a target{named} {'is' if lost == 1 else 'are'} left out{meant}"


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
