"""`task=supervised`: predict targets from inputs; the loss says what the targets mean."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from runner.errors import ConfigError, Problem, did_you_mean
from runner.loss import Loss, Metric
from runner.task.task import DividedData, Step, Task, count, describe
from runner.util import trees

DEFAULT_TARGETS = ("labels", "target")
"""The key of an item that is a dict which holds its target: the first of these that it has."""


_NOTHING = nullcontext()


class Supervised(Task):
    """Inputs go to the model, its outputs and the targets to the loss.

    An item of the data set is a pair (inputs, targets), or has its targets under keys. Inputs are a tensor, which goes
    to `model(inputs)`; a dict, which goes to `model(**inputs)`; or a tuple, which goes to `model(*inputs)`.

    The loss defines the meaning of targets and outputs, and the metrics.

    Args:
        targets: the key, or keys, of the targets in an item that is a dict; None: `labels`, else `target`.
    """

    uses_loss = True
    larger_batches = True
    integers_are_numbers = True
    loss: Loss

    def __init__(self, targets: str | list[str] | None = None) -> None:
        super().__init__()
        self.targets = targets

    @property
    def metrics(self) -> Mapping[str, Metric]:  # type: ignore[override]
        """The metrics of the loss."""
        return self.loss.metrics

    def step(self, model: nn.Module, batch: tuple[Any, Any]) -> Mapping[str, Any]:
        """Compute outputs, which are floats of the weights' dtype, and their loss; the loss without autocast."""
        step = self._compute(model, batch)
        weight = step.weight if isinstance(step.weight, Tensor) else None
        return {"loss": step.loss, "weight": weight, "outputs": step.outputs, "targets": step.targets}

    def measure(self, model: nn.Module, batch: tuple[Any, Any]) -> Step:
        """Compute a step. Its result is read only if a subclass has its own: that takes 1 % of the smallest steps."""
        return self._compute(model, batch) if type(self).step is Supervised.step else super().measure(model, batch)

    def _compute(self, model: nn.Module, batch: tuple[Any, Any]) -> Step:
        inputs, targets = batch
        if isinstance(inputs, Tensor):
            result, samples = model(inputs), inputs.shape[0]
        else:
            result, samples = trees.apply(model, inputs), count(inputs)
        outputs = result if isinstance(result, Tensor) else output_of(result)
        if outputs.dtype != self.dtype:
            outputs = outputs.to(self.dtype)
        loss = self.loss  # once: it takes a module half a microsecond to find a part
        with torch.autocast(outputs.device.type, enabled=False) if self.autocasts else _NOTHING:
            weight = loss.denominator(outputs, targets)
            return Step(loss(outputs, targets), samples if weight is None else weight, samples, outputs, targets)

    def predict(self, model: nn.Module, inputs: Any) -> Tensor:
        """Return the outputs (N, K): logits or values."""
        return output_of(super().predict(model, inputs)).to(self.dtype)

    def divide(self, item: Any) -> tuple[Any, Any]:
        """Divide an item, or a batch of items, into inputs and targets.

        Raises:
            ConfigError: it is neither a pair, nor has it targets under the keys.
        """
        return divide_by_keys(item, self.targets)

    def prepare(self, targets: Any, dtype: torch.dtype) -> Any:
        """Convert targets to the form that the loss takes."""
        return self.loss.prepare(targets, dtype)

    def targets_of(self, splits: DividedData) -> Any:
        """Return all targets; samples are read for them if there is no other way."""
        return splits.targets() if splits.all_targets is None else splits.all_targets

    def num_outputs(self, targets: Any, classes: Sequence[str] | None) -> int:
        """Return how many outputs the loss needs for these targets."""
        return self.loss.num_outputs(targets, classes)

    def higher_is_better(self, metric: str) -> bool:
        """Return whether a higher value of a metric is better, as the loss says."""
        return super().higher_is_better(metric) or self.loss.higher_is_better(metric)


def divide_by_keys(item: Any, targets: str | list[str] | None) -> tuple[Any, Any]:
    """Divide an item, or a batch of items, into inputs and targets.

    Args:
        item: a pair, or fields by name.
        targets: the key, or keys, of the targets among the fields; None: the first of `DEFAULT_TARGETS`.

    Raises:
        ConfigError: it is neither a pair, nor has it targets under the keys.
    """
    named = by_name(item)
    keys = _keys(named, targets)
    if not keys and isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    if not named and keys and isinstance(item, tuple | list) and len(item) == 2:
        text = f"task.targets={','.join(keys)}: an item of the data set is a pair, whose parts have no names"
        instead = "leave it out: the second part is the target"
        raise ConfigError(Problem("task.targets", text, instead, topic="conflict"))
    if not named:
        size = f" of {len(item)}" if isinstance(item, tuple | list) else ""
        text = f"an item of the data set is of type {type(item).__name__}{size}, not a pair"
        instead = "return (input, target) for each index"
        if isinstance(item, Tensor):
            instead += ", or write task=language_model or task=autoencoder, which take inputs alone"
        raise ConfigError(Problem("data", text, instead, topic="code"))
    missing = [key for key in keys or DEFAULT_TARGETS if key not in named]
    if missing:
        text = f"an item of the data set has no {' or '.join(missing)}, it has {', '.join(named)}"
        suggestion = did_you_mean(missing[0], list(named)) if keys else "write task.targets=<one of them>"
        raise ConfigError(Problem("task.targets", text, suggestion, topic="unknown"))
    inputs = {name: value for name, value in named.items() if name not in keys}
    return inputs, named[keys[0]] if len(keys) == 1 else {key: named[key] for key in keys}


def _keys(named: Mapping[str, Any], targets: str | list[str] | None) -> list[str]:
    """Return the keys of the targets: the typed ones, or the first default that exists."""
    if targets is None:
        return [key for key in DEFAULT_TARGETS if key in named][:1]
    return [targets] if isinstance(targets, str) else list(targets)


def by_name(item: Any) -> dict[str, Any]:
    """Return the fields of a mapping, named tuple or dataclass by name; of anything else, none."""
    if isinstance(item, Mapping):
        return dict(item)
    if hasattr(item, "_asdict"):
        return dict(item._asdict())
    if is_dataclass(item) and not isinstance(item, type):
        return {field.name: getattr(item, field.name) for field in fields(item)}
    return {}


class OutputError(Exception):
    """A model returned something in which no tensor of outputs can be told; the message says what."""


def output_of(result: Any) -> Tensor:
    """Return the tensor of outputs in what a model returned: itself, its `logits`, or its only tensor.

    Raises:
        OutputError: there is no such tensor.
    """
    if isinstance(result, Tensor):
        return result
    named = dict(result) if isinstance(result, Mapping) else {}
    if isinstance(logits := named.get("logits"), Tensor):
        return logits
    tensors = [leaf for leaf in trees.leaves(result) if isinstance(leaf, Tensor)]
    if len(tensors) != 1:
        has = f" with {', '.join(map(str, named))}" if named else ""
        raise OutputError(f"{describe(result)}{has}")
    return tensors[0]
