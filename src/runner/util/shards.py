"""Tensors that are divided between ranks."""

from typing import Any

from torch import Tensor


def own_part(tensor: Tensor) -> Tensor:
    """Return this rank's part of a divided tensor, which shares its memory; any other tensor itself."""
    divided: Any = tensor
    return divided.to_local() if hasattr(divided, "to_local") else tensor
