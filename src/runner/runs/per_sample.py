"""Evaluate sample by sample: target, prediction and loss of each, as a table.

The loss of a sample is that of a batch of it alone; for `task=supervised` it is computed from the outputs of a whole
batch. The mean of these losses over the samples, or over the column `weight` where there is one, is the loss of the
split. Where a loss compares the samples of a batch, as a contrastive one, a sample alone has another loss.
"""

import csv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runner.data.collate import Batch
from runner.data.loading import Loader
from runner.data.part import Part
from runner.errors import ConfigError, Problem, escape_undecodable
from runner.loss import BCEWithLogits, answers
from runner.runs import columns
from runner.task.supervised import Supervised
from runner.task.task import count
from runner.training.predictions import class_of
from runner.training.state import Training
from runner.util import trees
from runner.util.files import replacing

Columns = dict[str, Sequence[object]]
"""Cells by column, one for each sample of a batch."""


def write_samples(path: Path, state: Training, loader: Loader, part: Part, classes: Sequence[str] | None) -> list[str]:
    """Write a CSV file with a row for each sample of a split, in its order.

    Args:
        path: the file; it appears once it is complete.
        state: has the weights to evaluate.
        loader: the samples, in order.
        part: the same samples, which may have names of files.
        classes: the names of the classes.

    Returns:
        What was left out because it has more than `columns.MOST_COLUMNS` values a sample.

    Raises:
        ConfigError: the file cannot be written.
    """
    names, first = part.file_names(), 0
    left_out: list[str] = []
    try:
        with replacing(path) as fresh, fresh.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            for batch in _batches(state, loader):
                cells, left_out = _columns(state, batch, classes)
                rows = [*zip(*cells.values(), strict=True)]
                if not first:
                    table.writerow(["index", *(["file"] if names else []), *map(escape_undecodable, cells)])
                for number, row in enumerate(rows, first):
                    named = [escape_undecodable(names[number])] if names else []
                    table.writerow([number, *named, *(escape_undecodable(str(cell)) for cell in row)])
                first += len(rows)
    except OSError as error:
        text = f"output={path} cannot be written: {error.strerror or error}"
        raise ConfigError(Problem("output", text, "write another file", topic="file")) from error
    return left_out


def _batches(state: Training, loader: Loader) -> Iterator[Batch]:
    """Yield the batches of a split while model and task are in evaluation mode."""
    for module in (state.eval_model, state.task):
        module.eval()
    with ExitStack() as stack:
        stack.enter_context(state.device.evaluating())
        stack.enter_context(torch.inference_mode())
        yield from loader.epoch(0)


def _columns(state: Training, batch: Batch, classes: Sequence[str] | None) -> tuple[Columns, list[str]]:
    task = state.task
    if columns.answers_classes(task) and isinstance(task, Supervised) and type(task).step is Supervised.step:
        return _supervised(state, task, batch, classes), []
    return _of_task(state, batch)


def _supervised(state: Training, task: Supervised, batch: Batch, classes: Sequence[str] | None) -> Columns:
    """Return the columns of a batch: its outputs are computed at once."""
    with state.precision.autocast():
        step = task.measure(state.eval_forward, batch)
    loss, outputs, targets = task.loss, step.outputs, step.targets
    one_by_one = [(outputs[at : at + 1], targets[at : at + 1]) for at in range(len(outputs))]
    losses = torch.stack([loss(*one) for one in one_by_one])
    weights = None
    if isinstance(step.weight, Tensor):
        weights = torch.stack([torch.as_tensor(loss.denominator(*one)) for one in one_by_one])
    probabilities = loss.probabilities(outputs)
    if probabilities is not None:
        probability, predicted = probabilities.float().max(dim=1)
        named = {"target": class_of(targets).long(), "prediction": predicted}
        cells = {name: _class_names(numbers, classes) for name, numbers in named.items()}
        return {**cells, "probability": _numbers(probability), **_losses(losses, weights)}
    values = {"target": targets, "prediction": outputs}
    if state.target_scale is not None:
        scale = state.target_scale.to(outputs.device)
        values = {name: scale.in_units(tensor) for name, tensor in values.items()}
    elif isinstance(loss, BCEWithLogits):
        values["prediction"] = answers(loss, outputs)
    return {
        **_cells({name: tensor.squeeze(1) if tensor.shape[1:] == (1,) else tensor for name, tensor in values.items()}),
        **_losses(losses, weights),
    }


def _of_task(state: Training, batch: Batch) -> tuple[Columns, list[str]]:
    """Return the columns of a batch of any task, and what has too many values for a table."""
    inputs, targets = batch
    losses, weights = [], []
    for index in range(count(inputs)):
        at = slice(index, index + 1)
        one = trees.at(inputs, at), None if targets is None else trees.at(targets, at)
        with state.precision.autocast():
            step = state.task.measure(state.eval_forward, one)
        losses.append(torch.as_tensor(float("nan")) if step.loss is None else step.loss.cpu())
        weights.append(step.weight)
    weighted = torch.stack([torch.as_tensor(weight).cpu() for weight in weights])
    found: dict[str, Tensor] = {}
    if isinstance(targets, Tensor):
        found["target"] = targets
    found |= _predicted(state, inputs)
    narrow = {
        name: tensor for name, tensor in found.items() if columns.width_of({name: tensor}) <= columns.MOST_COLUMNS
    }
    cells = {**_cells(narrow), **_losses(torch.stack(losses), weighted if bool((weighted != 1).any()) else None)}
    return cells, [name for name in found if name not in narrow]


def _predicted(state: Training, inputs: Any) -> dict[str, Tensor]:
    """Return what the task predicts; nothing if it does not predict from these inputs."""
    try:
        with state.precision.autocast():
            result = state.task.predict(state.eval_model, inputs)
        named = columns.named_predictions(result, count(inputs))
    except Exception:  # a task need not have predictions
        return {}
    return {"prediction" if name == columns.VALUE else name: values for name, values in named.items()}


def _losses(losses: Tensor, weights: Tensor | None) -> Columns:
    return {"loss": _numbers(losses), **({} if weights is None else {"weight": _numbers(weights)})}


def _cells(named: dict[str, Tensor]) -> Columns:
    """Return the cells of tensors (N, ...), by the names of their columns."""
    cpu = {name: columns.printable(values.detach().cpu()) for name, values in named.items()}
    return dict(zip(columns.header_of(cpu), zip(*columns.rows_of(cpu), strict=True), strict=True)) if cpu else {}


def _numbers(values: Tensor) -> Sequence[object]:
    return [*columns.printable(values.detach().cpu()).numpy()]


def _class_names(numbers: Tensor, classes: Sequence[str] | None) -> Sequence[object]:
    return [classes[number] if classes and 0 <= number < len(classes) else number for number in numbers.tolist()]
