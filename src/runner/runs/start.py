"""Start a run: a single run, a job of a sweep, or a run that is reproduced."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from runner.assembly import build
from runner.assembly.experiment import Experiment
from runner.assembly.shared import SharedData
from runner.config.compose import Composer
from runner.config.hydra_job import run_job_in, without_hydra
from runner.config.settings import LARGEST
from runner.errors import Problem
from runner.runs import execute, largest_batch, ranked, resume
from runner.runs.outcome import Outcome, WantsArtifacts
from runner.runs.resume import Resumed
from runner.tracking.tracker import Deliverer
from runner.training.display import Bar
from runner.util import events


def build_run(
    cfg: DictConfig,
    choices: Mapping[str, str],
    problems: Sequence[Problem] = (),
    resumed: Resumed | None = None,
    typed: Sequence[str] | None = None,
    shared: SharedData | None = None,
) -> tuple[Experiment, dict[str, Any] | None]:
    """Build everything that a run needs, before it has a folder.

    Args:
        cfg: the composed config, with Hydra's own node. `data.batch_size=max` is replaced by the number found.
        choices: the chosen member of each group.
        problems: the problems that composing has found.
        resumed: the run to resume, or to take the weights from.
        typed: the arguments of the command, without credentials.
        shared: has the data of earlier runs of this process; None: nothing is shared.

    Returns:
        The experiment, and the checkpoint to resume from or None.

    Raises:
        ConfigError: with all problems.
    """
    preprocessing, found = resumed.preprocessing if resumed else None, None
    if OmegaConf.select(cfg, largest_batch.KEY) == LARGEST:
        cfg.data.batch_size, found = largest_batch.find(without_hydra(cfg), choices, problems, preprocessing)
    experiment = build.build(without_hydra(cfg), choices, problems, preprocessing, shared)
    experiment.typed, experiment.fitted, experiment.batch_size_found = typed, preprocessing, found
    return experiment, resume.load_checkpoint(resumed, experiment) if resumed else None


def start(
    folder: Path,
    experiment: Experiment,
    cfg: DictConfig,
    composer: Composer,
    checkpoint: dict[str, Any] | None = None,
    delivery: Deliverer | None = None,
    bar: Bar | None = None,
    wants_artifacts: WantsArtifacts | None = None,
) -> Outcome:
    """Run in a folder that exists and is locked, and call Hydra's callbacks.

    Args:
        folder: the run's folder.
        experiment: the result of `build_run`.
        cfg: the config of the experiment, with Hydra's own node.
        composer: the composer of the config.
        checkpoint: the checkpoint to resume from; it is emptied.
        delivery: the uploading process if it was started earlier.
        bar: the progress display; None makes one for the terminal.
        wants_artifacts: whether to draw plots and save the model for MLflow; None: yes.
    """
    events.send("folder", path=str(folder))
    outcomes: list[Outcome] = []

    def task() -> int:
        outcomes.append(execute.run(experiment, folder, checkpoint, delivery, bar, wants_artifacts))
        return outcomes[0].exit_code

    with ranked.leading(experiment, cfg, folder):
        run_job_in(folder, cfg, composer, task)
    return outcomes[0]
