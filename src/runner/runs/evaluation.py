"""Evaluate the best weights of a run on any split of its data."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from runner.assembly import build
from runner.assembly.experiment import Experiment
from runner.config.hydra_job import without_hydra
from runner.data.loading import Loader
from runner.errors import ConfigError, Problem
from runner.rundir.checkpoint import Checkpoints
from runner.rundir.checkpoint_parts import load_task
from runner.runs import resume
from runner.runs.code_changes import warn_of_changes
from runner.runs.per_sample import write_samples
from runner.saved.run import SavedRun
from runner.saved.weights import Weights, load_exactly, weights_of_run
from runner.training.compilation import compile_model
from runner.training.display import Bar
from runner.training.evaluation import evaluate as measure
from runner.training.state import Training, make_training
from runner.util.metric_names import PARTS
from runner.util.tables import format_duration
from runner.util.tags import DATA_TAG

log = logging.getLogger("runner")


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        metrics: the metrics by their full names: `test/loss`.
        split: train, val or test.
        samples: the number of samples.
        experiment: the experiment that was built again.
        weights: the weights that were evaluated.
        same_data: whether the data are those that the run was trained on; None if unknown.
        lacking: what the table of samples lacks, and why, in a line each.
    """

    metrics: dict[str, float]
    split: str
    samples: int
    experiment: Experiment
    weights: Weights
    same_data: bool | None
    lacking: Sequence[str] = ()


def evaluate(
    run: SavedRun, split: str = "test", overrides: Sequence[str] = (), output: Path | None = None
) -> Evaluation:
    """Build a run's data and model again, and evaluate its best weights as the run did.

    On the same machine, without overrides, `val/...` and `test/...` are bit for bit what the run logged.

    Args:
        run: the run; its config and weights are used, and its folder need not exist.
        split: train, val or test. Train is evaluated without augmentation and with fixed weights: the run's own
            metrics are means over an epoch in which the weights changed.
        overrides: device and location of the data, as in the config: `device.name=cpu`.
        output: a CSV file to write, with target, prediction and loss of each sample.

    Raises:
        ConfigError: the run's weights or data cannot be loaded, or the file cannot be written.
    """
    best = weights_of_run(run)
    experiment = rebuild(run, overrides, best.preprocessing)
    loader = _loader(experiment, split)
    if loader is None:
        parts = [name for name in PARTS if _loader(experiment, name) is not None]
        text = f"split={split}: {run.argument} has no {split} samples"
        raise ConfigError(Problem("split", text, f"write split={' or split='.join(parts)}", topic="data"))
    state = make_state(experiment)
    if experiment.trainer.compile:  # a compiled model may differ in the last bits
        log.info("compiled   in %s", format_duration(compile_model(state)))
    load_exactly(state.eval_model, best, run.argument)
    warn_of_changes(run)
    load_task(state.task, best.task)

    metrics = {f"{split}/{name}": value for name, value in measure(state, loader).items()}
    trained_on = best.data or run.tags.get(DATA_TAG)
    same_data = None if trained_on is None else trained_on == experiment.splits.fingerprint
    lacking: Sequence[str] = ()
    if output is not None:
        part, loss = getattr(experiment.splits, split), metrics.get(f"{split}/loss")
        lacking = write_samples(output, state, loader, part, experiment.splits.classes, loss)
    return Evaluation(metrics, split, loader.samples, experiment, best, same_data, lacking)


def rebuild(run: SavedRun, overrides: Sequence[str] = (), preprocessing: Mapping[str, Any] | None = None) -> Experiment:
    """Build the experiment of a saved run again; its model has its random initial weights, or those of a file.

    Args:
        run: the run.
        overrides: values to change.
        preprocessing: the preprocessing in the checkpoint that the weights come from.

    Raises:
        ConfigError: with all problems.
    """
    return build.build(*compose_again(run, overrides), preprocessing or {})


def compose_again(
    run: SavedRun, overrides: Sequence[str] = ()
) -> tuple[DictConfig, Mapping[str, str], Sequence[Problem]]:
    """Compose the config of a saved run, without its callbacks, whose code may not be here.

    Returns:
        The config, without Hydra's node, the chosen member of each group, and the problems of composing.

    Raises:
        ConfigError: it does not compose.
    """
    cfg, problems = resume.compose_saved(run, overrides, {"trainer": run.config["trainer"] | {"callbacks": None}})
    if cfg is None:
        raise ConfigError(*problems)
    return without_hydra(cfg), run.choices, problems


def _loader(experiment: Experiment, split: str) -> Loader | None:
    """Return the loader of a split, in the order of the data and without augmentation."""
    if split != "train":
        return experiment.loaders.val if split == "val" else experiment.loaders.test
    return experiment.loaders.train.in_order(experiment.loaders.evaluation_batch_size)


class _Unstoppable:
    """A stop request that is never made: Ctrl+C ends an evaluation."""

    requested = False


def make_state(experiment: Experiment) -> Training:
    """Make the state that evaluation needs; it writes nothing to disk."""
    bar = Bar(
        experiment.trainer.epochs, experiment.loaders.train.batch_size, experiment.loaders.train.samples, quiet=True
    )
    return make_training(experiment, Checkpoints(Path("checkpoints")), lambda metrics, step: None, bar, _Unstoppable())
