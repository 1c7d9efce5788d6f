"""Copy a state to the memory of the host, to be written while training changes the original."""

import copy
from collections.abc import Iterator
from typing import Any

import psutil
import torch
from torch import Tensor, UntypedStorage

MEMORY_SHARE = 0.25
"""The largest share of the free memory for a copy."""

Place = tuple[torch.device, int]
"""Where the memory of tensors is: they may share it."""


@torch.no_grad()
def snapshot(state: dict[str, Any], least: int) -> dict[str, Any] | None:
    """Copy a state. Tensors share memory in the copy where they do in the original, so its file is the same.

    Args:
        state: what `encode` returns.
        least: bytes of tensors; with fewer there is no copy.

    Returns:
        The copy; None for a small state, for one that takes more than a quarter of the free memory, and for tensors
        that are more than numbers in memory, such as sparse ones.
    """
    tensors = list(_tensors(state))
    if not all(map(_is_plain, tensors)):
        return None
    bytes_at = {_place(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}
    if not least <= sum(bytes_at.values()) <= MEMORY_SHARE * psutil.virtual_memory().available:
        return None
    copied = _copied(state, {})
    if any(device.type != "cpu" for device, _ in bytes_at):
        torch.accelerator.synchronize()  # copies to pinned memory do not wait
    return dict(copied)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _is_plain(tensor: Tensor) -> bool:
    is_view_of_numbers = tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_meta)
    is_lazy = tensor.is_conj() or tensor.is_neg()
    return type(tensor) is Tensor and is_view_of_numbers and not (is_lazy or tensor.requires_grad or vars(tensor))


def _place(tensor: Tensor) -> Place:
    return tensor.device, tensor.untyped_storage().data_ptr()


def _copied(value: Any, storages: dict[Place, UntypedStorage]) -> Any:
    if isinstance(value, Tensor):
        place, source = _place(value), value.untyped_storage()
        if place not in storages:
            memory = torch.empty(source.nbytes(), dtype=torch.uint8, pin_memory=value.is_cuda)
            storages[place] = memory.untyped_storage()
            storages[place].copy_(source, non_blocking=value.is_cuda)
        return value.new_empty(0, device="cpu").set_(
            storages[place], value.storage_offset(), value.shape, value.stride()
        )
    if isinstance(value, dict):
        copied = copy.copy(value)  # with the attributes of a state dict
        copied.update((key, _copied(part, storages)) for key, part in value.items())
        return copied
    if isinstance(value, list | tuple):
        return type(value)(_copied(part, storages) for part in value)
    return bytearray(value) if isinstance(value, bytearray) else value
