"""One run from its start to its end: open the record, fit, test with the best weights, report, close."""

import logging
import os
import traceback
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from runner.assembly.experiment import Experiment
from runner.config import store_variable
from runner.device import give_back_memory
from runner.errors import describe_error
from runner.rundir import layout
from runner.rundir.checkpoint import Checkpoints, load
from runner.rundir.folders import shell_path
from runner.rundir.manifest import ERROR
from runner.runs import report
from runner.runs.describe import describe_run, write_config, write_input_spec
from runner.runs.reproduction import environment_changes
from runner.runs.serving import save_serving_model, serving_example
from runner.tracking.environment import environment
from runner.tracking.tracker import Deliverer, Tracker
from runner.training.anomaly import detect_anomaly
from runner.training.compilation import compile_model
from runner.training.display import Bar
from runner.training.hidden import Watch
from runner.training.loop import evaluate, fit
from runner.training.predictions import Predictions
from runner.training.state import Interrupted, Training, load_weights, make_training, restore
from runner.util import tables, terminal
from runner.util.files import write_atomically
from runner.util.redaction import redact
from runner.util.stopping import Stop

log = logging.getLogger("runner")

SETTLE_SECONDS = 5.0
STOPPED_SECONDS = 3.0  # a scheduler that asked us to stop does not wait long


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        status: FINISHED, FAILED or KILLED, as MLflow names them.
        exit_code: 0, 1, or 128 plus the number of the signal.
        result: what `result.json` holds.
        error: the sentence that a failed run ends with.
    """

    status: str
    exit_code: int
    result: dict[str, Any]
    error: str | None = None


def train(state: Training, folder: Path) -> str | None:
    """Train, with what is asked for around it: compiled, traced, watched for gradients that are not numbers.

    Returns:
        Why training ended before its epochs were done; None if it did not.
    """
    settings = state.settings
    if settings.compile and state.progress.epoch <= settings.epochs:
        seconds = compile_model(state)
        log.info("compiled   in %s, which is no part of the epochs' time", tables.format_duration(seconds))
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
    """Load the best weights into the model, and measure them on the test part; nothing if there is none."""
    if not state.checkpoints.best.exists():
        log.warning("%s was never a finite number: testing the weights of the last epoch", state.monitor.metric)
        state.progress.best_epoch = len(state.progress.epoch_seconds)
    else:
        load_weights(state, load(state.checkpoints.best))
    if state.loaders.test is None:
        return {}
    return {f"test/{name}": value for name, value in evaluate(state, state.loaders.test, predictions.add).items()}


def run(
    experiment: Experiment,
    folder: Path,
    resume_from: dict[str, Any] | None = None,
    delivery: Deliverer | None = None,
    bar: Bar | None = None,
) -> Outcome:
    """Train, test and record one experiment.

    Args:
        experiment: as `build` made it.
        folder: the run's own, locked by this process.
        resume_from: the checkpoint to go on from.
        delivery: who tells MLflow, if that was started before.
        bar: what shows the progress; None makes one for the terminal.
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
            return _run(experiment, folder, resume_from, delivery, bar, stop)
    except OSError as error:  # the run's own folder cannot be written: only the person can be told
        log.error("error: %s", describe_error(error))
        return Outcome("FAILED", 1, {}, describe_error(error))


