"""`data=table`: a table as it is, with text, blanks, dates, true and false; what was guessed is said.

The kinds of columns are decided from the files. Means, scales and categories come from the training part alone: they
are fitted by `TableRows.fit`, which is called once the parts are divided.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from runner.data.held_out import TEST_FRACTION, choose_test_samples
from runner.data.listing import list_names
from runner.data.named_path import NamedPath
from runner.data.paths import shared_samples
from runner.data.source import Source
from runner.data.table_answer import Answer, read_answer
from runner.data.table_files import TEST, TRAIN, VAL, check_classes, find_files
from runner.data.table_index import find_name
from runner.data.table_reader import Frame, find_index, read_frame
from runner.data.table_target import Takes, TargetType
from runner.errors import ConfigError, Problem, did_you_mean
from runner.util.ranges import Choice

if TYPE_CHECKING:
    import pandas as pd

    from runner.data.tabular.columns import Column
    from runner.data.tabular.encoder import Encoder, Raw


def table(
    path: str | Path | None,
    target: str | int | None = None,
    val_path: str | Path | None = None,
    test_path: str | Path | None = None,
    test_fraction: float | None = None,
    index: str | int = "auto",
    header: Annotated[bool | Literal["auto"], Choice(("auto", True, False))] = "auto",
    target_type: Annotated[TargetType, Choice(("auto", "category", "number"))] = "auto",
    loss_takes: Takes | None = None,
    model_embeds: bool = False,
    fitted: Mapping[str, Any] | None = None,
    split_by: str | None = None,
    sample_weight: str | None = None,
) -> Source:
    """Load a table of any columns.

    Args:
        path: the file: CSV, TSV or Parquet, gzipped or not.
        target: the column to predict; None is the last one. Without a header columns are called 0, 1, ...
        val_path: a file with the same columns to validate on; None leaves it to `data.val_fraction`.
        test_path: a file with the same columns to test on; None holds the test part out of `path`.
        test_fraction: the share of rows that is held out, the same ones for every seed; None is `TEST_FRACTION`.
            It excludes `test_path`.
        index: the column that numbers or names the rows and is left out: `auto`, `none` or a name.
        header: whether the first row has the names: `auto`, True or False.
        target_type: `auto`, `category` or `number`.
        loss_takes: what the loss takes as targets, for `target_type=auto`; None if it is not known.
        model_embeds: whether the model takes numbers and the codes of categories; else it takes one vector a row.
        fitted: columns and transformers of the run that trained the model; None decides on them.
        split_by: the column of groups, of which none is in two parts; None if there are no groups.
        sample_weight: the column of the weights by which samples are drawn; None if there are none.

    Returns:
        Rows that become inputs once they are divided. Targets (N,) are int64 class indices, with the names of the
        classes, or float64 numbers.

    Raises:
        ConfigError: a file cannot be used; or there is nothing to learn, or nothing to learn from.
    """
    files = find_files("table", {TRAIN: path, VAL: val_path, TEST: test_path}, test_fraction)
    known = [str(name) for name in (target, index) if name not in (None, "auto", "none")]
    frames = _read_frames(files, header, known)
    left_out, note = _find_index(frames[TRAIN], index, files[TRAIN])
    source = assemble(
        "table",
        frames,
        files,
        target=_find_target(frames[TRAIN], target, left_out, files[TRAIN]),
        left_out=left_out,
        test_fraction=TEST_FRACTION if test_fraction is None else test_fraction,
        target_type=target_type,
        loss_takes=loss_takes,
        model_embeds=model_embeds,
        fitted=fitted,
        split_by=split_by,
        sample_weight=sample_weight,
    )
    check_classes(source, files)
    shared = shared_samples({key: file.path for key, file in files.items()})
    last = " (the last column)" if target is None else ""
    found, *others = source.notes
    notes = [f"target {source.target}{last}: {found}", *([note] if note else []), *others, *shared]
    return replace(source, notes=notes, origin=", ".join(str(file.path) for file in files.values()))


def assemble(
    name: str,
    frames: Mapping[str, Frame],
    files: Mapping[str, NamedPath],
    *,
    target: str,
    left_out: str | None,
    test_fraction: float,
    target_type: TargetType,
    loss_takes: Takes | None,
    model_embeds: bool,
    fitted: Mapping[str, Any] | None,
    split_by: str | None = None,
    sample_weight: str | None = None,
) -> Source:
    """Make a data set of tables that have been read.

    Args:
        name: of the data set.
        frames: the tables, by the keys of their files; the test part is held out of `TRAIN` if there is no `TEST`.
        files: of the tables, for problems.
        target: the column to predict.
        left_out: the column that numbers or names the rows.
        test_fraction: the share of rows that is held out.
        target_type: see `table`, as the others.
        loss_takes: see `table`.
        model_embeds: see `table`.
        fitted: see `table`.
        split_by: see `table`.
        sample_weight: see `table`.

    Returns:
        The data set; its first note is about the target.
    """
    whole = frames[TRAIN]
    _check_frames(frames, files, target, left_out)
    comma = _uses_decimal_comma(frames)
    answer = read_answer(target, _joined(frames, target), target_type, loss_takes, comma)
    if fitted is None:
        features = [column for column in whole.cells if column not in (target, left_out)]
        columns, notes = _decide(frames, features, files[TRAIN], comma)
    else:
        columns, notes = _find_again(fitted, whole, files[TRAIN]), []
    layout = {"header": whole.header, "target": target, "width": whole.cells.shape[1]}
    rows = TableRows(columns, model_embeds, layout, fitted)
    parts, dropped = _divide(rows, frames, answer)
    kept = whole.cells[answer.known[: len(whole.cells)]]
    named = [name for name in (split_by, sample_weight) if name is not None and name in kept]
    arrays = {name: [str(value) for value in kept[name]] for name in named}
    train, test = parts[TRAIN], parts.get(TEST)
    if test is None:
        groups = arrays.get(split_by or "")
        is_test = torch.from_numpy(choose_test_samples(len(train[0]), test_fraction, groups))
        arrays = {column: [values[at] for at in (~is_test).nonzero().flatten()] for column, values in arrays.items()}
        train, test = (train[0][~is_test], train[1][~is_test]), (train[0][is_test], train[1][is_test])
    return Source(
        name=name,
        train=train,
        val=parts.get(VAL),
        test=test if len(test[0]) else None,
        classes=answer.classes,
        columns=[column for column in whole.cells if column != left_out],
        target=target,
        scale=1.0,
        rows=rows,
        arrays=arrays,
        notes=[answer.note, *dropped, *whole.notes, *notes],
    )


class TableRows:
    """Rows as tensors: numbers, and a number that stands for each text, so that a hash of them is one of the table.

    Args:
        columns: the features.
        codes: whether categories become codes.
        layout: of the training table, for new ones.
        fitted: the transformers of an earlier run; None fits them.
    """

    def __init__(
        self, columns: "list[Column]", codes: bool, layout: Mapping[str, Any], fitted: Mapping[str, Any] | None = None
    ) -> None:
        self.columns, self.codes, self.layout, self._fitted = columns, codes, layout, fitted
        self._texts: dict[float, str] = {}
        self.example: dict[str, list[Any]] = {}

    def tensor(self, cells: "pd.DataFrame") -> Tensor:
        """Return rows as float64 (N, numbers + categories)."""
        from runner.data.tabular.encoder import read

        raw = read(self.columns, cells)
        numbers = np.empty(raw.texts.shape, dtype=np.float64)
        for place in range(raw.texts.shape[1]):
            texts, index = np.unique(raw.texts[:, place], return_inverse=True)
            marks = [_mark(text) for text in texts]
            self._texts |= dict(zip(marks, texts, strict=True))
            numbers[:, place] = np.array(marks)[index]
        return torch.from_numpy(np.concatenate([raw.numbers, numbers], axis=1))

    def raw(self, rows: Tensor) -> "Raw":
        """Return the numbers and texts of what `tensor` returned."""
        from runner.data.tabular.encoder import Raw

        width = sum(len(column.numbers) for column in self.columns)
        marks = rows[:, width:].numpy()
        texts = np.empty(marks.shape, dtype=object)
        for place in range(marks.shape[1]):
            different, index = np.unique(marks[:, place], return_inverse=True)
            texts[:, place] = np.array([self._texts[mark] for mark in different], dtype=object)[index]
        return Raw(rows[:, :width].numpy(), texts)

    def fit(self, rows: Tensor) -> "FittedTable":
        """Fit the transformers to the rows of the training part, or rebuild those of an earlier run."""
        from runner.data.tabular.encoder import Encoder

        if self._fitted is not None:
            return FittedTable(self, Encoder.from_state(self._fitted["encoder"]))
        return FittedTable(self, Encoder.fit(self.columns, self.raw(rows), self.codes))


@dataclass(frozen=True)
class FittedTable:
    """The rows of a table with their fitted transformers."""

    rows: TableRows
    encoder: "Encoder"

    @property
    def sizes(self) -> list[int]:
        """The number of codes of each category column; none if the inputs are one vector a row."""
        return self.encoder.sizes if self.encoder.codes else []

    def inputs(self, rows: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the inputs of rows as a model takes them: see `Encoder.transform`."""
        return as_tensors(self.encoder.transform(self.rows.raw(rows)))

    def state(self) -> dict[str, Any]:
        """Return what reads new tables for the same model, as JSON."""
        return {"layout": dict(self.rows.layout), "encoder": self.encoder.state()}

    @property
    def example(self) -> dict[str, list[Any]]:
        """Two rows of the table, by column."""
        return self.rows.example


