"""Make the device, the precision, the metrics and the callbacks of an experiment, and check its state."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from runner import device as devices
from runner import strategy as strategies
from runner.assembly import checks
from runner.assembly.target import call
from runner.callbacks import Callback
from runner.config import callbacks
from runner.config.settings import TrainerSettings
from runner.data.loading import evaluation_batch_size
from runner.data.splits import Splits
from runner.device import Device
from runner.errors import ConfigError, Problem
from runner.metrics import Kind, asked_kind, make_metrics, meaning_of, meaning_of_step, read_entries
from runner.model import probe, recomputation
from runner.precision import Precision
from runner.scheduler import Schedule
from runner.strategy import Strategy
from runner.task import Step, Task, takes_larger_batches
from runner.task.supervised import Supervised
from runner.util.compile_modes import uses_graphs
from runner.util.cores import threads_for


def find_device(node: Mapping[str, Any]) -> Device:
    """Find the device that a config asks for."""
    return devices.resolve(node["name"], node["index"])


def make_precision(node: Mapping[str, Any], device: Device) -> Precision:
    """Make the number format for a device."""
    return Precision(node["name"], device.torch)


def make_strategy(node: Mapping[str, Any], device: Device) -> Strategy:
    """Make the strategy.

    Raises:
        ConfigError: several ranks do not work on this device.
    """
    if node["name"] != "single" and device.torch.type not in ("cpu", "cuda"):
        text = f"strategy={node['name']} works on cpu and cuda, the device is {device.torch.type}"
        raise ConfigError(Problem("strategy", text, "write strategy=single, or device=cpu", topic="unavailable"))
    return strategies.make_strategy(node["name"], device, node["find_unused_parameters"], node.get("shard"))


def check_recomputation(trainer: TrainerSettings, model: nn.Module) -> None:
    """Check the modules of `trainer.activation_checkpointing`.

    Raises:
        ConfigError: there are none of these names, or the model is compiled.
    """
    if trainer.activation_checkpointing and trainer.compile:
        text = f"{recomputation.KEY} and trainer.compile exclude each other: a compiler decides what is computed again"
        raise ConfigError(Problem(recomputation.KEY, text, "leave one of them out", topic="conflict"))
    recomputation.chosen(model, trainer.activation_checkpointing or ())


def prepare_device(trainer: TrainerSettings, device: Device) -> None:
    """Set determinism, and check that the device can compile if that is wanted."""
    devices.set_deterministic(trainer.deterministic)
    if trainer.compile:
        device.check_compiler()


def check_graphs(trainer: TrainerSettings, device: Device, several: bool) -> None:
    """Check that what a training keeps within a step outlasts the next call of the compiled model.

    Args:
        trainer: has the mode of compilation.
        device: of the training.
        several: there are several optimizers.

    Raises:
        ConfigError: CUDA graphs would overwrite it. Gradients of a micro-batch are, without an error (torch 2.14).
    """
    if uses_graphs(trainer.compile, device.torch.type) and (several or trainer.grad_accumulation > 1):
        by = "several optimizers" if several else f"trainer.grad_accumulation={trainer.grad_accumulation}"
        text = f"trainer.compile={trainer.compile} with {by}: CUDA graphs overwrite gradients that are not used yet"
        instead = "write trainer.compile=max-autotune-no-cudagraphs, or true"
        raise ConfigError(Problem("trainer.compile", text, instead, topic="conflict"))


def measure(value: Any, task: Task, splits: Splits, counted: tuple[int | None]) -> None:
    """Let a task measure what the key `metrics` asks for, if its loss says what that means."""
    entries = read_entries(value)
    meaning = meaning_of(task.loss, *counted, splits.classes)
    if entries and (meaning.kind is not None or type(task).step is Supervised.step):
        task.extra = make_metrics(entries, meaning, task.names())


def measure_step(value: Any, task: Task, splits: Splits, step: Step) -> None:
    """Let a task measure what the key `metrics` asks for, if only what its step returns says what that means.

    Raises:
        ConfigError: it returns nothing to measure, or a metric does not fit.
    """
    if not (entries := read_entries(value)) or task.extra is not None:
        return
    checks.measured_outputs(task, step)
    asked = asked_kind(entries)
    meaning = meaning_of_step(step.outputs, step.targets, splits.classes, asked)
    task.extra = make_metrics(entries, meaning, task.names())
    if task.extra is not None:
        checks.tried_metrics(task.extra, step)


def kind_of(task: Task, splits: Splits, counted: tuple[int | None], step: Step | None) -> Kind | None:
    """Return what outputs and targets of a task are to metrics; None if nothing tells."""
    if (meaning := meaning_of(task.loss, *counted, splits.classes)).kind is not None or step is None:
        return meaning.kind
    if not isinstance(step.outputs, Tensor) or not isinstance(step.targets, Tensor):
        return None
    return meaning_of_step(step.outputs, step.targets, splits.classes).kind


def check_state(model: nn.Module, task: Task, optimizer: torch.optim.Optimizer, schedule: Schedule) -> None:
    """Check that a checkpoint can hold the state that training starts with."""
    parts: dict[str, Any] = {
        "model": model, "loss": task.loss, "task": task, "optimizer": optimizer, "scheduler": schedule.scheduler
    }  # fmt: skip
    checks.state({name: part.state_dict() for name, part in parts.items() if part is not None})


def make_callbacks(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, Callback]:
    """Make the callbacks, and check that a checkpoint can hold the state that they start with."""
    made = {name: call(f"{callbacks.KEY}.{name}", node, Callback) for name, node in nodes.items()}
    checks.state({"callbacks": {name: callback.state_dict() for name, callback in made.items()}})
    return made


def choose_threads(
    device: Device,
    task: Task,
    model: nn.Module,
    cost: probe.Cost,
    splits: Splits,
    batch_size: int,
    node: Mapping[str, Any],
) -> Device:
    """Set the CPU threads of a device: as typed, or by the arithmetic of a batch in training and in evaluation."""
    asked, evaluated = node["threads"], node["evaluation_threads"]
    operations = probe.operations(model, cost.flops)
    step = operations * min(batch_size, len(splits.train))
    device = device.with_threads(threads_for(step) if asked == "auto" else int(asked))
    if evaluated == asked == "auto":
        at_once = batch_size
        if takes_larger_batches(task):
            at_once = evaluation_batch_size(batch_size, max(cost.values, splits.input_values), device.torch)
        largest = max(splits.sizes["val"], splits.sizes["test"])
        evaluated = max(device.threads, threads_for(operations * min(at_once, largest)))
    evaluated = device.threads if evaluated in (None, "auto") else int(evaluated)
    return replace(device, evaluation_threads=evaluated)
