"""Several optimizers, each of named parameters: the root key `optimizers`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from runner.errors import ConfigError, Problem
from runner.optimizer import Combined
from runner.util.patterns import patterns_of, select

SHOWN = 3


class Several(Combined):
    """Named optimizers that step in turn, with one state and one list of groups: a schedule applies to each.

    Args:
        parts: the optimizers by name, each with one group of parameters.
    """

    def __init__(self, parts: Mapping[str, torch.optim.Optimizer]) -> None:
        self.by_name = dict(parts)
        for name, part in parts.items():
            part.param_groups[0]["name"] = name
        super().__init__(list(parts.values()))

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"by_name": self.by_name}

    def parameters(self, name: str) -> list[nn.Parameter]:
        """Return the parameters of an optimizer."""
        return list(self.by_name[name].param_groups[0]["params"])

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """End a step in which each optimizer has taken its own: hooks and schedules count it."""


def divide(
    names: Mapping[str, nn.Parameter], trained: Sequence[nn.Parameter], patterns: Mapping[str, str | Sequence[str]]
) -> dict[str, list[nn.Parameter]]:
    """Divide parameters between optimizers.

    Args:
        names: all parameters by name.
        trained: the parameters to divide.
        patterns: of the names, by the name of the optimizer.

    Returns:
        By the name of the optimizer, its parameters.

    Raises:
        ConfigError: a pattern matches nothing that is trained, a parameter has two optimizers, or none.
    """
    wanted = {id(parameter) for parameter in trained}
    owner: dict[int, str] = {}
    divided: dict[str, list[nn.Parameter]] = {}
    of_trained = {name: parameter for name, parameter in names.items() if id(parameter) in wanted}
    for optimizer, pattern in patterns.items():
        key = f"optimizers.{optimizer}.params"
        chosen = select(key, patterns_of(pattern), of_trained, several=not isinstance(pattern, str))
        for name in chosen:
            other = owner.setdefault(id(names[name]), optimizer)
            if other != optimizer:
                text = f"{key}: {name} is a parameter of optimizers.{other} too"
                raise ConfigError(Problem(key, text, "let each parameter match one of them", topic="conflict"))
        divided[optimizer] = list({id(names[name]): names[name] for name in chosen}.values())
    missed = [name for name, parameter in of_trained.items() if id(parameter) not in owner]
    if missed:
        more = ", ..." if len(missed) > SHOWN else ""
        text = f"optimizers: no optimizer has {', '.join(missed[:SHOWN])}{more}"
        instead = "extend a pattern, or freeze them by model.freeze"
        raise ConfigError(Problem("optimizers", text, instead, topic="conflict"))
    return divided
