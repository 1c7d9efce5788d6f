"""The process of one job of a sweep: trains, writes the job's folder, and stops if its parent is gone."""

import logging
import multiprocessing
import os
import pickle
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from omegaconf import DictConfig

from runner.assembly.experiment import Experiment
from runner.assembly.shared import SharedData
from runner.config.compose import Composer
from runner.config.hydra_job import group_choices
from runner.config.invocation import without_credentials
from runner.errors import ConfigError
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.lock import lock
from runner.runs import resume, start
from runner.runs.outcome import WantsArtifacts
from runner.sweeps.check.compose_jobs import as_job
from runner.sweeps.jobs import JobProgress, JobSpec
from runner.sweeps.launchers import forkserver, ranked_job
from runner.sweeps.results.best import is_best_so_far
from runner.training.display import Bar
from runner.util import streams
from runner.util.files import PRIVATE, open_to_append
from runner.util.options import EXIT_FAILED, print_errors, show_traceback
from runner.util.terminal import RESUME, without_topics

log = logging.getLogger("runner")

ORPHAN_SECONDS = 8.0
"""Time for a job whose parent is gone to write its checkpoint."""

LEFTOVER_SECONDS = 5.0
"""Time for threads and processes of the user's code after a job's end."""

REPORT_SECONDS = 0.5
_POLL_SECONDS = 0.02
_RUN_ID_SECONDS = 1.0


def main(spec: JobSpec, reports: Connection | None, parent: int | None = None) -> None:
    """Run the job; the process ends with the exit code of a single run.

    Args:
        spec: of the job.
        reports: receives its progress, besides the journal.
        parent: a pipe whose other end the parent holds; None takes multiprocessing's.
    """
    run_process(spec.where, spec.environment, spec.printed, partial(_run, spec, reports), parent)


def run_process(
    where: str, environment: dict[str, str], printed: Path, work: Callable[[], int], parent: int | None = None
) -> None:
    """Do the work of a process; it ends with the exit code that this returns.

    Args:
        where: its working directory.
        environment: its environment variables.
        printed: the file for its output.
        work: what it does.
        parent: see `main`.
    """
    os.setsid()  # Ctrl-C in the terminal reaches the sweep alone, which stops its jobs itself
    forkserver.enter(where, environment)
    _redirect_output(printed)
    streams.protect()
    threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    log.handlers.clear()
    log.setLevel(logging.DEBUG)
    log.propagate = False
    try:
        code = work()
    except ConfigError as error:  # something has changed since all jobs were checked
        print_errors(*error.problems)
        code = EXIT_FAILED
    except (Exception, SystemExit) as error:  # the user's code may call sys.exit()
        show_traceback()
        print_errors(f"{type(error).__name__}: {error}")
        code = EXIT_FAILED
    streams.finish_all()
    threading.Thread(target=_end_later, args=(code,), daemon=True).start()
    sys.exit(code)


def _end_later(code: int) -> None:
    """End the process, whatever still runs in it: Python waits for threads and processes that the user's code started.

    The job's slot would wait too.
    """
    time.sleep(LEFTOVER_SECONDS)
    names = [thread.name for thread in threading.enumerate() if not thread.daemon and thread.name != "MainThread"]
    names += [child.name for child in multiprocessing.active_children() if not child.daemon]
    left = ", ".join(names) or "a function of its exit"
    print(f"note       stopped {LEFTOVER_SECONDS:g} s after the job's end: {left}", file=sys.stderr)
    streams.finish_all()
    os._exit(code)


def _run(spec: JobSpec, reports: Connection | None) -> int:
    if spec.ranks is not None:
        return ranked_job.launch(spec, spec.ranks, reports, spec.nodes)
    return train(spec, reports)


def train(spec: JobSpec, reports: Connection | None) -> int:
    """Run the job in this process, which is the only one or rank 0; return the exit code."""
    with lock(spec.folder):
        cfg, experiment, checkpoint = build_job(spec)
        composer = _make_composer(spec, cfg)
        reporter = ProgressReporter(experiment, reports)
        with without_topics(RESUME):  # the sweep says how to resume it, not its jobs
            run = start.start(
                spec.folder, experiment, cfg, composer, checkpoint, DeliveredBySweep(), reporter, wants_artifacts(spec)
            )
            return run.exit_code


def _make_composer(spec: JobSpec, cfg: DictConfig) -> Composer:
    if spec.config is None:
        return Composer(name="resumed")
    return Composer(Path(spec.config_path) if spec.config_path else None, spec.config_dir, cfg.hydra.job.config_name)


