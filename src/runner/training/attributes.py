"""What objects hold in attributes, beside what PyTorch saves of them: numbers, arrays, tensors, generators.

A walk through a model, a loss, an optimizer, a scheduler and a data set gives a fingerprint of each attribute, and the
generators that they draw from, by a path such as `model.layer.counter`. It also reads the attributes of the user's
classes, and what the user's functions take from outside (globals, closures, defaults): `model.forward.CALLS`.
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
from runner.util.rng import generator_from, generator_state, is_generator, set_generator_state

ITEMS = 1_000  # of a container, and
NUMBERS = 65_536  # of an array or a tensor that are looked at one by one; of larger ones so many, evenly spread
LEAVES = 200_000  # of all objects together
DEPTH = 100  # of objects in objects: Python allows 1,000 calls, of which each takes three

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
_WRAPPERS = (
    MethodType, staticmethod, classmethod, property, functools.partial, functools.cached_property,
    type(functools.lru_cache(len)),
)  # fmt: skip
_WRAPPED = ("__self__", "__func__", "__wrapped__", "fget", "func", "args", "keywords")  # what they hold


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
        own_state = decides_what_is_saved(held, own_state)
        for name, value in attributes(held):
            if isinstance(value, FunctionType | MethodType | type) and not isinstance(held, type):
                self._add(f"{path}.{name}", hash(value.__qualname__), own_state)  # one may take another's place
            self._value(value, f"{path}.{name}", own_state)
        for space, name, value in used_globals(held) if isinstance(held, FunctionType) else ():
            if (id(space), name) not in self._seen:
                self._seen.add((id(space), name))
                self._value(value, f"{path}.{name}", own_state)
        for kind in filter(is_walked, type(held).__mro__):
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
                alike = sum(name.partition("#")[0] == path for name in self.generators)  # in lists within lists
                self.generators[f"{path}#{alike + 1}" if alike else path] = value
        elif isinstance(value, CONTAINERS):
            self._container(value, path, own_state)
        elif is_walked(value):
            self._object(value, path, own_state)
        elif isinstance(value, _WRAPPERS):
            for name in _WRAPPED:
                self._value(getattr(value, name, None), path, own_state)
        elif isinstance(value, FunctionType):  # a library's, a decorator's say, may hold one of the user's
            self._value(getattr(value, "__wrapped__", None), path, own_state)
        elif isinstance(value, Iterator) and not isinstance(value, IOBase):
            self.iterators.add(path)
            self._container(position(value), path, own_state)
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
            if is_generator(value) or is_walked(value):
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
