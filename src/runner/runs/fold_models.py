"""The models of a sweep's folds: what each of them predicts of its data, and what they predict together."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from runner.assembly import build
from runner.assembly.experiment import Experiment
from runner.data.part import Part
from runner.errors import ConfigError, Problem
from runner.loss import Loss, answers, outputs_of
from runner.rundir.checkpoint_parts import load_task
from runner.runs.columns import answers_classes
from runner.runs.evaluation import compose_again, make_state
from runner.runs.per_sample import batches, write_outputs
from runner.saved.run import SavedRun
from runner.saved.weights import Weights, load_exactly, weights_of_run
from runner.task import Step, Task
from runner.task.supervised import Supervised
from runner.training.running_metrics import RunningMetrics
from runner.training.state import Training

INVERTED = 1e-4
"""How far probabilities may be from those of the logits that are made of them."""

NO_MEAN = "no ensemble: the task has predictions of its own, of which no mean is known"


class Predicted(NamedTuple):
    """Predictions of a part.

    Attributes:
        outputs: (N, K), float64: logits, or values in the units of the data.
        targets: as the loss takes them; values in the units of the data.
    """

    outputs: Tensor
    targets: Tensor


@dataclass
class FoldModel:
    """The best model of a job that has validated on a fold, with its data; `build_again` makes one.

    Attributes:
        run: the job.
        weights: that it has.
        experiment: it was built for. The test part is that which the job has not seen.
        state: of the evaluation.
    """

    run: SavedRun
    weights: Weights
    experiment: Experiment
    state: Training

    @property
    def task(self) -> Task:
        """The trained task."""
        return self.state.task

    @property
    def members(self) -> Tensor:
        """The places of the fold's samples in the training part."""
        members = self.experiment.splits.fold_members
        assert members is not None
        return members

    def predict(self, split: str) -> Predicted | None:
        """Predict `val`, the samples of the fold, or `test`; None without samples."""
        loader, state, task = getattr(self.experiment.loaders, split), self.state, self.task
        if loader is None:
            return None
        assert isinstance(task, Supervised)
        scale, found, targets = state.target_scale, [], []
        for batch in batches(state, loader):
            with state.precision.autocast():
                step = task.measure(state.eval_forward, batch)
            outputs, truth = step.outputs.double().cpu(), step.targets.cpu()
            if scale is not None:
                outputs, truth = scale.in_units(outputs), scale.in_units(truth)
            found.append(outputs)
            targets.append(truth)
        return Predicted(torch.cat(found), torch.cat(targets))

    def write(self, path: Path, split: str, predicted: Predicted) -> list[str]:
        """Write predictions of a part as `runner.evaluate` does, with losses in the units of the data.

        Returns:
            What the file lacks.
        """
        splits, state = self.experiment.splits, self.state
        part: Part = getattr(splits, split)
        loss = measure(self.task, predicted).get("loss")

        def convert(values: Tensor) -> Tensor:
            if not values.is_floating_point():
                return values
            scale, dtype = state.target_scale, state.precision.dtype
            return values.to(dtype) if scale is None else scale.rounded(values, dtype)

        return write_outputs(path, loss_of(self.task), *_double(predicted), part, splits.classes, convert, loss)

    def close(self) -> None:
        """Let go of the data, and of the device."""
        self.experiment.loaders.close()
        self.state.task.to("cpu")


def build_again(run: SavedRun, overrides: Sequence[str] = ()) -> FoldModel:
    """Build the model of a job that has validated on a fold.

    Args:
        run: the job.
        overrides: values of its config to change: device and location of the data.

    Raises:
        ConfigError: its weights or its data cannot be loaded.
    """
    best = weights_of_run(run)
    setup, _ = build.prepare(*compose_again(run, overrides), best.preprocessing or {})
    setup = replace(setup, splits=replace(setup.splits, test=setup.splits.untouched))
    experiment = Experiment(**vars(setup), loaders=build.load(setup, setup.config["data"]))
    if experiment.loaders.val is None or experiment.splits.fold_members is None:
        raise ConfigError(Problem("data.folds", f"{run.place} has no fold to validate on", topic="data"))
    state = make_state(experiment)
    load_exactly(state.eval_model, best, run.argument)
    load_task(state.task, best.task)
    return FoldModel(run, best, experiment, state)


def has_mean(task: Task) -> bool:
    """Whether the mean of the predictions of several models is known: of probabilities, or of values."""
    return isinstance(task, Supervised) and type(task).step is Supervised.step and answers_classes(task)


def loss_of(task: Task) -> Loss:
    """Return the loss of a supervised task, for predictions: on the CPU, with weights of classes in their type."""
    assert isinstance(task, Supervised)
    return deepcopy(task.loss).to("cpu", torch.float64)


def joined(parts: Sequence[Predicted]) -> Predicted:
    """Put the predictions of several parts together."""
    return Predicted(torch.cat([part.outputs for part in parts]), torch.cat([part.targets for part in parts]))


def mean_of(loss: Loss, parts: Sequence[Predicted]) -> Predicted | None:
    """Return the mean of predictions of the same part; None if no logits are known for its probabilities."""
    first = parts[0]
    mean = torch.stack([answers(loss, part.outputs) for part in parts]).mean(0)
    outputs = outputs_of(loss, mean, first.outputs.shape[1])
    return first._replace(outputs=outputs) if torch.allclose(answers(loss, outputs), mean, atol=INVERTED) else None


def measure(task: Task, predicted: Predicted) -> dict[str, float]:
    """Measure loss and metrics of predictions, in the units of the data."""
    loss, (outputs, targets) = loss_of(task), _double(predicted)
    samples = len(targets)
    with torch.inference_mode():
        sums = RunningMetrics(task, torch.device("cpu"))
        weight = loss.denominator(outputs, targets)
        sums.add(Step(loss(outputs, targets), samples if weight is None else weight, samples, outputs, targets))
        return dict(sums.means())


def _double(predicted: Predicted) -> Predicted:
    outputs, targets = predicted
    return Predicted(outputs, targets.double() if targets.is_floating_point() else targets)
