"""The model of a run for MLflow serving, with normalization and target units included."""

from pathlib import Path

import torch
from torch import Tensor, nn

from runner.assembly.experiment import Experiment
from runner.data import tabular
from runner.data.normalize import Normalize
from runner.data.target_scale import TargetScale
from runner.loss import Loss, answer_names, answers
from runner.model.lora import merged
from runner.task.supervised import output_of
from runner.tracking.model import TableNames, save_model

TABULAR = Path(tabular.__file__).parent
"""The modules that read the rows of `data=table`; a served model takes a copy of them along."""


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


def serving_example(experiment: Experiment) -> Tensor:
    """Return two inputs of `ServingModel`; only their shape and range matter.

    They are float64 for a table, and for other samples that float32 would round.
    """
    example, _ = next(iter(experiment.loaders.train.epoch(0)))
    raw = example[:2].cpu().double() * experiment.splits.normalize.std + experiment.splits.normalize.mean
    of_table = experiment.splits.columns is not None and experiment.splits.table is None
    return (raw if of_table or experiment.splits.normalize.wide else raw.float()).contiguous()


def save_serving_model(experiment: Experiment, example: Tensor, folder: Path) -> None:
    """Save the model with its current weights for MLflow serving; `example` comes from `serving_example`."""
    parts = merged(experiment.model), experiment.splits.normalize, experiment.precision.dtype, experiment.target_scale
    if not experiment.splits.columns:
        save_model(ServingModel(*parts), example, folder)
        return
    table = experiment.splits.table
    features = [name for name in experiment.splits.columns if name != experiment.splits.target]
    assert experiment.task.loss is not None and experiment.num_outputs is not None
    loss = experiment.task.loss
    names = TableNames(features, answer_names(loss, experiment.num_outputs, experiment.splits.classes))
    if table is not None:
        names = TableNames(list(table.example), names.outputs, table.state()["encoder"], table.example, TABULAR)
    save_model(AnswerModel(*parts, loss), example, folder, names)
