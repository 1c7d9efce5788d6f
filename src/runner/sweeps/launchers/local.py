"""`hydra/launcher=local`: one process per job on this machine, forked from a server that has everything imported."""

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from omegaconf import DictConfig

from runner.errors import ConfigError, Problem
from runner.sweeps.jobs import JobInfo, JobProgress, JobSpec
from runner.sweeps.launchers import forkserver
from runner.sweeps.launchers.launcher import ExitStatus, LauncherDied, ResourceRequest
from runner.sweeps.launchers.slots import Slot, make_slots


class Local:
    """Runs jobs on this machine."""

    is_remote = stacks = False

    def allocate(self, request: ResourceRequest) -> list[Slot]:
        """Divide the machine's cores and GPUs.

        Raises:
            ConfigError: the machine has fewer.
        """
        gpus, settings = gpus_for(request.infos, request.configs), request.settings
        jobs, threads = request.max_jobs, request.threads
        return make_slots(settings.jobs, jobs, gpus, settings.jobs_per_gpu, threads, request.ranks)

    def find_running(self, folder: Path) -> set[int]:
        """Return none: the processes of a sweep end with it."""
        return set()

    def resume_stacks(self, stacks: Sequence[Sequence[int]]) -> None:
        """Do nothing: each job has its own process."""

    def open(self) -> None:
        """Do nothing."""

    def describe(self, slots: Sequence[Slot]) -> str:
        """Describe the slots: `2 jobs at a time, 1 thread each`, and how they share the GPUs."""
        count, threads = len(slots), slots[0].threads or 1
        gpus = [slot.gpu for slot in slots if slot.gpu is not None]
        most = max(map(gpus.count, gpus), default=0)
        gpu = f", {most} to a GPU" if most > 1 else ", one GPU each" if gpus else ""
        return f"{count} job{'s' * (count > 1)} at a time, {threads} thread{'s' * (threads > 1)} each{gpu}"

    def environment(self, slot: Slot) -> dict[str, str]:
        """Return this process's own environment and the slot's."""
        return dict(os.environ) | slot.environment()

    def start(self, specs: Sequence[JobSpec]) -> list["ProcessHandle"]:
        """Start a process for each job.

        Raises:
            LauncherDied: the process that starts them dies again and again.
        """
        handles: list[ProcessHandle] = []
        try:
            for spec in specs:
                handles.append(ProcessHandle(spec))
        except LauncherDied:
            for handle in handles:
                handle.kill()
                handle.close()
            raise
        return handles

    def close(self) -> None:
        """Do nothing."""


class ProcessHandle:
    """A job in its own process, or several. It survives the death of the server that it was forked from.

    Args:
        spec: of the job.
        function: that the process calls with the spec and the pipe for reports: `module:name`.
    """

    grace = 10.0

    def __init__(self, spec: Any, function: str = "runner.sweeps.launchers.worker:main") -> None:
        self._reports, sending = forkserver.pipe()
        self._process = forkserver.process(function, spec, sending)
        forkserver.start_process(self._process)
        sending.close()
        self._observed: psutil.Process | None = None
        with contextlib.suppress(psutil.Error):
            self._observed = psutil.Process(self._process.pid)
        self._is_orphan = False

    def has_started(self) -> bool:
        """Return true: a process starts at once."""
        return True

    def waitables(self) -> Sequence[Connection | int]:
        """Return its pipe, while it is open, and the sentinel of the process."""
        sentinel = [] if self._is_orphan else [self._process.sentinel]
        return [*([] if self._reports.closed else [self._reports]), *sentinel]

    def read_progress(self) -> Iterator[JobProgress]:
        """Yield the reports in the pipe."""
        yield from self.read()

    def read(self) -> Iterator[Any]:
        """Yield what is in the pipe."""
        try:
            while not self._reports.closed and self._reports.poll():
                yield self._reports.recv()
        except (EOFError, OSError):  # the process has ended, maybe in the middle of a report
            self._reports.close()

    def exit_status(self) -> ExitStatus | None:
        """Return its exit code, which is lost with the server: only that knows it."""
        code = self._process.exitcode
        if code == forkserver.LOST and self._is_alive():
            if not self._is_orphan:
                forkserver.report_death()
            self._is_orphan = True
            return None
        if self._is_orphan:
            return ExitStatus(None, "killed, like the process that had started it")
        return None if code is None else ExitStatus(code, forkserver.describe_exit(code))

    def _is_alive(self) -> bool:
        with contextlib.suppress(psutil.Error):
            observed = self._observed
            return observed is not None and observed.is_running() and observed.status() != psutil.STATUS_ZOMBIE
        return False

    def request_stop(self) -> None:
        """Send SIGTERM."""
        assert self._process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill it with everything that it has started."""
        self._kill_group()
        assert self._process.pid is not None
        with contextlib.suppress(ProcessLookupError):  # it may not have its own process group yet
            os.kill(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill processes that it may have left behind, such as a loader's workers."""
        self._kill_group()
        self._process.join()
        self._process.close()
        self._reports.close()

    def _kill_group(self) -> None:
        assert self._process.pid is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


def gpus_for(infos: Mapping[int, JobInfo], configs: Mapping[int, DictConfig]) -> list[str]:
    """Return the GPUs to divide among the jobs, as CUDA_VISIBLE_DEVICES names them; none if all jobs run on the CPU.

    Raises:
        ConfigError: a job asks for a particular GPU.
    """
    if not any(info.device == "cuda" for info in infos.values()):
        return []
    pinned = [number for number, cfg in configs.items() if cfg.device.index != 0]
    if pinned:
        index = configs[pinned[0]].device.index
        text = f"device.index={index}: each job of a sweep sees only the GPU of its slot, as number 0"
        suggestion = "leave it out; CUDA_VISIBLE_DEVICES chooses the GPUs"
        raise ConfigError(Problem("device.index", text, suggestion, topic="conflict"))
    return visible_gpus()


def visible_gpus() -> list[str]:
    """Return all GPUs that may be used."""
    if named := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(index) for index in range(forkserver.call("runner.sweeps.check.build_jobs:gpus"))]
