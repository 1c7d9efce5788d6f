"""The model of a run whose task predicts for itself, or that takes several inputs, as one module to be exported."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from runner.data.target_scale import TargetScale
from runner.loss import answers
from runner.runs.columns import answers_classes
from runner.saved.input_spec import InputSpec, Leaf
from runner.task import Task
from runner.task.supervised import by_name
from runner.util import trees

INPUTS = "inputs"
"""The name of a single input."""


class TaskModel(nn.Module):
    """What a task predicts for raw samples of its data set; `task_model` makes one.

    Args:
        model: the trained model.
        task: it predicts.
        spec: the inputs.
        dtype: the model's type.
        scale: the scale of its training targets if they were standardised.
        answered: whether classes get probabilities instead of logits.
    """

    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        spec: InputSpec,
        dtype: torch.dtype,
        scale: TargetScale | None = None,
        answered: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.task, self.spec, self.dtype, self.answered = model, task, spec, dtype, answered
        self.normalize = spec.normalize
        self.names = [leaf.name for leaf in spec.inputs] if spec.inputs is not None else [""]
        self.scaled = scale is not None and scale.standardizes
        if scale is not None and self.scaled:
            self.register_buffer("target_mean", scale.mean)
            self.register_buffer("target_std", scale.std)

    def predict(self, *values: Tensor) -> Tensor | dict[str, Tensor]:
        """Predict from raw inputs (N, ...) in the order of `names`: a tensor (N, ...), or several by name."""
        inputs = self.spec.build(dict(zip(self.names, values, strict=True)))
        result = self.task.predict(self.model, self.normalize(inputs, self.dtype))
        if self.scaled:
            result = result.double() * self.target_std + self.target_mean
        if self.answered and self.task.loss is not None:
            result = answers(self.task.loss, result)
        if isinstance(result, Tensor):
            return result
        return dict(trees.named_leaves(by_name(result) or result))


def task_model(*parts: Any, **options: Any) -> TaskModel:
    """Make a `TaskModel` whose `forward` takes each input by its name, as a graph of it then does."""
    spec: InputSpec = parts[2]
    names = argument_names(spec)

    def forward(self: TaskModel, *values: Tensor, **named: Tensor) -> Tensor | dict[str, Tensor]:
        return self.predict(*values, *(named[name] for name in names[len(values) :]))

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in ("self", *names)]
    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # torch.export reads it
    made: TaskModel = type("TaskModel", (TaskModel,), {"forward": forward})(*parts, **options)
    return made


def argument_names(spec: InputSpec) -> list[str]:
    """Return the names of the inputs as Python's: `pixels`, `input_0` of a tuple, `boxes_1` of a tuple in a dict."""
    if spec.inputs is None:
        return [INPUTS]
    names = [(leaf.name or INPUTS).replace(".", "_") for leaf in spec.inputs]
    names = [name if name.isidentifier() and name != "self" else f"input_{name}" for name in names]
    usable = len(set(names)) == len(names) and all(name.isidentifier() for name in names)
    return names if usable else [f"input_{number}" for number in range(len(names))]


def is_plain(task: Task, spec: InputSpec) -> bool:
    """Whether a prediction is what the model returns for a single normalised input."""
    return spec.inputs is None and answers_classes(task)


def raw_example(spec: InputSpec, raw: Any, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
    """Return raw inputs (N, ...) as a `TaskModel` takes them: floats in the type of the model.

    Args:
        spec: the inputs.
        raw: of the data set, with all that its items hold.
        dtype: the model's type.
    """
    assert spec.inputs is not None
    leaves = dict(trees.named_leaves(raw))
    values = [as_served(leaves[leaf.name], dtype) for leaf in spec.inputs]
    if len(values) == 1 and not spec.inputs[0].name:
        return values[0]
    return dict(zip(argument_names(spec), values, strict=True))


def as_served(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return floats in the type of the model; integers stay as they are."""
    return values.to(dtype) if values.is_floating_point() else values


def random_example(spec: InputSpec, count: int, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
    """Return random samples within the ranges of the training samples; always the same."""
    assert spec.inputs is not None
    generator = torch.Generator().manual_seed(0)
    values = [as_served(_random(leaf, count, generator), dtype) for leaf in spec.inputs]
    if len(values) == 1 and not spec.inputs[0].name:
        return values[0]
    return dict(zip(argument_names(spec), values, strict=True))


def _random(leaf: Leaf, count: int, generator: torch.Generator) -> Tensor:
    low, high = (0.0 if bound is None else bound for bound in (leaf.low, leaf.high))
    if leaf.kind.is_floating_point:
        return torch.rand(count, *leaf.shape, generator=generator, dtype=torch.float64) * (high - low) + low
    return torch.randint(int(low), int(high) + 1, (count, *leaf.shape), generator=generator).to(leaf.kind)


def by_names(result: Any, default: str) -> dict[str, Tensor]:
    """Return outputs by name; a single one under a default."""
    return {default: result} if isinstance(result, Tensor) else dict(result)


def describe(named: Mapping[str, Tensor]) -> str:
    """Describe tensors: `float32 a (N, 4), int64 b (N, 3)`."""
    return ", ".join(
        f"{str(values.dtype).removeprefix('torch.')} {name} (N{''.join(f', {size}' for size in values.shape[1:])})"
        for name, values in named.items()
    )