def as_tensors(inputs: "np.ndarray | dict[str, np.ndarray]") -> Tensor | dict[str, Tensor]:
    """Return what `Encoder.transform` returned as tensors."""
    if isinstance(inputs, dict):
        return {name: torch.from_numpy(values) for name, values in inputs.items()}
    return torch.from_numpy(inputs)


def _mark(text: str) -> float:
    """Return a number that stands for a text: 48 bits of its hash, which float64 holds."""
    return float(int.from_bytes(sha256(text.encode(errors="surrogatepass")).digest()[:6], "big"))


def _read_frames(files: Mapping[str, NamedPath], header: bool | Literal["auto"], known: list[str]) -> dict[str, Frame]:
    """Read each file; the problems of all are reported together."""
    problems: list[Problem] = []
    frames: dict[str, Frame] = {}
    for key, file in files.items():
        try:
            frames[key] = read_frame(file, header, known)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    return frames


def _find_index(frame: Frame, index: str | int, file: NamedPath) -> tuple[str | None, str]:
    """Find the column that numbers or names the rows; one that counts them stays if it is the only feature."""
    left_out, note = find_index(frame, index, file)
    if index == "auto" and frame.cells.shape[1] == 2 and left_out == next(iter(frame.cells)) and "counts" in note:
        return None, "column 1 counts the rows, and is the only feature"
    return left_out, note


