"""What an object holds: its own attributes, what its functions take from outside, and who saves that."""

import contextlib
import functools
import site
import sys
import sysconfig
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import CodeType, FunctionType, GeneratorType, ModuleType
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import Dataset

CONTAINERS = (Mapping, list, tuple, set, frozenset, deque)
_OF_MODULES = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}


def attributes(held: Any) -> Iterator[tuple[str, Any]]:
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


def used_globals(function: FunctionType) -> Iterator[tuple[Mapping[str, Any], str, Any]]:
    """The globals that a function names, those of the user's modules included: where they are, name and value."""
    space, names = function.__globals__, set(_names(function.__code__))
    for name in sorted(names & space.keys()):
        value = space[name]
        if not isinstance(value, ModuleType):
            yield space, name, value
        elif _is_of_the_user(value.__name__):
            for inner in sorted(names & vars(value).keys()):
                yield vars(value), inner, vars(value)[inner]


def position(iterator: Iterator[Any]) -> tuple[Any, ...]:
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


def is_walked(value: Any) -> bool:
    """Whether to look into an object: PyTorch's own, and what is of the user's code; a library's may hold caches."""
    if isinstance(value, nn.Module | torch.optim.Optimizer | LRScheduler | Dataset):
        return True
    if isinstance(value, FunctionType):
        return _is_of_the_user(value.__globals__.get("__name__", ""))
    if isinstance(value, type):
        return _is_of_the_user(value.__module__)
    kind = type(value)
    if isinstance(value, (type, Tensor, numpy.ndarray, Enum, *CONTAINERS)):
        return False
    return (hasattr(value, "__dict__") or hasattr(kind, "__slots__")) and _is_of_the_user(kind.__module__)


def decides_what_is_saved(held: Any, inherited: bool) -> bool:
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


def _outside(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function has beyond its arguments and globals: attributes, defaults, a closure."""
    yield from function.__dict__.items()
    code, defaults = function.__code__, function.__defaults__ or ()
    yield from zip(code.co_varnames[code.co_argcount - len(defaults) :], defaults, strict=False)
    yield from (function.__kwdefaults__ or {}).items()
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # of a cell that is empty
            yield name, cell.cell_contents


def _names(code: CodeType) -> Iterator[str]:
    """The names that code, and the functions in it, look up outside of it."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


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
