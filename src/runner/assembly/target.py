"""The class or function that a group's `_target_` names: importing it, checking the group's keys, calling it."""

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
from runner.callbacks import Callback
from runner.config.interpolation import escape_all_references
from runner.config.keys import SHARED_KEYS, format_value
from runner.data import fetch
from runner.data.source import Source
from runner.errors import ConfigError, Problem, Topic, close_match, describe_error, did_you_mean, user_frame
from runner.loss import Loss
from runner.scheduler import Schedule
from runner.task import Task
from runner.util.stopping import is_from_signal

SUPPLIED: dict[str, tuple[str, ...]] = {
    "callbacks": (),
    "model": ("input_shape", "num_outputs", "categories"),
    "data": ("scale", "old_rules", "loss_takes", "model_embeds", "fitted"),
    "task": (),
    "loss": (),
    "optimizer": ("params", "model"),
    "scheduler": ("optimizer", "total_steps", "steps_per_epoch", "epochs", "mode"),
}
"""Arguments that runner passes to a group's `_target_` if it has parameters of these names."""

NEEDED = {"optimizer": ("params", "model"), "scheduler": ("optimizer",)}
"""Arguments of which a function must take at least one: without it, it cannot return what the group needs."""

KINDS: dict[str, tuple[type, ...]] = {
    "callbacks": (Callback,),
    "model": (nn.Module,),
    "data": (Source,),
    "task": (Task,),
    "loss": (Loss,),
    "optimizer": (torch.optim.Optimizer,),
    "scheduler": (Schedule, LRScheduler),
}
"""Types of which a group's `_target_` must be a class, or return an instance."""

IN_WORDS = {
    "callbacks": "a runner.callbacks.Callback",
    "model": "a torch.nn.Module",
    "data": "a runner.data.source.Source",
    "task": "a runner.task.Task",
    "loss": "a runner.loss.Loss",
    "optimizer": "a torch.optim.Optimizer",
    "scheduler": "a scheduler of torch.optim.lr_scheduler",
}

T = TypeVar("T")


def kind_of(group: str) -> str:
    """Return the group whose rules a node follows: `optimizer` for `optimizers.generator`."""
    if group.startswith("trainer.callbacks."):
        return "callbacks"
    return "optimizer" if group.startswith("optimizers.") else group


def locate(group: str, node: Mapping[str, Any]) -> Callable[..., Any]:
    """Import the class or function that the group's `_target_` names.

    Raises:
        ConfigError: it cannot be imported, or cannot return what the group needs.
    """
    path = node.get("_target_")
    key = f"{group}._target_"
    instead = f"write {key}=<package.module.Name>"
    if path in (None, signature.MISSING):
        raise ConfigError(Problem(key, f"{key} is missing", instead, topic="missing"))

    def refuse(text: str, suggestion: str, topic: Topic = "code") -> ConfigError:
        return ConfigError(Problem(key, f"{key}={format_value(path)} {text}", suggestion, topic=topic))

    if not isinstance(path, str) or not all(part.isidentifier() for part in path.split(".")) or "." not in path:
        raise refuse("is not an import path", instead, "type")
    try:
        target = _find(path)
    except LookupError as error:
        text, instead, topic = error.args
        raise refuse(f"cannot be imported: {text}", instead, topic) from error.__cause__
    needed = IN_WORDS[kind_of(group)]
    if not callable(target):
        raise refuse(f"is of type {type(target).__name__}", f"name a class or function that returns {needed}", "type")
    if inspect.isclass(target) and not issubclass(target, KINDS[kind_of(group)]):
        raise refuse(f"is not {needed}", "name a class that is, or a function that returns one", "type")
    arguments = NEEDED.get(kind_of(group), ())
    if arguments and not inspect.isclass(target) and takes(target)[0].isdisjoint(arguments):
        raise refuse(
            f"has no parameter {' or '.join(arguments)}, so it cannot return {needed}",
            f"name {needed}, or a function that returns one",
        )
    return target


