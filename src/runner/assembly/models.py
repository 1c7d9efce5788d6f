"""Make the model of an experiment, and check it with the step of its task."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from runner.assembly import checks
from runner.assembly.step_check import check_step, copies
from runner.assembly.target import call, locate, signature_of
from runner.data.collate import Batch
from runner.data.preprocess import Preprocess
from runner.data.splits import Splits
from runner.device import Device
from runner.errors import ConfigError, Problem
from runner.model import probe
from runner.model.freeze import Freeze, freeze
from runner.model.lora import add_adapters
from runner.model.pretrained import weights_unwanted
from runner.strategy import Strategy
from runner.task import Step, Task
from runner.task.supervised import Supervised, output_of
from runner.util.patterns import patterns_of
from runner.util.rng import seed_all
from runner.util.trees import Shapes, is_shape

WEIGHED = 256
"""How many samples must have a weight in all."""


def make_model(
    node: Mapping[str, Any],
    task: Task,
    splits: Splits,
    counted: tuple[int | None],
    seed: int,
    dtype: torch.dtype,
    pretrained: bool = True,
) -> tuple[nn.Module, probe.Cost, Sequence[str], Step | None]:
    """Make the model on the CPU, with weights drawn by the seed, and run the task's step for two samples.

    Args:
        node: the group `model`.
        task: takes the outputs of the model.
        splits: the data.
        counted: the number of outputs; None if task and data do not tell.
        seed: of the weights.
        dtype: of the weights.
        pretrained: load its pretrained weights if it has such; False if others replace them, or no run starts.

    Returns:
        The model, its cost, the names of what a step measures besides the metrics, and what the step returned; None if
        shapes were enough to check it.
    """
    (num_outputs,) = counted
    seed_all(seed)
    supplied = {"input_shape": splits.input_shape, **({} if num_outputs is None else {"num_outputs": num_outputs})}
    if splits.table is not None and splits.table.sizes:
        supplied["categories"] = splits.table.sizes
    check_inputs(node, splits.input_shape)
    with weights_unwanted(not pretrained):
        model = call("model", node, nn.Module, **supplied)
    model.to(dtype)
    task.to(dtype)
    task.dtype = dtype
    if num_outputs is not None and is_plain(task, splits):
        cost = probe.check_shapes(model, splits.input_shape, num_outputs, dtype, output_of)
        return model, cost, ("loss",), None
    cost, step = check_step(task, model, example(task, splits, 2, dtype), num_outputs)
    if not torch.as_tensor(step.weight).any():  # two samples may be of ignored targets alone
        _, more = check_step(task, model, example(task, splits, WEIGHED, dtype), num_outputs)
        checks.weight(task, more)
    if task.extra is not None:
        checks.measured_outputs(task, step)
    return model, cost, [*(["loss"] if step.loss is not None else []), *step.scalars], step


def check_inputs(node: Mapping[str, Any], input_shape: Shapes) -> None:
    """Check that a model which takes the shape of one input gets that.

    Args:
        node: the group `model`.
        input_shape: of one sample.

    Raises:
        ConfigError: the data have several inputs.
    """
    taken = signature_of(locate("model", node)).get("input_shape")
    if is_shape(input_shape) or taken is None or taken.annotation != Sequence[int]:
        return
    named = input_shape.items() if isinstance(input_shape, Mapping) else enumerate(input_shape)
    shown = {str(name): shape for name, shape in named}
    inputs = ", ".join(f"{name} {shape if is_shape(shape) else '...'}" for name, shape in shown.items())
    text = f"model: {node['_target_']} takes one input, the data have {len(shown)}: {inputs}"
    takes = ", ".join(shown) if isinstance(input_shape, Mapping) else f"{len(shown)} tensors"
    suggestion = f"write model=custom and a model whose forward takes {takes}"
    raise ConfigError(Problem("model", text, suggestion, topic="shape"))


def is_plain(task: Task, splits: Splits) -> bool:
    """Whether a step is that of `supervised`, and inputs are a single tensor: the model can be checked by shapes."""
    return type(task).step is Supervised.step and is_shape(splits.input_shape)


def example(task: Task, splits: Splits, count: int, dtype: torch.dtype) -> Batch:
    """Return a batch of training samples as the loop passes them, on the CPU."""
    return Preprocess(splits.normalize, task.prepare, torch.device("cpu"), dtype)(*splits.example(count))


def try_step(
    task: Task,
    model: nn.Module,
    splits: Splits,
    dtype: torch.dtype,
    count: int,
    observing: Callable[[nn.Module], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Run a training step of some samples, without gradients: neither task and model nor the generators change.

    Args:
        task: on the CPU, like the model.
        model: may be copied.
        splits: the data.
        dtype: of the weights.
        count: of the samples.
        observing: returns the context of the step, from the model that it runs.
    """
    if is_plain(task, splits):
        probe.run_samples(model, count, splits.input_shape, dtype, observing)
        return
    alone = torch.random.fork_rng(devices=[])
    with alone, torch.no_grad(), copies(task, model) as (own_task, own_model), observing(own_model):
        own_task.measure(own_model, example(task, splits, count, dtype))


def observe_step(strategy: Strategy, task: Task, model: nn.Module, splits: Splits, dtype: torch.dtype) -> None:
    """Let a strategy that divides the weights see which of them a step uses where."""
    if strategy.divides:
        try_step(task, model, splits, dtype, 2, strategy.observing)


def move(model: nn.Module, task: Task, device: Device) -> bool:
    """Move model and task to the device; returns whether the model's images are stored channels last."""
    task.to(device.torch)
    channels_last = probe.has_convolutions(model)
    model.to(device.torch)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    return channels_last


def tune(model: nn.Module, node: Mapping[str, Any], seed: int) -> Freeze:
    """Freeze what `model.freeze` names, and add the adapters of `model.lora`, drawn by the seed."""
    patterns, lora = node.get("freeze"), node.get("lora") or {}  # a config of version 0.1.0 lacks the keys
    frozen = freeze(model, patterns_of(patterns), node.get("unfreeze_at_epoch")) if patterns else Freeze()
    if not lora.get("params"):
        return frozen
    seed_all(seed)
    adapted = add_adapters(model, **lora)
    both = [*frozen.parameters, *adapted.parameters]
    return replace(adapted, parameters=both, resting=[*frozen.resting, *adapted.resting])


def prepare(strategy: Strategy, model: nn.Module) -> nn.Module:
    """Return the model as the ranks of a run train it."""
    return strategy.prepare(model)
