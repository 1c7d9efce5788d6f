"""What a group's `_target_` names: finding it, holding the group's keys against it, calling it."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from runner.assembly import signature
from runner.config.interpolation import literals
from runner.config.keys import SHARED_KEYS, format_value
from runner.data import fetch
from runner.data.source import Source
from runner.errors import ConfigError, describe_error, did_you_mean, place
from runner.loss import Loss
from runner.scheduler import Schedule

SUPPLIED = {
    "model": ("input_shape", "num_outputs"),
    "data": ("scale", "old_rules", "loss_takes"),
    "loss": (),
    "optimizer": ("params", "model"),
    "scheduler": ("optimizer", "total_steps", "steps_per_epoch", "epochs", "mode"),
}
"""What runner passes to a group's `_target_`, if it takes it."""

NEEDED = {"optimizer": ("params", "model"), "scheduler": ("optimizer",)}
"""Of these, what a function has to take, one of them at least: without it, it cannot give what the group needs."""

KINDS: dict[str, tuple[type, ...]] = {
    "model": (nn.Module,),
    "data": (Source,),
    "loss": (Loss,),
    "optimizer": (torch.optim.Optimizer,),
    "scheduler": (Schedule, LRScheduler),
}
"""What a group's `_target_` must be a class of, or give."""

IN_WORDS = {
    "model": "a torch.nn.Module",
    "data": "a runner.data.source.Source",
    "loss": "a runner.loss.Loss",
    "optimizer": "a torch.optim.Optimizer",
    "scheduler": "a scheduler of torch.optim.lr_scheduler",
}

T = TypeVar("T")


def locate(group: str, node: Mapping[str, Any]) -> Callable[..., Any]:
    """What the group's `_target_` names.

    Raises:
        ConfigError: it cannot be imported, or cannot give what the group needs.
    """
    path = node.get("_target_")
    if path in (None, signature.MISSING):
        raise ConfigError(f"{group}._target_ is missing: write {group}._target_=package.module.Name")
    named = f"{group}._target_={format_value(path)}"
    if not isinstance(path, str) or not all(part.isidentifier() for part in path.split(".")) or "." not in path:
        raise ConfigError(f"{named} is no place of a class or function: write {group}._target_=package.module.Name")
    try:
        target = _find(path)
    except LookupError as error:
        raise ConfigError(f"{named} cannot be imported: {error.args[0]}") from error.__cause__
    if not callable(target):
        raise ConfigError(
            f"{named} is a {type(target).__name__}; name a class or function that gives {IN_WORDS[group]}"
        )
    if inspect.isclass(target) and not issubclass(target, KINDS[group]):
        raise ConfigError(f"{named} is not {IN_WORDS[group]}; name a class that is, or a function that gives one")
    needed = NEEDED.get(group, ())
    if needed and not inspect.isclass(target) and takes(target)[0].isdisjoint(needed):
        raise ConfigError(
            f"{named} takes no {' and no '.join(needed)}, so it cannot give {IN_WORDS[group]}; name one, or a function"
            " that gives one"
        )
    return target


def _find(path: str) -> Any:
    """Import what a dotted path names.

    Raises:
        LookupError: it is not there, or its module fails; the sentence says what to do.
    """
    parts = path.split(".")
    for count in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:count])
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
                continue  # the module ends earlier in the path
            raise LookupError(f"{module} needs the module {error.name}; install it") from error
        except Exception as error:
            raise LookupError(f"{module} fails with {describe_error(error)}; correct it") from error
        for name in parts[count:]:
            if not hasattr(found, name):
                raise LookupError(f"{module} has no {name}; {_resembling(name, found)}")
            found, module = getattr(found, name), f"{module}.{name}"
        return found
    raise LookupError(f"there is no module {parts[0]}; install it, or start from the folder it lies in")


def _resembling(name: str, found: Any) -> str:
    offered = [other for other in dir(found) if not other.startswith("_")]
    close = [other for other in offered if other.lower() == name.lower()]
    return f"did you mean {close[0]}?" if close else did_you_mean(name, offered[:12])


def check_target(group: str, node: Any) -> list[str]:
    """Hold a group's keys against the signature of its `_target_`."""
    if not isinstance(node, Mapping):
        return (
            []
            if node == signature.MISSING
            else [f"{group}={format_value(node)} has no keys: write lines of the form key: value in its file"]
        )
    try:
        return signature.check(group, locate(group, node), own(group, node), SUPPLIED[group])
    except ConfigError as error:
        return error.problems


def own(group: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that belong to the group's `_target_`, without those that every member has."""
    return {key: value for key, value in node.items() if key not in SHARED_KEYS.get(group, ())}


def takes(target: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """The names of a target's parameters, and whether it takes any other as well."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # written in C, and tells nothing
        return frozenset(), False
    return frozenset(parameters), any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def call(group: str, node: Mapping[str, Any], kind: type[T], **supplied: Any) -> T:
    """Instantiate a group's `_target_` with its keys and those of `supplied` that it takes.

    Raises:
        ConfigError: the target refuses its arguments, or gives something else than `kind`.
    """
    node = own(group, node)
    named, open_ended = takes(locate(group, node))
    passed = {k: v for k, v in supplied.items() if k not in node and (k in named or (open_ended and group == "model"))}
    path = node["_target_"]
    try:
        # Twice: Hydra resolves the node in place, and then reads it.
        made = instantiate(literals(literals(node)), **passed, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, ConfigError | fetch.Forbidden):
            raise cause from error
        if place(cause):  # in the user's own code: its keys need not be at fault
            raise ConfigError(f"{group}: {path} fails: {describe_error(cause)}") from error
        raise ConfigError(
            f"{group}: {path} fails with these keys ({describe_error(cause)}); change {_keys(group, node)}"
        ) from error
    if not isinstance(made, kind):
        raise ConfigError(
            f"{group}._target_={path} gives a {type(made).__name__}; name something that gives {IN_WORDS[group]}"
        )
    return made


def _keys(group: str, node: Mapping[str, Any]) -> str:
    keys = [f"{group}.{key}" for key in node if not str(key).startswith("_")]
    return ", ".join(keys[:4]) + (", ..." if len(keys) > 4 else "") or f"{group}._target_"
