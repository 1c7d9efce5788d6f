"""Evaluate sample by sample: target, prediction, loss and other metrics of each, as a table.

The metrics of a sample are those of a batch of it alone; for `task=supervised` there is the loss only, computed from
the outputs of a whole batch. The mean of these losses over the samples, or over the column `weight` where there is one,
is the loss of the split. Where it is not, as with a contrastive loss, which compares the samples of a batch, the table
has no losses.
"""

import csv
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count as numbers_from
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runner.data.collate import Batch
from runner.data.loading import Loader
from runner.data.part import Part
from runner.errors import ConfigError, Problem, escape_undecodable, first_line, user_frame_suffix
from runner.loss import Loss, answers
from runner.runs import columns
from runner.task.supervised import Supervised
from runner.task.task import count
from runner.training.predictions import class_of
from runner.training.running_metrics import RunningMetrics
from runner.training.state import Training
from runner.util import trees
from runner.util.files import replacing

Columns = dict[str, Sequence[object]]
"""Cells by column, one for each sample of a batch."""

Convert = Callable[[Tensor], Tensor]
"""Converts values to those that a table shows."""

CLOSE = 1e-3
"""How far the mean of the losses of all samples may be from the loss of the split, relative to it."""


@dataclass
class Losses:
    """The losses of the samples so far, and their weights.

    Attributes:
        values: (N,) of each batch.
        weights: (N,) of each batch.
        metrics: of each sample, by name: the other scalars of a step, and the metrics of the task.
        unknown: why the samples have no loss; None if they have.
    """

    values: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    metrics: list[Mapping[str, float]] = field(default_factory=list)
    unknown: str | None = None

    def add(self, values: Tensor, weights: Tensor | None) -> None:
        """Add those of a batch; without weights each sample counts once."""
        self.values.append(values.detach().cpu())
        self.weights.append(torch.ones(len(values)) if weights is None else weights.detach().cpu())

    def columns(self, loss: float | None) -> tuple[Columns, str | None]:
        """Return the columns `loss` and, unless all are 1, `weight`; or none, and why.

        Args:
            loss: of the split; None if the task measures none.
        """
        if loss is None or self.unknown is not None:
            return {}, self.unknown or "the task measures none"
        values, weights = torch.cat(self.values), torch.cat(self.weights)
        counted = weights != 0
        shares = weights[counted].double()
        mean = float((values[counted].double() * shares).sum() / shares.sum())
        if not math.isclose(mean, loss, rel_tol=CLOSE, abs_tol=1e-9):
            apart = f"they average to {mean:.4g} one by one, the split has {loss:.4g}"
            return {}, f"the loss of this task is not a mean over samples: {apart}"
        weighted = {} if bool((weights == 1).all()) else {"weight": _numbers(weights)}
        names = dict.fromkeys(name for metrics in self.metrics for name in metrics)
        measured = {name: [metrics.get(name, "") for metrics in self.metrics] for name in names}
        return {"loss": _numbers(values), **weighted, **measured}, None


def write_samples(
    path: Path, state: Training, loader: Loader, part: Part, classes: Sequence[str] | None, loss: float | None
) -> list[str]:
    """Write a CSV file with a row for each sample of a split, in its order.

    Args:
        path: the file; it appears once it is complete.
        state: has the weights to evaluate.
        loader: the samples, in order.
        part: the same samples, which may have names of files, or places in one: `index` of a table's is their row.
        classes: the names of the classes.
        loss: of the split; None if the task measures none.

    Returns:
        What the file lacks, and why, in a line each.

    Raises:
        ConfigError: the file cannot be written.
    """
    losses = Losses()
    each = ((count(batch[0]), *_columns(state, batch, classes, losses)) for batch in batches(state, loader))
    return _write(path, each, part, losses, loss)


