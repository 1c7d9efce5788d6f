"""`hydra/launcher=ray`: each job a task of Ray's (Moritz et al., 2018, arXiv:1712.05889), on this machine or a cluster.

A task whose node is gone is run again by Ray itself, `max_retries` times, and goes on from the job's checkpoint.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from runner.errors import ConfigError, first_line
from runner.sweeps.jobs import JobSpec
from runner.sweeps.launchers.cluster import Cluster, ClusterWork, for_node
from runner.sweeps.launchers.forkserver import ended_by
from runner.sweeps.launchers.launcher import ExitStatus, ResourceRequest
from runner.sweeps.launchers.slots import Slot
from runner.sweeps.launchers.supervisor import supervise

log = logging.getLogger("runner")


class Ray(Cluster):
    """A Ray of this sweep's own, or a cluster's.

    Args:
        init: arguments of `ray.init`.
        remote: arguments of `ray.remote`, for each job.
    """

    def __init__(self, init: Mapping[str, Any] | None = None, remote: Mapping[str, Any] | None = None) -> None:
        self._init = {key: value for key, value in (init or {}).items() if value is not None}
        self._remote = {key: value for key, value in (remote or {}).items() if value is not None}

    def slots(self, asked: ResourceRequest) -> list[Slot]:
        """As many as there are jobs, or as `sweep.jobs` says; Ray has a queue of its own.

        Raises:
            ConfigError: jobs are to compute on GPUs, and Ray is not asked for any.
        """
        if not self._remote.get("num_gpus") and any(cfg.device.name == "cuda" for cfg in asked.configs.values()):
            raise ConfigError("device=cuda: Ray hides its GPUs from jobs that ask for none: write"
                              " hydra.launcher.ray.remote.num_gpus=1")  # fmt: skip
        return super().slots(asked)

    def open(self) -> None:
        """Start Ray, or connect to it.

        Raises:
            ConfigError: that failed.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what a user has not asked for is not sent anywhere
        try:
            ray.init(**self._init)
            self._run = ray.remote(**self._remote)(supervise)
        except ConnectionError as error:
            token = "" if "RAY_AUTH_MODE" in os.environ else "; if it wants a token, set RAY_AUTH_MODE=token"
            raise ConfigError(f"hydra/launcher=ray: {first_line(error)}{token}") from error
        except Exception as error:  # of its own many kinds, and whatever its arguments raise
            raise ConfigError(f"hydra/launcher=ray: {first_line(error)}") from error

        self._check_resources()

    def _check_resources(self) -> None:
        """See that a node has what a job asks for; Ray itself waits for ever, and does not say so.

        Raises:
            ConfigError: none has, and no other will come.
        """
        names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
        wanted = {"CPU": 1.0} | {name: self._remote[key] for key, name in names.items() if key in self._remote}
        wanted |= self._remote.get("resources") or {}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(all(node.get(name, 0.0) >= amount for name, amount in wanted.items()) for node in nodes):
            return
        told = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items() if amount)
        sentence = f"hydra/launcher=ray: no node of this Ray has {told} for a job"
        if self._init.get("address") == "local":
            raise ConfigError(f"{sentence}: write less in hydra.launcher.ray.remote")
        log.warning("%s: the jobs wait until one comes", sentence)

    def words(self, slots: Sequence[Slot]) -> str:
        """`as Ray has room, with 2 CPU, 0 GPU; 1 CPU, 0 GPU a job`."""
        has, asked = ray.cluster_resources(), self._remote
        each = f"{asked.get('num_cpus', 1):g} CPU, {asked.get('num_gpus', 0):g} GPU a job"
        return (
            f"{self.at_most(slots)}as Ray has room, with {has.get('CPU', 0):g} CPU, {has.get('GPU', 0):g} GPU; {each}"
        )

    def start(self, tasks: Sequence[JobSpec]) -> list["RayWork"]:
        """Submit them."""
        return [RayWork(task, self._run.remote(for_node(task))) for task in tasks]

    def close(self) -> None:
        """Leave the cluster, or end the Ray that was started."""
        ray.shutdown()


class RayWork(ClusterWork):
    """A task of Ray's.

    Args:
        task: what it is to do.
        result: Ray's reference to its exit code.
    """

    def __init__(self, task: JobSpec, result: Any) -> None:
        super().__init__(task)
        self._result = result

    def outcome(self) -> ExitStatus | None:
        """What the supervisor returned, or why it did not."""
        done, _ = ray.wait([self._result], timeout=0)
        if not done:
            return None
        try:
            code = int(ray.get(self._result))
        except ray.exceptions.RayTaskError as error:  # it could not even start the training
            return ExitStatus(1, f"on its node: {type(error.cause).__name__}: {first_line(error.cause)}")
        except ray.exceptions.RayError as error:
            return ExitStatus(None, f"lost by Ray: {first_line(error)}")
        return ExitStatus(code, ended_by(code))

    def cancel(self) -> None:
        """Kill its worker; the training notices, and ends within seconds."""
        ray.cancel(self._result, force=True)
