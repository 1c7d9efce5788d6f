"""`task=autoencoder`: the inputs are the targets."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from runner.errors import ConfigError, Problem
from runner.loss import BCEWithLogits, Metric, name_of
from runner.task.supervised import DEFAULT_TARGETS, by_name, output_of
from runner.task.task import DividedData, Task
from runner.util import trees

LEFT_OUT = ("r2",)
"""Metrics that most data do not have: a pixel that is always black has no variance to explain."""

CHECKED = 64  # samples whose range is looked at


class Autoencoder(Task):
    """The model reconstructs its inputs, normalised as it gets them; the loss compares both value by value.

    Outputs need as many values as inputs, in any shape: `model=mlp` returns (N, values). The data's own targets are
    ignored: the second of a pair, and the `labels` or `target` of a dict.
    """

    uses_loss = True
    larger_batches = True
    default_loss = "mse"
    integers_are_numbers = True

    @property
    def metrics(self) -> Mapping[str, Metric]:  # type: ignore[override]
        """Those of the loss, over the values of a sample."""
        assert self.loss is not None
        return {name: metric for name, metric in self.loss.metrics.items() if name not in LEFT_OUT}

    def divide(self, item: Any) -> tuple[Any, None]:
        """Return the inputs of an item, or of a batch of items.

        Raises:
            ConfigError: they are not a single tensor.
        """
        inputs, _ = super().divide(item)
        if named := by_name(inputs):
            left = [value for name, value in named.items() if name not in DEFAULT_TARGETS]
            if len(left) != 1:
                text = f"task=autoencoder needs a single input, an item has {', '.join(named)}"
                raise ConfigError(Problem("data", text, "return a single tensor", topic="code"))
            return left[0], None
        if trees.is_container(inputs):
            text = f"task=autoencoder needs a single input, an item is of type {type(inputs).__name__}"
            raise ConfigError(Problem("data", text, "return a single tensor", topic="code"))
        return inputs, None

    def step(self, model: nn.Module, batch: Tensor) -> Mapping[str, Any]:
        """Compute the loss of the reconstruction; without autocast."""
        outputs = self.reconstruct(model, batch).flatten(1)
        targets = batch.flatten(1)
        assert self.loss is not None
        with torch.autocast(outputs.device.type, enabled=False):
            loss, weight = self.loss(outputs, targets), self.loss.denominator(outputs, targets)
        return {"loss": loss, "weight": weight, "outputs": outputs, "targets": targets}

    def reconstruct(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """Return the outputs in the shape of the inputs.

        Raises:
            ConfigError: the model returns another number of values.
        """
        outputs = output_of(model(inputs)).to(self.dtype)
        if outputs.numel() != inputs.numel():
            made, given = (", ".join(map(str, tensor.shape[1:])) for tensor in (outputs, inputs))
            text = f"the model returns (N, {made}) for inputs (N, {given}), task=autoencoder requires as many values"
            raise ConfigError(Problem("model", text, "let its constructor take num_outputs", topic="shape"))
        return outputs.reshape(inputs.shape)

    def predict(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """Return the reconstruction, normalised like the inputs; probabilities for binary cross entropy."""
        outputs = self.reconstruct(model, inputs)
        return outputs.sigmoid() if isinstance(self.loss, BCEWithLogits) else outputs

    def pictures(self, model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
        """Return images and their reconstructions; nothing if inputs are no images."""
        return {"input": batch, "reconstruction": self.predict(model, batch)} if batch.ndim == 4 else {}

    def targets_of(self, splits: DividedData) -> Any:
        """Return the shape of a sample, and the smallest and the largest value of some as the model gets them."""
        some = splits.normalize(splits.example(CHECKED)[0], torch.float64)
        return splits.input_shape, some.min().item(), some.max().item()

    def num_outputs(self, targets: Any, classes: Sequence[str] | None) -> int:
        """Return the number of values of a sample.

        Raises:
            ConfigError: the loss does not take the inputs as targets.
        """
        shape, low, high = targets
        assert self.loss is not None
        if self.loss.takes == "classes":
            text = f"loss={name_of(self.loss)}: the targets of task=autoencoder are values"
            raise ConfigError(Problem("loss", text, "write loss=mse", topic="conflict"))
        if isinstance(self.loss, BCEWithLogits) and (low < 0 or high > 1):
            text = f"loss=bce_with_logits needs inputs from 0 to 1, normalised they are {low:.3g} to {high:.3g}"
            raise ConfigError(Problem("loss", text, "write data.mean=0 data.std=1, or loss=mse", topic="conflict"))
        return prod(shape)
