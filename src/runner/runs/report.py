"""Report a run: the head at its start, `result.json` and the plots at its end."""

import logging
import math
import multiprocessing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.assembly import checks
from runner.assembly.experiment import Experiment
from runner.data.splits import Splits
from runner.errors import first_line
from runner.loss import Loss, name_of
from runner.model.probe import parameter_count
from runner.optimizer import label
from runner.optimizer.groups import table
from runner.rundir import layout
from runner.rundir.energy import METRIC
from runner.rundir.folders import display_path
from runner.rundir.journal import read_curves, read_step
from runner.runs.pictures import make_pictures
from runner.task import Task, higher_is_better, names_on
from runner.task.supervised import Supervised
from runner.training.predictions import Predictions, raw_images
from runner.training.state import Training
from runner.util import compile_modes, cores
from runner.util.files import write_json
from runner.util.metric_names import PEAK_MEMORY
from runner.util.terminal import TRACKING, about
from runner.util.trees import Shapes, is_shape

log = logging.getLogger("runner")

BEST = "best/"
"""Prefix of the metrics of the best epoch in MLflow."""

PARTS = ("val/", "test/", "train/")


def task_parameters(task: Task) -> int:
    """Count the parameters of a task that are trained beside those of the model."""
    return sum(weight.numel() for weight in task.parameters() if weight.requires_grad)


def log_head(experiment: Experiment, folder: Path, location: str) -> None:
    """Log what is trained, on what data and device, and where it is recorded."""
    log_experiment(experiment)
    log.info("run        %s", display_path(folder))
    log.info("tracking   %s", location, extra=about(TRACKING))


def log_experiment(experiment: Experiment) -> None:
    """Log what is trained, on what data and device."""
    cost, own = experiment.cost, task_parameters(experiment.task)
    flops = f", {cost.flops:,} FLOPs a sample{' in a step' if cost.of_step else ''}" if cost.flops else ""
    log.info(
        "model      %s: %s parameters%s%s",
        type(experiment.model).__name__,
        f"{parameter_count(experiment.model):,}",
        f", {own:,} more of the task" if own else "",
        flops,
    )
    if experiment.freeze.parameters or experiment.freeze.resting:
        log.info("           frozen: %s", experiment.freeze)
    if line := describe_weights(experiment.task.loss, experiment.splits.classes):
        log.info("           %s", line)
    for doubt in checks.probabilities(experiment.cost.activation, experiment.task.loss):
        log.warning("           %s", doubt)
    splits = experiment.splits
    labels = {"train": "train", "val": "validation", "test": "test"}
    counts = ", ".join(f"{count:,} {labels[part]}" for part, count in splits.sizes.items() if count)
    shape = describe_shape(splits.input_shape)
    log.info(
        "data       %s: %s %s of %s, %s",
        splits.name,
        counts,
        "sample" if counts.startswith("1 ") and "," not in counts else "samples",
        shape,
        "in memory" if experiment.in_memory else "loaded by batch",
    )
    if splits.notes:
        log.info("           %s", "; ".join(splits.notes))
    log.info("training   %s", recipe(experiment))
    if experiment.batch_size_found is not None:
        log.info("           %s", experiment.batch_size_found)
    for line in table(experiment.optimizer):
        log.info("           %s", line)
    if experiment.task.extra is not None:
        for number, line in enumerate(experiment.task.extra.describe()):
            log.info("%-10s %s", "" if number else "metrics", line)
    log.info("device     device %s · precision %s%s", experiment.device, experiment.precision, _ranks(experiment))
    for note in experiment.strategy.notes(experiment.model):
        log.info("           %s", note)
    for note in compile_modes.notes(experiment.trainer.compile, experiment.device.torch.type):
        log.info("           %s", note)
    if untried := experiment.device.untried():
        log.warning("           %s", untried)
    if slow := experiment.precision.slow_here():
        log.info("           %s", slow)
    if multiprocessing.parent_process() is None and (busy := cores.busy_message()):  # the jobs of a sweep keep it busy
        log.info("           %s", busy)
    if splits.val is None and experiment.trainer.monitor.startswith("val/"):
        log.info("           no validation samples: the last epoch counts as the best")
    if "loss" not in experiment.measured and experiment.trainer.monitor == "val/loss":
        log.info("           the task measures no loss: the last epoch counts as the best")
    if splits.test is None:
        log.info("           %s", _why_no_test(splits))


