"""The attributes of objects besides those that PyTorch saves: numbers, arrays, tensors, generators.

A walk through a model, a loss, an optimizer, a scheduler and a data set returns a fingerprint of each attribute, and
the random generators, by paths such as `model.layer.counter`. It also reads the attributes of user classes, and the
outside values of user functions (globals, closures, defaults): `model.forward.CALLS`.
"""

import contextlib
import functools
import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from io import IOBase
from itertools import islice
from types import FunctionType, MethodType
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from runner.training.members import CONTAINERS, attributes, decides_what_is_saved, is_walked, position, used_globals
from runner.util.rng import generator_state, is_generator, restore_generator, set_generator_state

ITEMS = 1_000  # items read from a container; of larger ones evenly spaced items
NUMBERS = 65_536  # numbers read from an array or a tensor; of larger ones evenly spaced numbers
LEAVES = 200_000  # values read from all objects together
DEPTH = 100  # of nested objects: Python allows 1,000 nested calls, and each level takes three

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
_WRAPPERS = (
    MethodType, staticmethod, classmethod, property, functools.partial, functools.cached_property,
    type(functools.lru_cache(len)),
)  # fmt: skip
_WRAPPED = ("__self__", "__func__", "__wrapped__", "fget", "func", "args", "keywords")  # their contents


class Walk:
    """A walk through the attributes of objects.

    Args:
        roots: the objects, by the first part of their paths.
        leave_out: memory addresses of tensors that are saved anyway.
        generators_only: leave out fingerprints, which take longer.

    Attributes:
        attributes: a fingerprint for each path; a container of plain values has one. Equal values have equal
            fingerprints in forks.
        generators: the generators by path, without the global ones.
        own_state: paths of attributes of objects that define their saved state.
        iterators: paths of iterators; some do not reveal their position.
        outcomes: paths of tensors that an earlier step or evaluation computed: no later step can start from them.
    """

    def __init__(self, roots: Mapping[str, Any], leave_out: Iterable[int] = (), generators_only: bool = False) -> None:
        self._values: dict[str, list[Any]] = {}
        self.generators: dict[str, Any] = {}
        self.own_state: set[str] = set()
        self.iterators: set[str] = set()
        self.outcomes: set[str] = set()
        self._depth = 0
        self._left_out = frozenset(leave_out)
        self._fingerprints = not generators_only
        self._seen: set[Any] = {id(numpy.random.mtrand._rand), id(torch.default_generator), id(random._inst)}
        self._budget = LEAVES
        for name, root in roots.items():
            self._object(root, name, False)
        self.outcomes = {path for path in self.outcomes if len(self._values.get(path, ())) == 1}
        self.attributes = {path: hash(tuple(values)) for path, values in self._values.items()}

    def _object(self, owner: Any, path: str, own_state: bool) -> None:
        if id(owner) in self._seen:
            return
        self._seen.add(id(owner))
        own_state = decides_what_is_saved(owner, own_state)
        for name, value in attributes(owner):
            if isinstance(value, FunctionType | MethodType | type) and not isinstance(owner, type):
                self._add(f"{path}.{name}", hash(value.__qualname__), own_state)  # one may replace another
            self._value(value, f"{path}.{name}", own_state)
        for space, name, value in used_globals(owner) if isinstance(owner, FunctionType) else ():
            if (id(space), name) not in self._seen:
                self._seen.add((id(space), name))
                self._value(value, f"{path}.{name}", own_state)
        for kind in filter(is_walked, type(owner).__mro__):
            self._object(kind, path, own_state)

    def _value(self, value: Any, path: str, own_state: bool) -> None:
        if self._budget > 0 and self._depth < DEPTH:
            self._budget -= 1
            self._depth += 1
            self._inspect(value, path, own_state)
            self._depth -= 1

    def _inspect(self, value: Any, path: str, own_state: bool) -> None:
        if is_generator(value):
            if id(value) not in self._seen:
                self._seen.add(id(value))
                others = sum(name.partition("#")[0] == path for name in self.generators)  # in nested lists
                self.generators[f"{path}#{others + 1}" if others else path] = value
        elif isinstance(value, CONTAINERS):
            self._container(value, path, own_state)
        elif is_walked(value):
            self._object(value, path, own_state)
        elif isinstance(value, _WRAPPERS):
            for name in _WRAPPED:
                self._value(getattr(value, name, None), path, own_state)
        elif isinstance(value, FunctionType):  # a library's, such as a decorator's, may wrap one of the user
            self._value(getattr(value, "__wrapped__", None), path, own_state)
        elif isinstance(value, Iterator) and not isinstance(value, IOBase):
            self.iterators.add(path)
            self._container(position(value), path, own_state)
        elif self._fingerprints:
            self._add(path, self._fingerprint(value, path), own_state)

    def _container(self, container: Any, path: str, own_state: bool) -> None:
        if not isinstance(container, tuple | frozenset):
            if id(container) in self._seen:
                return
            self._seen.add(id(container))
        self._add(path, (type(container).__name__, len(container)), own_state)
        items: Iterable[tuple[Any, Any]] = container.items() if isinstance(container, Mapping) else enumerate(container)
        if isinstance(container, set | frozenset):  # their order has no meaning
            items = enumerate(sorted(container, key=hash))
        if len(container) > ITEMS:
            every = len(container) // ITEMS
            if type(container) in (list, tuple):  # reads no others: it may be a history that grows with each step
                items = [(place, container[place]) for place in range(0, len(container), every)]
            else:
                items = islice(items, 0, None, every)
        items = list(items)
        if {type(part) for item in items for part in item} <= _PLAIN:  # a fast path: a random state has 625 numbers
            self._add(path, hash(repr(items)), own_state)
            return
        for key, value in items:
            if is_generator(value) or is_walked(value):
                self._value(value, f"{path}[{key!r}]", own_state)
            else:
                if isinstance(container, Mapping):
                    self._add(path, repr(key), own_state)
                self._value(value, path, own_state)

    def _add(self, path: str, fingerprint: Any, own_state: bool) -> None:
        if fingerprint is None or not self._fingerprints:
            return
        self._values.setdefault(path, []).append(fingerprint)
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
            text = repr(value)
            return None if text.startswith("<") or " at 0x" in text else hash(text)
        return None


def addresses(module: nn.Module) -> Iterator[int]:
    """Yield the memory addresses of a module's parameters and buffers."""
    for tensor in (*module.parameters(), *module.buffers()):
        if (address := _address(tensor)) is not None:
            yield address


def held_generators(roots: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of each generator that the objects hold, by path."""
    generators = Walk(roots, generators_only=True).generators
    return {path: generator_state(generator) for path, generator in generators.items()}


def restore_generators(roots: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Restore the states that `held_generators` returned; generators that do not exist yet are created."""
    generators = Walk(roots, generators_only=True).generators
    for path, state in saved.items():
        if path in generators:
            set_generator_state(generators[path], state)
            continue
        root, *names, last = path.split(".")
        owner = roots.get(root)
        for name in names:
            owner = getattr(owner, name, None)
        if getattr(owner, last, state) is None:  # created at its first use
            with contextlib.suppress(AttributeError):  # a method has no attributes
                setattr(owner, last, restore_generator(state))


def _address(tensor: Tensor) -> int | None:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # a tensor without memory, such as a sparse one
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
    if array.size <= NUMBERS:
        some = array
    elif array.flags.c_contiguous:
        some = array.reshape(-1)[:: array.size // NUMBERS]
    else:
        some = array[:: max(1, len(array) // 64)]
    return hash((str(array.dtype), array.shape, some.tobytes()))
