"""Checks of `model.freeze`, `optimizer.groups` and their like that need only the config."""

from collections.abc import Iterator, Mapping
from typing import Any

from runner.config.keys import format_value, select
from runner.errors import Problem
from runner.util.tags import legal_name

REST = "rest"
"""The name of the group of all parameters that no other has."""

LORA_DEFAULTS = {"rank": 8, "alpha": None, "dropout": 0.0, "train": None}
"""As in `conf/config.yaml`: another value without `model.lora.params` would have no effect."""

EXAMPLE = 'optimizer.groups.head.params="head.*" optimizer.groups.head.lr=0.1'


def is_pattern(key: str) -> bool:
    """Return whether a key of the command line holds patterns, in which `0.` is not a number."""
    parts = key.split(".")
    in_group = parts[:2] == ["optimizer", "groups"] and parts[3:] == ["params"]
    if key in ("model.lora.params", "model.lora.train"):
        return True
    return in_group or (parts[0] == "optimizers" and parts[2:] == ["params"])


def check(config: Mapping[str, Any]) -> list[Problem]:
    """Check the keys of a resolved config that say what is trained, and how.

    Args:
        config: nested plain mappings.
    """
    return [*_check_freeze(config), *_check_lora(config), *_check_no_decay(config), *_check_groups(config)]


def _check_freeze(config: Mapping[str, Any]) -> Iterator[Problem]:
    key, patterns = "model.freeze", select(config, "model.freeze")
    if patterns is not None and not _are_patterns(patterns):
        text = f"{key}={format_value(patterns)} is not a list of patterns"
        yield Problem(key, text, f"write {key}=[backbone.*]", topic="type")
    elif select(config, "model.unfreeze_at_epoch") is not None and not patterns:
        text = "model.unfreeze_at_epoch needs frozen parameters"
        yield Problem("model.unfreeze_at_epoch", text, f"add {key}=[backbone.*]", topic="missing")


def _check_lora(config: Mapping[str, Any]) -> Iterator[Problem]:
    key, lora = "model.lora", select(config, "model.lora")
    if lora is None:
        return
    if not isinstance(lora, Mapping):
        text = f"{key}={format_value(lora)} is not a mapping"
        yield Problem(key, text, f"write {key}.params=<pattern>", topic="type")
        return
    for name in ("params", "train"):
        if lora.get(name) is not None and not (_are_patterns(lora[name]) or (name == "train" and lora[name] == [])):
            text = f"{key}.{name}={format_value(lora[name])} is not a pattern, or a list of patterns"
            yield Problem(f"{key}.{name}", text, f"write {key}.{name}=<pattern>", topic="type")
    if lora.get("params") is None:
        for name in (name for name, value in lora.items() if value != LORA_DEFAULTS.get(name, value)):
            text = f"{key}.{name}={format_value(lora[name])} needs adapters"
            yield Problem(f"{key}.{name}", text, f"write {key}.params=<pattern> too", topic="missing")
    elif select(config, "model.unfreeze_at_epoch") is not None:
        text = f"model.unfreeze_at_epoch and {key} exclude each other"
        yield Problem("model.unfreeze_at_epoch", text, "leave it out", topic="conflict")


def _check_no_decay(config: Mapping[str, Any]) -> Iterator[Problem]:
    key, value = "optimizer.no_decay", select(config, "optimizer.no_decay")
    if value is not None and not isinstance(value, bool) and not _are_patterns(value):
        text = f"{key}={format_value(value)} is neither true, false nor a list of patterns"
        yield Problem(key, text, f"write {key}=true", topic="type")


def _check_groups(config: Mapping[str, Any]) -> Iterator[Problem]:
    groups = select(config, "optimizer.groups")
    if groups is None:
        return
    if not isinstance(groups, Mapping):
        text = f"optimizer.groups={format_value(groups)} is not a mapping of names"
        yield Problem("optimizer.groups", text, f"write {EXAMPLE}", topic="type")
        return
    for name, options in groups.items():
        key = f"optimizer.groups.{name}"
        if name == REST or legal_name(str(name)) != name or "." in str(name) or "/" in str(name):
            why = "the name of all other parameters" if name == REST else "not a name for a metric"
            yield Problem(key, f"{key}: {name} is {why}", "write another name", topic="conflict")
        elif not isinstance(options, Mapping):
            text = f"{key}={format_value(options)} is not a mapping"
            yield Problem(key, text, f"write {key}.params=<pattern> {key}.lr=0.1", topic="type")
        elif options.get("params") is None:
            text = f"{key}.params is missing: the patterns of its parameters"
            yield Problem(f"{key}.params", text, f"write {key}.params=<pattern>", topic="missing")
        elif not _are_patterns(options["params"]):
            text = f"{key}.params={format_value(options['params'])} is not a pattern, or a list of patterns"
            yield Problem(f"{key}.params", text, f"write {key}.params=<pattern>", topic="type")


def _are_patterns(value: Any) -> bool:
    patterns = [value] if isinstance(value, str) else value
    return isinstance(patterns, list) and all(isinstance(pattern, str) and pattern for pattern in patterns)
