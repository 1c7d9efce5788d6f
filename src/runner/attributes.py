"""What objects hold in attributes, beside what PyTorch saves of them: numbers, arrays, tensors, generators.

A walk through a model, a loss, an optimizer, a scheduler and a data set gives a fingerprint of each attribute, and the
generators that they draw from, by a path such as `model.layer.counter`. It also reads the attributes of the user's
classes, and what the user's functions take from outside (globals, closures, defaults): `model.forward.CALLS`.
"""

import contextlib
import functools
import random
import site
import sys
import sysconfig
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from io import IOBase
from itertools import islice
from pathlib import Path
from types import CodeType, FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import Dataset

from .rng import generator_from, generator_state, is_generator, set_generator_state

ITEMS = 1_000  # of a container, and
NUMBERS = 65_536  # of an array or a tensor that are looked at one by one; of larger ones so many, evenly spread
LEAVES = 200_000  # of all objects together
DEPTH = 100  # of objects in objects: Python allows 1,000 calls, of which each takes three

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
_CONTAINERS = (Mapping, list, tuple, set, frozenset, deque)
_WRAPPERS = (
    MethodType, staticmethod, classmethod, property, functools.partial, functools.cached_property,
    type(functools.lru_cache(len)),
)  # fmt: skip
_WRAPPED = ("__self__", "__func__", "__wrapped__", "fget", "func", "args", "keywords")  # what they hold
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
        iterators: paths of iterators, of which some do not show where they are.
        outcomes: paths of tensors that a step or an evaluation gave, which is over: no step can begin with them.
    """

    def __init__(self, roots: Mapping[str, Any], leave_out: Iterable[int] = (), generators_alone: bool = False) -> None:
        self._found: dict[str, list[Any]] = {}
        self.generators: dict[str, Any] = {}
        self.own_state: set[str] = set()
        self.iterators: set[str] = set()
        self.outcomes: set[str] = set()
        self._depth = 0
        self._left_out = frozenset(leave_out)
        self._fingerprints = not generators_alone
        self._seen: set[Any] = {id(numpy.random.mtrand._rand), id(torch.default_generator), id(random._inst)}
        self._budget = LEAVES
        for name, root in roots.items():
            self._object(root, name, False)
        self.outcomes = {path for path in self.outcomes if len(self._found.get(path, ())) == 1}
        self.attributes = {path: hash(tuple(found)) for path, found in self._found.items()}

    def _object(self, held: Any, path: str, own_state: bool) -> None:
        if id(held) in self._seen:
            return
        self._seen.add(id(held))
        own_state = _saves_itself(held, own_state)
        for name, value in _attributes(held):
            if isinstance(value, FunctionType | MethodType | type) and not isinstance(held, type):
                self._add(f"{path}.{name}", hash(value.__qualname__), own_state)  # one may take another's place
            self._value(value, f"{path}.{name}", own_state)
        for space, name, value in _globals(held) if isinstance(held, FunctionType) else ():
            if (id(space), name) not in self._seen:
                self._seen.add((id(space), name))
                self._value(value, f"{path}.{name}", own_state)
        for kind in filter(_is_walked, type(held).__mro__):
            self._object(kind, path, own_state)

    def _value(self, value: Any, path: str, own_state: bool) -> None:
        if self._budget > 0 and self._depth < DEPTH:
            self._budget -= 1
            self._depth += 1
            self._look_into(value, path, own_state)
            self._depth -= 1

    def _look_into(self, value: Any, path: str, own_state: bool) -> None:
        if is_generator(value):
            if id(value) not in self._seen:
                self._seen.add(id(value))
                self.generators[path] = value
        elif isinstance(value, _CONTAINERS):
            self._container(value, path, own_state)
        elif _is_walked(value):
            self._object(value, path, own_state)
        elif isinstance(value, _WRAPPERS):
            for name in _WRAPPED:
                self._value(getattr(value, name, None), path, own_state)
        elif isinstance(value, FunctionType):  # a library's, a decorator's say, may hold one of the user's
            self._value(getattr(value, "__wrapped__", None), path, own_state)
        elif isinstance(value, Iterator) and not isinstance(value, IOBase):
            self.iterators.add(path)
            self._container(_position(value), path, own_state)
        elif self._fingerprints:
            self._add(path, self._fingerprint(value, path), own_state)

    def _container(self, held: Any, path: str, own_state: bool) -> None:
        if not isinstance(held, tuple | frozenset):
            if id(held) in self._seen:
                return
            self._seen.add(id(held))
        self._add(path, (type(held).__name__, len(held)), own_state)
        items: Iterable[tuple[Any, Any]] = held.items() if isinstance(held, Mapping) else enumerate(held)
        if isinstance(held, set | frozenset):  # whose order says nothing
            items = enumerate(sorted(held, key=hash))
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

    def _fingerprint(self, value: Any, path: str) -> Any:
        if type(value) in _PLAIN or isinstance(value, int | float | str | bytes | bytearray | Enum | numpy.generic):
            return hash((type(value).__name__, repr(value)))
        if isinstance(value, Tensor):
            if _address(value) in self._left_out:
                return None
            if value.grad_fn is not None or value.is_inference():
                self.outcomes.add(path)
            return _of_tensor(value)
        if isinstance(value, numpy.ndarray):
            return _of_array(value)
        if type(value).__module__.partition(".")[0] in sys.stdlib_module_names:  # `count(3)`, `Decimal('0.1')`
            shown = repr(value)
            return None if shown.startswith("<") or " at 0x" in shown else hash(shown)
        return None


def _saves_itself(held: Any, inherited: bool) -> bool:
    """Whether an object has a say in what is saved of it; a plain one leaves that to the one that has it."""
    kind = type(held)
    if isinstance(held, nn.Module):
        names = ("get_extra_state", "state_dict", "_save_to_state_dict")
        return bool(held._state_dict_hooks) or any(getattr(kind, n) is not getattr(nn.Module, n) for n in names)
    if isinstance(held, torch.optim.Optimizer):
        return kind.state_dict is not torch.optim.Optimizer.state_dict
    if isinstance(held, LRScheduler):
        return True  # all its attributes, unless it says otherwise
    return hasattr(held, "state_dict") if isinstance(held, Dataset) else inherited


@functools.cache
def _of_optimizers() -> frozenset[str]:
    """What torch itself keeps in an optimizer: what is saved, hooks, and marks of its schedulers and its scaler."""
    plain = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    return frozenset(vars(plain)) | {
        "_opt_called", "grad_scale", "found_inf", "_need_device_dtype_check_for_fused", "_step_supports_amp_scaling",
    }  # fmt: skip


@functools.cache
def _of_schedulers() -> frozenset[str]:
    """What torch itself keeps in a scheduler, and saves, or makes out of it."""
    plain = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    return frozenset(vars(LambdaLR(plain, lambda epoch: 1.0))) - {"lr_lambdas"}


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
            with contextlib.suppress(AttributeError):  # of a method, which takes no attributes
                setattr(owner, last, generator_from(state))


def _attributes(held: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of an object that are its own, by name: of a module also its parts, parameters and buffers."""
    if isinstance(held, FunctionType):
        yield from _outside(held)
        return
    if isinstance(held, type):
        for name, value in list(vars(held).items()):
            if not name.startswith("__") or isinstance(value, FunctionType):
                yield name, value
        return
    own = dict(getattr(held, "__dict__", {}))
    for kind in type(held).__mro__:
        slots = vars(kind).get("__slots__", ())
        own |= {name: getattr(held, name) for name in ([slots] if isinstance(slots, str) else slots)
                if hasattr(held, name) and not name.startswith("__")}  # fmt: skip
    if isinstance(held, nn.Module):
        for name, value in own.items():
            if name not in _OF_MODULES:
                yield name, value
            elif name.endswith("_hooks") and isinstance(value, Mapping):
                yield from ((name, hook) for hook in value.values())
        for group in (held._parameters, held._buffers, held._modules):
            yield from group.items()
    elif isinstance(held, torch.optim.Optimizer):
        # In one of torch's own classes, what begins with an underscore is torch's: flags of the fused and foreach ways.
        torchs = type(held).__module__.startswith("torch.")
        for name, value in own.items():
            if name not in _of_optimizers() and not (torchs and name.startswith("_")):
                yield name, value
    elif isinstance(held, LRScheduler):
        yield from ((name, value) for name, value in own.items() if name not in _of_schedulers())
    else:
        yield from own.items()


