"""Copy a state to the memory of the host, to be written while training changes the original."""

from typing import Any

import psutil
import torch
from torch import Tensor, UntypedStorage

from runner.util.nested import replace_tensors

MEMORY_SHARE = 0.25
"""The largest share of the free memory for a copy."""

Place = tuple[torch.device, int]
"""Where the memory of tensors is: they may share it."""


@torch.no_grad()
def snapshot(state: dict[str, Any], least: int) -> dict[str, Any] | None:
    """Copy a state. Tensors share memory in the copy where they do in the original, so its file is the same.

    Args:
        state: what `encode` returns. Its tensors on `meta`, which have no values, stay as they are.
        least: bytes of tensors; with fewer there is no copy.

    Returns:
        The copy; None for a small state, for one that takes more than a quarter of the free memory, and for tensors
        that are more than numbers in memory, such as sparse ones.
    """
    tensors: list[Tensor] = []
    replace_tensors(state, lambda tensor, _: tensors.append(tensor) if not tensor.is_meta else None)
    if not all(map(_is_plain, tensors)):
        return None
    bytes_at = {_place(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}
    if not least <= sum(bytes_at.values()) <= MEMORY_SHARE * psutil.virtual_memory().available:
        return None
    storages: dict[Place, UntypedStorage] = {}
    copied: dict[str, Any] = replace_tensors(state, lambda tensor, _: _copy(tensor, storages))
    if any(device.type != "cpu" for device, _ in bytes_at):
        torch.accelerator.synchronize()  # copies to pinned memory do not wait
    return copied


def _is_plain(tensor: Tensor) -> bool:
    is_view_of_numbers = tensor.layout is torch.strided and not tensor.is_quantized
    is_lazy = tensor.is_conj() or tensor.is_neg()
    return type(tensor) is Tensor and is_view_of_numbers and not (is_lazy or tensor.requires_grad or vars(tensor))


def _place(tensor: Tensor) -> Place:
    return tensor.device, tensor.untyped_storage().data_ptr()


def _copy(tensor: Tensor, storages: dict[Place, UntypedStorage]) -> Tensor:
    if tensor.is_meta:
        return tensor
    place, source = _place(tensor), tensor.untyped_storage()
    if place not in storages:
        memory = torch.empty(source.nbytes(), dtype=torch.uint8, pin_memory=tensor.is_cuda)
        storages[place] = memory.untyped_storage()
        storages[place].copy_(source, non_blocking=tensor.is_cuda)
    return tensor.new_empty(0, device="cpu").set_(
        storages[place], tensor.storage_offset(), tensor.shape, tensor.stride()
    )
