"""`hydra/launcher=slurm`: one Slurm job per job of the sweep, through submitit; those that start together are an array.

A job of several ranks may have several nodes, on each of which srun starts one task: its ranks are started by torchrun.

A job that Slurm preempts, or that is about to run out of time, writes a checkpoint and is requeued under the same id;
it resumes from there.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import submitit

from runner.config.keys import format_value
from runner.errors import ConfigError, Problem, first_line
from runner.sweeps.jobs import JobSpec
from runner.sweeps.launchers.cluster import Cluster, ClusterHandle, for_node
from runner.sweeps.launchers.forkserver import describe_exit
from runner.sweeps.launchers.launcher import ExitStatus, ResourceRequest
from runner.sweeps.launchers.slots import Slot
from runner.sweeps.launchers.slurm_node import SUBMITTED, Submitted
from runner.sweeps.launchers.slurm_queue import UNFINISHED, Queue
from runner.util.files import load_json_or_empty, write_json

KEY = "hydra/launcher"

MAX_ARRAY_SIZE = 1000
"""Jobs of an array, as Slurm's MaxArraySize has it by default (the manual of slurm.conf)."""

OWN_SETTINGS = ("submitit_folder", "max_num_timeout", "python")
"""Settings that `submitit.AutoExecutor.update_parameters` does not take."""

COMMON_SETTINGS = (
    "timeout_min",
    "nodes",
    "tasks_per_node",
    "cpus_per_task",
    "gpus_per_node",
    "mem_gb",
    "name",
    "stderr_to_stdout",
)
"""Settings that all executors of submitit share; the others are Slurm's."""

NUMBERS = ("timeout_min", "signal_delay_s", "max_num_timeout", "array_parallelism")
"""Settings that must be given."""

COMMANDS = ("setup", "teardown", "srun_args")
"""Settings that are lists; a single item may be written without brackets."""

SINGLE_TASK = ("tasks_per_node", "ntasks_per_node", "ntasks", "ntasks-per-node")
"""Settings, and options of sbatch, that would run a job several times at once."""

OF_SEVERAL_NODES = ("--wait=0", "--kill-on-bad-exit=0")
"""Arguments of srun: rank 0 tests and saves after the others have ended, and reports which of them has failed."""