def build_job(spec: JobSpec, shared: SharedData | None = None) -> tuple[DictConfig, Experiment, dict[str, Any] | None]:
    """Build a job in its process, whose folder is locked.

    Args:
        spec: of the job.
        shared: has the data of the other jobs of this process; None: nothing is shared.

    Returns:
        Its config, the experiment, and the checkpoint to resume from or None.

    Raises:
        ConfigError: something has changed since all jobs were checked.
    """
    resumed = None
    if spec.config is None:
        typed = [f"resume={spec.folder}", *([f"tracking.uri={spec.uri}"] if spec.uri else [])]
        cfg, problems, resumed = resume.compose(str(spec.folder), typed)
        choices = resumed.choices
    else:
        cfg, problems = pickle.loads(spec.config), []
        choices = group_choices(cfg)
    if cfg is None:
        raise ConfigError(*problems)
    as_job(cfg, spec.number, spec.folder.parent)
    experiment, checkpoint = start.build_run(cfg, choices, problems, resumed, _single_run_arguments(spec, cfg), shared)
    experiment.pause_after = spec.pause_after
    return cfg, experiment, checkpoint


def wants_artifacts(spec: JobSpec, others: Sequence[tuple[str, Mapping[str, float]]] = ()) -> WantsArtifacts | None:
    """Return what decides at the job's end whether it makes plots and model; None makes them.

    Args:
        spec: of the job.
        others: see `is_best_so_far`.
    """
    return partial(is_best_so_far, spec.folder.parent, spec.group, others=others) if spec.artifacts == "best" else None


def _single_run_arguments(spec: JobSpec, cfg: DictConfig) -> list[str] | None:
    """Return the arguments of the same run outside of a sweep, without credentials; None if the job is resumed."""
    if spec.config is None:
        return None
    options = [] if spec.config_dir is None else ["--config-dir", spec.config_dir]
    return without_credentials([*options, *(text.replace("@_global_=", "=", 1) for text in cfg.hydra.overrides.task)])


def _redirect_output(path: Path) -> None:
    """Append all output of the process, of any library, to a file."""
    path.parent.mkdir(exist_ok=True)
    file = open_to_append(path, PRIVATE)
    for number in (1, 2):
        os.dup2(file, number)
    os.close(file)


def _watch_parent(pipe: int | None) -> None:
    """When the parent is gone, stop like on a scheduler's signal, and after 8 s at once."""
    if pipe is None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        pipe = parent.sentinel
    connection.wait([pipe])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_SECONDS)
    os.killpg(0, signal.SIGKILL)  # with all processes that it has started


class Reports(Protocol):
    """Where the progress of a job is sent to: a pipe, or its share of one."""

    def fileno(self) -> int:
        """Return the file descriptor, which tells whether there is room for a report."""

    def send(self, obj: Any) -> None:
        """Send a report."""


class ProgressReporter(Bar):
    """Sends the progress to the sweep, and logs a line per epoch.

    Args:
        experiment: the job's.
        reports: receives the progress; a report is dropped if the sweep does not read in time. None sends none.
    """

    def __init__(self, experiment: Experiment, reports: Reports | None) -> None:
        loader = experiment.loaders.train
        super().__init__(experiment.trainer.epochs, loader.batch_size, loader.samples, quiet=True)
        self._reports = reports

    def due(self) -> bool:
        """Return whether it is time for a report."""
        return perf_counter() >= self._next

    def batch(self, done: int, loss: float) -> None:
        """Report the share of the epoch that is done."""
        self._next = perf_counter() + REPORT_SECONDS
        self._send(min(done * self._batch_size / self._samples, 1.0), {"train/loss": loss})

    def end_epoch(self, epoch: int, metrics: dict[str, float], seconds: float, best: bool) -> None:
        """Report the epoch's metrics."""
        super().end_epoch(epoch, metrics, seconds, best)
        self._send(1.0, metrics)

    def _send(self, share: float, metrics: dict[str, float]) -> None:
        if self._reports is not None and select.select([], [self._reports], [], 0)[1]:
            try:
                self._reports.send(JobProgress(self._epoch - 1 + share, self._epochs, metrics))
            except OSError:  # the sweep is gone; the thread that watches it stops this job
                return


class DeliveredBySweep:
    """Replaces a run's own delivery process: the sweep's process reads the job's folder."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def deliver(self, folder: Path) -> None:
        """Remember the folder; the sweep has passed it to its delivery process already."""
        self._folder = folder

    def settle(self, timeout: float) -> None:
        """Do nothing."""

    def run_id(self, timeout: float = 0.0) -> str | None:
        """Return the id that the sweep's delivery has noted in the folder: it creates the run before the job starts."""
        deadline = time.monotonic() + min(timeout, _RUN_ID_SECONDS)
        while self._folder is not None:
            if (run_id := DeliveryState.load(self._folder).run_id) is not None or time.monotonic() >= deadline:
                return run_id
            time.sleep(_POLL_SECONDS)
        return None

    def close(self, timeout: float, longest: float | None = None) -> bool:
        """Return true: the sweep delivers the rest."""
        return True
