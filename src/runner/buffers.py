"""Buffers registered with `persistent=False`: in no `state_dict`, and yet state where training changes them."""

from collections.abc import Mapping

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
    for name, tensor in saved.items():
        prefix, _, own = name.rpartition(".")
        try:
            part = module.get_submodule(prefix)
        except AttributeError:  # its code has changed, and needs it no more
            continue
        buffer = part._buffers.get(own)
        if buffer is not None and buffer.shape == tensor.shape:
            buffer.copy_(tensor)  # in place: whatever else refers to it, an optimizer or a view, sees it
        elif own in part._buffers:
            device = next((other.device for other in module.parameters()), tensor.device)
            part._buffers[own] = tensor.to(device, copy=True)