def _find_target(frame: Frame, target: str | int | None, left_out: str | None, file: NamedPath) -> str:
    """Return the name of the column to predict."""
    key, names = "data.target", [name for name in frame.cells if name != left_out]
    if target is None:
        return names[-1]
    name = find_name(str(target), list(frame.cells))
    if name is not None and name == left_out:
        text = f"{key}={target} is the column that numbers the rows, which is left out"
        raise ConfigError(Problem(key, text, "name another column, or write data.index=none", topic="conflict"))
    if name is None:
        text = f"{key}={target} is not a column of {file.path}"
        raise ConfigError(Problem(key, text, did_you_mean(str(target), names), topic="unknown"))
    return name


def _check_frames(
    frames: Mapping[str, Frame], files: Mapping[str, NamedPath], target: str, left_out: str | None
) -> None:
    """Check that all tables have rows and the same columns, and that there are features."""
    whole, problems = frames[TRAIN], list[Problem]()
    wanted = {*whole.cells} - {left_out}
    for key, frame in frames.items():
        more, lacking = {*frame.cells} - wanted - {left_out}, wanted - {*frame.cells}
        if more or lacking:
            which = [f"lacks the columns {list_names(lacking)}"] if lacking else []
            which += [f"has columns that the training table lacks: {list_names(more)}"] if more else []
            problems.append(files[key].problem("; ".join(which), "give both tables the same columns"))
        elif len(frame.cells) == 0:
            problems.append(files[key].problem("no samples, only a header", "name a file with samples"))
    if wanted == {target}:
        problems.append(files[TRAIN].problem(f"no column besides the target {target}", "give it features"))
    if problems:
        raise ConfigError(*problems)


def _joined(frames: Mapping[str, Frame], name: str) -> "pd.Series":
    """Return the cells of a column in all tables."""
    import pandas as pd

    return pd.concat([frame.cells[name] for frame in frames.values()], ignore_index=True)


def _uses_decimal_comma(frames: Mapping[str, Frame]) -> bool:
    """Whether a comma in doubtful numbers is a decimal separator: as in another column, or between semicolons."""
    from runner.data.tabular.columns import has_decimal_comma

    whole = frames[TRAIN]
    return whole.comma or any(has_decimal_comma(whole.cells[name]) for name in whole.cells)


def _decide(
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
        column, note = kinds.decide(name, _joined(frames, name), comma)
        if why := kinds.why_left_out(column, frames[TRAIN].cells[name]):
            useless.append(f"{name} ({why})")
            continue
        columns.append(column)
        notes += [note] if note else []
    if not columns:
        text = f"no column to learn from: {list_names(useless)}"
        raise ConfigError(file.problem(text, "give it features that differ from row to row"))
    texts = [column.name for column in columns if column.kind == "category"]
    notes += [f"categories: {list_names(texts)}"] if texts else []
    return columns, notes + ([f"left out: {list_names(useless)}"] if useless else [])


def _find_again(fitted: Mapping[str, Any], whole: Frame, file: NamedPath) -> "list[Column]":
    """Return the columns of an earlier run, which the table must have."""
    from runner.data.tabular.columns import columns_of

    columns = columns_of(fitted["encoder"]["columns"])
    if lacking := [column.name for column in columns if column.name not in whole.cells]:
        text = f"lacks the columns {list_names(lacking)}, which the model was trained on"
        raise ConfigError(file.problem(text, "name the columns as in the training table", topic="missing"))
    return columns


def _divide(
    rows: TableRows, frames: Mapping[str, Frame], answer: Answer
) -> tuple[dict[str, tuple[Tensor, Tensor]], list[str]]:
    """Return the rows and targets of each table, without rows that have no target; and notes about those."""
    parts: dict[str, tuple[Tensor, Tensor]] = {}
    first = 0
    for key, frame in frames.items():
        of_table = slice(first, first + len(frame.cells))
        known = answer.known[of_table]
        cells = frame.cells[known]
        if not rows.example:
            shown = cells.head(2)[[column.name for column in rows.columns]]
            rows.example = {str(name): shown[name].tolist() for name in shown}
        parts[key] = rows.tensor(cells), torch.from_numpy(answer.values[of_table][known])
        first = of_table.stop
    lost = int((~answer.known).sum())
    return parts, [f"{lost:,} rows without a target are left out"] if lost else []
