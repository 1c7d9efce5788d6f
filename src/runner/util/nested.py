"""Change the tensors of a state: nested dicts, lists and tuples."""

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor


def replace_tensors(value: Any, replace: Callable[[Tensor, str], Any], path: str = "") -> Any:
    """Return a copy of a state with other tensors; its containers are new, and keep their types and attributes.

    Args:
        value: the state.
        replace: is called with each tensor and its path, `model/layers.0.weight`, and returns what takes its place.
        path: of the state.
    """
    if isinstance(value, Tensor):
        return replace(value, path)
    if isinstance(value, dict):
        copied = copy.copy(value)  # with the attributes of a state dict
        below = f"{path}/" if path else ""
        copied.update((key, replace_tensors(part, replace, f"{below}{key}")) for key, part in value.items())
        return copied
    if type(value) in (list, tuple):
        return type(value)(replace_tensors(part, replace, f"{path}/{index}") for index, part in enumerate(value))
    return copy.copy(value) if isinstance(value, bytearray | set) else value
