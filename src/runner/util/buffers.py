"""Buffers that `state_dict` and `load_state_dict` miss.

They are those with `persistent=False`, and those that training makes, replaces or sets to None.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def unsaved_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """The buffers that `state_dict` leaves out, by their names; the tensors themselves, no copies.

    A buffer that is None is one of them: a new copy of the module may begin with a tensor there.
    """
    return {
        f"{prefix}.{name}" if prefix else name: buffer
        for prefix, part in module.named_modules()
        for name, buffer in sorted(part._buffers.items())
        if buffer is None or name in part._non_persistent_buffers_set  # torch has no public name for it
    }


@torch.no_grad()
def load_buffers(module: nn.Module, saved: Mapping[str, Tensor | None]) -> None:
    """Give a module the buffers of `unsaved_buffers`; one of another shape, or not made yet, is replaced."""
    fit_buffers(module, saved)
    for name, tensor in saved.items():
        held, own = _holder(module, name), name.rpartition(".")[2]
        buffer = held.get(own)
        if tensor is None:
            held.update({own: None} if own in held else {})
        elif buffer is not None:  # else its code has changed, and needs it no more
            buffer.copy_(tensor)  # in place: whatever else refers to it, an optimizer or a view, sees it


def load_module(
    module: nn.Module, state: Mapping[str, Any], unsaved: Mapping[str, Tensor | None] | None = None
) -> None:
    """Give a module the state of its `state_dict`, and of `unsaved_buffers`.

    Args:
        module: whose buffers may have been made, replaced or set to None in training since.
        state: of its `state_dict`.
        unsaved: the buffers that are not in it.

    Raises:
        RuntimeError: of `load_state_dict`: it is the state of another module.
    """
    load_buffers(module, unsaved or {})
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
