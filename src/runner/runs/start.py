"""Start a run: the one way for a single run, a job of a sweep, and a run that is run again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from runner.assembly import build
from runner.assembly.experiment import Experiment
from runner.config.compose import Composer
from runner.config.hydra_job import run_job_in, without_hydra
from runner.errors import Problem
from runner.runs import execute, resume
from runner.runs.execute import Outcome
from runner.runs.resume import Resumed
from runner.tracking.tracker import Deliverer
from runner.training.display import Bar


def build_run(
    cfg: DictConfig,
    choices: Mapping[str, str],
    problems: Sequence[Problem] = (),
    resumed: Resumed | None = None,
    typed: Sequence[str] | None = None,
) -> tuple[Experiment, dict[str, Any] | None]:
    """Build everything that a run needs, before it has a folder.

    Args:
        cfg: composed, with Hydra's own node.
        choices: which member of each group was chosen.
        problems: what composing has found.
        resumed: the run to go on with, or whose weights are used.
        typed: the arguments of its command, without credentials.

    Returns:
        The experiment, and the checkpoint to go on from, if there is one.

    Raises:
        ConfigError: with every problem that could be found.
    """
    experiment = build.build(without_hydra(cfg), choices, problems, resumed.preprocessing if resumed else None)
    experiment.typed = typed
    return experiment, resume.load_checkpoint(resumed, experiment) if resumed else None


def start(
    folder: Path,
    experiment: Experiment,
    cfg: DictConfig,
    composer: Composer,
    checkpoint: Mapping[str, Any] | None = None,
    delivery: Deliverer | None = None,
    bar: Bar | None = None,
) -> Outcome:
    """Run in a folder that is there and locked, with Hydra's callbacks around it.

    Args:
        folder: the run's own.
        experiment: what `prepare` has built.
        cfg: that it was built from, with Hydra's own node.
        composer: that has composed it.
        checkpoint: to go on from.
        delivery: what uploads to MLflow, if that was started before.
        bar: what shows the progress; None makes one for the terminal.
    """
    outcomes: list[Outcome] = []

    def task() -> int:
        outcomes.append(execute.run(experiment, folder, dict(checkpoint) if checkpoint else None, delivery, bar))
        return outcomes[0].exit_code

    run_job_in(folder, cfg, composer, task)
    return outcomes[0]
