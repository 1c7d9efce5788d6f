"""Execute one run: open its record, fit, test with the best weights, report, close."""

import logging
import os
import traceback
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from runner.assembly.experiment import Experiment
from runner.config import store_variable
from runner.device import give_back_memory
from runner.errors import describe_error
from runner.rundir import layout
from runner.rundir.checkpoint import Checkpoints, load
from runner.rundir.energy import spent
from runner.rundir.folders import shell_path
from runner.rundir.manifest import ERROR, PAUSE
from runner.runs import last_lines, report
from runner.runs.code import RunCode
from runner.runs.describe import describe_run, write_config, write_input_spec
from runner.runs.reproduction import environment_changes
from runner.runs.same_code import shared_verdict
from runner.runs.serving import Served, save_serving_model, serving_example
from runner.tracking.environment import environment
from runner.tracking.tracker import Deliverer, Tracker
from runner.training.anomaly import detect_anomaly
from runner.training.compilation import compile_model
from runner.training.display import Bar
from runner.training.energy import Energy, measure
from runner.training.evaluation import evaluate
from runner.training.hidden import Watch
from runner.training.loop import fit, limit_reached
from runner.training.predictions import Predictions
from runner.training.state import Interrupted, Paused, Training, load_weights, make_training, restore
from runner.util import tables, terminal
from runner.util.files import write_atomically
from runner.util.redaction import redact
from runner.util.stopping import Stop
from runner.util.tags import PAUSED

log = logging.getLogger("runner")

SETTLE_SECONDS = 5.0
STOPPED_SECONDS = 3.0  # the job scheduler of a cluster kills soon after its SIGTERM


WantsArtifacts = Callable[[Mapping[str, float]], bool]
"""Decides by a run's final metrics whether it draws plots and saves the model for MLflow."""


@dataclass
class Outcome:
    """The outcome of a run.

    Attributes:
        status: FINISHED, FAILED or KILLED, as in MLflow; or PAUSED, which is KILLED there, with a tag.
        exit_code: 0, 1, or 128 plus the number of the signal.
        result: the content of `result.json`.
        error: the error message of a failed run.
        artifacts: whether it has plots and the model for MLflow.
    """

    status: str
    exit_code: int
    result: dict[str, Any]
    error: str | None = None
    artifacts: bool = True


def train(state: Training, folder: Path, resumed: bool) -> str | None:
    """Train, with compilation, profiling and anomaly detection if they are set, and measure the energy.

    Returns:
        The reason if training stopped before its last epoch, else None.
    """
    # A resume for plots alone uses none, also on a machine that cannot measure it.
    state.energy = Energy(earlier=spent(folder)) if _is_over(state) else measure(state.device, folder, resumed)
    try:
        reason = _train(state, folder)
        epochs = state.progress.finished_epochs
        state.log(state.energy.close(epochs), epochs)
    finally:
        state.energy.close()
    for parameter in state.parameters:  # what follows needs memory, and no gradients
        parameter.grad = None
    give_back_memory()
    return reason


def _is_over(state: Training) -> bool:
    """Return whether a finished run was resumed, and there is nothing to train."""
    progress = state.progress
    at_an_end = bool(progress.step and not progress.batch and limit_reached(state))
    return progress.epoch > state.settings.epochs or at_an_end


def _train(state: Training, folder: Path) -> str | None:
    settings = state.settings
    if settings.compile and state.progress.epoch <= settings.epochs:
        seconds = compile_model(state)
        log.info("compiled   in %s, not included in the epochs' times", tables.format_duration(seconds))
        state.log({"time/compile_seconds": seconds}, state.progress.epoch)
    profiler = None
    if settings.profile_steps is not None:
        from runner.training.profiling import Profiler

        profiler = Profiler(state, settings.profile_steps, folder / layout.PROFILE)
    try:
        with detect_anomaly(state.progress) if settings.detect_anomaly else nullcontext():
            return fit(state)
    finally:
        if profiler is not None:
            profiler.stop()


def test(state: Training, predictions: Predictions) -> dict[str, float]:
    """Load the best weights, and evaluate them on the test samples.

    If the monitored metric was never finite, the last epoch's weights are tested, and that epoch is the best.

    Returns:
        The test metrics; empty without test samples.
    """
    if not state.checkpoints.best.exists():
        log.warning("%s was never finite: testing the weights of the last epoch", state.monitor.metric)
        state.progress.best_epoch = state.progress.finished_epochs
    else:
        load_weights(state, load(state.checkpoints.best, mapped=True))
    if state.loaders.test is None:
        if state.task.extra is not None and state.loaders.val is not None:  # for the values by class
            evaluate(state, state.loaders.val)
        return {}
    return {f"test/{name}": value for name, value in evaluate(state, state.loaders.test, predictions.add).items()}


