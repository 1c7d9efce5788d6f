"""Save and load the buffers that `state_dict` and `load_state_dict` miss.

These are buffers with `persistent=False`, and buffers that training creates, replaces or sets to None.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def unsaved_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """Collect the buffers that `state_dict` leaves out, by name; the tensors are not copied.

    Buffers that are None are included: a new instance of the module may start with a tensor there.
    """
    return {
        f"{prefix}.{name}" if prefix else name: buffer
        for prefix, part in module.named_modules()
        for name, buffer in sorted(part._buffers.items())
        if buffer is None or name in part._non_persistent_buffers_set  # torch has no public name for it
    }


@torch.no_grad()
def load_buffers(module: nn.Module, saved: Mapping[str, Tensor | None]) -> None:
    """Load the result of `unsaved_buffers` into a module; a buffer that is None or has another shape is replaced."""
    fit_buffers(module, saved)
    for name, tensor in saved.items():
        buffers, leaf = _buffers_beside(module, name), name.rpartition(".")[2]
        buffer = buffers.get(leaf)
        if tensor is None:
            buffers.update({leaf: None} if leaf in buffers else {})
        elif buffer is not None:  # None: the module's code has changed, and the buffer is gone
            buffer.copy_(tensor)  # in place, so that views and an optimizer that refer to it see the values


def load_module(
    module: nn.Module, state: Mapping[str, Any], unsaved: Mapping[str, Tensor | None] | None = None
) -> None:
    """Load a module's `state_dict` and its `unsaved_buffers`.

    Args:
        module: training may have created, replaced or removed some of its buffers.
        state: the result of its `state_dict`.
        unsaved: the result of `unsaved_buffers`.

    Raises:
        RuntimeError: the state belongs to another module, from `load_state_dict`.
    """
    load_buffers(module, unsaved or {})
    fit_buffers(module, state)
    module.load_state_dict(state)


def fit_buffers(module: nn.Module, saved: Mapping[str, Any], replace: bool = True) -> None:
    """Allocate the buffers for saved values: those that are None, and, with `replace`, those of another shape."""
    device = next((parameter.device for parameter in module.parameters()), None)
    for name, tensor in saved.items():
        buffers, leaf = _buffers_beside(module, name), name.rpartition(".")[2]
        if leaf not in buffers or not isinstance(tensor, Tensor):
            continue
        buffer = buffers[leaf]
        if buffer is None or (replace and buffer.shape != tensor.shape):
            buffers[leaf] = torch.empty_like(tensor, device=device)


def _buffers_beside(module: nn.Module, name: str) -> dict[str, Tensor | None]:
    """Return the buffers of the submodule that a dotted name belongs to; empty if the submodule does not exist."""
    try:
        return module.get_submodule(name.rpartition(".")[0])._buffers
    except AttributeError:
        return {}
