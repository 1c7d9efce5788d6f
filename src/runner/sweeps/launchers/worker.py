"""One job of a sweep, in a process of its own: it trains, writes its folder, and watches whether its parent lives."""

import logging
import multiprocessing
import os
import pickle
import select
import signal
import sys
import threading
import time
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter

from omegaconf import DictConfig

from runner.assembly.experiment import Experiment
from runner.config.compose import Composer
from runner.config.hydra_job import group_choices
from runner.config.invocation import without_credentials
from runner.errors import ConfigError
from runner.rundir import layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.lock import lock
from runner.runs import resume, start
from runner.sweeps.check.compose_jobs import as_job
from runner.sweeps.jobs import JobProgress, JobSpec
from runner.sweeps.launchers import forkserver
from runner.training.display import Bar
from runner.util import streams
from runner.util.options import EXIT_FAILED, print_errors, show_traceback
from runner.util.terminal import RESUME, without_topics

log = logging.getLogger("runner")

ORPHAN_SECONDS = 8.0
"""For so long a job whose parent is gone may write its checkpoint."""

REPORT_SECONDS = 0.5
_SECONDS_BETWEEN_LOOKS = 0.02
_SECONDS_FOR_RUN_ID = 1.0


def main(task: JobSpec, reports: Connection | None, parent: int | None = None) -> None:
    """Run the job; the process ends with the exit code of a single run.

    Args:
        task: what to do.
        reports: where its progress goes, besides the journal.
        parent: a pipe whose other end is the parent's; None is what multiprocessing has for that.
    """
    os.setsid()  # Ctrl-C in the terminal is for the sweep, which tells its jobs itself
    forkserver.enter(task.where, task.environment)
    _into(task.folder / layout.LOG)
    streams.protect()
    threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    log.handlers.clear()
    log.setLevel(logging.DEBUG)
    log.propagate = False
    try:
        code = _run(task, reports)
    except ConfigError as error:  # what was there when all jobs were checked, and is not any more
        print_errors(*error.problems)
        code = EXIT_FAILED
    except (Exception, SystemExit) as error:  # the user's code may call sys.exit()
        show_traceback()
        print_errors(f"{type(error).__name__}: {error}")
        code = EXIT_FAILED
    streams.finish_all()
    sys.exit(code)


def _run(task: JobSpec, reports: Connection | None) -> int:
    resumed = None
    with lock(task.folder):
        if task.config is None:
            typed = [f"resume={task.folder}", *([f"tracking.uri={task.uri}"] if task.uri else [])]
            cfg, problems, resumed = resume.compose(str(task.folder), typed)
            choices = resumed.choices
            made = Composer(name="resumed")
        else:
            cfg, problems = pickle.loads(task.config), []
            choices = group_choices(cfg)
            made = Composer(
                Path(task.config_path) if task.config_path else None, task.config_dir, cfg.hydra.job.config_name
            )
        if cfg is None:
            raise ConfigError(*problems)
        as_job(cfg, task.number, task.folder.parent)
        x, checkpoint = start.build_run(cfg, choices, problems, resumed, _alone(task, cfg))
        with without_topics(RESUME):  # the sweep is resumed, and says so itself
            return start.start(
                task.folder, x, cfg, made, checkpoint, DeliveredBySweep(), Reporting(x, reports)
            ).exit_code


def _alone(task: JobSpec, cfg: DictConfig) -> list[str] | None:
    """The arguments by which this job would be a run by itself, without credentials; None if it only goes on."""
    if task.config is None:
        return None
    options = [] if task.config_dir is None else ["--config-dir", task.config_dir]
    return without_credentials([*options, *(text.replace("@_global_=", "=", 1) for text in cfg.hydra.overrides.task)])


def _into(path: Path) -> None:
    """Send everything that is printed, by whatever library, to a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(file, number)
    os.close(file)


def _watch_parent(pipe: int | None) -> None:
    """When the parent is gone: end as a scheduler's signal would have it, and if that takes too long, at once."""
    if pipe is None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        pipe = parent.sentinel
    connection.wait([pipe])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_SECONDS)
    os.killpg(0, signal.SIGKILL)  # with whatever it has started


class Reporting(Bar):
    """Passes the progress on to the sweep, and keeps the epochs' lines in the log.

    Args:
        x: what is trained.
        reports: where the progress goes, if anywhere; nobody waits for it to be read.
    """

    def __init__(self, x: Experiment, reports: Connection | None) -> None:
        super().__init__(x.trainer.epochs, x.loaders.train.batch_size, x.loaders.train.samples, quiet=True)
        self._reports = reports

    def due(self) -> bool:
        """Whether the sweep has heard nothing for a while."""
        return perf_counter() >= self._next

    def batch(self, done: int, loss: float) -> None:
        """Tell how far the epoch is."""
        self._next = perf_counter() + REPORT_SECONDS
        self._tell(min(done * self._batch_size / self._samples, 1.0), {"train/loss": loss})

    def end_epoch(self, epoch: int, metrics: dict[str, float], seconds: float, best: bool) -> None:
        """Tell the epoch's metrics."""
        super().end_epoch(epoch, metrics, seconds, best)
        self._tell(1.0, metrics)

    def _tell(self, share: float, metrics: dict[str, float]) -> None:
        if self._reports is not None and select.select([], [self._reports], [], 0)[1]:
            try:
                self._reports.send(JobProgress(self._epoch - 1 + share, self._epochs, metrics))
            except OSError:  # the sweep is gone, as the thread that watches it sees too
                return


class DeliveredBySweep:
    """Stands where a run's own delivery process does: the sweep's looks at the folder."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def deliver(self, folder: Path) -> None:
        """Remember the folder; the sweep has announced the run already."""
        self._folder = folder

    def settle(self, timeout: float) -> None:
        """There is nothing to wait for."""

    def run_id(self, timeout: float = 0.0) -> str | None:
        """What the sweep's delivery has noted in the folder: it makes the run before the job starts."""
        deadline = time.monotonic() + min(timeout, _SECONDS_FOR_RUN_ID)
        while self._folder is not None:
            if (run_id := DeliveryState.load(self._folder).run_id) is not None or time.monotonic() >= deadline:
                return run_id
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        return None

    def close(self, timeout: float) -> bool:
        """The sweep does the rest."""
        return True
