"""The operations of a model: what it computes, without the values."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from runner.util.private import DispatchMode
from runner.util.trees import leaves

LARGEST_CONSTANT = 1 << 20
"""Elements of a tensor that a model makes of nothing and that is compared by its values."""


class TooLarge(Exception):
    """A model makes a tensor of nothing that is too large to compare."""


def operations(function: Callable[[], Any], known: Iterable[Tensor]) -> str:
    """Call a function, and return a hash of the operations of torch that it makes.

    Two calls with the same hash compute the same, if the values of the known tensors are the same: the hash has each
    operation in order, its arguments, which tensors it takes, and the values of all tensors that neither are known nor
    were computed.

    Args:
        function: its result is a tensor, or tensors in mappings and sequences.
        known: weights and inputs, always in the same order.

    Raises:
        TooLarge: see there.
    """
    recorder = _Recorder(known)
    with recorder, torch.no_grad():
        result = function()
    recorder.add("returns", result)
    return recorder.hash.hexdigest()


class _Recorder(DispatchMode):
    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.hash = hashlib.sha256()
        self._tensors: dict[int, tuple[int, Tensor]] = {}  # with the tensor, so that no other one gets its id
        for tensor in known:
            self._number(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.add(str(func), args, kwargs)
        result = func(*args, **kwargs)
        for leaf in leaves(result):
            if isinstance(leaf, Tensor):
                self._number(leaf)
        self.add("", result)
        return result

    def add(self, *values: Any) -> None:
        """Add values to the hash."""
        self.hash.update(repr([self._describe(value) for value in values]).encode())

    def _number(self, tensor: Tensor) -> int:
        return self._tensors.setdefault(id(tensor), (len(self._tensors), tensor))[0]

    def _describe(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return [(name, self._describe(part)) for name, part in value.items()]
        if isinstance(value, list | tuple):
            return [self._describe(part) for part in value]
        if not isinstance(value, Tensor):
            return repr(value)
        kind = (str(value.dtype), tuple(value.shape), value.stride())
        if id(value) in self._tensors:
            return (self._number(value), *kind)
        if value.numel() > LARGEST_CONSTANT:
            raise TooLarge
        self._number(value)
        return (hashlib.sha256(str(value.tolist()).encode()).hexdigest(), *kind)
