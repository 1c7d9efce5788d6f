"""Repeat a run: build it again from its record, and train as far as it did."""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from math import ceil
from pathlib import Path

from omegaconf import DictConfig

from runner.assembly import build
from runner.assembly.experiment import Experiment
from runner.config.compose import Composer
from runner.config.hydra_job import without_hydra
from runner.errors import ConfigError
from runner.rundir import folders, layout
from runner.rundir.folders import outputs
from runner.rundir.lock import lock
from runner.runs import describe, resume, start
from runner.runs.outcome import Outcome
from runner.runs.reproduction import Key
from runner.saved import run, weights
from runner.saved.run import SavedRun
from runner.util.files import load_json_or_empty
from runner.util.terminal import RESUME, TRACKING, without_topics

log = logging.getLogger("runner")

NAME_LENGTH = 80


def build_rerun(was: SavedRun, overrides: Sequence[str]) -> tuple[DictConfig, Experiment]:
    """Build the run again from its saved config, with its initial weights.

    Args:
        was: the run.
        overrides: the location of its data now, and the amount of output.

    Raises:
        ConfigError: something is missing: a device, the data, the weights of another run.
    """
    cfg, problems = resume.compose_saved(was, [*overrides, "tracking.name=off", "tracking.log_model=false"])
    if cfg is None:
        raise ConfigError(*problems)
    problems += folders.check_folder(str(outputs() / "reproductions" / "run"), exact=False)
    parent, preprocessing = None, None
    if was.config.get("resume_mode") == "warm_start":
        with naming_parent(was):
            parent = resume.Resumed(run.find(str(was.config.get("resume")), "resume", was.uri), warm_start=True)
            preprocessing = parent.preprocessing
    experiment = build.build(without_hydra(cfg), was.choices, problems, preprocessing)
    experiment.fitted = preprocessing
    if parent is not None:
        with naming_parent(was):
            resume.load_checkpoint(parent, experiment)
    return cfg, experiment


@contextmanager
def naming_parent(was: SavedRun) -> Iterator[None]:
    """Add to an error that it is about the run that this one took its initial weights from."""
    try:
        yield
    except ConfigError as error:
        text = f"its initial weights, of run {was.config.get('resume')} (resume_mode=warm_start), cannot be loaded: "
        raise ConfigError(
            *(replace(problem, text=f"{was.argument}: {text}{problem.text}") for problem in error.problems)
        ) from error


def weights_change(experiment: Experiment, was: SavedRun) -> str | None:
    """Describe that the file or run of the initial weights has changed; None if not, or if the run has none."""
    then = was.tags.get("runner.initial_weights")
    if not describe.starts_from_weights(was.config):
        return None
    source = was.config["model"].get("weights") or f"model.name={was.config['model'].get('name')}"
    if was.config.get("resume_mode") == "warm_start":
        source = f"run {was.config.get('resume')}"
    if then is None:
        log.warning(
            "note       the run has no hash of its initial weights, those of %s are used as they are now", source
        )
        return None
    now = weights.fingerprint(experiment.model)
    if now == then:
        return None
    return f"differs: the initial weights have changed, those of {source}: hash {now}, was {then}"


def limit_training(experiment: Experiment, was: SavedRun, then: Collection[Key], finished: bool) -> None:
    """Make it train as far as it did then, if its settings or its end said otherwise.

    The schedule is made already, so these two settings have no other effect.
    """
    if finished:
        if experiment.trainer.max_time is None:
            return
        if steps := load_json_or_empty(was.file(layout.RESULT) or Path()).get("steps"):
            # max_time stopped it after these steps, and would stop it after others now.
            experiment.trainer.max_time, experiment.trainer.max_steps = None, steps
        return
    experiment.trainer.max_time = None
    epochs = max((step for name, step in then if not name.endswith("_step")), default=1)
    steps = max((step for name, step in then if name.endswith("_step")), default=1)
    steps_per_epoch = ceil(len(experiment.loaders.train) / experiment.trainer.grad_accumulation)
    experiment.trainer.epochs = min(experiment.trainer.epochs, max(epochs, ceil(steps / steps_per_epoch)))


def start_rerun(experiment: Experiment, cfg: DictConfig, was: SavedRun) -> tuple[Outcome, Path]:
    """Run it in a new folder, like `python -m runner`."""
    name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{was.label[:NAME_LENGTH]}"
    folder = folders.make_run_folder(str(outputs() / "reproductions" / name), exact=False)
    with lock(folder), without_topics(TRACKING, RESUME):
        return start.start(folder, experiment, cfg, Composer()), folder