class Slurm(Cluster):
    """Runs jobs on a Slurm cluster.

    Args:
        settings: of submitit, by its own names; those that are None are left out.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = {key: value for key, value in settings.items() if value is not None}
        for key in COMMANDS:
            if isinstance(self._settings.get(key), str):
                self._settings[key] = [self._settings[key]]
        self._queue = Queue()
        self._still_running: dict[int, str] = {}

    def allocate(self, request: ResourceRequest) -> list[Slot]:
        """Return a slot per job, or as many as `sweep.jobs` says.

        Raises:
            ConfigError: this machine has no Slurm, or a setting is not valid.
        """
        self._check()
        if shutil.which("sbatch") is None:
            text = "hydra/launcher=slurm: this machine has no sbatch"
            suggestion = "start the sweep on a machine with Slurm's commands"
            raise ConfigError(Problem(KEY, text, suggestion, topic="unavailable"))
        self._check_nodes(request)
        if request.ranks > 1:
            self._settings["cpus_per_task"] = self._settings.get("cpus_per_task", 1) * request.ranks
        return super().allocate(request)

    def find_running(self, folder: Path) -> set[int]:
        """Return the jobs that Slurm still has, waiting or running: it does not know whether their sweep lives.

        Raises:
            ConfigError: Slurm does not answer.
        """
        ids = {path.parent.name: load_json_or_empty(path).get("id", "") for path in folder.glob(f"[0-9]*/{SUBMITTED}")}
        if ids and not self._queue.read():
            text = "hydra/launcher=slurm: squeue does not answer, and jobs of this sweep may still run"
            raise ConfigError(Problem(KEY, text, "try again later", topic="unavailable"))
        unfinished = ((int(number), job_id) for number, job_id in ids.items())
        self._still_running = {n: job_id for n, job_id in unfinished if self._queue.state(job_id) in UNFINISHED}
        return set(self._still_running)

    def _check(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: with those that are not valid.
        """
        settings, problems = self._settings, []
        for name in NUMBERS:
            number = settings.get(name)
            if isinstance(number, bool) or not isinstance(number, int | float) or number < 0:
                key = f"hydra.launcher.{name}"
                text = f"{key}={format_value(number)} is not a number of at least 0"
                problems.append(Problem(key, text, "write a number", topic="type"))
        if not isinstance(settings.get("submitit_folder"), str):
            key = "hydra.launcher.submitit_folder"
            problems.append(Problem(key, f"{key}=null is not a folder", f"write {key}=.submitit/%j", topic="missing"))
        more = settings.get("additional_parameters") or {}
        problems += [
            Problem(f"hydra.launcher.{name}", f"hydra.launcher.{name}: a job is one task a node", "leave it out",
                    topic="conflict")
            for name in SINGLE_TASK
            if name in {**settings, **more}
        ]  # fmt: skip
        nodes, key = settings.get("nodes", 1), "hydra.launcher.nodes"
        if "nodes" in more:
            text = "hydra.launcher.additional_parameters.nodes: runner has to know it"
            problems.append(Problem(key, text, f"write {key}={more['nodes']}", topic="conflict"))
        if isinstance(nodes, bool) or not isinstance(nodes, int) or nodes < 1:
            text = f"{key}={format_value(nodes)} is not a whole number of at least 1"
            problems.append(Problem(key, text, "write a number", topic="type"))
        elif nodes > 1 and settings.get("use_srun") is False:
            text = f"{key}={nodes}: srun starts the ranks of each node"
            problems.append(Problem("hydra.launcher.use_srun", text, "leave out use_srun=false", topic="conflict"))
        if not problems and settings["signal_delay_s"] >= 60 * settings["timeout_min"]:
            key = "hydra.launcher.signal_delay_s"
            text = f"{key}={settings['signal_delay_s']} s is all of timeout_min={settings['timeout_min']}"
            problems.append(Problem(key, text, "write a shorter delay, or a longer time", topic="conflict"))
        if problems:
            raise ConfigError(*problems)
        self._executor(Path())

    def _check_nodes(self, request: ResourceRequest) -> None:
        """Check that there are ranks for each node.

        Raises:
            ConfigError: a job of several nodes is one process.
        """
        nodes = self._settings.get("nodes", 1)
        if nodes == 1:
            return
        if any(cfg.strategy.name == "single" for cfg in request.configs.values()):
            text = f"hydra.launcher.nodes={nodes}: strategy=single is one process"
            instead = "add strategy=ddp strategy.nproc_per_node=1, the ranks of each node"
            raise ConfigError(Problem("hydra.launcher.nodes", text, instead, topic="conflict"))
        self._settings["tasks_per_node"] = 1
        self._settings["srun_args"] = [*self._settings.get("srun_args", []), *OF_SEVERAL_NODES]

    def open(self) -> None:
        """Do nothing."""

    def _executor(self, folder: Path) -> Any:
        """Return the submitit executor for a sweep in this folder.

        Raises:
            ConfigError: submitit refuses a setting.
        """
        parameters = {
            key if key in COMMON_SETTINGS else f"slurm_{key}": value
            for key, value in self._settings.items()
            if key not in OWN_SETTINGS
        }
        pickles = folder / self._settings["submitit_folder"]
        if pickles.parent.is_relative_to(folder):  # they hold the jobs' settings
            pickles.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            executor = submitit.AutoExecutor(pickles, cluster="slurm", slurm_python=self._settings.get("python"))
            executor.update_parameters(**parameters)
        except Exception as error:  # of types and names
            problem = Problem("hydra.launcher", f"hydra.launcher: {first_line(error)}", topic="type")
            raise ConfigError(problem) from error
        return executor

    def describe(self, slots: Sequence[Slot]) -> str:
        """Describe the cluster: `as Slurm has room, partition gpu`."""
        partition = self._settings.get("partition")
        return f"{self.describe_limit(slots)}as Slurm has room" + (f", partition {partition}" if partition else "")

    def start(self, specs: Sequence[JobSpec]) -> list["SlurmHandle"]:
        """Submit jobs, several as an array.

        Raises:
            ConfigError: sbatch refuses them.
        """
        executor = self._executor(specs[0].folder.parent)
        new = [spec for spec in specs if spec.number not in self._still_running]
        # Each is followed once: a job of a halving starts again for its next rung.
        followed = {s.number: self._still_running.pop(s.number) for s in specs if s.number in self._still_running}
        jobs = {number: submitit.SlurmJob(executor.folder, job_id) for number, job_id in followed.items()}
        submitted: list[Any] = []
        try:
            for first in range(0, len(new), MAX_ARRAY_SIZE):
                submitted += self._submit(executor, new[first : first + MAX_ARRAY_SIZE])
        except ConfigError:  # then all of them fail
            for job in submitted:
                job.cancel(check=False)
            raise
        jobs |= dict(zip([spec.number for spec in new], submitted, strict=True))
        return [SlurmHandle(spec, jobs[spec.number], self._queue) for spec in specs]

    def _submit(self, executor: Any, specs: Sequence[JobSpec]) -> list[Any]:
        calls = [Submitted(for_node(spec), self._minutes, self._settings["max_num_timeout"]) for spec in specs]
        try:
            with _outside_of_jobs():
                jobs = executor.submit_array(calls) if len(calls) > 1 else [executor.submit(*calls)]
        except Exception as error:
            refused = [line for line in str(error).splitlines() if line.startswith("sbatch: ")]
            text = f"hydra/launcher=slurm: {refused[-1] if refused else first_line(error)}"
            raise ConfigError(Problem(KEY, text, topic="unavailable")) from error
        for spec, job in zip(specs, jobs, strict=True):
            write_json(spec.folder / SUBMITTED, {"id": job.job_id})
        return [job.task(0) for job in jobs]  # the result of a job is that of its first node

    def close(self) -> None:
        """Do nothing: running jobs continue."""

    @property
    def _minutes(self) -> float:
        return float(self._settings["timeout_min"]) - float(self._settings["signal_delay_s"]) / 60


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the variables of a Slurm job: a sweep may itself run in one, and sbatch would take over its options."""
    location = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    with submitit.helpers.clean_env() if "SLURM_JOB_ID" in os.environ else nullcontext():
        os.environ.update(location)
        yield


class SlurmHandle(ClusterHandle):
    """A Slurm job.

    Args:
        spec: of the job.
        job: submitit's.
        queue: Slurm's.
    """

    def __init__(self, spec: JobSpec, job: Any, queue: Queue) -> None:
        super().__init__(spec)
        self._job, self._queue = job, queue
        self._submitted = queue.reads
        self._missing_since: int | None = None

    def poll(self) -> ExitStatus | None:
        """Return the supervisor's result; without one, that the job is no longer in the queue."""
        if self._job.paths.result_pickle.exists():
            try:
                code = int(self._job.result())
                if times := load_json_or_empty(self._spec.folder / SUBMITTED).get("timeouts_over"):
                    limits = "hydra.launcher.timeout_min, max_num_timeout"
                    return ExitStatus(None, f"ran out of time {times} times ({limits})")
            except Exception as error:  # it could not even start the training
                lines = [line for line in str(error).splitlines() if line.strip(" -")] or [type(error).__name__]
                return ExitStatus(1, f"on its node: {lines[-1].strip()}; see {self._job.paths.stderr}")
            return ExitStatus(code, describe_exit(code))
        state = self._queue.state(self._job.job_id)
        if state in UNFINISHED or self._queue.reads <= self._submitted + 1:
            self._missing_since = None
            return None
        if self._missing_since is None:  # its result may be about to appear, or it is just being requeued
            self._missing_since = self._queue.reads
        if self._queue.reads == self._missing_since:
            return None
        return ExitStatus(None, f"ended by Slurm: {(state or 'no longer in its queue').lower().replace('_', ' ')}")

    def cancel(self) -> None:
        """Run scancel."""
        self._job.cancel(check=False)
