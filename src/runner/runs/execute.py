"""Execute one run: open its record, fit, test with the best weights, report, close."""

import logging
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from runner.assembly.experiment import Experiment
from runner.device import give_back_memory
from runner.errors import describe_error
from runner.model.recomputation import recomputing
from runner.rundir import layout
from runner.rundir.energy import spent
from runner.runs import last_lines
from runner.runs.outcome import Outcome, WantsArtifacts
from runner.runs.phases import Run
from runner.tracking.tracker import Deliverer
from runner.training.anomaly import detect_anomaly
from runner.training.compilation import compile_model
from runner.training.display import Bar, make_bar
from runner.training.energy import Energy, measure
from runner.training.loop import fit, limit_reached
from runner.training.memory import measured_memory
from runner.training.state import Training
from runner.util import tables, terminal
from runner.util.stopping import Stop

log = logging.getLogger("runner")


def train(state: Training, folder: Path, resumed: bool) -> str | None:
    """Train, with compilation, profiling and anomaly detection if they are set, and measure the energy.

    Returns:
        The reason if training stopped before its last epoch, else None.
    """
    # A resume for plots alone uses none, also on a machine that cannot measure it.
    state.energy = Energy(earlier=spent(folder)) if _is_over(state) else measure(state.device, folder, resumed)
    try:
        with recomputing(state.model, state.settings.activation_checkpointing):
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
        with measured_memory(state), detect_anomaly(state.progress) if settings.detect_anomaly else nullcontext():
            return fit(state)
    finally:
        if profiler is not None:
            profiler.stop()


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
            bar = bar or make_bar(
                experiment.trainer.epochs,
                experiment.loaders.train.batch_size,
                experiment.loaders.train.samples,
                experiment.console.quiet,
            )
            try:
                running = Run(experiment, folder, resume_from, delivery, bar, stop, wants_artifacts)
                with running.ends_on_error():
                    running.start()
                    if experiment.trainer.lr_range.steps is not None:
                        running.find_rate()
                    else:
                        running.watch()
                        running.finish(train(running.state, folder, resume_from is not None))
                return running.close()
            except KeyboardInterrupt:  # a second Ctrl-C, between training and `close`
                last_lines.log_how_to_resume(folder, "KILLED")
                return Outcome("KILLED", 128 + stop.signal, {})
    except OSError as error:  # the run's folder cannot be written, so the error is only printed
        log.error("error: %s", describe_error(error))
        return Outcome("FAILED", 1, {}, describe_error(error))
