"""Convert state to what `torch.load(weights_only=True)` reads without running code, and back.

It reads tensors, containers, numbers and texts. `encode` converts NumPy's numbers and arrays, random generators and a
few more containers of Python to these, and `decode` restores them.
"""

import io
import operator
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.nn import Parameter

from runner.util.rng import generator_state, is_generator, restore_generator

MARK = "__runner_type__"
"""The key that marks a dict as the encoded form of a value of another type."""

_UNCHANGED = frozenset(
    {type(None), bool, int, float, complex, str, bytes, bytearray, torch.dtype, torch.device, torch.Size, torch.layout}
)
_FACTORIES: dict[str, Any] = {kind.__name__: kind for kind in (int, float, list, dict, set, str, bool)}
_FORMATS: dict[str, torch.memory_format] = {
    str(kind): kind
    for kind in (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
}


class StateError(Exception):
    """A value that a checkpoint cannot hold; the message names its path and type."""


def encode(value: Any, path: str) -> Any:
    """Convert the parts of a state that cannot be read otherwise. An object without such parts is returned itself.

    Args:
        value: state, nested in dicts, lists and other containers.
        path: its name, for errors: `optimizer`.

    Raises:
        StateError: it contains an object that cannot be converted.
    """
    kind = type(value)
    if kind in _UNCHANGED or isinstance(value, Tensor):
        return value
    if kind is dict or kind is OrderedDict:
        if all(encode(key, path) is key for key in value):
            return _changed_dict(value, {key: encode(v, _below(path, key)) for key, v in value.items()})
        return _marked(kind.__name__, encode([list(item) for item in value.items()], path))
    if kind is list or kind is tuple:
        encoded = [encode(v, f"{path}[{index}]") for index, v in enumerate(value)]
        return value if all(map(operator.is_, encoded, value)) else kind(encoded)
    if kind is set or kind is Counter:  # their keys are hashable: in practice numbers and texts
        encoded = [encode(v, path) for v in value]
        return value if all(map(operator.is_, encoded, value)) else _marked(kind.__name__, encode(list(value), path))
    if isinstance(value, numpy.generic) or kind is numpy.ndarray:
        return _marked("numpy", _to_npy(value, path), scalar=isinstance(value, numpy.generic))
    if is_generator(value):
        return _marked("generator", encode(generator_state(value), path))
    if kind is deque:
        return _marked("deque", encode(list(value), path), maxlen=value.maxlen)
    if kind is frozenset:
        return _marked("frozenset", encode(list(value), path))
    if kind is defaultdict and (value.default_factory is None or value.default_factory in _FACTORIES.values()):
        factory = value.default_factory.__name__ if value.default_factory else None
        return _marked("defaultdict", encode(dict(value), path), factory=factory)
    if kind is range or kind is slice:
        return _marked(kind.__name__, encode([value.start, value.stop, value.step], path))
    if kind is torch.memory_format:
        return _marked("memory_format", str(value))
    raise StateError(f"{path} is {_describe(value)}")


def decode(value: Any) -> Any:
    """Restore the argument of `encode` from its result."""
    kind = type(value)
    if kind is dict and MARK in value:
        return _DECODERS[value[MARK]](value)
    if kind is dict or kind is OrderedDict:
        return _changed_dict(value, {key: decode(v) for key, v in value.items()})
    if kind is list or kind is tuple:
        decoded = [decode(v) for v in value]
        return value if all(map(operator.is_, decoded, value)) else kind(decoded)
    return value


_DECODERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "numpy": lambda v: _from_npy(v["value"], v["scalar"]),
    "generator": lambda v: restore_generator(decode(v["value"])),
    "deque": lambda v: deque(decode(v["value"]), v["maxlen"]),
    "defaultdict": lambda v: defaultdict(_FACTORIES.get(v["factory"]), decode(v["value"])),
    "dict": lambda v: dict(decode(v["value"])),
    "OrderedDict": lambda v: OrderedDict(decode(v["value"])),
    "set": lambda v: set(decode(v["value"])),
    "Counter": lambda v: Counter(decode(v["value"])),
    "frozenset": lambda v: frozenset(decode(v["value"])),
    "range": lambda v: range(*decode(v["value"])),
    "slice": lambda v: slice(*decode(v["value"])),
    "memory_format": lambda v: _FORMATS[v["value"]],
}


def find_unreadable(state: dict[str, Any]) -> str | None:
    """Find a part of an encoded state that `torch.load` refuses, such as a tensor of a subclass.

    Returns:
        Its path and type; None if all of the state can be read.
    """
    pending: list[tuple[str, Any]] = [(str(key), part) for key, part in state.items()]
    while pending:
        path, part = pending.pop(0)
        if _is_readable(part):
            continue
        inner = [(_below(path, k), v) for k, v in part.items()] if isinstance(part, dict) else []
        inner += [(f"{path}[{i}]", v) for i, v in enumerate(part)] if isinstance(part, list | tuple) else []
        if all(_is_readable(v) for _, v in inner):
            return f"{path} is {_describe(part)}"
        pending = inner
    return None


def without_tensor_data(value: Any) -> Any:
    """Replace ordinary tensors in an encoded state by empty ones, so that testing whether it can be read is fast."""
    kind = type(value)
    if kind is dict or kind is OrderedDict:
        return _changed_dict(value, {key: without_tensor_data(part) for key, part in value.items()})
    if kind is list or kind is tuple:
        return kind(map(without_tensor_data, value))
    if kind in (Tensor, Parameter) and value.layout is torch.strided and not value.is_quantized:
        return torch.empty(0, dtype=value.dtype)
    return value


def _is_readable(part: Any) -> bool:
    buffer = io.BytesIO()
    try:
        torch.save(part, buffer)
        buffer.seek(0)
        torch.load(buffer, map_location="cpu", weights_only=True)
    except Exception:  # pickling a user's class can raise anything
        return False
    return True


def _marked(kind: str, value: Any, **more: Any) -> dict[str, Any]:
    return {MARK: kind, "value": value, **more}


def _changed_dict(value: Any, items: dict[Any, Any]) -> Any:
    """Return the dict itself if no item was converted; otherwise a dict of the same type with its `_metadata`."""
    if all(map(operator.is_, items, value)) and all(map(operator.is_, items.values(), value.values())):
        return value
    copied = type(value)(items)
    if hasattr(value, "_metadata"):  # set by `nn.Module.state_dict`: the versions of the modules
        copied._metadata = value._metadata
    return copied


def _below(path: str, key: Any) -> str:
    return f"{path}.{key}" if isinstance(key, str) else f"{path}[{key!r}]"


def _to_npy(value: Any, path: str) -> Tensor:
    """Serialize an array or a number in NumPy's file format: any shape, layout and dtype except objects."""
    buffer = io.BytesIO()
    try:
        numpy.save(buffer, value, allow_pickle=False)
    except ValueError as error:
        raise StateError(f"{path} is a NumPy array of Python objects") from error
    return torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)


def _from_npy(content: Tensor, scalar: bool) -> Any:
    array = numpy.load(io.BytesIO(content.numpy().tobytes()), allow_pickle=False)
    return array[()] if scalar else array


def _describe(value: Any) -> str:
    kind = type(value)
    if callable(value) and hasattr(value, "__qualname__"):
        return f"a function or class ({value.__qualname__})"
    return f"of type {kind.__name__}" if kind.__module__ == "builtins" else f"of type {kind.__module__}.{kind.__name__}"
