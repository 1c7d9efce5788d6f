"""What objects hold in attributes, beside what PyTorch saves of them: numbers, arrays, tensors, generators.

A walk through a model, a loss, an optimizer and a data set gives a fingerprint of each attribute, and the generators
that they draw from, by a path such as `model.layer.counter`.
"""

import functools
import site
import sys
import sysconfig
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from .rng import generator_from, generator_state, is_generator, set_generator_state

ITEMS = 1_000  # of a container, and
NUMBERS = 65_536  # of an array or a tensor that are looked at one by one; of larger ones so many, evenly spread
LEAVES = 200_000  # of all objects together

_OUTCOME = "outcome"
OUTCOME = hash((_OUTCOME,))
"""The fingerprint of an attribute that holds what a forward pass gave, and nothing else."""

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
_CONTAINERS = (Mapping, list, tuple, set, frozenset, deque)
_OF_MODULES = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}


class Walk:
    """What was found.

    Args:
        roots: by the first word of their paths.
        leave_out: addresses of the memory of tensors that are saved already.
        generators_alone: leave out the fingerprints, which take longer.

    Attributes:
        attributes: a fingerprint by path; a container of plain values has one. Forks have the same for the same values.
        generators: by path; not those that all share.
        own_state: paths of attributes of objects that decide themselves what of them is saved.
    """

    def __init__(self, roots: Mapping[str, Any], leave_out: Iterable[int] = (), generators_alone: bool = False) -> None:
        self._found: dict[str, list[Any]] = {}
        self.generators: dict[str, Any] = {}
        self.own_state: set[str] = set()
        self._left_out = frozenset(leave_out)
        self._fingerprints = not generators_alone
        self._seen = {id(numpy.random.mtrand._rand), id(torch.default_generator)}
        self._budget = LEAVES
        for name, root in roots.items():
            self._object(root, name, False)
        self.attributes = {path: hash(tuple(found)) for path, found in self._found.items()}

    def _object(self, held: Any, path: str, own_state: bool) -> None:
        if id(held) in self._seen:
            return
        self._seen.add(id(held))
        own_state = _saves_itself(held, own_state)
        for name, value in _attributes(held):
            self._value(value, f"{path}.{name}", own_state)

    def _value(self, value: Any, path: str, own_state: bool) -> None:
        if self._budget <= 0:
            return
        self._budget -= 1
        if is_generator(value):
            if id(value) not in self._seen:
                self._seen.add(id(value))
                self.generators[path] = value
        elif isinstance(value, _CONTAINERS):
            self._container(value, path, own_state)
        elif _is_walked(value):
            self._object(value, path, own_state)
        elif self._fingerprints:
            self._add(path, self._fingerprint(value), own_state)

    def _container(self, held: Any, path: str, own_state: bool) -> None:
        if not isinstance(held, tuple | frozenset):
            if id(held) in self._seen:
                return
            self._seen.add(id(held))
        self._add(path, (type(held).__name__, len(held)), own_state)
        items: Iterable[tuple[Any, Any]] = held.items() if isinstance(held, Mapping) else enumerate(held)
        if len(held) > ITEMS:
            items = islice(items, 0, None, len(held) // ITEMS)
        items = list(items)
        if {type(part) for item in items for part in item} <= _PLAIN:  # soon done: a random state has 625 numbers
            self._add(path, hash(repr(items)), own_state)
            return
        for key, value in items:
            if is_generator(value) or _is_walked(value):
                self._value(value, f"{path}[{key!r}]", own_state)
            else:
                if isinstance(held, Mapping):
                    self._add(path, repr(key), own_state)
                self._value(value, path, own_state)

    def _add(self, path: str, found: Any, own_state: bool) -> None:
        if found is None or not self._fingerprints:
            return
        self._found.setdefault(path, []).append(found)
        if own_state:
            self.own_state.add(path)

    def _fingerprint(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes | bytearray | numpy.generic):
            return hash((type(value).__name__, repr(value)))
        if isinstance(value, Tensor):
            if value.grad_fn is not None or value.is_inference():
                return _OUTCOME  # of a step or an evaluation that is over: no step can begin with it
            return None if _address(value) in self._left_out else _of_tensor(value)
        if isinstance(value, numpy.ndarray):
            return _of_array(value)
        if type(value).__module__ == "itertools":  # `count(3)`
            return repr(value) if repr(value)[0] != "<" else None
        return None


def _saves_itself(held: Any, inherited: bool) -> bool:
    """Whether an object has a say in what is saved of it; a plain one leaves that to the one that has it."""
    kind = type(held)
    if isinstance(held, nn.Module):
        names = ("get_extra_state", "state_dict", "_save_to_state_dict")
        return bool(held._state_dict_hooks) or any(getattr(kind, n) is not getattr(nn.Module, n) for n in names)
    if isinstance(held, torch.optim.Optimizer):
        return kind.state_dict is not torch.optim.Optimizer.state_dict
    return hasattr(held, "state_dict") if isinstance(held, Dataset) else inherited


@functools.cache
def _of_optimizers() -> frozenset[str]:
    """What torch itself keeps in an optimizer: what is saved, hooks, and marks of its schedulers and its scaler."""
    plain = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    return frozenset(vars(plain)) | {
        "_opt_called", "grad_scale", "found_inf", "_need_device_dtype_check_for_fused", "_step_supports_amp_scaling",
    }  # fmt: skip


def addresses(module: nn.Module) -> Iterator[int]:
    """Where the memory of a module's parameters and buffers lies."""
    for tensor in (*module.parameters(), *module.buffers()):
        if (address := _address(tensor)) is not None:
            yield address


def held_generators(roots: Mapping[str, Any]) -> dict[str, Any]:
    """The state of each generator that the objects hold, by its path."""
    found = Walk(roots, generators_alone=True).generators
    return {path: generator_state(held) for path, held in found.items()}


def restore_generators(roots: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Let the generators go on with the states of `held_generators`; one that is not made yet is made."""
    found = Walk(roots, generators_alone=True).generators
    for path, state in saved.items():
        if path in found:
            set_generator_state(found[path], state)
            continue
        root, *names, last = path.split(".")
        owner = roots.get(root)
        for name in names:
            owner = getattr(owner, name, None)
        if getattr(owner, last, state) is None:  # made when it is first needed
            setattr(owner, last, generator_from(state))


def _attributes(held: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of an object that are its own, by name: of a module also its parts, parameters and buffers."""
    own = dict(getattr(held, "__dict__", {}))
    for kind in type(held).__mro__:
        slots = vars(kind).get("__slots__", ())
        own |= {name: getattr(held, name) for name in ([slots] if isinstance(slots, str) else slots)
                if hasattr(held, name) and not name.startswith("__")}  # fmt: skip
    if isinstance(held, nn.Module):
        for name, value in own.items():
            if name not in _OF_MODULES:
                yield name, value
        for group in (held._parameters, held._buffers, held._modules):
            yield from group.items()
    elif isinstance(held, torch.optim.Optimizer):
        # In one of torch's own classes, what begins with an underscore is torch's: flags of the fused and foreach ways.
        torchs = type(held).__module__.startswith("torch.")
        for name, value in own.items():
            if name not in _of_optimizers() and not (torchs and name.startswith("_")):
                yield name, value
    else:
        yield from own.items()


def _is_walked(value: Any) -> bool:
    """Whether to look into an object: PyTorch's own, and what is of the user's code; a library's may hold caches."""
    if isinstance(value, nn.Module | torch.optim.Optimizer | Dataset):
        return True
    kind = type(value)
    if isinstance(value, (type, Tensor, numpy.ndarray, *_CONTAINERS)):
        return False
    return (hasattr(value, "__dict__") or hasattr(kind, "__slots__")) and _is_of_the_user(kind.__module__)


@functools.cache
def _is_of_the_user(module: str) -> bool:
    if module.partition(".")[0] in (*sys.builtin_module_names, "runner"):
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:  # of a notebook, or of a program that was typed
        return module == "__main__"
    libraries = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
    own = sysconfig.get_paths()["data"]
    return not any(library != own and Path(file).is_relative_to(library) for library in libraries)


def _address(tensor: Tensor) -> int | None:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # of a tensor that has no memory of its own, a sparse one say
        return None


@torch.no_grad()
def _of_tensor(tensor: Tensor) -> Any:
    try:
        values = tensor.detach().resolve_conj().resolve_neg().flatten()
        if len(values) > NUMBERS:
            values = values[:: len(values) // NUMBERS]
        content = values.cpu().contiguous().view(torch.uint8).numpy().tobytes()
    except (RuntimeError, NotImplementedError, TypeError):
        return None
    return hash((str(tensor.dtype), tuple(tensor.shape), content))


def _of_array(array: numpy.ndarray) -> Any:
    if array.dtype.hasobject:
        return hash(("array of objects", array.shape))
    some = array if array.size <= NUMBERS else array.reshape(-1)[:: array.size // NUMBERS] if (
        array.flags.c_contiguous
    ) else array[:: max(1, len(array) // 64)]  # fmt: skip
    return hash((str(array.dtype), array.shape, some.tobytes()))
