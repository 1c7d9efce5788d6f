"""Where jobs run: a fixed number of slots, each with its share of the cores, and a GPU of its own if there are any."""

from dataclasses import dataclass

import psutil

from runner.errors import ConfigError
from runner.util.cores import physical_cores, requested_threads

JOB_BYTES = 1 << 30
"""Memory that a small job takes, imports included, rounded up: `sweep.jobs=auto` starts no more than fit."""


@dataclass(frozen=True)
class Slot:
    """A place for one job at a time.

    Attributes:
        number: from 0.
        threads: that a job's operations may use; None is what its place in the cluster gives it.
        gpu: as CUDA_VISIBLE_DEVICES names it; None where jobs run on the CPU.
    """

    number: int
    threads: int | None = None
    gpu: str | None = None

    def environment(self) -> dict[str, str]:
        """What a job in this slot finds in its environment."""
        said = {"OMP_NUM_THREADS": self.threads, "CUDA_VISIBLE_DEVICES": self.gpu}
        return {name: str(value) for name, value in said.items() if value is not None}


def make_slots(
    wanted: int | str, jobs: int, gpus: list[str], jobs_per_gpu: int, threads: int | str = "auto"
) -> list[Slot]:
    """Divide the machine.

    Args:
        wanted: slots, or `auto`.
        jobs: there are no more slots than these.
        gpus: those to use, as CUDA_VISIBLE_DEVICES names them; none for jobs that run on the CPU.
        jobs_per_gpu: slots that share one.
        threads: of each job, as the config has it, or `auto`.

    Raises:
        ConfigError: more slots are wanted than the GPUs take.
    """
    places = [gpu for _ in range(jobs_per_gpu) for gpu in gpus]
    if wanted != "auto" and places and int(wanted) > len(places):
        raise ConfigError(
            f"sweep.jobs={wanted}: {len(gpus)} GPU{'s' * (len(gpus) > 1)} with {jobs_per_gpu} job"
            f"{'s' * (jobs_per_gpu > 1)} each take {len(places)}; write sweep.jobs={len(places)},"
            f" or sweep.jobs_per_gpu={-(-int(wanted) // len(gpus))}"
        )
    own = int(threads) if threads != "auto" else requested_threads()
    if wanted != "auto":
        count = int(wanted)
    elif places:
        count = len(places)
    else:
        count = min(physical_cores() // (own or 1), psutil.virtual_memory().available // JOB_BYTES)
    count = max(1, min(count, jobs))
    share = own or max(1, physical_cores() // count)
    return [Slot(number, share, places[number] if places else None) for number in range(count)]
