"""The bounds of a config's keys, from the annotations of the classes and functions that own them."""

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import Any, Literal

from runner.config.keys import SHARED_SETTINGS, TARGET_GROUPS, select
from runner.config.parameters import read_bounds
from runner.util.ranges import POSITIVE, PROBABILITY, Bound, Range, find_bound

OWNERS = {
    "model.lora": "runner.model.lora.add_adapters",
    "data.augment": "runner.data.augment.make_augment",
    "data.augment.randaugment": "runner.data.randaugment.make_randaugment",
    "data.augment.mixup": "runner.data.mixing.make_mix",
    "data.augment.cutmix": "runner.data.mixing.make_mix",
}
"""Functions whose parameters are the keys of a mapping within a group."""


@dataclass(frozen=True)
class Limit:
    """The limit of a key's value.

    Attributes:
        bound: the bound of the value, or of each item of a list.
        optional: null is allowed.
        shape: whether the value is a single one, a list, either, or a mapping; for torch's parameters that is unknown.
    """

    bound: Bound
    optional: bool = False
    shape: Literal["one", "list", "either", "mapping", "unknown"] = "one"

    def __str__(self) -> str:
        return f"{self.bound}, or null" if self.optional else str(self.bound)


TORCH_LIMITS = {
    f"optimizer.{name}": Limit(bound, shape="unknown")
    for name, bound in {
        "lr": POSITIVE,
        "momentum": PROBABILITY,
        "weight_decay": Range(0),
        "eps": Range(0),
        "alpha": PROBABILITY,
        "betas": PROBABILITY,
    }.items()
}
"""Limits of the parameters of torch's optimizers, whose annotations have no bounds."""


def collect_limits(config: Mapping[str, Any], root: type) -> dict[str, Limit]:
    """Collect the limits of a config's keys.

    Args:
        config: the resolved config as nested plain mappings.
        root: the dataclass of a whole config.
    """
    collected = dict(TORCH_LIMITS)
    owners = {group: select(config, f"{group}._target_") for group in TARGET_GROUPS} | OWNERS
    for group, target in owners.items():
        if isinstance(target, str):
            for name, parameter in read_bounds(target).items():
                shape: Literal["one", "list", "either"] = "list" if parameter.is_list else "one"
                shape = "either" if parameter.or_one else shape
                collected[f"{group}.{name}"] = Limit(parameter.bound, parameter.optional, shape)
    named = select(config, "optimizer.groups")
    for group, options in named.items() if isinstance(named, Mapping) else ():
        for name in options if isinstance(options, Mapping) else ():
            if limit := collected.get(f"optimizer.{name}"):
                collected[f"optimizer.groups.{group}.{name}"] = limit
    return collected | settings_limits(root)


@cache
def settings_limits(root: type) -> dict[str, Limit]:
    """Collect the limits of the groups with fixed keys, and of those that all members of a group have."""
    shared = {k: v for group, keys in SHARED_SETTINGS.items() for k, v in _of_fields(keys, f"{group}.").items()}
    return {**_of_fields(root, ""), **shared}


def _of_fields(settings: type, prefix: str) -> dict[str, Limit]:
    collected: dict[str, Limit] = {}
    for name, hint in typing.get_type_hints(settings, include_extras=True).items():
        if is_dataclass(hint):
            collected |= _of_fields(typing.cast(type, hint), f"{prefix}{name}.")
        elif bound := find_bound(hint):
            collected[f"{prefix}{name}"] = Limit(bound, takes_none(hint))
    return collected


def takes_none(hint: Any) -> bool:
    """Return whether an annotation allows None."""
    if typing.get_origin(hint) is typing.Annotated:
        return takes_none(typing.get_args(hint)[0])
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else ()
    return hint is Any or any(member is type(None) or takes_none(member) for member in members)
