"""`data=table`: a table as it is, with text, blanks, dates, true and false; what was guessed is said.

The kinds of columns are decided from the files. Means, scales and categories come from the training part alone: they
are fitted by `TableRows.fit`, which is called once the parts are divided.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from runner.config.keys import format_value
from runner.data.held_out import TEST_FRACTION, choose_test_samples
from runner.data.listing import list_names
from runner.data.named_path import NamedPath
from runner.data.paths import shared_samples
from runner.data.source import Source, names_of
from runner.data.table_answer import Answer, describe_lost, read_answer, read_answers
from runner.data.table_features import decide_features, find_features, join_column, uses_decimal_comma
from runner.data.table_files import TEST, TRAIN, VAL, check_classes, find_files
from runner.data.table_index import find_name
from runner.data.table_reader import Frame, find_index, read_frame
from runner.data.table_rows import TableRows
from runner.data.table_target import Takes, TargetType
from runner.errors import ConfigError, Problem, did_you_mean
from runner.util.ranges import Choice


def table(
    path: str | Path | None,
    target: str | int | list[str | int] | None = None,
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
        target: the column to predict, or several of numbers or of labels (0 and 1, true and false); None is the last
            one. Without a header columns are called 0, 1, ...
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
        split_by: the column of groups, of which none is in two parts; None if there are no groups. It is no feature.
        sample_weight: the column of the weights by which samples are drawn; None if there are none. It is no feature.

    Returns:
        Rows that become inputs once they are divided. Targets (N,) are int64 class indices, with the names of the
        classes, or float64 numbers; several targets are float64 (N, K).

    Raises:
        ConfigError: a file cannot be used; or there is nothing to learn, or nothing to learn from.
    """
    files = find_files("table", {TRAIN: path, VAL: val_path, TEST: test_path}, test_fraction)
    wanted = target if isinstance(target, list) else [target]
    known = [str(name) for name in (*wanted, index) if name not in (None, "auto", "none")]
    frames = _read_frames(files, header, known)
    left_out, note = _find_index(frames[TRAIN], index, files[TRAIN])
    source = assemble(
        "table",
        frames,
        files,
        targets=_find_targets(frames[TRAIN], wanted, left_out, files[TRAIN]),
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
    names = ", ".join(names_of(source.target))
    notes = [f"target {names}{last}: {found}", *([note] if note else []), *others, *shared]
    return replace(source, notes=notes, origin=", ".join(str(file.path) for file in files.values()))


def assemble(
    name: str,
    frames: Mapping[str, Frame],
    files: Mapping[str, NamedPath],
    *,
    targets: list[str],
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
        targets: the columns to predict.
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
    _check_frames(frames, files, targets, left_out)
    comma = uses_decimal_comma(frames)
    cells = {name: join_column(frames, name) for name in targets}
    answer = (read_answers if len(targets) > 1 else read_answer)(cells, target_type, loss_takes, comma)
    target = targets if len(targets) > 1 else targets[0]
    if fitted is None:
        others = (*targets, left_out, split_by, sample_weight)
        features = [column for column in whole.cells if column not in others]
        columns, notes = decide_features(frames, features, files[TRAIN], comma)
    else:
        columns, notes = find_features(fitted, whole, files[TRAIN]), []
    layout = {"header": whole.header, "target": target, "width": whole.cells.shape[1]}
    rows = TableRows(columns, model_embeds, layout, fitted)
    kept = answer.known[: len(whole.cells)]
    named = [name for name in (split_by, sample_weight) if name is not None and name in whole.cells]
    arrays = {name: [str(value) for value in whole.cells[name][kept]] for name in named}
    is_test = None
    if TEST not in frames:
        is_test = choose_test_samples(int(kept.sum()), test_fraction, arrays.get(split_by or ""))
        arrays = {column: [values[at] for at in np.flatnonzero(~is_test)] for column, values in arrays.items()}
    parts = _divide(rows, frames, answer, is_test)
    dropped = [describe_lost(cells, answer.known)] if not answer.known.all() else []
    filled = _describe_blanks(rows.blanks)
    train, test = parts[TRAIN], parts[TEST]
    divided = {"train": train, "val": parts.get(VAL), "test": test if len(test[0]) else None}
    pairs = {name: None if tensors is None else tensors[:2] for name, tensors in divided.items()}
    return Source(
        name=name,
        train=pairs["train"],
        val=pairs["val"],
        test=pairs["test"],
        places={part: tensors[2] for part, tensors in divided.items() if tensors is not None},
        classes=answer.classes,
        columns=[column for column in whole.cells if column != left_out],
        target=target,
        scale=1.0,
        rows=rows,
        arrays=arrays,
        notes=[
            answer.note,
            f"{len(columns)} column{'' if len(columns) == 1 else 's'} to learn from",
            *dropped,
            *whole.notes,
            *notes,
            *filled,
        ],
    )


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


def _find_targets(
    frame: Frame, targets: Sequence[str | int | None], left_out: str | None, file: NamedPath
) -> list[str]:
    """Return the names of the columns to predict."""
    names = [_find_target(frame, target, left_out, file) for target in targets]
    if not names or len(set(names)) < len(names):
        text = f"data.target={format_value(list(targets))} names {'a column twice' if names else 'no column'}"
        raise ConfigError(Problem("data.target", text, "name each column once", topic="conflict"))
    return names


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
    frames: Mapping[str, Frame], files: Mapping[str, NamedPath], targets: list[str], left_out: str | None
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
    if wanted == {*targets}:
        text = f"no column besides the target {', '.join(targets)}"
        problems.append(files[TRAIN].problem(text, "give it features"))
    if problems:
        raise ConfigError(*problems)


def _divide(
    rows: TableRows, frames: Mapping[str, Frame], answer: Answer, is_test: np.ndarray | None
) -> dict[str, tuple[Tensor, ...]]:
    """Return rows, targets and row numbers of each part, without rows that have no target.

    Args:
        rows: make the tensors.
        frames: the tables.
        answer: the targets of all tables.
        is_test: which rows of `TRAIN` that have a target are those of `TEST`; None if there is a table to test on.
    """
    parts: dict[str, tuple[Tensor, ...]] = {}
    first = 0
    for key, frame in frames.items():
        of_table = slice(first, first + len(frame.cells))
        known = answer.known[of_table]
        complete = known.all()
        cells = frame.cells if complete else frame.cells[known]  # a selection copies all columns
        if not rows.example:
            shown = cells.head(2)[[column.name for column in rows.columns]]
            rows.example = {str(name): shown[name].tolist() for name in shown}
        chosen = {key: np.ones(len(cells), dtype=bool)}
        if key == TRAIN and is_test is not None:
            chosen = {TRAIN: ~is_test, TEST: is_test}
        tensors = rows.tensors(cells, list(chosen.values()), frame.plain)
        for (part, mask), tensor in zip(chosen.items(), tensors, strict=True):
            places = np.flatnonzero(mask) if complete else np.flatnonzero(known)[mask]
            parts[part] = tensor, torch.from_numpy(answer.values[of_table][places]), torch.from_numpy(places)
        first = of_table.stop
    return parts


def _describe_blanks(counts: Mapping[str, int]) -> list[str]:
    """Describe how many blanks are filled with the mean of their column, if there are any."""
    shown = list_names(f"{name} {count:,}" for name, count in counts.items() if count)
    return [f"blanks filled with the mean: {shown}"] if shown else []