def run(
    experiment: Experiment,
    folder: Path,
    resume_from: dict[str, Any] | None = None,
    delivery: Deliverer | None = None,
    bar: Bar | None = None,
    wants_artifacts: WantsArtifacts | None = None,
) -> Outcome:
    """Train, test and record one experiment.

    Args:
        experiment: the experiment from `build`.
        folder: the run's folder, locked by this process.
        resume_from: the checkpoint to resume from; it is emptied.
        delivery: the uploading process if it was started earlier.
        bar: the progress display; None makes one for the terminal.
        wants_artifacts: whether to draw plots and save the model for MLflow; None: yes.
    """
    stop = Stop()
    try:
        with terminal.log_to_file(folder / layout.LOG), stop.listening(), closing(experiment.loaders):
            bar = bar or Bar(
                experiment.trainer.epochs,
                experiment.loaders.train.batch_size,
                experiment.loaders.train.samples,
                experiment.console.quiet,
            )
            try:
                return _run(experiment, folder, resume_from, delivery, bar, stop, wants_artifacts)
            except KeyboardInterrupt:  # a second Ctrl-C, between training and `_close`
                last_lines.log_how_to_resume(folder, "KILLED")
                return Outcome("KILLED", 128 + stop.signal, {})
    except OSError as error:  # the run's folder cannot be written, so the error is only printed
        log.error("error: %s", describe_error(error))
        return Outcome("FAILED", 1, {}, describe_error(error))


def _run(
    experiment: Experiment,
    folder: Path,
    resume_from: dict[str, Any] | None,
    delivery: Deliverer | None,
    bar: Bar,
    stop: Stop,
    wants_artifacts: WantsArtifacts | None,
) -> Outcome:
    code = RunCode(folder)
    notes = _changes_since(folder, experiment) if resume_from is not None else []
    spec = write_input_spec(experiment, folder)
    tracker = _open(experiment, folder, resume_from is not None, delivery, code)
    experiment.splits = experiment.splits.with_examples()  # the batches have them all, normalised
    give_back_memory()
    checkpoints = Checkpoints(folder / layout.CHECKPOINTS, experiment.trainer.keep_checkpoints, before=tracker.sync)
    state = make_training(experiment, checkpoints, tracker.log, bar, stop)
    watch: Watch | None = None
    test_metrics: dict[str, float] = {}
    outcome = Outcome("FAILED", 1, {})
    try:
        source = store_variable.describe_source(experiment.config["tracking"]["uri"], experiment.tracking.name)
        report.log_head(experiment, folder, f"{tracker.location}{source}")
        for note in code.notes:
            log.warning("note       %s", note, extra=terminal.about(terminal.TRACKING))
        if resume_from is not None:
            restore(state, resume_from)
            resume_from.clear()  # callers refer to it until the run ends: a second copy of the weights
            log.info("resumed    at epoch %d, step %d", state.progress.epoch, state.progress.step)
            if notes:
                log.warning("note       %s: the last bits of the result may differ", "; ".join(notes))
            for change in code.changes:
                log.warning("note       %s since the run was started: it continues with the present code", change)
        watch = Watch(state, shared=partial(shared_verdict, experiment))
        tracker.settle(SETTLE_SECONDS)
        stop_reason = train(state, folder, resume_from is not None)
        bar.close()
        if stop_reason:
            log.info("stopped    %s", stop_reason)
        served = serving_example(experiment, spec) if experiment.tracking.log_model else None
        experiment.loaders.train.close()  # the test needs memory, and no training samples
        give_back_memory()
        predictions = Predictions(experiment.task, experiment.target_scale)
        test_metrics = test(state, predictions)
        tracker.log(test_metrics, state.progress.best_epoch)
        artifacts = wants_artifacts is None or wants_artifacts(report.final_metrics(state, folder, test_metrics))
        if artifacts:
            _save_model_and_plots(state, experiment, folder, predictions, served)
        else:
            last_lines.log_without_artifacts(folder)
        if stop.requested:
            raise Interrupted
        outcome = Outcome("FINISHED", 0, {}, artifacts=artifacts)
    except Paused:
        outcome = Outcome(PAUSE, 0, {})
        bar.close()
        tracker.tag({PAUSED: last_lines.log_paused(state)})
    except (Interrupted, KeyboardInterrupt) as interruption:
        stop.hold()
        outcome = Outcome("KILLED", 128 + stop.signal, {})
        bar.close()
        last_lines.log_stopped(state, stop.signal.name, is_saved=isinstance(interruption, Interrupted))
    except BaseException as error:  # a user's model may raise anything
        bar.close()
        outcome.error = redact(describe_error(error))
        (log.exception if wants_tracebacks(experiment) else log.error)("error: %s", outcome.error)
        log.debug(traceback.format_exc())
    stop.hold()
    if watch is not None:
        watch.close()
    return _close(state, experiment, folder, tracker, code, outcome, test_metrics, stop)


