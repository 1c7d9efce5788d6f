"""Checks of parts that are right one by one and do not fit together; all run before anything starts."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from runner.config.settings import TrainerSettings
from runner.data.splits import Splits
from runner.errors import ConfigError, Problem, did_you_mean, first_line
from runner.loss import Loss, name_of
from runner.metrics import ALIASES, Kind, MetricSet, read_entries
from runner.rundir import energy
from runner.rundir.checkpoint import find_unsavable
from runner.scheduler import Schedule
from runner.task import Step, Task, names_on
from runner.task.supervised import Supervised

VALUES_SHOWN = 6
MANY = 20  # more classes than this, with few samples each, may be numbers


def monitor(
    trainer: TrainerSettings,
    task: Task,
    splits: Splits | None,
    measured: Sequence[str] | None,
    kind: Kind | None,
) -> list[Problem]:
    """Check that the metric which the trainer monitors will be measured.

    Args:
        trainer: names the metric.
        task: measures it.
        splits: the data; None if it could not be read.
        measured: what a step of the task measures besides its metrics; None if no step could be run.
        kind: of its outputs and targets; None if nothing tells.
    """
    problems = []
    part = trainer.monitor.partition("/")[0]
    if measured is None and type(task).step is Supervised.step:
        measured = ("loss",)
    names = measured_by(task, measured or (), ("val", "train"))
    no_loss = measured is not None and "loss" not in measured and trainer.monitor == "val/loss"
    if trainer.monitor == energy.METRIC:
        text = f"trainer.monitor={trainer.monitor} rises from epoch to epoch, so the first would be the best"
        instead = f"write trainer.monitor={[*names, 'val/loss'][0]}"
        instead += f", and rank the jobs of a sweep by sweep.metric={energy.METRIC}"
        problems.append(Problem("trainer.monitor", text, instead, topic="choice"))
    elif measured is not None and trainer.monitor not in names and not no_loss:
        by = f"loss={name_of(task.loss)}" if isinstance(task, Supervised) else f"task={name_of(task)}"
        text = f"trainer.monitor={trainer.monitor} is not measured with {by}"
        name = trainer.monitor.partition("/")[2]
        fits = name in ALIASES and kind in ALIASES[name].kinds
        wanted = fits and task.extra is None and part in ("val", "train")
        instead = f"add metrics=[{name}]" if wanted else did_you_mean(trainer.monitor, names)
        if task.extra is not None and name in task.extra.names:  # not on the training part
            instead = f"write trainer.monitor=val/{name}"
        problems.append(Problem("trainer.monitor", text, instead, topic="choice"))
    elif task.extra is not None and task.extra.is_open(trainer.monitor.partition("/")[2]):
        name = trainer.monitor.partition("/")[2]
        text = f"trainer.monitor={trainer.monitor}: {name} does not declare whether higher is better"
        instead = f"write {{{name}:{{higher_is_better:true}}}}, or false, among its arguments in metrics"
        problems.append(Problem("trainer.monitor", text, instead, topic="missing"))
    patience = "trainer.early_stopping.patience"
    if no_loss and trainer.early_stopping.patience is not None:
        text, instead = f"{patience}: the task measures no loss", f"write trainer.monitor={names[0]}"
        problems.append(Problem(patience, text, instead, topic="conflict"))
    if splits is None or splits.val is not None:
        return problems
    needs = "needs validation samples"
    if part == "val" and trainer.early_stopping.patience is not None:
        instead = "write data.val_fraction=0.2, or trainer.monitor=train/loss"
        problems.append(Problem(patience, f"{patience} {needs}", instead, topic="conflict"))
    if trainer.validate_every_steps is not None:
        key = "trainer.validate_every_steps"
        instead = f"write data.val_fraction=0.2, or {key}=null"
        problems.append(Problem(key, f"{key} {needs}", instead, topic="conflict"))
    return problems


def registration(name: str | None, task: Task, splits: Splits | None, measured: Sequence[str] | None) -> list[Problem]:
    """Check that models can be compared on test samples, to find the better one: `tracking.register`.

    Args:
        name: of the registered model; None registers none.
        task: measures its samples.
        splits: the data; None if they could not be read.
        measured: what a step of the task measures besides its metrics; None if no step could be run.
    """
    key = "tracking.register"
    if name is None:
        return []
    if splits is not None and splits.test is None and splits.untouched is None:
        text = f"{key}={name}: {splits.name} has no test samples to compare it with the champion on"
        return [Problem(key, text, "leave it out, or add a test part", topic="data")]
    if measured is not None and "loss" not in measured:
        text = f"{key}={name}: {name_of(task)} measures no loss to compare it with the champion by"
        return [Problem(key, text, "leave it out", topic="conflict")]
    return []


def metrics(config: Mapping[str, Any]) -> list[Problem]:
    """Check the names of the key `metrics`, without importing what they name."""
    try:
        read_entries(config.get("metrics") or [])
    except ConfigError as error:
        return error.problems
    return []


def weight(task: Task, step: Step) -> None:
    """Check that samples have a weight in all.

    Raises:
        ConfigError: it is 0: the mean of the loss would be undefined.
    """
    if not torch.as_tensor(step.weight).any():
        text = f"task: the step of {name_of(task)} returns weight 0 for {step.samples} samples"
        raise ConfigError(Problem("task", text, "return what its loss is a mean over, a number above 0", topic="code"))


def measured_outputs(task: Task, step: Step) -> None:
    """Check that a step of a task returns what the key `metrics` measures.

    Raises:
        ConfigError: it does not.
    """
    if isinstance(step.outputs, Tensor) and isinstance(step.targets, Tensor):
        return
    text = f"metrics: the step of task={name_of(task)} returns no tensors called outputs and targets to measure"
    raise ConfigError(Problem("metrics", text, "return them, or write metrics=[]", topic="conflict"))


def tried_metrics(metrics: MetricSet, step: Step) -> None:
    """Check that metrics take what a step returns.

    Raises:
        ConfigError: one does not.
    """
    running = metrics.start(step.outputs.device, training=False)
    try:
        running.update(step.outputs, step.targets)
    except Exception as error:  # of torchmetrics, or of the user's code
        shapes = f"outputs {tuple(step.outputs.shape)} and targets {tuple(step.targets.shape)}"
        text = f"metrics: {', '.join(metrics.names)} fail for {shapes} of the task's step: {first_line(error)}"
        raise ConfigError(Problem("metrics", text, "change their arguments", topic="code")) from error


def measured_by(task: Task, measured: Sequence[str], parts: Sequence[str]) -> list[str]:
    """Return the names of all that a task measures on these parts of the data.

    Args:
        task: has the metrics.
        measured: what a step of the task measures besides them.
        parts: train, val or test.
    """
    return [f"{part}/{name}" for part in parts for name in dict.fromkeys((*measured, *names_on(task, part)))]


def turns(task: Task, measured: Sequence[str], optimizers: Mapping[str, Any]) -> list[Problem]:
    """Check that a step yields a loss for each of several optimizers, and returns one for a single optimizer.

    Args:
        task: computes the step.
        measured: what a step measured.
        optimizers: by name; empty for a single one.
    """
    if not inspect.isgeneratorfunction(type(task).step):
        if not optimizers:
            return []
        text = f"optimizers: the step of task={name_of(task)} returns one loss"
        return [Problem("optimizers", text, "yield (name, loss) for each, or leave optimizers out", topic="conflict")]
    if not optimizers:
        text = f"task={name_of(task)} yields losses by name, which several optimizers minimise"
        instead = f"add optimizers.{measured[0] if measured else '<name>'}._target_=torch.optim.Adam, params, lr"
        return [Problem("optimizers", text, instead, topic="missing")]
    return [
        Problem(
            f"optimizers.{name}", f"optimizers.{name}: the step never yields {name}",
            did_you_mean(name, measured), topic="unknown",
        )
        for name in optimizers if name not in measured
    ]  # fmt: skip


def outputs(model: Any, task: Task) -> list[Problem]:
    """Check that the loss gets logits if it takes logits."""
    activation, loss = model.get("output_activation") if isinstance(model, Mapping) else None, task.loss
    if loss is None or activation is None or type(loss).probabilities is Loss.probabilities:
        return []
    text = f"model.output_activation={activation}: loss={name_of(loss)} takes logits"
    instead = "write model.output_activation=null, or loss=mse"
    return [Problem("model.output_activation", text, instead, topic="conflict")]


def probabilities(activation: str | None, loss: Loss | None) -> list[str]:
    """Doubt a model that returns probabilities to a loss that computes them itself; it may be intended.

    Args:
        activation: the function that the model ends in, if any. A log_softmax is not reported: cross entropy does not
            change it.
        loss: takes the outputs.
    """
    if loss is None or activation not in ("softmax", "sigmoid") or type(loss).probabilities is Loss.probabilities:
        return []
    return [
        f"the model ends in a {activation}, and loss={name_of(loss)} applies one itself: let the model return its"
        f" values before the {activation}"
    ]


def classes(loss: Loss, splits: Splits) -> None:
    """Check that integer targets are classes if the loss takes classes: two or more; without names 0, 1, ...

    Raises:
        ConfigError: they may mean something else.
    """
    targets = splits.all_targets
    if loss.takes != "classes" or targets is None or targets.is_floating_point() or targets.ndim != 1:
        return
    values = [value for value in targets.unique().tolist() if value != loss.ignore_index]
    named = "data.classes={}" if splits.name == "tensors" else "Source(classes=[{} names])"
    if len(splits.classes or values) == 1:
        only = splits.classes[0] if splits.classes else values[0]
        rare = f"if others are rare, write {named.format(max(values[0] + 1, 2))}; " if not splits.classes else ""
        raise _doubtful(
            splits,
            f"classification needs at least two classes, all {len(targets)} samples have class {only}",
            f"{rare}for numbers write loss=mse",
        )
    if splits.classes is not None:
        return
    counted = values == [value for value in range(values[-1] + 1) if value != loss.ignore_index]
    if counted and (untrained := [value for value in splits.untrained if value != loss.ignore_index]):
        raise _doubtful(
            splits,
            f"validation or test samples have classes that the training part lacks: {_first_of(untrained)}",
            f"correct them, or, if these classes are rare, write {named.format(len(values))}",
        )
    if counted and not (len(values) > MANY and 2 * len(values) > len(targets)):
        return
    shown = _first_of(values)
    if counted:
        text, instead = f"{len(values)} classes for {len(targets)} samples", f"write {named.format(len(values))}"
    elif values[0] < 0:
        text, instead = f"classes count from 0, these are {shown}", "store them as 0, 1, ..."
    else:
        text = f"some of the classes 0 to {values[-1]} have no sample: there are {shown}"
        instead = f"store them as 0 to {len(values) - 1}, or, if some are rare, write {named.format(values[-1] + 1)}"
    raise _doubtful(splits, text, f"for classes {instead}; for numbers write loss=mse")


def _doubtful(splits: Splits, text: str, suggestion: str) -> ConfigError:
    return ConfigError(Problem("data", f"data={splits.name}: {text}", suggestion, topic="data"))


def _first_of(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:VALUES_SHOWN])) + (", ..." if len(values) > VALUES_SHOWN else "")


def plateau(schedule: Schedule, trainer: TrainerSettings, splits: Splits) -> None:
    """Check that the metric which a plateau schedule waits for is measured.

    Raises:
        ConfigError: it will not be.
    """
    if isinstance(schedule.scheduler, ReduceLROnPlateau) and trainer.monitor.startswith("val/") and splits.val is None:
        instead = "write data.val_fraction=0.2, or trainer.monitor=train/loss"
        raise ConfigError(Problem("scheduler", "scheduler=plateau needs validation samples", instead, topic="conflict"))


def state(state_dicts: Mapping[str, Any]) -> None:
    """Check that a checkpoint can hold the state that a run starts with.

    Args:
        state_dicts: by the name of the object.

    Raises:
        ConfigError: it cannot: the run could be neither resumed nor tested. The problem names the place.
    """
    if text := find_unsavable(state_dicts):
        raise ConfigError(Problem(text.partition(" ")[0], text, topic="code"))
