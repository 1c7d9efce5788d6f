"""The bytes of the tensors that live, of which other tensors may be views: now, and at most."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from runner.util import trees
from runner.util.private import DispatchMode


class LiveTensors(DispatchMode):
    """Counts the bytes of what operations return within the context, until it is freed.

    Attributes:
        now: the bytes that live.
        peak: the most bytes that have lived at once, since `restart`.
        marked_at_peak: those of them that were marked by then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.marked_at_peak = 0
        self._sizes: dict[int, int] = {}
        self._marked: set[int] = set()
        self._marked_now = 0

    def restart(self) -> None:
        """Start the peak again."""
        self.peak, self.marked_at_peak = self.now, self._marked_now

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that were there before."""
        for tensor in tensors:
            if tensor.layout != torch.strided:  # a sparse tensor has no storage; operations return its parts too
                continue
            storage = tensor.untyped_storage()
            if (key := storage._cdata) in self._sizes:
                continue
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self._free, key)
            if self.now > self.peak:
                self.restart()

    def mark(self, tensor: Tensor) -> None:
        """Mark a tensor that is counted, to tell it from others at the peak."""
        key = tensor.untyped_storage()._cdata
        if key in self._sizes and key not in self._marked:
            self._marked.add(key)
            self._marked_now += self._sizes[key]

    def _free(self, key: int) -> None:
        size = self._sizes.pop(key)
        self.now -= size
        if key in self._marked:
            self._marked.remove(key)
            self._marked_now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.add(leaf for leaf in trees.leaves(result) if isinstance(leaf, Tensor))
        return result
