"""Report a run: the head at its start, the table and `result.json` at its end."""

import logging
import math
import multiprocessing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.assembly import checks
from runner.assembly.experiment import Experiment
from runner.errors import first_line
from runner.loss import Loss, name_of
from runner.model.probe import parameter_count
from runner.optimizer import label
from runner.optimizer.groups import table
from runner.rundir import layout
from runner.rundir.energy import METRIC
from runner.rundir.folders import display_path, shell_path
from runner.rundir.journal import read_curves, read_step
from runner.runs.pictures import make_pictures
from runner.task import Task, higher_is_better, names_on
from runner.task.supervised import Supervised
from runner.training.predictions import Predictions, raw_images
from runner.training.state import Training
from runner.util import cores
from runner.util.files import write_json
from runner.util.metric_names import format_metric, without_details
from runner.util.tables import format_duration
from runner.util.terminal import RESUME, TRACKING, about
from runner.util.trees import Shapes, is_shape

log = logging.getLogger("runner")

BEST = "best/"
"""Prefix of the metrics of the best epoch in MLflow."""

OVERFIT = "overfit"
"""The preset of the group `debug` that asks whether a model can learn a few samples."""

SCORES = ("train/accuracy", "train/r2")
LEARNT = 0.99
"""The least value of a score for samples that are learnt by heart."""

PARTS = ("val/", "test/", "train/")


def task_parameters(task: Task) -> int:
    """Count the parameters of a task that are trained beside those of the model."""
    return sum(weight.numel() for weight in task.parameters() if weight.requires_grad)


def log_head(experiment: Experiment, folder: Path, location: str) -> None:
    """Log what is trained, on what data and device, and where it is recorded."""
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
    for line in table(experiment.optimizer):
        log.info("           %s", line)
    if experiment.task.extra is not None:
        for number, line in enumerate(experiment.task.extra.describe()):
            log.info("%-10s %s", "" if number else "metrics", line)
    log.info("device     device %s · precision %s", experiment.device, experiment.precision)
    if slow := experiment.precision.slow_here():
        log.info("           %s", slow)
    if multiprocessing.parent_process() is None and (busy := cores.busy_message()):  # the jobs of a sweep keep it busy
        log.info("           %s", busy)
    if splits.val is None and experiment.trainer.monitor.startswith("val/"):
        log.info("           no validation samples: the last epoch counts as the best")
    if "loss" not in experiment.measured and experiment.trainer.monitor == "val/loss":
        log.info("           the task measures no loss: the last epoch counts as the best")
    if splits.test is None:
        log.info("           no test samples: no final test")
    log.info("run        %s", display_path(folder))
    log.info("tracking   %s", location, extra=about(TRACKING))


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
        "threads": experiment.device.threads,
        "epochs": progress.finished_epochs,
        "best_epoch": progress.best_epoch,
        "steps": progress.step,
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
    """Return the metrics of the best epoch and of the test, and the energy of all training, for `result.json`."""
    progress = state.progress
    energy = {METRIC: state.energy.kwh} if state.energy.kwh is not None else {}
    return metrics_of_epoch(folder, progress.best_epoch) | progress.best_metrics | energy | dict(final)


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


