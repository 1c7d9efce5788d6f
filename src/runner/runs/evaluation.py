"""Measure the best weights of a run again, on any part of its data."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.assembly import build
from runner.assembly.experiment import Experiment
from runner.config.hydra_job import without_hydra
from runner.data.loading import Loader
from runner.errors import ConfigError
from runner.rundir.checkpoint import Checkpoints, load_loss
from runner.runs import resume
from runner.saved.run import SavedRun
from runner.saved.weights import Weights, load_exactly, weights_of_run
from runner.training.compilation import compile_model
from runner.training.display import Bar
from runner.training.loop import evaluate as measure
from runner.training.state import Training, make_training
from runner.util.metric_names import PARTS
from runner.util.tables import format_duration
from runner.util.tags import DATA_TAG

log = logging.getLogger("runner")


@dataclass(frozen=True)
class Evaluation:
    """What came out.

    Attributes:
        metrics: by their full names: `test/loss`.
        samples: how many were measured.
        same_data: whether they are those that the run had; None if that is not known.
    """

    metrics: dict[str, float]
    split: str
    samples: int
    experiment: Experiment
    weights: Weights
    same_data: bool | None


def evaluate(run: SavedRun, split: str = "test", overrides: Sequence[str] = ()) -> Evaluation:
    """Make a run's data and model again, and measure its best weights as the run did.

    On the same machine, and without overrides, `val/...` and `test/...` are bit for bit what the run has logged.

    Args:
        run: its config and weights are used; its folder need not be here.
        split: train, val or test. Train is measured without augmentation and with the weights at rest: the run's
            own figures are means over an epoch in which they changed.
        overrides: where to compute and where the data are, as the config has it: `device.name=cpu`.

    Raises:
        ConfigError: something of it is not to be had.
    """
    best = weights_of_run(run)
    experiment = rebuild(run, overrides, best.preprocessing)
    loader = _loader(experiment, split)
    if loader is None:
        parts = [name for name in PARTS if _loader(experiment, name) is not None]
        raise ConfigError(f"split={split}: {run.argument} has no such samples; write split={' or split='.join(parts)}")
    state = _training(experiment)
    if experiment.trainer.compile:  # compiled, the model may differ in the last bits
        log.info("compiled   in %s", format_duration(compile_model(state)))
    load_exactly(state.eval_model, best, run.argument)
    load_loss(state.loss, best.loss)

    metrics = {f"{split}/{name}": value for name, value in measure(state, loader).items()}
    trained_on = best.data or run.tags.get(DATA_TAG)
    same_data = None if trained_on is None else trained_on == experiment.splits.fingerprint
    return Evaluation(metrics, split, loader.samples, experiment, best, same_data)


def rebuild(run: SavedRun, overrides: Sequence[str] = (), preprocessing: Mapping[str, Any] | None = None) -> Experiment:
    """Build the experiment of a saved run again; its model has the weights that it began with, but for given ones.

    Args:
        run: whose config it is.
        overrides: values to change.
        preprocessing: of the checkpoint that is to give the weights.

    Raises:
        ConfigError: with every problem that could be found.
    """
    cfg, problems = resume.compose_saved(run.config, overrides)
    if cfg is None:
        raise ConfigError(*problems)
    return build.build(without_hydra(cfg), run.choices, problems, preprocessing or {})


def _loader(experiment: Experiment, split: str) -> Loader | None:
    """The samples in their own order, none of them augmented."""
    if split != "train":
        return experiment.loaders.val if split == "val" else experiment.loaders.test
    return experiment.loaders.train.in_order(experiment.loaders.evaluation_batch_size)


class _Unstoppable:
    """Nobody asks an evaluation to stop in between: Ctrl+C ends it."""

    requested = False


def _training(experiment: Experiment) -> Training:
    """What evaluating works with: the same as training, of which nothing is kept."""
    bar = Bar(
        experiment.trainer.epochs, experiment.loaders.train.batch_size, experiment.loaders.train.samples, quiet=True
    )
    return make_training(experiment, Checkpoints(Path("checkpoints")), lambda metrics, step: None, bar, _Unstoppable())
