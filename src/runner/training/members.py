"""The members of an object: its attributes, the outside values of its functions, and who saves them."""

import contextlib
import functools
import sys
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from enum import Enum
from types import CodeType, FunctionType, GeneratorType, ModuleType
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import Dataset

from runner.callbacks import Callback
from runner.util.users_code import is_users

CONTAINERS = (Mapping, list, tuple, set, frozenset, deque)
_OF_MODULES = frozenset(vars(nn.Module())) | {"_compiled_call_impl", "_is_torch_compile", "forward"}
# Two of `torch.compile`, one of `model/recomputation.py`.


def attributes(owner: Any) -> Iterator[tuple[str, Any]]:
    """Yield an object's own attributes by name; for a module also its submodules, parameters and buffers."""
    if isinstance(owner, FunctionType):
        yield from _outside(owner)
        return
    if isinstance(owner, type):
        for name, value in list(vars(owner).items()):
            if not name.startswith("__") or isinstance(value, FunctionType):
                yield name, value
        return
    own = dict(getattr(owner, "__dict__", {}))
    for kind in type(owner).__mro__:
        slots = vars(kind).get("__slots__", ())
        own |= {name: getattr(owner, name) for name in ([slots] if isinstance(slots, str) else slots)
                if hasattr(owner, name) and not name.startswith("__")}  # fmt: skip
    if isinstance(owner, nn.Module):
        for name, value in own.items():
            if name not in _OF_MODULES:
                yield name, value
            elif name.endswith("_hooks") and isinstance(value, Mapping):
                yield from ((name, hook) for hook in value.values())
        for group in (owner._parameters, owner._buffers, owner._modules):
            yield from group.items()
    elif isinstance(owner, torch.optim.Optimizer):
        # In torch's own classes a leading underscore marks torch's flags of the fused and foreach variants.
        torchs = type(owner).__module__.startswith("torch.")
        for name, value in own.items():
            if name not in _of_optimizers() and not (torchs and name.startswith("_")):
                yield name, value
    elif isinstance(owner, LRScheduler):
        yield from ((name, value) for name, value in own.items() if name not in _of_schedulers())
    else:
        yield from own.items()


def used_globals(function: FunctionType) -> Iterator[tuple[Mapping[str, Any], str, Any]]:
    """Yield namespace, name and value of the globals that a function uses, also within the user's modules."""
    space, names = function.__globals__, set(_names(function.__code__))
    for name in sorted(names & space.keys()):
        value = space[name]
        if not isinstance(value, ModuleType):
            yield space, name, value
        elif _is_of_the_user(value.__name__):
            for inner in sorted(names & vars(value).keys()):
                yield vars(value), inner, vars(value)[inner]


def position(iterator: Iterator[Any]) -> tuple[Any, ...]:
    """Return the position of a built-in iterator without advancing it; empty if unknown."""
    if isinstance(iterator, GeneratorType):
        frame = iterator.gi_frame
        return ("generator", frame and frame.f_lasti, *(frame.f_locals.items() if frame else ()))
    if type(iterator).__module__ not in ("builtins", "itertools"):
        return ()
    with contextlib.suppress(TypeError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated since 3.12: in 3.14 those of itertools are unreadable
        reduced = iterator.__reduce__()
        return reduced if isinstance(reduced, tuple) else ()
    return ()


def is_walked(value: Any) -> bool:
    """Return whether to walk into an object: those of PyTorch and of user code; others may hold caches."""
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


def decides_what_is_saved(owner: Any, inherited: bool) -> bool:
    """Return whether an object defines its saved state; a plain one leaves that to its owner (`inherited`)."""
    kind = type(owner)
    if isinstance(owner, nn.Module):
        names = ("get_extra_state", "state_dict", "_save_to_state_dict")
        return bool(owner._state_dict_hooks) or any(getattr(kind, n) is not getattr(nn.Module, n) for n in names)
    if isinstance(owner, torch.optim.Optimizer):
        return kind.state_dict is not torch.optim.Optimizer.state_dict
    if isinstance(owner, LRScheduler):
        return True  # all attributes by default
    if isinstance(owner, Callback):
        return kind.state_dict is not Callback.state_dict
    return hasattr(owner, "state_dict") if isinstance(owner, Dataset) else inherited


def _outside(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield what a function holds besides arguments and globals: attributes, defaults, a closure."""
    yield from function.__dict__.items()
    code, defaults = function.__code__, function.__defaults__ or ()
    yield from zip(code.co_varnames[code.co_argcount - len(defaults) :], defaults, strict=False)
    yield from (function.__kwdefaults__ or {}).items()
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # an empty cell
            yield name, cell.cell_contents


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that code, and the functions in it, look up outside."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


@functools.cache
def _is_of_the_user(module: str) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:  # a notebook, or an interactive program
        return module == "__main__"
    return is_users(module, file)


@functools.cache
def _of_optimizers() -> frozenset[str]:
    """Return the attributes of torch itself in an optimizer: saved state, hooks, marks of schedulers and scaler."""
    plain = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    return frozenset(vars(plain)) | {
        "_opt_called", "grad_scale", "found_inf", "_need_device_dtype_check_for_fused", "_step_supports_amp_scaling",
    }  # fmt: skip


@functools.cache
def _of_schedulers() -> frozenset[str]:
    """Return the attributes of torch itself in a scheduler: saved or derived."""
    plain = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    return frozenset(vars(LambdaLR(plain, lambda epoch: 1.0))) - {"lr_lambdas"}