def log_closing(state: Training, experiment: Experiment, folder: Path, final: dict[str, float]) -> None:
    """Log the results, the files, and how to train for longer."""
    progress = state.progress
    epoch = metrics_of_epoch(folder, progress.best_epoch) | progress.best_metrics
    log.info("")
    for part, source in (("train", epoch), ("val", epoch), ("test", final)):
        values = "   ".join(
            f"{name.partition('/')[2]} {format_metric(name, value)}"
            for name, value in without_details(source).items()
            if name.startswith(f"{part}/")
        )
        if values:
            log.info(
                "%-10s %s%s",
                part,
                values,
                f"   ({describe_best(state)})" if part == "train" else "",
            )
    if experiment.choices.get("debug") == OVERFIT:
        log.info("overfit    %s", describe_overfit(epoch, experiment.splits.sizes.get("train")))
    seconds = progress.trained_seconds
    each = seconds / progress.finished_epochs
    rate = progress.samples / seconds
    log.info(
        "time       %s of training, %s an epoch, %s samples/s",
        format_duration(seconds),
        format_duration(each),
        f"{rate:,.0f}",
    )
    if state.energy.kwh is not None:
        log.info("energy     %s kWh of training", format_metric(METRIC, state.energy.kwh))
    files = ", ".join(
        name
        for name in (
            layout.RESULT,
            layout.JOURNAL,
            layout.CHECKPOINTS,
            layout.ARTIFACTS,
            layout.PLOTS,
            layout.PROFILE,
            layout.MODEL,
        )
        if (folder / name).exists()
    )
    log.info("saved in   %s (%s)", display_path(folder), files)
    complete = progress.epoch > experiment.trainer.epochs and not progress.cut_short and not progress.out_of_turn
    if complete and not progress.stop_reason and not state.monitor.exhausted(progress):
        log.info("resume     %s", _command_for_more(state, experiment, folder), extra=about(RESUME))


def describe_overfit(metrics: Mapping[str, float], samples: int | None) -> str:
    """Say whether the model has learnt the few samples of `debug=overfit` by heart, and what that means.

    Args:
        metrics: of the epoch whose weights are tested.
        samples: how many it was trained on; None if that is unknown.
    """
    what = f"{samples:,} samples" if samples else "samples"
    reached = "   ".join(
        f"{name} {format_metric(name, metrics[name]).strip()}" for name in ("train/loss", *SCORES) if name in metrics
    )
    scores = [metrics[name] for name in SCORES if name in metrics]
    wrong = "try another optimizer.lr or more trainer.epochs, then look for a mistake in model, loss or targets"
    if not scores:
        return f"{reached or 'no metric'} on the {what}: if this is not near its lowest possible value, {wrong}"
    if scores[0] >= LEARNT:
        return f"yes, the model learns the {what} by heart ({reached}): model, loss and optimizer work together"
    return f"no, the model does not learn the {what} by heart ({reached}): {wrong}"


def _command_for_more(state: Training, experiment: Experiment, folder: Path) -> str:
    """Return the command that trains for more epochs; a warm start if the learning-rate schedule has ended."""
    command = f"python -m runner resume={shell_path(folder)}"
    if not state.schedule.horizon:
        return f"{command} trainer.epochs={2 * experiment.trainer.epochs}"
    return f"the learning-rate schedule has ended; start a new run from the weights: {command} resume_mode=warm_start"


def describe_best(state: Training) -> str:
    """Describe the best weights: their epoch, their step if it is within the epoch, and the reason."""
    progress = state.progress
    step = f", weights of step {progress.best_step:,}" if progress.best_step is not None else ""
    why = f"best {state.monitor.metric}" if progress.best is not None and not state.best_is_last else "the last"
    return f"epoch {progress.best_epoch}{step}, {why}"


def log_stopped(state: Training, signal: str, is_saved: bool) -> None:
    """Log where training was stopped by a signal.

    Args:
        state: the training.
        signal: its name.
        is_saved: whether a checkpoint was written then.
    """
    progress, epochs = state.progress, state.settings.epochs
    finished = progress.finished_epochs
    where = f"after epoch {finished} of {epochs}" if finished == epochs else f"in epoch {finished + 1} of {epochs}"
    how = "everything so far is in the checkpoint" if is_saved else "at once, without a new checkpoint"
    log.warning("stopped    %s by %s, %s", where, signal, how)


def log_how_to_resume(folder: Path, status: str) -> None:
    """Log how to resume a run that is not finished."""
    if (folder / layout.CHECKPOINTS / layout.LAST).exists():
        log.info("resume     python -m runner resume=%s", shell_path(folder), extra=about(RESUME))
    else:
        log.info("run        %s has no checkpoint to resume from", display_path(folder), extra=about(RESUME))
    if status == "FAILED":
        log.info("details    %s", display_path(folder / layout.LOG), extra=about(RESUME))


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
