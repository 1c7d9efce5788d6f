"""What runs the jobs of a sweep, as the pool sees it: processes of this machine, or tasks of a cluster's engine."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from omegaconf import DictConfig

from runner.config.settings import SweepSettings
from runner.sweeps.jobs import JobInfo, JobProgress, JobSpec
from runner.sweeps.launchers.slots import Slot


@dataclass(frozen=True)
class ExitStatus:
    """How a job's process came to its end.

    Attributes:
        code: its exit code, negative after a signal; None if it was lost with whoever watched it.
        words: the same for people.
    """

    code: int | None
    words: str


@dataclass(frozen=True)
class ResourceRequest:
    """What places are asked for.

    Attributes:
        settings: of the sweep.
        threads: of each job, as the config has it, or `auto`.
        at_most: there are no more jobs than these.
        built: what is known of them.
        configs: theirs.
    """

    settings: SweepSettings
    threads: int | str
    at_most: int
    built: Mapping[int, JobInfo]
    configs: Mapping[int, DictConfig]


class JobHandle(Protocol):
    """A job that an engine has been given.

    Attributes:
        grace: seconds that it may take to write its checkpoint when it is told to end.
    """

    grace: float

    def begun(self) -> bool:
        """Whether it runs, or has; otherwise it waits for a place. It is asked before the others, each time."""

    def ends(self) -> Sequence[Connection | int]:
        """What becomes readable when something happens; nothing if that is to be asked for."""

    def heard(self) -> Iterator[JobProgress]:
        """How far it is, as often as that was told since the last call."""

    def ended(self) -> ExitStatus | None:
        """Its end, if it has come to it."""

    def tell_to_end(self) -> None:
        """Ask it to end, with a checkpoint."""

    def kill(self) -> None:
        """End it at once."""

    def close(self) -> None:
        """It has ended: let go of what it has left behind."""


class Launcher(Protocol):
    """Runs jobs.

    Attributes:
        elsewhere: on other machines; what this one has says nothing of them.
    """

    elsewhere: bool

    def slots(self, asked: ResourceRequest) -> list[Slot]:
        """Where jobs go, a place for each that may be under way.

        Raises:
            ConfigError: what is wanted is not there.
        """

    def under_way(self, folder: Path) -> set[int]:
        """The jobs of a sweep, begun before, that go on without it; they are started by following them."""

    def open(self) -> None:
        """Be ready for jobs.

        Raises:
            ConfigError: the engine cannot be reached.
        """

    def words(self, slots: Sequence[Slot]) -> str:
        """Where the jobs run, for people."""

    def environment(self, slot: Slot) -> dict[str, str]:
        """What a job in a slot is to find in its environment."""

    def start(self, tasks: Sequence[JobSpec]) -> Sequence[JobHandle]:
        """Take jobs on, all at once.

        Raises:
            ConfigError: the engine does not take them.
        """

    def close(self) -> None:
        """There are no more jobs."""
