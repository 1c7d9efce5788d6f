"""Make the device, the precision, the metrics and the callbacks of an experiment, and check its state."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from runner import device as devices
from runner.assembly import checks
from runner.assembly.target import call
from runner.callbacks import Callback
from runner.config import callbacks
from runner.config.settings import TrainerSettings
from runner.data.loading import evaluation_batch_size
from runner.data.splits import Splits
from runner.device import Device
from runner.metrics import make_metrics, meaning_of, read_entries
from runner.model import probe
from runner.precision import Precision
from runner.scheduler import Schedule
from runner.task import Task
from runner.util.cores import threads_for


def find_device(node: Mapping[str, Any]) -> Device:
    """Find the device that a config asks for."""
    return devices.resolve(node["name"], node["index"])


def make_precision(node: Mapping[str, Any], device: Device) -> Precision:
    """Make the number format for a device."""
    return Precision(node["name"], device.torch)


def prepare_device(trainer: TrainerSettings, device: Device) -> None:
    """Set determinism, and check that the device can compile if that is wanted."""
    devices.set_deterministic(trainer.deterministic)
    if trainer.compile:
        device.check_compiler()


def measure(value: Any, task: Task, splits: Splits, counted: tuple[int | None]) -> None:
    """Let a task measure what the key `metrics` asks for."""
    entries = read_entries(value)
    meaning = meaning_of(task.loss, *counted, splits.classes)
    task.extra = make_metrics(entries, meaning, task.names()) if entries else None


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
    device: Device, model: nn.Module, cost: probe.Cost, splits: Splits, batch_size: int, node: Mapping[str, Any]
) -> Device:
    """Set the CPU threads of a device: as typed, or by the arithmetic of a batch in training and in evaluation."""
    asked, evaluated = node["threads"], node["evaluation_threads"]
    operations = probe.operations(model, cost.flops)
    step = operations * min(batch_size, len(splits.train))
    device = device.with_threads(threads_for(step) if asked == "auto" else int(asked))
    if evaluated == asked == "auto":
        at_once = evaluation_batch_size(batch_size, max(cost.values, splits.input_values), device.torch)
        largest = max(splits.sizes["val"], splits.sizes["test"])
        evaluated = max(device.threads, threads_for(operations * min(at_once, largest)))
    evaluated = device.threads if evaluated in (None, "auto") else int(evaluated)
    return replace(device, evaluation_threads=evaluated)
