"""What forward passes change in modules, taken before one and restored after it."""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import nn

_PLAIN = (int, float, complex, str, bytes, type(None))


class ModuleState:
    """The buffers, the extra state and the plain attributes of modules, as they are now; not the parameters."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        modules = list(modules)
        self._attributes = [(module, vars(module).copy()) for module in modules]
        self._buffers = [
            (module, name, buffer, None if buffer is None else buffer.clone())
            for module in modules
            for name, buffer in module._buffers.items()
        ]
        self._extra = [(module, deepcopy(module.get_extra_state())) for module in modules if _has_extra_state(module)]

    @torch.no_grad()
    def restore(self) -> None:
        """Give the modules the values that they had."""
        for module, name, buffer, content in self._buffers:
            module._buffers[name] = buffer
            if buffer is not None and content is not None:
                buffer.copy_(content)
        for module, attributes in self._attributes:
            vars(module).update({name: value for name, value in attributes.items() if isinstance(value, _PLAIN)})
        for module, state in self._extra:
            module.set_extra_state(state)


def _has_extra_state(module: nn.Module) -> bool:
    kind: Any = type(module)
    return kind.get_extra_state is not nn.Module.get_extra_state
