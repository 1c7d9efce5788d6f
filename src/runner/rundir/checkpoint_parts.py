"""The parts of a checkpoint: the weights to evaluate, and the state of a task."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from runner.util.buffers import load_buffers, load_module, unsaved_buffers


def best_weights(state: dict[str, Any]) -> dict[str, Any]:
    """Return the weights to evaluate: the averaged ones if the checkpoint has them."""
    averaged = state["ema"]
    return dict(averaged["weights"] if averaged else state["model"])


def weight_buffers(state: dict[str, Any]) -> dict[str, Any]:
    """Return the buffers of `best_weights` that `state_dict` leaves out, by their names."""
    return dict(state.get("buffers", {}).get("ema" if state["ema"] else "model", {}))


LOSS_PREFIX = "loss."  # of the names of a task's loss among those of the task


def task_state(task: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the state of a task under the keys of a checkpoint: `loss` for its loss, `task` for all else."""
    return _divided(task.state_dict())


def task_buffers(task: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the buffers that `task_state` leaves out, under the same keys."""
    return _divided(unsaved_buffers(task))


def load_task(task: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a task's state from a checkpoint; without one the task is unchanged."""
    saved, buffers = _joined(state), _joined(state.get("buffers", {}))
    if saved:
        load_module(task, saved, buffers)
    else:
        load_buffers(task, buffers)


def _divided(tensors: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(LOSS_PREFIX)}
    of_loss = {name.removeprefix(LOSS_PREFIX): tensor for name, tensor in tensors.items() if name not in own}
    return {"loss": of_loss, "task": own}


def _joined(parts: Mapping[str, Any]) -> dict[str, Any]:
    return {**{LOSS_PREFIX + name: tensor for name, tensor in parts.get("loss", {}).items()}, **parts.get("task", {})}