def _find(path: str) -> Any:
    """Import the object at a dotted path.

    Raises:
        LookupError: it does not exist, or its module fails; with the reason, what to do, and the topic.
    """
    parts = path.split(".")
    for count in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:count])
        try:
            parent: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
                continue  # the module ends earlier in the path
            raise LookupError(f"{module} needs the module {error.name}", "install it", "unavailable") from error
        except BaseException as error:  # a script may call sys.exit()
            if isinstance(error, KeyboardInterrupt) and is_from_signal():
                raise
            raise LookupError(f"{module} fails with {describe_error(error)}", "correct it", "code") from error
        for name in parts[count:]:
            if not hasattr(parent, name):
                raise LookupError(f"{module} has no {name}", _resembling(name, parent), "unknown")
            parent, module = getattr(parent, name), f"{module}.{name}"
        return parent
    raise LookupError(f"there is no module {parts[0]}", "install it, or start from its folder", "unknown")


def _resembling(name: str, parent: Any) -> str:
    public = [other for other in dir(parent) if not other.startswith("_")]
    same = [other for other in public if other.lower() == name.lower()]
    close = same[0] if same else close_match(name, public)
    return f"did you mean {close}?" if close else did_you_mean(name, public[:12])


def check_target(group: str, node: Any) -> list[Problem]:
    """Check a group's keys against the signature of its `_target_`."""
    if node == signature.MISSING:
        return []
    if not isinstance(node, Mapping):
        text = f"{group}={format_value(node)} has no keys"
        return [Problem(group, text, "write lines of the form key: value in its file", topic="type")]
    if group.startswith("optimizers.") and not node.get("params"):
        key = f"{group}.params"
        return [Problem(key, f"{key} is missing", f"write {key}=<pattern of parameter names>", topic="missing")]
    try:
        return signature.check(group, locate(group, node), own(group, node), SUPPLIED[kind_of(group)])
    except ConfigError as error:
        return error.problems


def own(group: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that belong to the group's `_target_`, without those that every member has."""
    shared = ("params",) if group.startswith("optimizers.") else SHARED_KEYS.get(group, ())
    return {key: value for key, value in node.items() if key not in shared}


def takes(target: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """Return the names of a target's parameters, and whether it takes any other name too."""
    parameters = signature_of(target)
    return frozenset(parameters), any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def signature_of(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return a target's parameters by name; none of one that is written in C, without a signature."""
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):
        return {}


def default_of(target: Callable[..., Any], name: str) -> Any:
    """Return the default of a target's parameter; None if it has none."""
    parameter = inspect.signature(target).parameters.get(name)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def call(group: str, node: Mapping[str, Any], kind: type[T], **supplied: Any) -> T:
    """Call a group's `_target_` with its keys and those of `supplied` that it takes.

    Raises:
        ConfigError: the target refuses its arguments, or returns something other than `kind`.
    """
    node = own(group, node)
    named, open_ended = takes(locate(group, node))
    passed = {k: v for k, v in supplied.items() if k not in node and (k in named or (open_ended and group == "model"))}
    path = node["_target_"]
    try:
        # Twice: Hydra resolves the node in place, and then reads it. What runner supplies does not pass through Hydra,
        # which would make lists of tuples.
        make = instantiate(escape_all_references(escape_all_references(node)), _convert_="all", _partial_=True)
        part = make(**passed)
    except BaseException as error:  # of Hydra, or whatever the code of a `_target_` raises
        if isinstance(error, KeyboardInterrupt) and is_from_signal():
            raise
        cause = (error.__cause__ or error) if isinstance(error, InstantiationException) else error
        if isinstance(error, ConfigError | fetch.Forbidden):
            raise
        if isinstance(cause, ConfigError | fetch.Forbidden):
            raise cause from error
        reason = describe_error(cause)
        if user_frame(cause):  # in the user's own code: its keys need not be the reason
            raise ConfigError(Problem(group, f"{group}: {path} fails: {reason}", topic="code")) from error
        text = f"{group}: {path} fails with these keys ({reason})"
        raise ConfigError(Problem(group, text, f"change {_keys(group, node)}", topic="code")) from error
    if not isinstance(part, kind):
        text = f"{group}._target_={path} returns an object of type {type(part).__name__}"
        instead = f"name something that returns {IN_WORDS[kind_of(group)]}"
        raise ConfigError(Problem(f"{group}._target_", text, instead, topic="type"))
    return part


def _keys(group: str, node: Mapping[str, Any]) -> str:
    keys = [f"{group}.{key}" for key in node if not str(key).startswith("_")]
    keys = [f"{group}._args_", *keys] if "_args_" in node else keys
    return ", ".join(keys[:4]) + (", ..." if len(keys) > 4 else "") or f"{group}._target_"
