"""Measure a run's best weights again: `python -m runner.evaluate run=<run dir or id> [split=test]`."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.config import schema
from runner.config.keys import GROUPS
from runner.errors import ConfigError
from runner.rundir import layout
from runner.saved.run import SavedRun, find
from runner.util import program
from runner.util.files import load_json
from runner.util.options import choice, command, is_true, required
from runner.util.tags import DATA_TAG

if TYPE_CHECKING:
    from runner.assembly.experiment import Experiment
    from runner.data.loading import Loader
    from runner.saved.weights import Weights
    from runner.training.state import Training

log = logging.getLogger("runner")

USAGE = "python -m runner.evaluate run=<run dir or MLflow run id> [key=value ...]: measure a run's best weights."
OPTIONS = {
    "run": "the run: its folder, or its MLflow run id",
    "split": "the samples to measure on: test (the default), val or train",
    "device": "another device than the run's: auto, cpu, cuda or mps",
    "device.index": "which CUDA device",
    "device.threads": "another number of CPU threads than the run's",
    "precision": "another number format than the run's",
    "data.root": "where the data are now",
    "data.path": "where the table, file or folder is now",
    "data.val_path": "where the validation samples are now",
    "data.test_path": "where the test samples are now",
    "data.batch_size": "another batch size than the run's",
    "data.in_memory": "true: hold the samples as tensors on the device; false: load them by batch",
    "data.num_workers": "processes that load samples, where they are not in memory",
    "tracking.uri": "the MLflow store that knows the run; by default that of the outputs folder",
    "runner.quiet": "true: print warnings only",
}
SPLITS = ("train", "val", "test")
OVERRIDES = {
    "device": "device.name",
    "precision": "precision.name",
    **{key: key for key in OPTIONS if key.startswith(("data.", "device."))},
}
"""The options that are keys of the config, by their name there."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the figures go to standard error.

    Returns:
        0, or 2 for a wrong argument.
    """
    return command(argv, USAGE, OPTIONS, _main, _refuse)


def _refuse(key: str) -> str | None:
    if key.partition(".")[0] not in (*GROUPS, "seed", "resume", "resume_mode"):
        return None
    return "a run is evaluated with the model and the data that it had; leave this out (--help lists what may change)"


def _main(options: dict[str, str]) -> int:
    from runner.util import terminal

    split = choice(options, "split", SPLITS, "test")
    for key in ("device", "precision"):
        choice(options, key, schema.CHOICES[f"{key}.name"], "auto" if key == "device" else "fp32")
    terminal.set_up(is_true(options, "runner.quiet"))
    run = find(required(options, "run", "folder or MLflow run id"), "run", options.get("tracking.uri"))
    overrides = [f"{name}={options[key]}" for key, name in OVERRIDES.items() if key in options]
    if "device.threads" in options:
        overrides.append(f"device.evaluation_threads={options['device.threads']}")
    _report(evaluate(run, split, overrides), run)
    return 0


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
    x: "Experiment"
    weights: "Weights"
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
    from runner.rundir.checkpoint import load_loss
    from runner.saved.weights import load_exactly, of_run

    best = of_run(run)
    x = rebuild(run, overrides, best.preprocessing)
    loader = _loader(x, split)
    if loader is None:
        parts = [name for name in SPLITS if _loader(x, name) is not None]
        raise ConfigError(f"split={split}: {run.given} has no such samples; write split={' or split='.join(parts)}")
    t = _training(x)
    if x.trainer.compile:  # compiled, the model may differ in the last bits
        from runner.training.compilation import compile_model
        from runner.util.tables import duration

        log.info("compiled   in %s", duration(compile_model(t)))
    load_exactly(t.evaluated, best, run.given)
    load_loss(t.loss, best.loss)
    from runner.training.loop import evaluate as measure

    metrics = {f"{split}/{name}": value for name, value in measure(t, loader).items()}
    trained_on = best.data or run.tags.get(DATA_TAG)
    same_data = None if trained_on is None else trained_on == x.splits.fingerprint
    return Evaluation(metrics, split, loader.samples, x, best, same_data)


def rebuild(
    run: SavedRun, overrides: Sequence[str] = (), preprocessing: Mapping[str, Any] | None = None
) -> "Experiment":
    """Build the experiment of a saved run again; its model has the weights that it began with, but for given ones.

    Args:
        run: whose config it is.
        overrides: values to change.
        preprocessing: of the checkpoint that is to give the weights.

    Raises:
        ConfigError: with every problem that could be found.
    """
    from runner.assembly import build
    from runner.config.hydra_job import without_hydra
    from runner.runs import resume

    cfg, problems = resume.compose_saved(run.config, overrides)
    if cfg is None:
        raise ConfigError(*problems)
    return build.build(without_hydra(cfg), run.choices, problems, preprocessing or {})


def _loader(x: "Experiment", split: str) -> "Loader | None":
    """The samples in their own order, none of them augmented."""
    if split != "train":
        return x.loaders.val if split == "val" else x.loaders.test
    return x.loaders.train.in_order(x.loaders.evaluation_batch_size)


class _Unstoppable:
    """Nobody asks an evaluation to stop in between: Ctrl+C ends it."""

    requested = False


def _training(x: "Experiment") -> "Training":
    """What evaluating works with: the same as training, of which nothing is kept."""
    from runner.rundir.checkpoint import Checkpoints
    from runner.training.display import Bar
    from runner.training.state import prepare

    bar = Bar(x.trainer.epochs, x.loaders.train.batch_size, x.loaders.train.samples, quiet=True)
    return prepare(x, Checkpoints(Path("checkpoints")), lambda metrics, step: None, bar, _Unstoppable())


def _report(found: Evaluation, run: SavedRun) -> None:
    from runner.util.metric_names import shown

    x, split = found.x, found.split
    epoch = f" (epoch {found.weights.epoch})" if found.weights.epoch else ""
    log.info("weights    %s%s", found.weights.source, epoch)
    log.info(
        "data       %s: %s %s samples", x.splits.name, f"{found.samples:,}", {"val": "validation"}.get(split, split)
    )
    log.info("device     device %s · precision %s", x.device, x.precision)
    if found.same_data is False:
        log.warning(
            "           these are not the samples of the run: its data have changed, or another data set is there"
        )
    log.info("%-10s %s", split, _line(found.metrics))
    if split == "train":
        log.info("           the run's own figures are means over an epoch, in which the weights changed")
        return
    try:
        logged = _logged(run, found.metrics)
    except (OSError, ValueError) as error:
        log.warning("logged     %s/result.json cannot be read: %s", run.place, error)
        return
    if not logged:
        log.info("logged     no %s figures: the run has not come to its end", split)
    elif all(value == found.metrics[name] for name, value in logged.items()):  # 0.1.0 has measured fewer
        log.info("logged     the same, bit for bit")
    else:
        log.info("logged     %s", _line(logged))
        for name, value in logged.items():
            if shown(name, value) == shown(name, found.metrics[name]) and value != found.metrics[name]:
                log.info("           %s differs by %.1e", name, abs(value - found.metrics[name]))


def _line(metrics: Mapping[str, float]) -> str:
    from runner.util.metric_names import shown

    return "   ".join(f"{name.partition('/')[2]} {shown(name, value)}" for name, value in metrics.items())


def _logged(run: SavedRun, metrics: Mapping[str, float]) -> dict[str, float]:
    """What the run's result has of these metrics.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    path = run.file(layout.RESULT)
    result = load_json(path) if path is not None else {}
    return {name: result[name] for name in metrics if isinstance(result.get(name), float | int)}


if __name__ == "__main__":
    program.run(main)
