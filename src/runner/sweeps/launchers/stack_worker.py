"""The process of a stack: opens the runs of several jobs, trains them as one program, and finishes each of them."""

import logging
import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from typing import Any

from runner.assembly.shared import SharedData
from runner.data.loading import TensorLoader
from runner.device import give_back_memory
from runner.errors import ConfigError, Problem, describe_error
from runner.rundir import energy, layout
from runner.rundir.lock import lock
from runner.rundir.stack import MemberCheckpoints, StackFile
from runner.runs.phases import Run
from runner.sweeps.jobs import JobProgress, JobSpec, StackSpec
from runner.sweeps.launchers.worker import (
    DeliveredBySweep,
    ProgressReporter,
    build_job,
    run_process,
    wants_artifacts,
)
from runner.training.saving import rng
from runner.training.stacked import Member, fit_stacks
from runner.util.options import EXIT_FAILED
from runner.util.stopping import Stop
from runner.util.terminal import RESUME, LogFile, without_topics

log = logging.getLogger("runner")

SECONDS = 1.0
"""Between two reports of a member's progress."""


def main(spec: StackSpec, reports: Connection, parent: int | None = None) -> None:
    """Run the jobs of a stack; the exit code of each is sent when it has ended.

    Args:
        spec: of the stack.
        reports: receives (number of a job, its progress, or its exit code).
        parent: see `worker.main`.
    """
    printed = spec.file.with_suffix(".log")
    printed.parent.mkdir(exist_ok=True)
    run_process(spec.where, spec.environment, printed, partial(_run, spec, reports), parent)


def _run(spec: StackSpec, reports: Connection) -> int:
    stop, shared = Stop(), _Shared()
    with stop.listening(), without_topics(RESUME), ExitStack() as closing:
        members: list[Member] = []
        for job in spec.jobs:
            own = _MemberReports(reports, job.number)
            try:
                opened = _Opened(job, own, stop, shared, len(spec.jobs) - 1)
                closing.callback(opened.close_files)
            except Exception as error:  # of this job alone
                _log_error(job, error)
                own.send(EXIT_FAILED)
                continue
            if opened.start():
                members.append(opened.member())
        give_back_memory()
        store = _Store(spec.file)
        fit_stacks(members, store)
        if not stop.requested:
            store.remove()
    return 0


class _MemberReports:
    """A member's share of the pipe of its stack."""

    def __init__(self, reports: Connection, number: int) -> None:
        self._reports, self._number, self._next = reports, number, 0.0
        self.fileno = reports.fileno

    def send(self, obj: Any) -> None:
        """Send the exit code of the member, or its progress, but not more often than a person reads it."""
        if isinstance(obj, JobProgress) and obj.done < obj.epochs:
            if monotonic() < self._next:
                return
            self._next = monotonic() + SECONDS
        self._reports.send((self._number, obj))


class _Opened:
    """The run of a member, whose folder is locked until its end."""

    def __init__(self, job: JobSpec, reports: _MemberReports, stop: Stop, shared: "_Shared", others: int) -> None:
        self._number, self._reports, self._shared = job.number, reports, shared
        self._lock = lock(job.folder)
        try:
            self._log = LogFile(job.folder / layout.LOG)
            self._open(job, stop, shared, others)
        except BaseException:
            self._lock.release()
            raise

    def _open(self, job: JobSpec, stop: Stop, shared: "_Shared", others: int) -> None:
        with self._log:
            _, experiment, checkpoint = build_job(job, shared.data)
            if not isinstance(experiment.loaders.train, TensorLoader):
                text = "the samples of all seeds do not fit into memory together"
                raise ConfigError(Problem("data.in_memory", text, "write hydra/launcher=local", topic="unavailable"))
            self._experiment = experiment
            self._run = Run(
                experiment,
                job.folder,
                checkpoint,
                DeliveredBySweep(),
                ProgressReporter(experiment, self._reports),
                stop,
                wants_artifacts(job, shared.ended),
                MemberCheckpoints,
                stacked_with=others,
                like=shared.run,
            )
            shared.run = shared.run or self._run
            if checkpoint is not None:
                with suppress(OSError):
                    energy.save(job.folder, None)  # that of a stack cannot be divided among its members

    def start(self) -> bool:
        """Start the run; return whether it can be trained. If not, it has ended."""
        with self._log, self._run.ends_on_error():
            self._run.start()
            self._run.state.fixed_rng = self._shared.same_rng(rng(self._run.state))
            return True
        self._close()
        return False

    def member(self) -> Member:
        """Return it as a member of a stack."""
        return Member(self._number, self._run.state, lambda: self._log, self._end)

    def _end(self, reason: str | None, error: BaseException | None) -> None:
        """Test, record and close the run, whose training has ended."""
        with self._run.ends_on_error():
            self._run.state.checkpoints.newest()  # writes them
            if error is not None:
                raise error
            self._run.finish(reason)
        self._close()

    def _close(self) -> None:
        code = EXIT_FAILED
        try:
            with self._log:
                code = self._run.close().exit_code
            self._experiment.loaders.close()
        except Exception as error:  # its folder cannot be written
            with self._log:
                log.error("error: %s", describe_error(error))
        self.close_files()
        with suppress(OSError):  # the sweep is gone; the thread that watches it stops this process
            self._reports.send(code)

    def close_files(self) -> None:
        """Unlock the folder; a second call does nothing."""
        self._lock.release()
        self._log.close()


def _log_error(job: JobSpec, error: Exception) -> None:
    """Log why a run cannot be opened, where the sweep looks for it."""
    with suppress(OSError):
        file = LogFile(job.folder / layout.LOG)
        with file:
            log.error("error: %s", describe_error(error))
            log.debug("", exc_info=error)
        file.close()


class _Shared:
    """What the members share.

    Attributes:
        data: read, and in memory, once for each seed.
        run: one of them, which has the code of all.
        ended: the groups and final metrics of those that have ended.
    """

    def __init__(self) -> None:
        self.data = SharedData()
        self.run: Run | None = None
        self.ended: list[tuple[str, Mapping[str, float]]] = []
        self._generators: dict[bytes, dict[str, Any]] = {}

    def same_rng(self, states: dict[str, Any]) -> dict[str, Any]:
        """Return equal states of generators as the same object: checkpoints then have them once."""
        return self._generators.setdefault(pickle.dumps(states), states)


class _Store:
    """Writes the checkpoints of the members into the file of the stack."""

    def __init__(self, path: Path) -> None:
        self._file = StackFile(path)
        self.due: Callable[[], bool] = self._file.due
        self.remove: Callable[[], None] = self._file.remove

    def write(self, members: Sequence[Member]) -> None:
        """Write the checkpoints of these members."""
        own = {member.number: member.state.checkpoints for member in members}
        self._file.write({n: each for n, each in own.items() if isinstance(each, MemberCheckpoints)})