def _ranks(experiment: Experiment) -> str:
    return f" · strategy {experiment.strategy}" if experiment.strategy.ranks > 1 else ""


def _why_no_test(splits: Splits) -> str:
    if splits.untouched is not None:
        return f"the {len(splits.untouched):,} test samples are for the folds together: no final test"
    return "no test samples: no final test"


WEIGHTS_SHOWN = 10


def describe_weights(loss: Loss | None, classes: Sequence[str] | None) -> str:
    """Describe the class weights of a loss: `class weights cat 0.6, dog 3`; empty without any."""
    if loss is None or loss.class_weights is None:
        return ""
    weights = loss.class_weights.tolist()
    names = classes if classes and len(classes) == len(weights) else range(len(weights))
    shown = [f"{name} {weight:.4g}" for name, weight in zip(names, weights, strict=True)][:WEIGHTS_SHOWN]
    return f"class weights {', '.join(shown)}{', ...' if len(weights) > WEIGHTS_SHOWN else ''}"


def describe_shape(shape: Shapes) -> str:
    """Describe the shape of a sample: `1x8x8`; of several inputs, `pixels 1x8x8, words 20`."""
    if is_shape(shape):
        return "x".join(map(str, shape)) or "1"
    named = shape.items() if isinstance(shape, Mapping) else ((str(number), part) for number, part in enumerate(shape))
    return ", ".join(f"{name} {describe_shape(part)}" for name, part in named)


def recipe(experiment: Experiment) -> str:
    """Describe the training in one line: `AdamW lr=0.001 · cosine · cross_entropy · batches of 64`."""
    group = experiment.optimizer.param_groups[0]
    lr = group.get("max_lr", group.get("initial_lr", group["lr"]))  # a schedule may start below it
    schedule = str(experiment.config["scheduler"]["_target_"]).rpartition(".")[2]
    batches = f"batches of {experiment.loaders.train.batch_size}"
    task = experiment.task
    what = name_of(task if task.loss is None else task.loss)
    if not isinstance(task, Supervised) and task.loss is not None:
        what = f"{name_of(task)} with {what}"
    if (accumulated := experiment.trainer.grad_accumulation) > 1:
        batches += f", {accumulated} a step"
    return f"{label(experiment.optimizer)} lr={float(lr):g} · {schedule} · {what} · {batches}"


def write_result(
    state: Training, experiment: Experiment, folder: Path, ended: Mapping[str, str | None], final: dict[str, float]
) -> dict[str, Any]:
    """Write `result.json`: status, sizes, times and metrics of the run.

    Each metric has its value of the best epoch, whose weights are also tested; the energy is that of all training.

    Args:
        state: the training, with its progress.
        experiment: what was trained.
        folder: the run's folder.
        ended: the run's id in MLflow, its status, the error of a failed run, and whether it lacks plots and model.
        final: the metrics of the test.
    """
    progress, task, loss = state.progress, state.task, state.task.loss
    earlier = state.epoch_seconds.read(progress.finished_epochs - len(progress.epoch_seconds))
    values: dict[str, Any] = {
        **ended,
        "device": str(experiment.device.torch),
        "precision": experiment.precision.name,
        **({"ranks": state.strategy.ranks} if state.strategy.ranks > 1 else {}),
        "threads": experiment.device.threads,
        "epochs": progress.finished_epochs,
        "best_epoch": progress.best_epoch,
        "steps": progress.step,
        **({} if progress.micro_batch is None else {"micro_batch_size": progress.micro_batch}),
        "parameters": parameter_count(experiment.model),
        **({"task_parameters": own} if (own := task_parameters(task)) else {}),
        "flops_per_sample": experiment.cost.flops,
        "epoch_seconds": [_finite(seconds) for seconds in (*earlier, *progress.epoch_seconds)],
        "samples_per_second": progress.samples / progress.trained_seconds if progress.trained_seconds else None,
        "higher_is_better": [
            name for name in (*state.measured, *names_on(task, "val")) if higher_is_better(task, f"val/{name}")
        ],
        **({} if loss is None or loss.class_weights is None else {"class_weights": loss.class_weights.tolist()}),
        **({} if task.extra is None else {"metric_arguments": task.extra.record(), "per_class": state.per_class}),
        **final_metrics(state, folder, final),
    }
    write_json(folder / layout.RESULT, {name: _finite(value) for name, value in values.items()})
    return values


