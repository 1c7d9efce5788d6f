"""`hydra/launcher=slurm`: each job a job of Slurm's, those that start together an array, by submitit.

A job that Slurm takes its place away from, or whose time is nearly over, writes a checkpoint and is queued again, under
the same id; it goes on from there.
"""

import getpass
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import submitit

from runner.config.keys import format_value
from runner.errors import ConfigError, first_line
from runner.sweeps.jobs import JobSpec
from runner.sweeps.launchers import supervisor
from runner.sweeps.launchers.cluster import Cluster, ClusterWork, for_node
from runner.sweeps.launchers.forkserver import ended_by
from runner.sweeps.launchers.launcher import ExitStatus, ResourceRequest
from runner.sweeps.launchers.slots import Slot
from runner.util.files import load_json_or_empty, write_json

SUBMITTED = "slurm.json"
"""In a job's folder: its id in Slurm, and how often its time was over."""

ARRAY_AT_MOST = 1000
"""Jobs of an array, as Slurm's MaxArraySize has it by default (the manual of slurm.conf)."""

QUEUE_SECONDS = 10.0
"""Between two looks at Slurm's queue, which all users share."""

GOING_ON = {
    "COMPLETING", "CONFIGURING", "PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESIZING", "RESV_DEL_HOLD",
    "RUNNING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "SUSPENDED",
}  # fmt: skip
"""States of a job that may still come to its end (the manual of squeue, JOB STATE CODES)."""

ELSEWHERE = ("submitit_folder", "max_num_timeout", "python")
"""Settings that are none of `submitit.AutoExecutor.update_parameters`."""

PLAIN = ("timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb", "name", "stderr_to_stdout")
"""Settings that submitit knows for all of its executors; the others are Slurm's."""

NUMBERS = ("timeout_min", "signal_delay_s", "max_num_timeout", "array_parallelism")
"""Settings that there must be."""

COMMANDS = ("setup", "teardown", "srun_args")
"""Settings that are lists; a single one may be written as such."""

ONE_TASK = ("nodes", "tasks_per_node", "ntasks_per_node", "ntasks", "ntasks-per-node")
"""Settings, and options of sbatch, by which a job would be run several times at once."""