def _outside(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function has beyond its arguments and globals: attributes, defaults, a closure."""
    yield from function.__dict__.items()
    code, defaults = function.__code__, function.__defaults__ or ()
    yield from zip(code.co_varnames[code.co_argcount - len(defaults) :], defaults, strict=False)
    yield from (function.__kwdefaults__ or {}).items()
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # of a cell that is empty
            yield name, cell.cell_contents


def _globals(function: FunctionType) -> Iterator[tuple[Mapping[str, Any], str, Any]]:
    """The globals that a function names, those of the user's modules included: where they are, name and value."""
    space, names = function.__globals__, set(_names(function.__code__))
    for name in sorted(names & space.keys()):
        value = space[name]
        if not isinstance(value, ModuleType):
            yield space, name, value
        elif _is_of_the_user(value.__name__):
            for inner in sorted(names & vars(value).keys()):
                yield vars(value), inner, vars(value)[inner]


def _names(code: CodeType) -> Iterator[str]:
    """The names that code, and the functions in it, look up outside of it."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _position(iterator: Iterator[Any]) -> tuple[Any, ...]:
    """Where an iterator of Python's own is, read without moving it; nothing if that cannot be."""
    if isinstance(iterator, GeneratorType):
        frame = iterator.gi_frame
        return ("generator", frame and frame.f_lasti, *(frame.f_locals.items() if frame else ()))
    if type(iterator).__module__ not in ("builtins", "itertools"):
        return ()
    with contextlib.suppress(TypeError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from 3.12 on: in 3.14 those of itertools cannot be read any more
        reduced = iterator.__reduce__()
        return reduced if isinstance(reduced, tuple) else ()
    return ()


def _is_walked(value: Any) -> bool:
    """Whether to look into an object: PyTorch's own, and what is of the user's code; a library's may hold caches."""
    if isinstance(value, nn.Module | torch.optim.Optimizer | LRScheduler | Dataset):
        return True
    if isinstance(value, FunctionType):
        return _is_of_the_user(value.__globals__.get("__name__", ""))
    if isinstance(value, type):
        return _is_of_the_user(value.__module__)
    kind = type(value)
    if isinstance(value, (type, Tensor, numpy.ndarray, Enum, *_CONTAINERS)):
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