def final_metrics(state: Training, folder: Path, final: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of the best epoch and of the test, the energy and the peak memory, for `result.json`."""
    progress = state.progress
    energy = {METRIC: state.energy.kwh} if state.energy.kwh is not None else {}
    last = read_step(folder / layout.JOURNAL, progress.finished_epochs)
    memory = {point.name: point.value for point in last if point.name == PEAK_MEMORY}
    return metrics_of_epoch(folder, progress.best_epoch) | progress.best_metrics | energy | memory | dict(final)


def metrics_of_epoch(folder: Path, epoch: int) -> dict[str, float]:
    """Return the metrics of an epoch in the journal, without those by step, of the system and of all epochs so far."""
    return {
        point.name: point.value
        for point in read_step(folder / layout.JOURNAL, epoch)
        if not point.name.endswith("_step") and not point.name.startswith(("system/", "energy/", BEST))
    }


def best_metrics(state: Training, folder: Path, final: dict[str, float]) -> dict[str, float]:
    """Return the metrics of the best epoch as `best/<name>`, the monitored one first.

    MLflow ranks runs by the last value of a metric, which is that of the last epoch without this prefix.

    Args:
        state: the training, with its progress.
        folder: the run's folder.
        final: the metrics of the test.
    """
    measured = final_metrics(state, folder, final)
    names = [name for part in PARTS for name in measured if name.startswith(part)]
    names.sort(key=lambda name: name != state.monitor.metric)
    return {f"{BEST}{name}": measured[name] for name in names}


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw_plots(state: Training, experiment: Experiment, predictions: Predictions, folder: Path) -> None:
    """Draw the curves of the journal, the predictions of the best weights for the test samples, metrics by class.

    A plot that cannot be drawn is only a warning, as the training is complete.
    """
    plots, extra = folder / layout.PLOTS, state.task.extra
    try:
        from runner.plots.by_class import draw_by_class  # matplotlib takes a second to import, so not before training
        from runner.plots.curves import CURVES, draw
        from runner.plots.pictures import SAMPLES, draw_pictures
        from runner.plots.samples import draw_predictions

        draw(read_curves(folder / layout.JOURNAL, CURVES), plots, state.progress.best_epoch, experiment.trainer.monitor)
        if experiment.splits.test is not None:
            images = raw_images(experiment.splits.test, experiment.splits.input_shape)
            draw_predictions(predictions, plots, experiment.splits.classes, images)
        if extra is not None:
            lower = [name for name in state.per_class if extra.higher_is_better(name.partition("/")[2]) is False]
            draw_by_class(state.per_class, plots, extra.meaning.noun, lower)
        pictures, which = make_pictures(state, experiment, SAMPLES)
        if pictures:
            draw_pictures(pictures, plots, which, experiment.splits.classes)
    except Exception as error:  # matplotlib and a user's data set may raise anything
        log.warning("some plots could not be drawn: %s: %s", type(error).__name__, first_line(error))
        log.debug("", exc_info=True)
