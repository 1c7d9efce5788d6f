"""Records the operations of torch: on a CPU, those that would make a GPU wait."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Records operations, and the dtypes of their tensor arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        self.dtypes |= {given.dtype for given in args if isinstance(given, torch.Tensor)}
        return func(*args, **(kwargs or {}))
