"""Groups of parameters with options of their own: `optimizer.groups`, `optimizer.no_decay`, `optimizer.layer_decay`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import nn

from runner.errors import ConfigError, Problem
from runner.util.patterns import format_patterns, patterns_of, select

REST = "rest"
"""The name of the group of all parameters that no named group has; `config.fine_tuning` reserves it."""


@dataclass(frozen=True)
class Grouping:
    """How to group parameters; not at all by default.

    Attributes:
        groups: by name, `params` (one pattern, or several) and options of the optimizer, such as `lr`.
        no_decay: biases, norms and all others with one dimension get no weight decay; or the parameters of patterns.
        layer_decay: multiplies the rate of each layer once for each layer behind it.
    """

    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    no_decay: bool | Sequence[str] = False
    layer_decay: float | None = None

    def __bool__(self) -> bool:
        return bool(self.groups or self.no_decay or self.layer_decay is not None)


def parameter_groups(
    model: nn.Module,
    trained: Sequence[nn.Parameter],
    grouping: Grouping,
    lr: float,
    others: Mapping[str, nn.Parameter] | None = None,
) -> list[dict[str, Any]]:
    """Divide parameters into groups, as optimizers take them.

    The first group has the parameters that no group names, if there are any, and of these the last layer. Within a
    group they keep the order of the model.

    Args:
        model: has the names of the parameters.
        trained: the parameters to divide.
        grouping: how.
        lr: the rate of groups without their own.
        others: parameters outside of the model, by name.

    Raises:
        ConfigError: a pattern matches nothing that is trained, or two groups match one parameter.
    """
    names: dict[str, nn.Parameter] = dict(model.named_parameters(remove_duplicate=False)) | dict(others or {})
    owner = _owners(names, {id(parameter) for parameter in trained}, grouping.groups)
    spared = _without_decay(model, names, grouping.no_decay)
    depth = _depths(model) if grouping.layer_decay is not None else {}
    deepest = max(depth.values(), default=0)
    order = [REST, *grouping.groups]

    def place(parameter: nn.Parameter) -> tuple[int, int, bool]:
        key = id(parameter)
        return order.index(owner.get(key, REST)), deepest - depth.get(key, 0), key in spared

    made = []
    for (number, before, without), members in groupby(sorted(trained, key=place), place):
        own = dict(grouping.groups.get(order[number], {}))
        own.pop("params", None)
        if grouping.layer_decay is not None:
            own["lr"] = own.get("lr", lr) * grouping.layer_decay**before
        if without:
            own["weight_decay"] = 0.0
        made.append({"params": list(members), **own, "name": order[number]})
    return made


def _owners(
    names: Mapping[str, nn.Parameter], trained: set[int], groups: Mapping[str, Mapping[str, Any]]
) -> dict[int, str]:
    """Find the group of each parameter that a group names."""
    owner: dict[int, str] = {}
    for group, options in groups.items():
        key, patterns = f"optimizer.groups.{group}.params", patterns_of(options["params"])
        chosen = select(key, patterns, names, several=not isinstance(options["params"], str))
        found = {id(names[name]): name for name in chosen if id(names[name]) in trained}
        typed = format_patterns(patterns, several=False)
        if not found:
            text = f"{key}={typed} matches no parameter that is trained"
            raise ConfigError(Problem(key, text, "correct it, or model.freeze", topic="conflict"))
        if twice := next((number for number in found if number in owner), None):
            text = f"{key}={typed} and the group {owner[twice]} both match {found[twice]}"
            raise ConfigError(Problem(key, text, "write patterns that do not overlap", topic="conflict"))
        owner |= dict.fromkeys(found, group)
    return owner


def _without_decay(model: nn.Module, names: Mapping[str, nn.Parameter], no_decay: bool | Sequence[str]) -> set[int]:
    """Find the parameters without weight decay."""
    if isinstance(no_decay, bool):
        small = [p for name, p in names.items() if p.ndim < 2 or name.endswith("bias")] if no_decay else []
        return set(map(id, small))
    return {id(names[name]) for name in select("optimizer.no_decay", patterns_of(no_decay), names)}


def _depths(model: nn.Module) -> dict[int, int]:
    """Return the depth of each parameter, from 0, in the order of definition.

    A numbered module, such as `blocks.3`, is a layer, whatever is in it; what is defined before the first that has
    modules in it (or else before the first) is the stem, of depth 0. Other modules are layers too, except for norms,
    which belong to the layer before them. These are the layers of timm's `param_groups_layer_decay` for its ResNets
    and vision transformers.
    """
    layers: list[tuple[str, list[nn.Parameter]]] = []
    blocks: set[str] = set()
    for name, parameter in model.named_parameters():
        layer = _layer_of(name)
        if not layers or layers[-1][0] != layer:
            layers.append((layer, []))
        layers[-1][1].append(parameter)
        if layer.rpartition(".")[2].isdigit() and "." in name.removeprefix(f"{layer}."):
            blocks.add(layer)
    first = next((place for place, (layer, _) in enumerate(layers) if layer in blocks), 0)
    depth = 0
    found: dict[int, int] = {}
    for place, (_, parameters) in enumerate(layers):
        norm = all(parameter.ndim < 2 for parameter in parameters)
        if place > 0 and place >= first and not norm:
            depth += 1
        found |= {id(parameter): depth for parameter in parameters}
    return found


def _layer_of(name: str) -> str:
    """Return the outermost numbered module around a parameter, or else its own module."""
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), len(parts) - 2)
    return ".".join(parts[: number + 1])


def rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the learning rate of each named group; with `layer_decay`, that of its last layer."""
    found: dict[str, float] = {}
    for group in optimizer.param_groups:
        if (name := group.get("name", REST)) != REST:
            found[name] = max(found.get(name, 0.0), float(group["lr"]))
    return found


def table(optimizer: torch.optim.Optimizer) -> Iterator[str]:
    """Yield the lines of a table of the groups that `parameter_groups` made; none if it made none."""
    groups = [group for group in optimizer.param_groups if "name" in group]
    if not groups:
        return
    yield f"{'group':<16} {'tensors':>8} {'parameters':>12} {'lr':>10} {'weight decay':>13}"
    for group in groups:
        count = sum(parameter.numel() for parameter in group["params"])
        lr = float(group.get("max_lr", group.get("initial_lr", group["lr"])))  # a schedule may start below it
        decay = f"{float(group['weight_decay']):g}" if "weight_decay" in group else "-"
        yield f"{group['name']:<16} {len(group['params']):>8} {count:>12,} {lr:>10.4g} {decay:>13}"
