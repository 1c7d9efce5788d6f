"""Hydra's plugins behind `hydra/sweeper` and `hydra/launcher`: thin classes that import the rest when they are used."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import InstantiationException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from runner import DISTRIBUTION
from runner.errors import ConfigError, Problem, first_line

if TYPE_CHECKING:
    from runner.config.compose import Composer
    from runner.sweeps.launchers.launcher import Launcher as JobLauncher
    from runner.sweeps.plan.plan import Plan
    from runner.sweeps.plan.space import Space


class GridSweeper(Sweeper):
    """Runs every combination of the values.

    Args:
        params: axes besides the typed ones: values by key.
    """

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.params = {key: str(value) for key, value in (params or {}).items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what `sweep` needs, and check the launcher.

        Raises:
            ConfigError: the launcher is not runner's, or cannot be created.
        """
        self.hydra_context, self.config = hydra_context, config
        chosen = config.hydra.runtime.choices["hydra/launcher"]
        try:
            launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)
        except InstantiationException as error:
            text = f"hydra/launcher={chosen}: {first_line(error.__cause__ or error)}"
            raise ConfigError(Problem("hydra/launcher", text, topic="type")) from error
        if not isinstance(launcher, LauncherPlugin):
            text = f"hydra/launcher={chosen} does not work with runner"
            raise ConfigError(Problem("hydra/launcher", text, "choose from local, stacked, ray, slurm", topic="choice"))
        self.make_launcher = launcher.job_launcher

    def sweep(self, arguments: list[str]) -> int:
        """Run all jobs.

        Returns:
            The exit code.
        """
        from runner.sweeps.check.compose_jobs import Context
        from runner.sweeps.launch import run_sweep

        assert isinstance(self.hydra_context, Context) and self.config is not None  # cli.py passes no other
        context, launcher = self.hydra_context, self.make_launcher()
        return run_sweep(context.composer, self.config, arguments, self.plan, launcher, context.problems)

    @property
    def where(self) -> str | None:
        """The expression that a point must meet."""
        assert self.config is not None
        where: str | None = self.config.sweep.where
        return where

    def space(self, composer: "Composer", arguments: Sequence[str]) -> "Space":
        """Make the space of the sweep.

        Raises:
            ConfigError: an axis or `sweep.where` is wrong.
        """
        from runner.sweeps.plan.where import make_space

        return make_space(composer, arguments, self.params, self.where)

    def plan(self, composer: "Composer", arguments: Sequence[str]) -> "Plan":
        """Plan the jobs."""
        from runner.sweeps.plan import grid

        return grid.plan(self.space(composer, arguments))


class RandomSweeper(GridSweeper):
    """Runs random points.

    Args:
        params: axes besides the typed ones: values by key.
        n_trials: number of points.
        seed: of the draws.
    """

    def __init__(self, params: Mapping[str, Any] | None = None, n_trials: int = 20, seed: int = 0) -> None:
        super().__init__(params)
        self.n_trials, self.seed = n_trials, seed

    def plan(self, composer: "Composer", arguments: Sequence[str]) -> "Plan":
        """Plan the jobs."""
        from runner.sweeps.plan import random_search

        return random_search.plan(self.space(composer, arguments), self.n_trials, self.seed)


class OptunaSweeper(GridSweeper):
    """Runs points that Optuna chooses, each by the results of the earlier ones.

    Args:
        params: axes besides the typed ones: values by key.
        n_trials: number of trials of the study.
        sampler: that chooses the points: a class of Optuna's as `_target_`, and its arguments.
        pruner: that stops trials which are not promising, likewise; None prunes nothing.
        storage: address of a database for the study; None for a file in the sweep's folder.
        study_name: in the storage; None for the name of the sweep's folder.
        storage_timeout: seconds to wait for a storage that goes away; 0 does not wait.
    """

    def __init__(
        self,
        params: Mapping[str, Any] | None = None,
        n_trials: int = 20,
        sampler: Mapping[str, Any] | None = None,
        pruner: Mapping[str, Any] | None = None,
        storage: str | None = None,
        study_name: str | None = None,
        storage_timeout: float = 300.0,
    ) -> None:
        super().__init__(params)
        self.n_trials, self.storage, self.study_name = n_trials, storage, study_name
        self.storage_timeout = storage_timeout
        self.parts = {"sampler": sampler, "pruner": pruner}

    def plan(self, composer: "Composer", arguments: Sequence[str]) -> "Plan":
        """Plan the search.

        Raises:
            ConfigError: Optuna is not installed, or a setting is not valid.
        """
        with needing("hydra/sweeper=optuna", "optuna"):
            from runner.sweeps.plan import optuna_plan
        sampler, pruner = (make_part(name, self.parts[name]) for name in ("sampler", "pruner"))
        return optuna_plan.plan(
            self.space(composer, arguments),
            self.n_trials,
            sampler,
            pruner,
            self.storage,
            self.study_name,
            self.storage_timeout,
        )