def write_outputs(
    path: Path,
    loss: Loss,
    outputs: Tensor,
    targets: Tensor,
    part: Part,
    classes: Sequence[str] | None,
    convert: Convert,
    of_part: float | None,
) -> list[str]:
    """Write the same file for outputs (N, K) of `task=supervised` that are known.

    Args:
        path: see `write_samples`, as `part` and `classes`.
        loss: the loss.
        outputs: logits, or values.
        targets: as the loss takes them.
        part: the samples.
        classes: their names.
        convert: converts values, and targets that are values, to those that are shown.
        of_part: the loss of the part.

    Returns:
        What the file lacks.

    Raises:
        ConfigError: the file cannot be written.
    """
    losses = Losses()
    weighted = isinstance(loss.denominator(outputs, targets), Tensor)
    cells = _of_outputs(loss, outputs, targets, weighted, classes, convert, losses)
    return _write(path, [(len(outputs), cells, [])], part, losses, of_part)


def _write(
    path: Path, each: Iterable[tuple[int, Columns, list[str]]], part: Part, losses: Losses, loss: float | None
) -> list[str]:
    """Write the rows of batches: see `write_samples`."""
    try:
        with (
            replacing(path) as fresh,
            tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as rows,
            fresh.open("w", encoding="utf-8", newline="") as file,
        ):
            left_out = _write_rows(rows, each, part)
            rows.seek(0)
            cells, unknown = losses.columns(loss)
            table, more = csv.writer(file, lineterminator="\n"), [[*cells], *zip(*cells.values(), strict=True)]
            for number, row in enumerate(csv.reader(rows)):
                table.writerow([*row, *(more[number] if cells else ())])
    except OSError as error:
        text = f"output={path} cannot be written: {error.strerror or error}"
        raise ConfigError(Problem("output", text, "write another file", topic="file")) from error
    lines = [f"without {', '.join(left_out)}, which the table has no room for"] if left_out else []
    return [*lines, *([f"without loss: {unknown}"] if unknown else [])]


def _write_rows(file: Any, each: Iterable[tuple[int, Columns, list[str]]], part: Part) -> list[str]:
    """Write all columns but the losses; returns what has too many values for a table.

    Args:
        file: is written.
        each: of each batch the number of samples, their cells, and what has too many values.
        part: the samples.
    """
    table, numbers = csv.writer(file, lineterminator="\n"), numbers_from()
    names, places = part.file_names(), part.row_numbers()
    left_out: list[str] = []
    for first, (length, cells, too_wide) in enumerate(each):
        left_out = too_wide
        if not first:
            table.writerow(["index", *(["file"] if names else []), *map(escape_undecodable, cells)])
        samples = [range(length)] if not cells else list(cells.values())
        for row in zip(*samples, strict=True):
            number = next(numbers)
            named = [escape_undecodable(names[number])] if names else []
            index = places[number] if places is not None else number
            table.writerow([index, *named, *(escape_undecodable(str(cell)) for cell in row if cells)])
    return left_out


def batches(state: Training, loader: Loader) -> Iterator[Batch]:
    """Yield the batches of a split while model and task are in evaluation mode."""
    for module in (state.eval_model, state.task):
        module.eval()
    with ExitStack() as stack:
        stack.enter_context(state.device.evaluating())
        stack.enter_context(torch.inference_mode())
        stack.enter_context(state.evaluation_rng())
        yield from loader.epoch(0)


def _columns(state: Training, batch: Batch, classes: Sequence[str] | None, losses: Losses) -> tuple[Columns, list[str]]:
    task = state.task
    if columns.answers_classes(task) and isinstance(task, Supervised) and type(task).step is Supervised.step:
        return _supervised(state, task, batch, classes, losses), []
    return _of_task(state, batch, losses)


def _supervised(
    state: Training, task: Supervised, batch: Batch, classes: Sequence[str] | None, losses: Losses
) -> Columns:
    """Return the columns of a batch: its outputs are computed at once."""
    with state.precision.autocast():
        step = task.measure(state.eval_forward, batch)
    scale, weighted = state.target_scale, isinstance(step.weight, Tensor)
    here = None if scale is None else scale.to(step.outputs.device)

    def convert(values: Tensor) -> Tensor:
        return values if here is None else here.rounded(here.in_units(values), values.dtype)

    return _of_outputs(task.loss, step.outputs, step.targets, weighted, classes, convert, losses)