class Slurm(Cluster):
    """A cluster that Slurm runs.

    Args:
        settings: of submitit's, by the names that it has for them; None leaves one out.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = {key: value for key, value in settings.items() if value is not None}
        for key in COMMANDS:
            if isinstance(self._settings.get(key), str):
                self._settings[key] = [self._settings[key]]
        self._queue = Queue()
        self._left: dict[int, str] = {}

    def slots(self, asked: ResourceRequest) -> list[Slot]:
        """As many as there are jobs, or as `sweep.jobs` says.

        Raises:
            ConfigError: there is no Slurm here, or a setting is not Slurm's.
        """
        self._check()
        if shutil.which("sbatch") is None:
            raise ConfigError(
                "hydra/launcher=slurm: there is no sbatch here: start the sweep where Slurm's commands are"
            )
        return super().slots(asked)

    def under_way(self, folder: Path) -> set[int]:
        """Those that are in Slurm's queue, waiting or running: it knows nothing of the sweep.

        Raises:
            ConfigError: that cannot be told.
        """
        ids = {path.parent.name: load_json_or_empty(path).get("id", "") for path in folder.glob(f"[0-9]*/{SUBMITTED}")}
        if ids and not self._queue.ask():
            raise ConfigError(
                "hydra/launcher=slurm: squeue does not answer, and jobs may be under way: try again later"
            )
        self._left = {int(number): job_id for number, job_id in ids.items() if self._queue.state(job_id) in GOING_ON}
        return set(self._left)

    def _check(self) -> None:
        """See that the settings are Slurm's.

        Raises:
            ConfigError: with those that are not.
        """
        had, problems = self._settings, []
        for key in NUMBERS:
            number = had.get(key)
            if isinstance(number, bool) or not isinstance(number, int | float) or number < 0:
                problems.append(f"hydra.launcher.{key}={format_value(number)} is not a number: write one")
        if not isinstance(had.get("submitit_folder"), str):
            problems.append("hydra.launcher.submitit_folder=null: write .submitit/%j")
        options = {**had, **(had.get("additional_parameters") or {})}
        problems += [
            f"hydra.launcher.{key}: a job is one task on one node; leave it out" for key in ONE_TASK if key in options
        ]
        if not problems and had["signal_delay_s"] >= 60 * had["timeout_min"]:
            problems.append(
                f"hydra.launcher.signal_delay_s={had['signal_delay_s']} s is all of timeout_min={had['timeout_min']}:"
                " write a shorter warning, or a longer time"
            )
        if problems:
            raise ConfigError(*problems)
        self._executor(Path())

    def open(self) -> None:
        """There is nothing to open."""

    def _executor(self, folder: Path) -> Any:
        """What submits the jobs of a sweep with this folder."""
        parameters = {
            key if key in PLAIN else f"slurm_{key}": value
            for key, value in self._settings.items()
            if key not in ELSEWHERE
        }
        try:
            executor = submitit.AutoExecutor(
                folder / self._settings["submitit_folder"], cluster="slurm", slurm_python=self._settings.get("python")
            )
            executor.update_parameters(**parameters)
        except Exception as error:  # of types and names
            raise ConfigError(f"hydra.launcher: {first_line(error)}") from error
        return executor

    def words(self, slots: Sequence[Slot]) -> str:
        """`as Slurm has room, partition gpu`."""
        partition = self._settings.get("partition")
        return f"{self.at_most(slots)}as Slurm has room" + (f", partition {partition}" if partition else "")

    def start(self, tasks: Sequence[JobSpec]) -> list["SlurmWork"]:
        """Submit them, several as an array.

        Raises:
            ConfigError: sbatch refuses them.
        """
        executor = self._executor(tasks[0].folder.parent)
        new = [task for task in tasks if task.number not in self._left]
        jobs = {number: submitit.SlurmJob(executor.folder, job_id) for number, job_id in self._left.items()}
        submitted: list[Any] = []
        try:
            for first in range(0, len(new), ARRAY_AT_MOST):
                submitted += self._submit(executor, new[first : first + ARRAY_AT_MOST])
        except ConfigError:  # all of them have failed then
            for job in submitted:
                job.cancel(check=False)
            raise
        jobs |= dict(zip([task.number for task in new], submitted, strict=True))
        return [SlurmWork(task, jobs[task.number], self._queue) for task in tasks]

    def _submit(self, executor: Any, tasks: Sequence[JobSpec]) -> list[Any]:
        what = [Submitted(for_node(task), self._minutes, self._settings["max_num_timeout"]) for task in tasks]
        try:
            with _outside_of_jobs():
                jobs = executor.submit_array(what) if len(what) > 1 else [executor.submit(*what)]
        except Exception as error:
            refused = [line for line in str(error).splitlines() if line.startswith("sbatch: ")]
            raise ConfigError(f"hydra/launcher=slurm: {refused[-1] if refused else first_line(error)}") from error
        for task, job in zip(tasks, jobs, strict=True):
            write_json(task.folder / SUBMITTED, {"id": job.job_id})
        return list(jobs)

    def close(self) -> None:
        """There is nothing to close: what still runs goes on."""

    @property
    def _minutes(self) -> float:
        return float(self._settings["timeout_min"]) - float(self._settings["signal_delay_s"]) / 60


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Without what an environment says of a job: a sweep may itself be one, and sbatch would take its options."""
    where = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    with submitit.helpers.clean_env() if "SLURM_JOB_ID" in os.environ else nullcontext():
        os.environ.update(where)
        yield


