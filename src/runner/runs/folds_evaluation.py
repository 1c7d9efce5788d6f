"""Evaluate the models of a sweep over folds together: each on its fold, all by their mean on the test part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner.assembly.experiment import Experiment
from runner.errors import ConfigError, Problem
from runner.runs.fold_models import (
    NO_MEAN,
    FoldModel,
    Predicted,
    build_again,
    has_mean,
    joined,
    loss_of,
    mean_of,
    measure,
)
from runner.runs.folds import Member, rows_of, write_rows
from runner.saved.folds import SavedFolds
from runner.saved.run import problem_with
from runner.util.tags import DATA_TAG


@dataclass(frozen=True)
class FoldsEvaluation:
    """The result of an evaluation of folds.

    Attributes:
        metrics: by their full names, `test/loss`, in the units of the data.
        logged: those that the sweep has measured.
        samples: the number of samples.
        source: of the weights.
        experiment: of one of the folds, which was built again; its test part is that which the jobs have not seen.
        same_data: whether the data are those of the training; None if unknown.
        lacking: what the table of samples lacks, and why.
    """

    metrics: dict[str, float]
    logged: dict[str, float]
    samples: int
    source: str
    experiment: Experiment
    same_data: bool | None
    lacking: Sequence[str] = field(default=())


def evaluate_folds(
    folds: SavedFolds, split: str = "test", overrides: Sequence[str] = (), output: Path | None = None
) -> FoldsEvaluation:
    """Evaluate the models of a sweep over folds.

    Args:
        folds: the sweep.
        split: `test`: the mean of the models. `val`: each training sample by the model that was not trained on it.
        overrides: device and location of the data, as in the config.
        output: a CSV file to write, with target, prediction and loss of each sample.

    Raises:
        ConfigError: the weights or the data of a job cannot be loaded, the part does not exist, or the predictions of
            the task have no mean.
    """
    if split == "train":
        text = "split=train: each training sample is in the training part of all folds but one"
        raise ConfigError(Problem("split", text, "write split=val: each by the model not trained on it", topic="data"))
    predicted, rows, same = list[Predicted](), [], list[bool | None]()
    for run in folds.members:
        fold = build_again(run, overrides)
        if not has_mean(fold.task):
            instead = f"write run={run.place}, one of its jobs"
            raise ConfigError(problem_with(folds.argument, NO_MEAN, instead, topic="conflict"))
        part = fold.predict(split)
        if part is None:
            text = f"split={split}: {folds.argument} has no {split} samples"
            raise ConfigError(Problem("split", text, "write split=val", topic="data"))
        predicted.append(part)
        rows += [rows_of(fold, part)] if split == "val" and output is not None else []
        trained_on = fold.weights.data or run.tags.get(DATA_TAG)
        same.append(None if trained_on is None else trained_on == fold.experiment.splits.fingerprint)
        fold.close()
    together, lacking = _together(fold, split, predicted), list[str]()
    if output is not None and split == "val":
        write_rows(output, [Member(0, *point) for point in folds.points], rows)
    elif output is not None:
        lacking = fold.write(output, split, together)
    logged = folds.metrics["test" if split == "test" else "out_of_fold"]
    return FoldsEvaluation(
        _named(split, measure(fold.task, together)),
        _named(split, logged),
        len(together.targets),
        f"the {len(predicted)} models of {folds.place}",
        fold.experiment,
        False if False in same else None if None in same else True,
        lacking,
    )


def _named(split: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"{split}/{name}": value for name, value in metrics.items()}


def _together(fold: FoldModel, split: str, predicted: Sequence[Predicted]) -> Predicted:
    """Return the predictions of all models.

    Raises:
        ConfigError: their mean is not known.
    """
    if split == "val":
        return joined(predicted)
    mean = mean_of(loss_of(fold.task), predicted)
    if mean is None:
        text = "no logits are known for the mean of the probabilities of this loss"
        raise ConfigError(Problem("split", f"split={split}: {text}", "write split=val", topic="code"))
    return mean
