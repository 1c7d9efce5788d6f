"""The interface of a method: how a sweep chooses its jobs, and what is checked and said of that before it starts."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig

from runner.comparison.objectives import Objective
from runner.sweeps.jobs import Job


class Method:
    """Plans all jobs before the sweep starts, and trains each to its end. Other methods derive from this one.

    Attributes:
        retries_failed: whether a resume starts failed jobs again.
        suits_stacks: whether its jobs can be trained as one program.
        compares_always: whether a resume compares the jobs with the saved ones even if no argument asks for others.
        extends_training: whether `sweep.extend` without new jobs trains those of the sweep further.
    """

    retries_failed = True
    suits_stacks = True
    compares_always = False
    extends_training = False

    @property
    def trials(self) -> int | None:
        """The number of configurations that are chosen one after the other; None if the plan has all of them."""
        return None

    @property
    def repetitions(self) -> int:
        """Jobs of each trial."""
        return 1

    def repeat(self, key: str, values: Sequence[str]) -> None:
        """Make a job of each trial for each of these seeds or folds; a second call, for each combination."""

    def probes(self, first: int) -> list[Job]:
        """Return jobs to check only, numbered from `first`: together they have every value of a trial."""
        return []

    def notes(self, jobs: Sequence[Job], objectives: Sequence[Objective], config: DictConfig) -> list[str]:
        """Return remarks for the user.

        Args:
            jobs: of the plan.
            objectives: of the sweep.
            config: of the sweep, with Hydra's node.
        """
        return []

    def check_jobs(
        self, objectives: Sequence[Objective], configs: Mapping[int, DictConfig], metrics: Collection[str]
    ) -> None:
        """Check that the jobs can be chosen by these objectives.

        Args:
            objectives: of the sweep.
            configs: of its jobs.
            metrics: that they measure.

        Raises:
            ConfigError: they cannot.
        """

    def check_storage(self, objectives: Sequence[Objective], resumed: bool = False) -> None:
        """Check that results can be stored, just before anything is created.

        Raises:
            ConfigError: they cannot.
        """

    def resume(self, folder: Path, all_go_on: bool, has_new: bool) -> None:
        """Continue a sweep that the same method has started.

        Args:
            folder: of the sweep.
            all_go_on: whether `sweep.extend` asks for more.
            has_new: whether there are new jobs.

        Raises:
            ConfigError: the method has other settings now.
        """


PLANNED = Method()
