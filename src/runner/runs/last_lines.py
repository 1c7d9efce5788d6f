"""The last lines of a run: its results and files, or how to resume it."""

import logging
from collections.abc import Mapping
from pathlib import Path

from runner.assembly.experiment import Experiment
from runner.rundir import layout
from runner.rundir.energy import METRIC
from runner.rundir.folders import display_path, shell_path
from runner.runs.report import metrics_of_epoch
from runner.training.state import Training
from runner.util.metric_names import format_metric, without_details
from runner.util.tables import format_duration
from runner.util.terminal import RESUME, about

log = logging.getLogger("runner")

OVERFIT = "overfit"
"""The preset of the group `debug` that asks whether a model can learn a few samples."""

SCORES = ("train/accuracy", "train/r2")
LEARNT = 0.99
"""The least value of a score for samples that are learnt by heart."""


def log_closing(state: Training, experiment: Experiment, folder: Path, final: dict[str, float]) -> None:
    """Log the results, the files, and how to train for longer."""
    progress = state.progress
    if not progress.finished_epochs:  # nothing was trained
        _log_files(folder)
        return
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
    _log_files(folder)
    complete = progress.epoch > experiment.trainer.epochs and not progress.cut_short and not progress.out_of_turn
    if complete and not progress.stop_reason and not state.monitor.exhausted(progress):
        log.info("resume     %s", _command_for_more(state, experiment, folder), extra=about(RESUME))


def _log_files(folder: Path) -> None:
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


def log_paused(state: Training) -> str:
    """Log after which epoch training pauses; return that as text: `after epoch 3 of 27`."""
    text = f"after epoch {state.progress.finished_epochs} of {state.settings.epochs}"
    log.info("paused     %s, everything so far is in the checkpoint", text)
    return text


def log_without_artifacts(folder: Path) -> None:
    """Log that a job has neither plots nor a saved model, and how to make them."""
    text = "note       no plots and no saved model, as another job is better; to make them: python -m runner resume=%s"
    log.info(text, shell_path(folder))


def log_how_to_resume(folder: Path, status: str) -> None:
    """Log how to resume a run that is not finished."""
    if (folder / layout.CHECKPOINTS / layout.LAST).exists():
        log.info("resume     python -m runner resume=%s", shell_path(folder), extra=about(RESUME))
    else:
        log.info("run        %s has no checkpoint to resume from", display_path(folder), extra=about(RESUME))
    if status == "FAILED":
        log.info("details    %s", display_path(folder / layout.LOG), extra=about(RESUME))
