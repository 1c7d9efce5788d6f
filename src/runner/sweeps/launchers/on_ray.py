"""`hydra/launcher=ray`: one Ray task per job (Moritz et al., 2018, arXiv:1712.05889), on this machine or a cluster.

If a task's node is lost, Ray runs the task again, `max_retries` times; it resumes from the job's checkpoint.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from runner.errors import ConfigError, Problem, first_line
from runner.sweeps.jobs import JobSpec
from runner.sweeps.launchers.cluster import Cluster, ClusterHandle, for_node
from runner.sweeps.launchers.forkserver import describe_exit
from runner.sweeps.launchers.launcher import ExitStatus, ResourceRequest
from runner.sweeps.launchers.slots import Slot
from runner.sweeps.launchers.supervisor import supervise

log = logging.getLogger("runner")

KEY = "hydra/launcher"


class Ray(Cluster):
    """Runs jobs on a Ray that this sweep starts, or on a cluster.

    Args:
        init: arguments of `ray.init`; those that are None are left out.
        remote: arguments of `ray.remote`, for each job; likewise.
    """

    def __init__(self, init: Mapping[str, Any] | None = None, remote: Mapping[str, Any] | None = None) -> None:
        self._init = {key: value for key, value in (init or {}).items() if value is not None}
        self._remote = {key: value for key, value in (remote or {}).items() if value is not None}

    def allocate(self, request: ResourceRequest) -> list[Slot]:
        """Return a slot per job, or as many as `sweep.jobs` says; Ray has its own queue.

        Raises:
            ConfigError: jobs are to compute on GPUs, and do not request any from Ray.
        """
        if not self._remote.get("num_gpus") and any(cfg.device.name == "cuda" for cfg in request.configs.values()):
            text = "device=cuda: Ray hides its GPUs from jobs that do not request one"
            suggestion = "write hydra.launcher.ray.remote.num_gpus=1"
            raise ConfigError(Problem("hydra.launcher.ray.remote.num_gpus", text, suggestion, topic="conflict"))
        self._remote["num_cpus"] = self._remote.get("num_cpus", 1) * request.ranks
        return super().allocate(request)

    def open(self) -> None:
        """Start Ray, or connect to it.

        Raises:
            ConfigError: that failed.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics unless the user asks for them
        try:
            ray.init(**self._init)
            self._run = ray.remote(**self._remote)(supervise)
        except ConnectionError as error:
            token = "" if "RAY_AUTH_MODE" in os.environ else "if it requires a token, set RAY_AUTH_MODE=token"
            problem = Problem(KEY, f"hydra/launcher=ray: {first_line(error)}", token, topic="unavailable")
            raise ConfigError(problem) from error
        except Exception as error:  # Ray's own many kinds, and those that its arguments raise
            raise ConfigError(Problem(KEY, f"hydra/launcher=ray: {first_line(error)}", topic="unavailable")) from error

        self._check_resources()

    def _check_resources(self) -> None:
        """Check that a node has the resources of a job; Ray itself waits without a word, for ever.

        Raises:
            ConfigError: no node has them, and no other will join.
        """
        names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
        needed = {"CPU": 1.0} | {name: self._remote[key] for key, name in names.items() if key in self._remote}
        needed |= self._remote.get("resources") or {}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(all(node.get(name, 0.0) >= amount for name, amount in needed.items()) for node in nodes):
            return
        amounts = ", ".join(f"{amount:g} {name}" for name, amount in needed.items() if amount)
        text = f"hydra/launcher=ray: no node of this Ray has {amounts} for a job"
        if self._init.get("address") == "local":
            suggestion = "write less in hydra.launcher.ray.remote"
            raise ConfigError(Problem("hydra.launcher.ray.remote", text, suggestion, topic="unavailable"))
        log.warning("%s: the jobs wait until one joins", text)

    def describe(self, slots: Sequence[Slot]) -> str:
        """Describe the cluster: `as Ray has room, with 2 CPU, 0 GPU; 1 CPU, 0 GPU a job`."""
        total, own = ray.cluster_resources(), self._remote
        each = f"{own.get('num_cpus', 1):g} CPU, {own.get('num_gpus', 0):g} GPU a job"
        room = f"with {total.get('CPU', 0):g} CPU, {total.get('GPU', 0):g} GPU"
        return f"{self.describe_limit(slots)}as Ray has room, {room}; {each}"

    def start(self, specs: Sequence[JobSpec]) -> list["RayHandle"]:
        """Submit a task for each job."""
        return [RayHandle(spec, self._run.remote(for_node(spec))) for spec in specs]

    def close(self) -> None:
        """Disconnect from the cluster, or stop the Ray that was started."""
        ray.shutdown()


class RayHandle(ClusterHandle):
    """A Ray task.

    Args:
        spec: of the job.
        result: Ray's reference to its exit code.
    """

    def __init__(self, spec: JobSpec, result: Any) -> None:
        super().__init__(spec)
        self._result = result

    def poll(self) -> ExitStatus | None:
        """Return the supervisor's result, or why it has none."""
        done, _ = ray.wait([self._result], timeout=0)
        if not done:
            return None
        try:
            code = int(ray.get(self._result))
        except ray.exceptions.RayTaskError as error:  # it could not even start the training
            return ExitStatus(1, f"on its node: {type(error.cause).__name__}: {first_line(error.cause)}")
        except ray.exceptions.RayError as error:
            return ExitStatus(None, f"lost by Ray: {first_line(error)}")
        return ExitStatus(code, describe_exit(code))

    def cancel(self) -> None:
        """Kill its worker; the training notices, and ends within seconds."""
        ray.cancel(self._result, force=True)
