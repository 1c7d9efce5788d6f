"""The phases of a run: it is opened, started, trained, finished and closed; several runs may be trained together."""

import logging
import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from runner import objects
from runner.assembly.experiment import Experiment
from runner.config import store_variable
from runner.device import give_back_memory
from runner.errors import TrainingError, describe_error
from runner.model.recomputation import recomputing
from runner.rundir import layout
from runner.rundir.checkpoint import Checkpoints
from runner.rundir.checkpoint_file import load
from runner.rundir.folders import shell_path
from runner.rundir.manifest import ERROR, PAUSE
from runner.runs import last_lines, lr_range, out_of_memory, report
from runner.runs.checkpoints import make_checkpoints
from runner.runs.code import RunCode
from runner.runs.describe import describe_run, write_config, write_input_spec
from runner.runs.outcome import Outcome, WantsArtifacts
from runner.runs.reproduction import STACK, environment_changes
from runner.runs.same_code import shared_verdict
from runner.runs.serving import Served, save_serving_model, serving_example
from runner.tracking.environment import environment
from runner.tracking.tracker import Deliverer, Tracker
from runner.training.display import Bar
from runner.training.evaluation import evaluate
from runner.training.hidden import Watch
from runner.training.predictions import Predictions
from runner.training.saving import load_weights, restore
from runner.training.state import Interrupted, Paused, Training, make_training
from runner.util import terminal
from runner.util.files import write_atomically
from runner.util.redaction import redact
from runner.util.stopping import Stop
from runner.util.tags import MICRO_BATCH_TAG, PAUSED

log = logging.getLogger("runner")

SETTLE_SECONDS = 5.0
RANKS_SECONDS = 20.0  # torchrun waits 30 for the other ranks after one has failed
STOPPED_SECONDS = 3.0  # the job scheduler of a cluster kills soon after its SIGTERM


