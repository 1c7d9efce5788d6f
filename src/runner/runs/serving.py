"""The model of a run for MLflow serving, with normalization and target units included."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from runner.assembly.experiment import Experiment
from runner.data import tabular
from runner.data.normalize import Normalize
from runner.data.source import names_of
from runner.data.target_scale import TargetScale
from runner.loss import Loss, answer_names, answers
from runner.model.lora import merged
from runner.rundir import folders
from runner.runs.columns import answers_classes
from runner.runs.task_model import is_plain, raw_example, task_model
from runner.saved.input_spec import InputSpec
from runner.task.supervised import output_of
from runner.tracking.model import TableNames, log_failure, save_model

TABULAR = Path(tabular.__file__).parent
"""The modules that read the rows of `data=table`; a served model takes a copy of them along."""


EXAMPLES = 2  # samples; with one, the batch size would be frozen


class ServingModel(nn.Module):
    """A model with its normalization and target units, as it is logged to MLflow.

    It takes samples of the data set (raw features; image pixels scaled to [0, 1]).

    Args:
        model: the trained model.
        normalize: from raw inputs to model inputs.
        dtype: the model's type.
        scale: the scale of its training targets if they were standardized.
    """

    mean: Tensor
    std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self, model: nn.Module, normalize: Normalize, dtype: torch.dtype, scale: TargetScale | None = None
    ) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype
        self.exact = torch.float64 if normalize.wide else dtype  # the type for normalization, as in training
        self.register_buffer("mean", normalize.mean.to(self.exact))
        self.register_buffer("std", normalize.std.to(self.exact))
        self.scaled = scale is not None and scale.standardizes
        if scale is not None and self.scaled:
            self.register_buffer("target_mean", scale.mean)
            self.register_buffer("target_std", scale.std)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute (N, K) outputs of (N, ...) raw samples: logits, or values in the units of the data."""
        outputs = output_of(self.model(((inputs.to(self.exact) - self.mean) / self.std).to(self.dtype)))
        # In float32 a value of 10,000,000 has no decimals.
        return outputs.double() * self.target_std + self.target_mean if self.scaled else outputs


class AnswerModel(ServingModel):
    """A serving model with the outputs of `runner.predict`: probabilities instead of logits."""

    def __init__(
        self, model: nn.Module, normalize: Normalize, dtype: torch.dtype, scale: TargetScale | None, loss: Loss
    ) -> None:
        super().__init__(model, normalize, dtype, scale)
        self.loss = loss

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute (N, K) probabilities, or values in the units of the data, of (N, F) raw samples."""
        return answers(self.loss, super().forward(inputs))


@dataclass(frozen=True)
class Served:
    """What is served of an experiment.

    Attributes:
        example: two raw samples, of which only shape and range matter; of several inputs, by name.
        spec: the inputs of a `TaskModel`; None for a `ServingModel`.
    """

    example: Tensor | dict[str, Tensor]
    spec: InputSpec | None = None


def serving_example(experiment: Experiment, spec: InputSpec) -> Served | None:
    """Return what is needed of the data for serving; None, and one warning, if that fails.

    A single normalised input is float64 for a table, and for other samples that float32 would round.

    Args:
        experiment: the experiment.
        spec: describes its samples.
    """
    try:
        if not is_plain(experiment.task, spec) and spec.inputs is not None:
            raw, _ = experiment.splits.example(EXAMPLES)
            return Served(raw_example(spec, raw, experiment.precision.dtype), spec)
        example, _ = next(iter(experiment.loaders.train.epoch(0)))
        raw = example[:EXAMPLES].cpu().double() * experiment.splits.normalize.std + experiment.splits.normalize.mean
        of_table = experiment.splits.columns is not None and experiment.splits.table is None
        raw = (raw if of_table or experiment.splits.normalize.wide else raw.float()).contiguous()
        return Served(raw, None if is_plain(experiment.task, spec) else spec)
    except Exception as error:  # a user's data set may raise anything
        log_failure(error)
        return None


def save_serving_model(experiment: Experiment, served: Served, folder: Path) -> None:
    """Save the model with its current weights for MLflow serving; `served` comes from `serving_example`."""
    names = table_names(experiment)
    serving = serving_module(experiment, served, names is not None, experiment.model)
    save_served(serving, served, folder, names)


def save_served(serving: nn.Module, served: Served, folder: Path, names: TableNames | None) -> None:
    """Save a module for MLflow serving.

    Args:
        serving: computes outputs, or with `names` answers, of raw samples.
        served: what is needed of the data.
        folder: is written.
        names: of the columns, for a table.
    """
    ragged = served.spec is not None and served.spec.ragged
    save_model(serving, served.example, folder, names, ragged, folders.outputs())


def table_names(experiment: Experiment) -> TableNames | None:
    """Return the names of the columns if the model is served for rows of a table, else None."""
    splits, task = experiment.splits, experiment.task
    if not splits.columns or not answers_classes(task):
        return None
    assert task.loss is not None and experiment.num_outputs is not None
    features = [name for name in splits.columns if name not in names_of(splits.target)]
    outputs = answer_names(task.loss, experiment.num_outputs, splits.classes, names_of(splits.target))
    if (table := splits.table) is None:
        return TableNames(features, outputs)
    return TableNames(list(table.example), outputs, table.state()["encoder"], table.example, TABULAR)


def serving_module(experiment: Experiment, served: Served, answered: bool, model: nn.Module) -> nn.Module:
    """Make the module that is served of a model.

    Args:
        experiment: that has trained it.
        served: what is needed of the data.
        answered: return probabilities in place of logits.
        model: with the weights to serve.
    """
    dtype, scale, normalize = experiment.precision.dtype, experiment.target_scale, experiment.splits.normalize
    task, model = experiment.task, merged(model)
    if served.spec is not None:
        return task_model(model, task, served.spec, dtype, scale, answered=answered)
    if answered and task.loss is not None:
        return AnswerModel(model, normalize, dtype, scale, task.loss)
    return ServingModel(model, normalize, dtype, scale)
