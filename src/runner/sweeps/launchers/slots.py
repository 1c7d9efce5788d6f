"""Slots: a fixed number of places for jobs, each with its share of the cores, and its own GPU if there are any."""

from dataclasses import dataclass

import psutil

from runner.errors import ConfigError, Problem
from runner.util.cores import physical_cores, requested_threads

JOB_BYTES = 1 << 30
"""Memory of a small job, imports included, rounded up: `sweep.jobs=auto` starts only as many as fit."""


@dataclass(frozen=True)
class Slot:
    """A place for one job at a time.

    Attributes:
        number: from 0.
        threads: that a job's operations may use; None leaves it to the cluster.
        gpu: as CUDA_VISIBLE_DEVICES names it; None where jobs run on the CPU.
    """

    number: int
    threads: int | None = None
    gpu: str | None = None

    def environment(self) -> dict[str, str]:
        """Return the environment variables of a job in this slot."""
        variables = {"OMP_NUM_THREADS": self.threads, "CUDA_VISIBLE_DEVICES": self.gpu}
        return {name: str(value) for name, value in variables.items() if value is not None}


def make_slots(
    requested: int | str,
    jobs: int,
    gpus: list[str],
    jobs_per_gpu: int,
    threads: int | str = "auto",
    ranks: int = 1,
) -> list[Slot]:
    """Divide the machine.

    Args:
        requested: number of slots, or `auto`.
        jobs: the number of jobs, which is the most slots there can be.
        gpus: those to use, as CUDA_VISIBLE_DEVICES names them; empty for jobs that run on the CPU.
        jobs_per_gpu: slots that share a GPU.
        threads: of each job, as in the config, or `auto`.
        ranks: that train a job together: each has its own GPU, or its share of the cores.

    Raises:
        ConfigError: the GPUs have room for fewer slots.
    """
    groups = [",".join(gpus[first : first + ranks]) for first in range(0, len(gpus) - ranks + 1, ranks)]
    if gpus and not groups:
        text = f"strategy.nproc_per_node={ranks}: there are {len(gpus)} GPUs"
        instead = f"write strategy.nproc_per_node={len(gpus)}"
        raise ConfigError(Problem("strategy.nproc_per_node", text, instead, topic="unavailable"))
    places = [group for _ in range(jobs_per_gpu) for group in groups]
    if requested != "auto" and places and int(requested) > len(places):
        text = (
            f"sweep.jobs={requested}: {len(gpus)} GPU{'s' * (len(gpus) > 1)} with {jobs_per_gpu} job"
            f"{'s' * (jobs_per_gpu > 1)} each have room for {len(places)}"
        )
        suggestion = f"write sweep.jobs={len(places)}, or sweep.jobs_per_gpu={-(-int(requested) // len(groups))}"
        raise ConfigError(Problem("sweep.jobs", text, suggestion, topic="unavailable"))
    own = int(threads) if threads != "auto" else requested_threads()
    if requested != "auto":
        count = int(requested)
    elif places:
        count = len(places)
    else:
        cores, memory = physical_cores() // (own or 1), psutil.virtual_memory().available // JOB_BYTES
        count = min(cores, memory) // ranks
    count = max(1, min(count, jobs))
    share = own or max(1, physical_cores() // (count * ranks))
    return [Slot(number, share, places[number] if places else None) for number in range(count)]