class Run:
    """A run in its phases: it is opened, started, trained by the caller, finished, and closed.

    Args:
        experiment: the experiment from `build`.
        folder: the run's folder, locked by this process.
        resume_from: the checkpoint to resume from; `start` empties it.
        delivery: the uploading process if it was started earlier.
        bar: the progress display.
        stop: the request to stop.
        wants_artifacts: whether to draw plots and save the model for MLflow; None: yes.
        checkpoints: makes the checkpoints.
        stacked_with: the number of other runs that are trained as one program with this one; None: it is not.
        like: one of them, which has the same code.

    Attributes:
        state: the training.
        outcome: how it ended, or would end now.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        resume_from: dict[str, Any] | None,
        delivery: Deliverer | None,
        bar: Bar,
        stop: Stop,
        wants_artifacts: WantsArtifacts | None,
        checkpoints: type[Checkpoints] = Checkpoints,
        stacked_with: int | None = None,
        like: "Run | None" = None,
    ) -> None:
        self._experiment, self._folder, self._resume_from = experiment, folder, resume_from
        self._bar, self._stop, self._wants_artifacts = bar, stop, wants_artifacts
        self._code: RunCode = RunCode(folder, like._code if like is not None else None)
        self._notes = _changes_since(folder, experiment, stacked_with is not None) if resume_from is not None else []
        self._spec = write_input_spec(experiment, folder)
        facts = {} if stacked_with is None else {STACK: f"one program with {stacked_with} other models"}
        self._tracker = _open(experiment, folder, resume_from is not None, delivery, self._code, facts)
        experiment.splits = experiment.splits.with_examples()  # the batches have them all, normalised
        give_back_memory()
        saved = make_checkpoints(experiment, folder, self._tracker.sync, checkpoints)
        self.state = make_training(experiment, saved, self._tracker.log, bar, stop)
        self._watch: Watch | None = None
        self._test_metrics: dict[str, float] = {}
        self.outcome = Outcome("FAILED", 1, {})

    def start(self) -> None:
        """Log the head, and restore the checkpoint of a resumed run."""
        state, experiment, tracker = self.state, self._experiment, self._tracker
        source = store_variable.describe_source(experiment.config["tracking"]["uri"], experiment.tracking.name)
        report.log_head(experiment, self._folder, f"{tracker.location}{source}")
        for note in self._code.notes:
            log.warning("note       %s", note, extra=terminal.about(terminal.TRACKING))
        state.strategy.send(lambda: self._resume_from)
        if self._resume_from is not None:
            restore(state, self._resume_from)
            self._resume_from.clear()  # callers refer to it until the run ends: a second copy of the weights
            log.info("resumed    at epoch %d, step %d", state.progress.epoch, state.progress.step)
            if self._notes:
                log.warning("note       %s: the last bits of the result may differ", "; ".join(self._notes))
            for change in self._code.changes:
                log.warning("note       %s since the run was started: it continues with the present code", change)

    def watch(self) -> None:
        """Watch for hidden state, and wait until the upload uses little of the CPU."""
        strategy = self.state.strategy
        if strategy.ranks == 1 and not strategy.divides:  # it rehearses steps, which no rank can do alone
            self._watch = Watch(self.state, shared=partial(shared_verdict, self._experiment))
        self._tracker.settle(SETTLE_SECONDS)

    def finish(self, stop_reason: str | None) -> None:
        """Test the best weights, and save what the run leaves behind; training has ended."""
        state, experiment = self.state, self._experiment
        self._bar.close()
        if stop_reason:
            log.info("stopped    %s", stop_reason)
        served = serving_example(experiment, self._spec) if experiment.tracking.log_model else None
        experiment.loaders.train.close()  # the test needs memory, and no training samples
        give_back_memory()
        predictions = Predictions(experiment.task, experiment.target_scale)
        self._test_metrics = test(state, predictions)
        experiment.model = state.model
        self._tracker.log(self._test_metrics, state.progress.best_epoch)
        artifacts = self._wants_artifacts is None or self._wants_artifacts(
            report.final_metrics(state, self._folder, self._test_metrics)
        )
        if artifacts:
            _save_model_and_plots(state, experiment, self._folder, predictions, served)
        else:
            last_lines.log_without_artifacts(self._folder)
        if self._stop.requested:
            raise Interrupted
        self.outcome = Outcome("FINISHED", 0, {}, artifacts=artifacts)

    def find_rate(self) -> None:
        """Test learning rates in place of training: the run then has finished."""
        with recomputing(self.state.model, self.state.settings.activation_checkpointing):
            self._test_metrics = lr_range.find_rate(self.state, self._experiment, self._folder)
        self.outcome = Outcome("FINISHED", 0, {})

    @contextmanager
    def ends_on_error(self) -> Iterator[None]:
        """Turn an error within the block into the outcome of the run."""
        try:
            yield
        except Paused:
            self.outcome = Outcome(PAUSE, 0, {})
            self._bar.close()
            self._tracker.tag({PAUSED: last_lines.log_paused(self.state)})
        except (Interrupted, KeyboardInterrupt) as interruption:
            self._stop.hold()
            self.outcome = Outcome("KILLED", 128 + self._stop.signal, {})
            self._bar.close()
            is_saved = isinstance(interruption, Interrupted)
            last_lines.log_stopped(self.state, self._stop.signal.name, is_saved=is_saved)
        except BaseException as raised:  # a user's model may raise anything
            self._bar.close()
            error = self.state.strategy.cause(raised)
            self.outcome.error = redact(out_of_memory.describe(error, self._experiment))
            (log.exception if wants_tracebacks(self._experiment) else log.error)("error: %s", self.outcome.error)
            log.debug(getattr(error, "details", "") or traceback.format_exc())
            self._wait_for_checkpoint()

    def _wait_for_checkpoint(self) -> None:
        """Wait for that of a large model, which is written beside a training that has failed."""
        try:
            self.state.checkpoints.wait(None if self.state.strategy.ranks == 1 else RANKS_SECONDS)
        except TrainingError as error:
            log.error("error: %s", error)
        except (RuntimeError, TimeoutError):  # another rank is gone
            log.debug(traceback.format_exc())

    def close(self) -> Outcome:
        """Write the result, report it, and wait for the upload."""
        self._stop.hold()
        if self._watch is not None:
            self._watch.close()
        return _close(
            self.state,
            self._experiment,
            self._folder,
            self._tracker,
            self._code,
            self.outcome,
            self._test_metrics,
            self._stop,
        )


def _changes_since(folder: Path, experiment: Experiment, in_stack: bool) -> list[str]:
    """Describe what has changed in the environment since the run was last started."""
    deterministic = experiment.trainer.deterministic
    return environment_changes(folder / layout.ENVIRONMENT, experiment.device, deterministic, in_stack)


def _open(
    experiment: Experiment,
    folder: Path,
    resumed: bool,
    delivery: Deliverer | None,
    code: RunCode,
    facts: Mapping[str, str],
) -> Tracker:
    """Write the record of the run, and start to track it."""
    (folder / layout.RESULT).unlink(missing_ok=True)  # of a resumed run, which is not finished any more
    objects.keep(experiment.config, folder)
    commands = write_config(experiment.config, folder, experiment.typed)
    write_atomically(folder / layout.ENVIRONMENT, environment({**experiment.device.gpu(), **facts}))
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
        if state.progress.micro_batch is not None:
            tracker.tag({MICRO_BATCH_TAG: str(state.progress.micro_batch)})
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
    if experiment.notifier is not None:  # before the upload, which may take long
        experiment.notifier.end(outcome.status, outcome.describe())
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
    if experiment.notifier is not None:
        experiment.notifier.close()
    return outcome


def test(state: Training, predictions: Predictions) -> dict[str, float]:
    """Load the best weights, and evaluate them on the test samples; then the model is whole in this process.

    If the monitored metric was never finite, the last epoch's weights are tested, and that epoch is the best.

    Returns:
        The test metrics; empty without test samples.
    """
    _load_best(state)
    metrics: dict[str, float] = {}
    if state.loaders.test is not None:
        metrics = evaluate(state, state.loaders.test, predictions.add)
        predictions.merge(state.strategy)
    elif state.task.extra is not None and state.loaders.val is not None:  # for the values by class
        evaluate(state, state.loaders.val)
    if state.strategy.divides:
        state.model = state.eval_model = state.forward = state.eval_forward = state.strategy.whole(state.model)
    return {f"test/{name}": value for name, value in metrics.items()}


def _load_best(state: Training) -> None:
    best = state.checkpoints.best
    weights = state.strategy.send(lambda: load(best, mapped=True) if best.exists() else None)
    if weights is None:
        log.warning("%s was never finite: testing the weights of the last epoch", state.monitor.metric)
        state.progress.best_epoch = state.progress.finished_epochs
    else:
        load_weights(state, weights)