def _of_outputs(
    loss: Loss,
    outputs: Tensor,
    targets: Tensor,
    weighted: bool,
    classes: Sequence[str] | None,
    convert: Convert,
    losses: Losses,
) -> Columns:
    one_by_one = [(outputs[at : at + 1], targets[at : at + 1]) for at in range(len(outputs))]
    weights = torch.stack([torch.as_tensor(loss.denominator(*one)) for one in one_by_one]) if weighted else None
    losses.add(torch.stack([loss(*one) for one in one_by_one]), weights)
    probabilities = loss.probabilities(outputs)
    if probabilities is not None:
        probability, predicted = probabilities.float().max(dim=1)
        named = {"target": class_of(targets).long(), "prediction": predicted}
        cells = {name: _class_names(numbers, classes) for name, numbers in named.items()}
        return {**cells, "probability": _numbers(probability)}
    predictions = answers(loss, outputs)
    values = {"target": convert(targets), "prediction": convert(outputs) if predictions is outputs else predictions}
    return _cells({name: tensor.squeeze(1) if tensor.shape[1:] == (1,) else tensor for name, tensor in values.items()})


def _of_task(state: Training, batch: Batch, losses: Losses) -> tuple[Columns, list[str]]:
    """Return the columns of a batch of any task, and what has too many values for a table."""
    inputs, targets = batch
    if losses.unknown is None:
        try:
            _add_one_by_one(state, inputs, targets, losses)
        except Exception as error:  # a step need not take a single sample
            losses.unknown = f"the step fails for a single sample: {first_line(error)}{user_frame_suffix(error)}"
    found: dict[str, Tensor] = {}
    if isinstance(targets, Tensor):
        found["target"] = targets
    found |= _predicted(state, inputs)
    narrow = {
        name: tensor for name, tensor in found.items() if columns.width_of({name: tensor}) <= columns.MOST_COLUMNS
    }
    return _cells(narrow), [name for name in found if name not in narrow]


def _add_one_by_one(state: Training, inputs: Any, targets: Any, losses: Losses) -> None:
    """Add the losses, weights and other metrics of the samples of a batch, each measured alone."""
    values, weights = [], []
    sums = RunningMetrics(state.task, state.device.torch, state.target_scale)
    sums.extra = None  # those of the key `metrics` are of a whole part
    for index in range(count(inputs)):
        at = slice(index, index + 1)
        one = trees.at(inputs, at), None if targets is None else trees.at(targets, at)
        with state.precision.autocast():
            step = state.task.measure(state.eval_forward, one)
        values.append(torch.as_tensor(math.nan) if step.loss is None else step.loss.cpu())
        weights.append(torch.as_tensor(step.weight).cpu())
        sums.reset()
        sums.add(step)
        losses.metrics.append({name: mean for name, mean in sums.means().items() if name != "loss"})
    losses.add(torch.stack(values), torch.stack(weights))


def _predicted(state: Training, inputs: Any) -> dict[str, Tensor]:
    """Return what the task predicts; nothing if it does not predict from these inputs."""
    try:
        with state.precision.autocast():
            result = state.task.predict(state.eval_model, inputs)
        named = columns.named_predictions(result, count(inputs))
    except Exception:  # a task need not have predictions
        return {}
    return {"prediction" if name == columns.VALUE else name: values for name, values in named.items()}


def _cells(named: dict[str, Tensor]) -> Columns:
    """Return the cells of tensors (N, ...), by the names of their columns."""
    cpu = {name: columns.printable(values.detach().cpu()) for name, values in named.items()}
    return dict(zip(columns.header_of(cpu), zip(*columns.rows_of(cpu), strict=True), strict=True)) if cpu else {}


def _numbers(values: Tensor) -> Sequence[object]:
    return [*columns.printable(values.detach().cpu()).numpy()]


def _class_names(numbers: Tensor, classes: Sequence[str] | None) -> Sequence[object]:
    return [classes[number] if classes and 0 <= number < len(classes) else number for number in numbers.tolist()]
