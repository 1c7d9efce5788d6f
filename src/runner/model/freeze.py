"""`model.freeze`: parameters that are not trained, and the BatchNorm layers among them at rest."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

from torch import nn

from runner.errors import ConfigError, Problem
from runner.util.patterns import select


@dataclass
class Freeze:
    """What is frozen, and until when; nothing by default.

    Attributes:
        parameters: those that are not trained.
        resting: layers with running statistics, all of whose own parameters are frozen: they stay in evaluation mode.
        until: the first epoch in which all of them are trained; None: never. The optimizer has the parameters from
            the start, and passes over those without a gradient. So what is trained follows from the epoch alone.
        note: what is trained instead, for the first lines of a run.
    """

    parameters: list[nn.Parameter] = field(default_factory=list)
    resting: list[nn.Module] = field(default_factory=list)
    until: int | None = None
    note: str = ""

    def __str__(self) -> str:
        count = sum(parameter.numel() for parameter in self.parameters)
        resting = f", {len(self.resting)} normalization layers at rest" if self.resting else ""
        until = f", until epoch {self.until}" if self.until is not None else ""
        note = f"; {self.note}" if self.note else ""
        return f"{count:,} parameters in {len(self.parameters)} tensors{resting}{until}{note}"

    def at_epoch(self, epoch: int) -> None:
        """Freeze or unfreeze, as this epoch has it."""
        frozen = self.until is None or epoch < self.until
        for parameter in self.parameters:
            parameter.requires_grad_(not frozen)
        for module in self.resting:
            (_rest if frozen else _wake)(module)


def freeze(model: nn.Module, patterns: Sequence[str], until: int | None = None) -> Freeze:
    """Freeze the parameters that patterns match; those until an epoch are frozen when training starts.

    Args:
        model: its parameters are frozen in place.
        patterns: see `runner.util.patterns`. They also name layers without parameters by their buffers.
        until: see `Freeze`.

    Raises:
        ConfigError: a pattern matches nothing, or all is frozen.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers())
    chosen = set(select("model.freeze", patterns, [*parameters, *buffers]))
    ids = {id(parameters[name]) for name in chosen & set(parameters)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    frozen = Freeze(
        [parameter for parameter in trained if id(parameter) in ids], layers_at_rest(model, ids, chosen), until
    )
    if trained and len(frozen.parameters) == len(trained):
        last = next(name for name, parameter in reversed(parameters.items()) if parameter.requires_grad)
        text = f"model.freeze=[{','.join(patterns)}] leaves no parameter to train"
        suggestion = f"let no pattern match the output layer, {last.rpartition('.')[0] or last}"
        raise ConfigError(Problem("model.freeze", text, suggestion, topic="conflict"))
    if until is None:
        frozen.at_epoch(1)
    return frozen


def layers_at_rest(model: nn.Module, ids: set[int], chosen: Collection[str] | None = None) -> list[nn.Module]:
    """Find the layers with running statistics whose own parameters are all frozen.

    Args:
        model: has the layers.
        ids: of the frozen parameters.
        chosen: the names of buffers that are frozen, for layers without parameters; None: all are.
    """
    resting = []
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        statistics = f"{name}.running_mean".lstrip(".")
        if module._buffers.get("running_mean") is None:
            continue
        named = (chosen is None and not own) or (chosen is not None and statistics in chosen)
        if named or (own and all(id(parameter) in ids for parameter in own)):
            resting.append(module)
    return resting


def _rest(module: nn.Module) -> None:
    """Keep a layer in evaluation mode, also when `train` is called on the model."""
    if not hasattr(type(module), "_awake"):
        module.__class__ = _at_rest(cast(Any, type(module)))
    module.eval()


def _wake(module: nn.Module) -> None:
    if awake := getattr(type(module), "_awake", None):
        module.__class__ = awake
        module.train()


@cache
def _at_rest(kind: Any) -> Any:
    """Make the class of a resting layer, as torch makes those of parametrized and sharded ones."""

    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        return kind.train(self, False)

    members = {"train": train, "_awake": kind, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), members)