class HalvingSweeper(GridSweeper):
    """Trains all jobs for a few epochs, and the best of them on and on.

    Args:
        params: axes besides the typed ones: values by key.
        eta: of so many jobs one goes on.
        min_epochs: of each job.
        max_epochs: of the best one.
        asynchronous: whether a job goes on before all others are as far.
        n_trials: number of points to draw; None: every combination.
        seed: of the draws.
        sampler: of Optuna's, which draws them: a class as `_target_`, and its arguments; None: each axis independently.
    """

    def __init__(
        self,
        params: Mapping[str, Any] | None = None,
        eta: int = 3,
        min_epochs: int = 1,
        max_epochs: int = 27,
        asynchronous: bool = False,
        n_trials: int | None = None,
        seed: int = 0,
        sampler: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(params)
        self.settings: dict[str, Any] = {
            "eta": eta, "min_epochs": min_epochs, "max_epochs": max_epochs, "asynchronous": asynchronous,
            "n_trials": n_trials, "seed": seed,
        }  # fmt: skip
        self.sampler = sampler

    def plan(self, composer: "Composer", arguments: Sequence[str]) -> "Plan":
        """Plan the jobs.

        Raises:
            ConfigError: a setting is not valid, or Optuna is needed and not installed.
        """
        from runner.sweeps.plan import halving_points

        with needing("hydra.sweeper.sampler", "optuna"):
            sampler = make_part("sampler", self.sampler)
            return halving_points.plan(
                composer, arguments, self.params, **self.settings, sampler=sampler, where=self.where
            )


def make_part(name: str, part: Mapping[str, Any] | None) -> Any:
    """Create the sampler or the pruner of a search; None makes none.

    Raises:
        ConfigError: it cannot be created.
    """
    if part is None:
        return None
    try:
        return instantiate(part, _convert_="all")
    except Exception as error:  # anything that its constructor raises
        key = f"hydra.sweeper.{name}"
        text = f"{key}: {first_line(error.__cause__ or error)}"
        raise ConfigError(Problem(key, text, topic="type")) from error


class LauncherPlugin(Launcher):
    """Provides runner's sweepers with the launcher of their jobs."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Do nothing."""

    @abstractmethod
    def job_launcher(self) -> "JobLauncher":
        """Create the launcher.

        Raises:
            ConfigError: a package is missing.
        """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Refuse: Hydra's own sweepers would call this, and cli.py refuses those already.

        Raises:
            ConfigError: always: other sweepers have no check, no record and no table.
        """
        text = "runner's launchers work only with runner's own sweepers"
        raise ConfigError(Problem("hydra/sweeper", text, "write hydra/sweeper=grid", topic="choice"))


class LocalLauncher(LauncherPlugin):
    """Runs one process per job on this machine."""

    def job_launcher(self) -> "JobLauncher":
        """Create the launcher."""
        from runner.sweeps.launchers.local import Local

        return Local()


class StackedLauncher(LauncherPlugin):
    """Trains jobs that differ in numbers alone as one program for each core of this machine."""

    def job_launcher(self) -> "JobLauncher":
        """Create the launcher."""
        from runner.sweeps.launchers.stacked import Stacked

        return Stacked()


class RayLauncher(LauncherPlugin):
    """Runs Ray tasks, on this machine or a cluster.

    Args:
        ray: `init` has the arguments of `ray.init`, `remote` those of `ray.remote` for each job; None leaves one out.
    """

    def __init__(self, ray: Mapping[str, Mapping[str, Any]]) -> None:
        self.settings = plain(ray)

    def job_launcher(self) -> "JobLauncher":
        """Create the launcher.

        Raises:
            ConfigError: Ray is not installed.
        """
        with needing("hydra/launcher=ray", "ray"):
            from runner.sweeps.launchers.on_ray import Ray
        return Ray(**self.settings)


class SlurmLauncher(LauncherPlugin):
    """Runs Slurm jobs.

    Args:
        settings: of submitit; None leaves one out.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = plain(settings)

    def job_launcher(self) -> "JobLauncher":
        """Create the launcher.

        Raises:
            ConfigError: submitit is not installed.
        """
        with needing("hydra/launcher=slurm", "slurm"):
            from runner.sweeps.launchers.on_slurm import Slurm
        return Slurm(self.settings)


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Convert settings to plain dicts and lists."""
    container = OmegaConf.to_container(OmegaConf.create(dict(settings)), resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


@contextmanager
def needing(choice: str, extra: str) -> Iterator[None]:
    """Guard imports of an optional dependency.

    Raises:
        ConfigError: it is not installed; with the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        command = f"install it: pip install '{requirement(extra) or error.name}'"
        text = f"{choice} needs the package {error.name}"
        raise ConfigError(Problem(choice.partition("=")[0], text, command, topic="unavailable")) from error


def requirement(extra: str) -> str | None:
    """Return the requirement of an extra, as pip takes it; None if runner is not installed as a distribution.

    The distribution is not on an index: pip could not install `<distribution>[<extra>]`.
    """
    from importlib.metadata import PackageNotFoundError, requires

    try:
        requirements = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return None
    own = (text.partition(";") for text in requirements)
    return next(
        (name.strip() for name, _, marker in own if marker.replace('"', "'").strip() == f"extra == '{extra}'"), None
    )
