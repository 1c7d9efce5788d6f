"""Evaluate two runs again on the same test samples, and test whether one of them is better."""

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from runner.assembly.experiment import Experiment
from runner.comparison.paired_tests import PairedTest, mcnemar, paired_t
from runner.data.normalize import Normalize
from runner.data.target_scale import TargetScale
from runner.loss import Loss, name_of
from runner.rundir import layout
from runner.runs.columns import answers_classes
from runner.runs.describe import make_input_spec
from runner.runs.evaluation import Evaluation, evaluate
from runner.runs.folds_evaluation import FoldsEvaluation, evaluate_folds
from runner.saved.folds import SavedFolds
from runner.saved.run import SavedRun
from runner.task.supervised import Supervised
from runner.util.files import load_json_or_empty, replacing

Cells = dict[str, list[str]]
"""A table of samples: the cells of each column."""

SHARED = ("index", "file", "weight")
"""Columns that are the same for both runs, as are targets."""

PREPROCESSING = ("input_shape", "dtype", "mean", "std", "classes", "columns", "scale", "divided_by")
"""What the training samples decide of how a sample is read, in `samples.json`."""


class Incomparable(Exception):
    """A run cannot be compared; the message says why."""


@dataclass(frozen=True)
class Judged:
    """A run that was evaluated on its test part, sample by sample, without its data and its model.

    Attributes:
        cells: the table of samples of `runner.evaluate`.
        lacking: what the table lacks, and why.
        digest: of the test samples.
        classes: the names of the classes.
        classifies: whether each sample has one class.
        measure: the config of task and loss.
        loss: the loss; None if the task has its own.
        dtype: that it is computed in.
        scale: of a regression's targets.
        normalize: of inputs that the loss is measured by, as there are no targets; None with targets.
    """

    cells: Cells
    lacking: str
    digest: str
    classes: list[str]
    classifies: bool
    measure: list[dict[str, Any]]
    loss: Loss | None
    dtype: torch.dtype
    scale: TargetScale | None
    normalize: Normalize | None


def judge(run: SavedRun | SavedFolds, device: str) -> Judged:
    """Evaluate the best weights of a run on its test part, or the models of a sweep's folds together.

    Args:
        run: the run, or the sweep.
        device: to compute on, as in the config.

    Raises:
        ConfigError: it cannot be built again.
        Incomparable: its inputs would be prepared in another way than in training.
    """
    with TemporaryDirectory(prefix="runner-") as temporary:
        path = Path(temporary) / "samples.csv"
        overrides = [f"device.name={device}"]
        done: Evaluation | FoldsEvaluation
        if isinstance(run, SavedFolds):
            done = evaluate_folds(run, "test", overrides, path)
        else:
            done = evaluate(run, "test", overrides, path)
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
    experiment, splits, task = done.experiment, done.experiment.splits, done.experiment.task
    experiment.loaders.close()
    if done.same_data is False and (isinstance(run, SavedFolds) or _prepares_differently(run, experiment)):
        raise Incomparable("its training data have changed since, and with them how its inputs are prepared")
    cells = dict(zip(header, [list(column) for column in zip(*rows, strict=True)], strict=True))
    supervised = isinstance(task, Supervised) and type(task).step is Supervised.step and answers_classes(task)
    assert splits.test_digest is not None
    return Judged(
        cells,
        "; ".join(done.lacking),
        splits.test_digest,
        list(splits.classes or ()),
        supervised and {"target", "prediction", "probability"} <= cells.keys(),
        _measure(experiment),
        task.loss.cpu() if task.loss is not None else None,
        experiment.precision.dtype,
        None if isinstance(run, SavedFolds) else experiment.target_scale,  # that of folds is in the units of the data
        splits.normalize if splits.example(1)[1] is None else None,
    )


def _prepares_differently(run: SavedRun, experiment: Experiment) -> bool:
    """Whether the data make other inputs of a sample than in training; what a checkpoint has of it is the same."""
    path = run.file(layout.SAMPLES)
    then = load_json_or_empty(path) if path is not None else {}
    now = json.loads(json.dumps(asdict(make_input_spec(experiment))))
    return any(name in then and then[name] != now[name] for name in PREPROCESSING)


def _measure(experiment: Experiment) -> list[dict[str, Any]]:
    """Return what decides on the loss of a sample, without keys that are off: older versions lacked some."""
    groups: list[Mapping[str, Any]] = [experiment.config["task"], experiment.config["loss"]]
    return [{key: value for key, value in group.items() if value is not None} for group in groups]