def _run(
    experiment: Experiment,
    folder: Path,
    resume_from: dict[str, Any] | None,
    delivery: Deliverer | None,
    bar: Bar,
    stop: Stop,
) -> Outcome:
    (folder / layout.RESULT).unlink(missing_ok=True)  # of the run that is resumed: it is not finished any more
    commands = write_config(experiment.config, folder, experiment.typed)
    write_input_spec(experiment, folder)
    was = folder / layout.ENVIRONMENT
    notes = (
        environment_changes(was, experiment.device, experiment.trainer.deterministic) if resume_from is not None else []
    )
    write_atomically(was, environment(experiment.device.gpu()))
    manifest = describe_run(experiment, folder, resume_from is not None, commands)
    tracker = Tracker(folder, manifest, experiment.tracking.uri, delivery)
    checkpoints = Checkpoints(folder / layout.CHECKPOINTS, experiment.trainer.keep_checkpoints, before=tracker.sync)
    training = make_training(experiment, checkpoints, tracker.log, bar, stop)
    watch: Watch | None = None
    final: dict[str, float] = {}
    outcome = Outcome("FAILED", 1, {})
    try:
        said = store_variable.describe_source(experiment.config["tracking"]["uri"], experiment.tracking.name)
        report.log_head(experiment, folder, f"{tracker.location}{said}")
        if resume_from is not None:
            restore(training, resume_from)
            log.info("resumed    at epoch %d, step %d", training.progress.epoch, training.progress.step)
            if notes:
                log.warning("note       %s: it may not end bit for bit as if never stopped", "; ".join(notes))
        watch = Watch(training)
        tracker.settle(SETTLE_SECONDS)
        ended = train(training, folder)
        bar.close()
        if ended:
            log.info("stopped    %s", ended)
        predictions = Predictions(experiment.loss, experiment.target_scale)
        final = test(training, predictions)
        tracker.log(final, training.progress.best_epoch)
        example = serving_example(experiment)
        experiment.loaders.close()  # what follows takes memory of its own, and needs none of theirs
        give_back_memory()
        if experiment.tracking.log_model:
            save_serving_model(experiment, example, folder / layout.MODEL)
        report.draw_plots(experiment, training.progress.best_epoch, predictions, folder)
        if stop.requested:
            raise Interrupted
        outcome = Outcome("FINISHED", 0, {})
    except (Interrupted, KeyboardInterrupt) as interruption:
        outcome = Outcome("KILLED", 128 + stop.signal, {})
        gently = isinstance(interruption, Interrupted)
        how = "by %s: a checkpoint is written" if gently else "at once by %s; the last checkpoint is kept"
        bar.close()
        log.warning("stopped    " + how, stop.signal.name)
    except (Exception, SystemExit) as error:  # a model of the user's may do anything
        bar.close()
        outcome.error = redact(describe_error(error))
        (log.exception if wants_tracebacks(experiment) else log.error)("error: %s", outcome.error)
        log.debug(traceback.format_exc())
    if watch is not None:
        watch.close()
    return _close(training, experiment, folder, tracker, outcome, final)


def _ended(outcome: Outcome, tracker: Tracker) -> dict[str, str | None]:
    """Which run it was in MLflow, and how it ended."""
    ended = {"run_id": tracker.run_id, "parent_run_id": tracker.parent_run_id, "status": outcome.status}
    return ended | ({"error": outcome.error} if outcome.error else {})


def wants_tracebacks(experiment: Experiment) -> bool:
    """Whether errors come with their traceback on the terminal too; `run.log` has it anyway."""
    return experiment.console.verbose or os.environ.get("HYDRA_FULL_ERROR") == "1"


def _close(
    state: Training, experiment: Experiment, folder: Path, tracker: Tracker, outcome: Outcome, final: dict[str, float]
) -> Outcome:
    """Write the result, tell the person, and let delivery finish. A signal does not cut this short, a second may."""
    seconds = experiment.tracking.wait
    deadline = monotonic() + (min(seconds, STOPPED_SECONDS) if outcome.status == "KILLED" else seconds)
    try:
        if outcome.error is not None:
            tracker.tag({ERROR: outcome.error})
        if outcome.status == "FINISHED":  # one that resumes ends with the metrics of one that was never stopped
            tracker.log(report.best_metrics(state, folder, final), state.progress.best_epoch)
        outcome.result = report.write_result(state, experiment, folder, _ended(outcome, tracker), final)
    except OSError as error:  # a full disk: it has not come to its end without its result
        log.error("error: %s", describe_error(error))
        outcome.status, outcome.exit_code, outcome.error = "FAILED", 1, outcome.error or describe_error(error)
    if outcome.status == "FINISHED":
        report.log_closing(state, experiment, folder, final)
    else:
        report.log_how_to_resume(state, folder, outcome.status)
    with suppress(OSError):  # the one without the run's id is there
        if outcome.result and tracker.wait_for_run_id(deadline - monotonic()):
            outcome.result = report.write_result(state, experiment, folder, _ended(outcome, tracker), final)
    for line in tracker.links:
        log.info("%s", line)
    if not tracker.close(outcome.status, max(0.0, deadline - monotonic())):
        log.warning(
            "not all of it is in MLflow yet; deliver the rest by: python -m runner.sync run=%s", shell_path(folder)
        )
    return outcome
