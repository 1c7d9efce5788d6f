"""Buffers that `state_dict` and `load_state_dict` miss: those with `persistent=False`, and those made in training."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def unsaved_buffers(module: nn.Module) -> dict[str, Tensor]:
    """The buffers that `state_dict` leaves out, by their names; the tensors themselves, no copies."""
    return {
        f"{prefix}.{name}" if prefix else name: buffer
        for prefix, part in module.named_modules()
        for name in sorted(part._non_persistent_buffers_set)  # torch has no public name for it
        if (buffer := part._buffers.get(name)) is not None
    }


@torch.no_grad()
def load_buffers(module: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Give a module the buffers of `unsaved_buffers`; one of another shape, or not made yet, is replaced."""
    fit_buffers(module, saved)
    for name, tensor in saved.items():
        buffer = _holder(module, name).get(name.rpartition(".")[2])
        if buffer is not None:  # else its code has changed, and needs it no more
            buffer.copy_(tensor)  # in place: whatever else refers to it, an optimizer or a view, sees it


def load_module(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Give a module the state of its `state_dict`, buffers included that it has made, or replaced, in training.

    Raises:
        RuntimeError: of `load_state_dict`: it is the state of another module.
    """
    fit_buffers(module, state)
    module.load_state_dict(state)


def fit_buffers(module: nn.Module, saved: Mapping[str, Any], replace: bool = True) -> None:
    """Make the buffers that saved values need a place for: those that are None, and with `replace` of another shape."""
    device = next((parameter.device for parameter in module.parameters()), None)
    for name, tensor in saved.items():
        held, own = _holder(module, name), name.rpartition(".")[2]
        if own not in held or not isinstance(tensor, Tensor):
            continue
        buffer = held[own]
        if buffer is None or (replace and buffer.shape != tensor.shape):
            held[own] = torch.empty_like(tensor, device=device)


def _holder(module: nn.Module, name: str) -> dict[str, Tensor | None]:
    """The buffers beside the one of that name; empty if there is no such part."""
    try:
        return module.get_submodule(name.rpartition(".")[0])._buffers
    except AttributeError:
        return {}
