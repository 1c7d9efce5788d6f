"""What Hydra looks for by `hydra/sweeper` and `hydra/launcher`: shells that import nothing until they are used."""

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
from runner.errors import ConfigError, first_line

if TYPE_CHECKING:
    from runner.config.compose import Composer
    from runner.sweeps.launchers.launcher import Launcher as JobLauncher
    from runner.sweeps.plan.plan import Plan


class GridSweeper(Sweeper):
    """Every combination of the values.

    Args:
        params: axes beside those typed: values by key.
    """

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.params = {key: str(value) for key, value in (params or {}).items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what `sweep` needs, and see that it is of our kind.

        Raises:
            ConfigError: the launcher is not.
        """
        self.hydra_context, self.config = hydra_context, config
        chosen = config.hydra.runtime.choices["hydra/launcher"]
        try:
            launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)
        except InstantiationException as error:
            raise ConfigError(f"hydra/launcher={chosen}: {first_line(error.__cause__ or error)}") from error
        if not isinstance(launcher, EngineLauncher):
            raise ConfigError(f"hydra/launcher={chosen} knows nothing of runner's jobs: choose local, ray or slurm")
        self.make_engine = launcher.engine

    def sweep(self, arguments: list[str]) -> int:
        """Run all jobs.

        Returns:
            The exit code.
        """
        from runner.sweeps.check.compose_jobs import Context
        from runner.sweeps.launch import run_sweep

        assert isinstance(self.hydra_context, Context) and self.config is not None  # cli.py gives no other
        context, engine = self.hydra_context, self.make_engine()
        return run_sweep(context.composer, self.config, arguments, self.plan, engine, context.problems)

    def plan(self, made: "Composer", arguments: Sequence[str]) -> "Plan":
        """The points of the sweep."""
        from runner.sweeps.plan import grid

        return grid.plan(made, arguments, self.params)


class RandomSweeper(GridSweeper):
    """Points drawn by chance.

    Args:
        params: axes beside those typed: values by key.
        n_trials: how many points.
        seed: of the draws.
    """

    def __init__(self, params: Mapping[str, Any] | None = None, n_trials: int = 20, seed: int = 0) -> None:
        super().__init__(params)
        self.n_trials, self.seed = n_trials, seed

    def plan(self, made: "Composer", arguments: Sequence[str]) -> "Plan":
        """The points of the sweep."""
        from runner.sweeps.plan import random_search

        return random_search.plan(made, arguments, self.params, self.n_trials, self.seed)


class OptunaSweeper(GridSweeper):
    """Points chosen by Optuna, each by what came of those before it.

    Args:
        params: axes beside those typed: values by key.
        n_trials: that the study is to have.
        sampler: what chooses them: a class of Optuna's by its `_target_`, and its arguments.
        pruner: what ends those without prospects; None: nothing does.
        storage: address of a database that keeps the study; None: a file in the sweep's folder does.
        study_name: in it; None is the name of the sweep's folder.
        storage_timeout: seconds that the study's storage is waited for when it goes away; 0 does not wait.
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
        self.engine = {"sampler": sampler, "pruner": pruner}

    def plan(self, made: "Composer", arguments: Sequence[str]) -> "Plan":
        """The space that is searched.

        Raises:
            ConfigError: Optuna is not there, or does not take what is written.
        """
        with needing("hydra/sweeper=optuna", "optuna"):
            from runner.sweeps.plan import optuna_search
        sampler, pruner = (self._make(name) for name in ("sampler", "pruner"))
        return optuna_search.plan(
            made,
            arguments,
            self.params,
            self.n_trials,
            sampler,
            pruner,
            self.storage,
            self.study_name,
            self.storage_timeout,
        )

    def _make(self, name: str) -> Any:
        """The object that a part of the config describes.

        Raises:
            ConfigError: it cannot be made.
        """
        described = self.engine[name]
        if described is None:
            return None
        try:
            return instantiate(described, _convert_="all")
        except Exception as error:  # whatever its constructor raises
            cause = error.__cause__ or error
            reason = str(cause).strip().split("\n")[0]
            raise ConfigError(f"hydra.sweeper.{name}: {reason}") from error


class EngineLauncher(Launcher):
    """Says to our sweepers what is to run the jobs."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """There is nothing to set up."""

    @abstractmethod
    def engine(self) -> "JobLauncher":
        """What runs them.

        Raises:
            ConfigError: a package is missing.
        """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """What Hydra has sweepers call; ours do not, and cli.py refuses others.

        Raises:
            ConfigError: always: without our sweepers there would be no check, no record and no table.
        """
        raise ConfigError("runner's launchers run the jobs of runner's own sweepers: write hydra/sweeper=grid")


class LocalLauncher(EngineLauncher):
    """One process a job on this machine."""

    def engine(self) -> "JobLauncher":
        """What runs them."""
        from runner.sweeps.launchers.local import Local

        return Local()


class RayLauncher(EngineLauncher):
    """Tasks of Ray's, on this machine or a cluster.

    Args:
        ray: `init` are the arguments of `ray.init`, `remote` those of `ray.remote` for each job; None leaves one out.
    """

    def __init__(self, ray: Mapping[str, Mapping[str, Any]]) -> None:
        self.settings = plain(ray)

    def engine(self) -> "JobLauncher":
        """What runs them.

        Raises:
            ConfigError: Ray is not installed.
        """
        with needing("hydra/launcher=ray", "ray"):
            from runner.sweeps.launchers.on_ray import Ray
        return Ray(**self.settings)


class SlurmLauncher(EngineLauncher):
    """Jobs of Slurm's.

    Args:
        settings: of submitit's; None leaves one out.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = plain(settings)

    def engine(self) -> "JobLauncher":
        """What runs them.

        Raises:
            ConfigError: submitit is not installed.
        """
        with needing("hydra/launcher=slurm", "slurm"):
            from runner.sweeps.launchers.on_slurm import Slurm
        return Slurm(self.settings)


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without anything of omegaconf's in them."""
    made = OmegaConf.to_container(OmegaConf.create(dict(settings)), resolve=True)
    assert isinstance(made, dict)
    return {str(key): value for key, value in made.items()}


@contextmanager
def needing(choice: str, extra: str) -> Iterator[None]:
    """Import what comes with an extra.

    Raises:
        ConfigError: it is not there; with how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        wanted = requirement(extra) or error.name
        raise ConfigError(f"{choice} needs the package {error.name}: pip install '{wanted}'") from error


def requirement(extra: str) -> str | None:
    """What an extra of the distribution asks for, as pip takes it; None where runner is not installed as one.

    The distribution itself is on no index: its name and the extra could not be installed by that.
    """
    from importlib.metadata import PackageNotFoundError, requires

    try:
        wanted = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return None
    own = (text.partition(";") for text in wanted)
    return next(
        (name.strip() for name, _, marker in own if marker.replace('"', "'").strip() == f"extra == '{extra}'"), None
    )
