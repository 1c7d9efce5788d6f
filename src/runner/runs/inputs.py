"""Describe the inputs that a prediction needs, where there are several, or where they are not normalised."""

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from runner.assembly import models
from runner.assembly.experiment import Experiment
from runner.assembly.step_check import copies
from runner.data.part import Part
from runner.saved.input_spec import Leaf
from runner.saved.structure import containers_of
from runner.task import Task
from runner.task.supervised import DEFAULT_TARGETS, Supervised
from runner.util import trees
from runner.util.trees import Tree

LOOKED_AT = 64  # samples that the range of values is read from

READ = 16  # samples of a stream whose shapes are compared

EXAMPLES = 2  # samples that a prediction is tried with


def describe_inputs(experiment: Experiment) -> dict[str, Any]:
    """Return the fields of an `InputSpec` that a single normalised input does not need; none for such a one."""
    splits = experiment.splits
    scales = splits.normalize.scales
    if scales is None:
        return {}
    example = splits.example(LOOKED_AT)[0]
    ignored = _ignored(experiment) if isinstance(splits.input_shape, Mapping) else []
    left_out = [f"{name}." for name in ignored]
    shapes = [tuple(leaf.shape[1:]) for _, leaf in trees.named_leaves(example)]
    leaves = [
        Leaf(name, list(shape), str(leaf.dtype).removeprefix("torch."), scale, *_range(leaf))
        for (name, leaf), scale, shape in zip(trees.named_leaves(example), scales, shapes, strict=True)
        if not f"{name}.".startswith(tuple(left_out))
    ]
    return {
        "inputs": leaves,
        "containers": containers_of(example),
        "ignored": ignored,
        "ragged": varies(splits.train),
    }


def varies(part: Part) -> bool:
    """Whether samples differ in shape, so that the first one's says little about the others."""
    if part.streams and part.collates:
        shapes = [trees.shapes(part.sample(index)[0]) for index in range(READ)]
        return any(shape != shapes[0] for shape in shapes)
    return part.tensors is None and part.varies()


def _range(leaf: Tensor) -> tuple[float | None, float | None]:
    """Return the smallest and the largest value, if they are numbers."""
    values = leaf.double() if leaf.dtype.is_floating_point or leaf.dtype == torch.bool else leaf
    if not values.numel():
        return None, None
    low, high = (bound.item() for bound in values.aminmax())
    return (low, high) if isfinite(low) and isfinite(high) else (None, None)


def _ignored(experiment: Experiment) -> list[str]:
    """Return the keys of items that a prediction does not read; none if it fails, or whole items are no dicts."""
    task, splits = experiment.task, experiment.splits
    if isinstance(task, Supervised):
        return [task.targets] if isinstance(task.targets, str) else list(task.targets or DEFAULT_TARGETS)
    inputs, _ = models.example(task, splits, EXAMPLES, experiment.precision.dtype)
    if type(inputs) is not dict:
        return []
    device = experiment.device.torch
    read = _Recorder(trees.tree_map(lambda leaf: leaf.to(device), inputs))
    with torch.random.fork_rng(devices=[]), torch.no_grad(), copies(task, experiment.model) as (own_task, own_model):
        try:
            _predict(own_task, own_model, read)
        except Exception:  # of the user's code; `runner.predict` reports it
            return []
    return [name for name in inputs if name not in read.seen]


def _predict(task: Task, model: nn.Module, inputs: Tree) -> None:
    training = [(module, module.training) for module in (task, model)]
    task.eval()
    model.eval()
    try:
        task.predict(model, inputs)
    finally:
        for module, was_training in training:
            module.train(was_training)


class _Recorder(dict[str, Any]):
    """A dict that notes which keys are read: reading all of them, as `**` does, reads each."""

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.seen: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.seen.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.seen.add(key)
        return super().get(key, default)

    def pop(self, key: str, *default: Any) -> Any:
        self.seen.add(key)
        return super().pop(key, *default)

    def __contains__(self, key: object) -> bool:
        self.seen.add(str(key))
        return super().__contains__(key)

    def __iter__(self) -> Iterator[str]:
        self._all()
        return super().__iter__()

    def keys(self) -> Any:
        self._all()
        return super().keys()

    def values(self) -> Any:
        self._all()
        return super().values()

    def items(self) -> Any:
        self._all()
        return super().items()

    def copy(self) -> dict[str, Any]:
        self._all()
        return super().copy()

    def _all(self) -> None:
        self.seen |= set(super().keys())