def compare(new: Judged, old: Judged) -> PairedTest:
    """Test whether a new run is better: by accuracy if samples have a class, else by their losses.

    Raises:
        Incomparable: the two are not evaluated on the same samples, or not by the same measure.
    """
    if new.digest != old.digest or any(new.cells.get(name) != old.cells.get(name) for name in ("index", "file")):
        raise Incomparable("its test samples are others")
    if new.classifies != old.classifies:
        raise Incomparable("only one of the two predicts classes")
    if new.classifies:
        return _compare_classes(new, old)
    if new.measure != old.measure:
        names = [name_of(judged.loss) if judged.loss is not None else "its task's" for judged in (new, old)]
        raise Incomparable(f"its loss is another one{f': {names[1]}, not {names[0]}' if names[0] != names[1] else ''}")
    if not _normalize_alike(new.normalize, old.normalize):
        raise Incomparable("its inputs, which the loss is measured by, have another mean; set data.mean and data.std")
    for judged in (new, old):
        if "loss" not in judged.cells:
            raise Incomparable(f"its samples have no losses ({judged.lacking})")
    weights = _numbers(new.cells["weight"]) if "weight" in new.cells else None
    if not _same_weights(new.cells.get("weight"), old.cells.get("weight")):
        raise Incomparable("its losses have other weights")
    return paired_t(_losses(new, new), _losses(old, new), weights)


def _compare_classes(new: Judged, old: Judged) -> PairedTest:
    if new.classes != old.classes:
        raise Incomparable("its classes are others")
    ignored = _ignored(new)
    if ignored != _ignored(old):
        raise Incomparable("its loss.ignore_index is another one")
    targets = np.array(new.cells["target"])
    counted = targets != ignored if ignored is not None else np.ones(len(targets), dtype=bool)
    if not counted.any():
        raise Incomparable("none of the test samples counts")
    right = [np.array(judged.cells["prediction"]) == targets for judged in (new, old)]
    return mcnemar(*(each[counted] for each in right))


def _ignored(judged: Judged) -> str | None:
    """Return the class that does not count, as the table of samples names it; None if all do."""
    index, classes = getattr(judged.loss, "ignore_index", None), judged.classes
    if index is None:
        return None
    return classes[index] if 0 <= index < len(classes) else str(index)


def _normalize_alike(one: Normalize | None, other: Normalize | None) -> bool:
    """Whether inputs are normalised by the same numbers: those of the training samples differ from seed to seed."""
    if one is None or other is None:
        return one is other
    return one.scale == other.scale and torch.equal(one.mean, other.mean) and torch.equal(one.std, other.std)


def _same_weights(new: list[str] | None, old: list[str] | None) -> bool:
    if new is None or old is None:
        return new is old
    return bool(np.allclose(_numbers(new), _numbers(old), rtol=1e-6, equal_nan=True))


def _losses(judged: Judged, units: Judged) -> NDArray[np.float64]:
    """Return the losses of the samples in the units of another run.

    Where targets are standardised, a loss is in standard deviations of the training targets. Those of a run with
    another seed differ, so that its loss is computed again, from target and prediction.
    """
    scale, other = units.scale, judged.scale
    if (scale and scale.state()) == (other and other.state()):
        return _numbers(judged.cells["loss"])
    assert units.loss is not None
    outputs, targets = (
        torch.from_numpy(np.stack([_numbers(column) for column in _named(judged.cells, name)], axis=1))
        for name in ("prediction", "target")
    )
    if scale is not None:
        outputs, targets = (outputs - scale.mean) / scale.std, (targets - scale.mean) / scale.std
    outputs, targets = outputs.to(units.dtype), targets.to(units.dtype)
    each = [units.loss(outputs[at : at + 1], targets[at : at + 1]) for at in range(len(outputs))]
    return torch.stack(each).double().numpy()


def _named(cells: Cells, name: str) -> list[list[str]]:
    """Return the column of this name, or the columns `name_0`, `name_1`, ..."""
    return [column for key, column in cells.items() if key == name or key.removeprefix(f"{name}_").isdecimal()]


def _numbers(column: list[str]) -> NDArray[np.float64]:
    return np.array(column, dtype=np.float64)


def write(path: Path, new: Judged, old: Judged | None) -> None:
    """Write the samples with the predictions and losses of both runs into a CSV file.

    Columns of one run end in `_challenger` and `_champion`.

    Raises:
        OSError: the file cannot be written.
    """
    table = {name: cells for name, cells in new.cells.items() if _is_shared(name)}
    for suffix, judged in (("challenger", new), ("champion", old)):
        own = {} if judged is None else judged.cells
        table |= {f"{name}_{suffix}": cells for name, cells in own.items() if not _is_shared(name)}
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as fresh, fresh.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))


def _is_shared(name: str) -> bool:
    return name in SHARED or name == "target" or name.removeprefix("target_").isdecimal()