class Queue:
    """What Slurm's queue tells of this user's jobs, asked for all of them at once, now and then."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self.asked = 0
        self._next = 0.0

    def state(self, job_id: str) -> str | None:
        """Of a job; None if it is not there any more."""
        if time.monotonic() >= self._next:
            self.ask()
        return self._states.get(job_id)

    def ask(self) -> bool:
        """Ask Slurm; whether it has answered: its server may be away for a while."""
        self._next = time.monotonic() + QUEUE_SECONDS
        command = ["squeue", "-h", "-r", "-t", "all", "-u", getpass.getuser(), "-o", "%i %T"]
        try:
            told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        except (OSError, subprocess.SubprocessError):
            return False
        self._states = dict(line.split() for line in told.stdout.splitlines())
        self.asked += 1
        return True


class SlurmWork(ClusterWork):
    """A job of Slurm's.

    Args:
        task: what it is to do.
        job: submitit's.
        queue: Slurm's.
    """

    def __init__(self, task: JobSpec, job: Any, queue: Queue) -> None:
        super().__init__(task)
        self._job, self._queue = job, queue
        self._submitted = queue.asked
        self._gone_at: int | None = None

    def outcome(self) -> ExitStatus | None:
        """What the supervisor returned; or, if it has not and is not in the queue any more either, that."""
        if self._job.paths.result_pickle.exists():
            try:
                code = int(self._job.result())
                if times := load_json_or_empty(self._task.folder / SUBMITTED).get("timeouts_over"):
                    return ExitStatus(
                        None, f"its time was over {times} times (hydra.launcher.timeout_min, max_num_timeout)"
                    )
            except Exception as error:  # it could not even start the training
                lines = [line for line in str(error).splitlines() if line.strip(" -")] or [type(error).__name__]
                return ExitStatus(1, f"on its node: {lines[-1].strip()}; see {self._job.paths.stderr}")
            return ExitStatus(code, ended_by(code))
        state = self._queue.state(self._job.job_id)
        if state in GOING_ON or self._queue.asked <= self._submitted + 1:
            self._gone_at = None
            return None
        if self._gone_at is None:  # its result may be on its way, or it is just being queued again
            self._gone_at = self._queue.asked
        if self._queue.asked == self._gone_at:
            return None
        return ExitStatus(None, f"ended by Slurm: {(state or 'not in its queue any more').lower().replace('_', ' ')}")

    def cancel(self) -> None:
        """By scancel."""
        self._job.cancel(check=False)


class Submitted:
    """What runs on the node.

    Args:
        task: what to do.
        minutes: after which Slurm warns that its time is nearly over.
        timeouts: how often it may be queued again after that.
    """

    def __init__(self, task: JobSpec, minutes: float, timeouts: int) -> None:
        self._task, self._minutes, self._timeouts = task, minutes, timeouts

    def __call__(self) -> int:
        """Train, and be queued again if Slurm has ended it."""
        began, interrupted = time.monotonic(), threading.Event()
        for number in (signal.SIGTERM, signal.SIGUSR2):  # instead of submitit's, which know nothing of the child
            signal.signal(number, lambda *_: interrupted.set())
        # Not every cluster keeps a job to its own cores, and one that takes all of a node's disturbs the others.
        for cores in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
            if cores in os.environ:
                os.environ.setdefault("OMP_NUM_THREADS", os.environ[cores])
        code = supervisor.supervise(self._task, interrupted)
        ended = supervisor.is_told_to_end(self._task.folder)
        if interrupted.is_set() and not ended and (code < 0 or code > 128):
            over = time.monotonic() - began > (self._minutes - 1) * 60  # Slurm warns up to a minute too early
            if not over or self._may_go_on_after_timeout():
                self._again()
        return code

    def _may_go_on_after_timeout(self) -> bool:
        path = self._task.folder / SUBMITTED
        told = load_json_or_empty(path)
        timeouts = told.get("timeouts", 0) + 1
        over = {"timeouts_over": timeouts} if timeouts > self._timeouts else {}
        write_json(path, told | {"timeouts": timeouts} | over)
        return not over

    def _again(self) -> None:
        """Be queued again, unless Slurm sees to that itself or somebody has cancelled the job: leave no result then."""
        job_id = submitit.JobEnvironment().job_id  # of an array's last job SLURM_JOB_ID is the whole array's
        asked = ["squeue", "-h", "-j", job_id, "-o", "%T"]
        state = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
        if state == "RUNNING" and subprocess.run(["scontrol", "requeue", job_id], check=False).returncode:
            return  # this cluster does not allow it: the sweep is told, and can be gone on with
        (self._task.folder / supervisor.BEGUN).unlink(missing_ok=True)  # it waits for its place again
        os._exit(128 + signal.SIGTERM)