def _changes_since(folder: Path, experiment: Experiment) -> list[str]:
    """Describe what has changed in the environment since the run was last started."""
    return environment_changes(folder / layout.ENVIRONMENT, experiment.device, experiment.trainer.deterministic)


def _open(experiment: Experiment, folder: Path, resumed: bool, delivery: Deliverer | None, code: RunCode) -> Tracker:
    """Write the record of the run, and start to track it."""
    (folder / layout.RESULT).unlink(missing_ok=True)  # of a resumed run, which is not finished any more
    commands = write_config(experiment.config, folder, experiment.typed)
    write_atomically(folder / layout.ENVIRONMENT, environment(experiment.device.gpu()))
    code_tags = code.write()
    manifest = describe_run(experiment, folder, resumed, commands, code.repositories)
    if manifest is not None:
        manifest.tags |= code_tags
    return Tracker(folder, manifest, experiment.tracking.uri, delivery)


def _save_model_and_plots(
    state: Training, experiment: Experiment, folder: Path, predictions: Predictions, served: Served | None
) -> None:
    """Save the model that MLflow serves, and draw the plots."""
    experiment.loaders.close()  # free the memory of the data for the next steps
    give_back_memory()
    if served is not None:
        save_serving_model(experiment, served, folder / layout.MODEL)
    report.draw_plots(state, experiment, predictions, folder)


def _ending(outcome: Outcome, tracker: Tracker) -> dict[str, str | None]:
    """Return the run's ids in MLflow, its status, its error and what it lacks, for `result.json`."""
    return {
        "run_id": tracker.run_id,
        "parent_run_id": tracker.parent_run_id,
        "status": outcome.status,
        **({"error": outcome.error} if outcome.error else {}),
        **({} if outcome.artifacts else {"artifacts": "none"}),
    }


def wants_tracebacks(experiment: Experiment) -> bool:
    """Whether to print tracebacks on the terminal too; `run.log` always has them."""
    return experiment.console.verbose or os.environ.get("HYDRA_FULL_ERROR") == "1"


def _close(
    state: Training,
    experiment: Experiment,
    folder: Path,
    tracker: Tracker,
    code: RunCode,
    outcome: Outcome,
    test_metrics: dict[str, float],
    stop: Stop,
) -> Outcome:
    """Write the result, report it, and wait for the upload. A second Ctrl-C ends only the waiting."""
    seconds = experiment.tracking.wait
    deadline = monotonic() + (min(seconds, STOPPED_SECONDS) if outcome.status == "KILLED" else seconds)
    try:
        if outcome.error is not None:
            tracker.tag({ERROR: outcome.error})
        if outcome.status == "FINISHED":  # only now: a resumed run then has the metrics of one that never stopped
            tracker.log(report.best_metrics(state, folder, test_metrics), state.progress.best_epoch)
        code.complete()
        outcome.result = report.write_result(state, experiment, folder, _ending(outcome, tracker), test_metrics)
    except OSError as error:  # a full disk: without its result the run is not finished
        log.error("error: %s", describe_error(error))
        outcome.status, outcome.exit_code, outcome.error = "FAILED", 1, outcome.error or describe_error(error)
    if outcome.status == "FINISHED":
        last_lines.log_closing(state, experiment, folder, test_metrics)
    else:
        last_lines.log_how_to_resume(folder, outcome.status)
    is_uploaded = experiment.tracking.name == "off"
    try:
        stop.release()
        with suppress(OSError):  # the result without the run's id is written
            if outcome.result and tracker.wait_for_run_id(deadline - monotonic()):
                outcome.result = report.write_result(state, experiment, folder, _ending(outcome, tracker), test_metrics)
        for line in tracker.links:
            log.info("%s", line)
        is_uploaded = tracker.close(outcome.status, max(0.0, deadline - monotonic()))
    except KeyboardInterrupt:
        tracker.end(outcome.status)
        outcome.exit_code = 128 + stop.signal
    if not is_uploaded:
        log.warning(
            "upload to MLflow incomplete; finish with: python -m runner.sync run=%s",
            shell_path(folder),
            extra=terminal.about(terminal.TRACKING),
        )
    return outcome
