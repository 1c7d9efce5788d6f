"""`trainer.activation_checkpointing`: modules whose activations are computed again in the backward pass, not stored."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from runner.errors import ConfigError, Problem
from runner.util.patterns import matches
from runner.util.rng import is_generator

KEY = "trainer.activation_checkpointing"


def chosen(model: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """Return the outermost modules that patterns match; a container that computes nothing itself is passed over.

    Raises:
        ConfigError: a pattern matches no module, or a module draws from a generator of its own.
    """
    modules = {name: module for name, module in model.named_modules() if name and _computes(module)}
    for pattern in patterns:
        if not any(matches(pattern, name) for name in modules):
            top = ", ".join(dict.fromkeys(name.partition(".")[0] for name in modules)) or "none"
            text = f"{KEY}: {pattern} matches no module of the model"
            raise ConfigError(Problem(KEY, text, f"its modules begin with {top}", topic="unknown"))
    names: list[str] = []
    for name in modules:  # a module comes before those in it
        inside = any(name.startswith(f"{outer}.") for outer in names)
        if not inside and _matched(name, patterns):
            names.append(name)
    for name, part in [(outer, part) for outer in names for part in modules[outer].modules()]:
        if any(map(is_generator, vars(part).values())):
            text = f"{KEY}: {name} has a generator of its own, which would draw other numbers the second time"
            raise ConfigError(Problem(KEY, text, "leave it out", topic="conflict"))
    return [modules[name] for name in names]


@contextmanager
def recomputing(model: nn.Module, patterns: Sequence[str] | None) -> Iterator[None]:
    """Recompute the activations of modules within the block, with the same numbers.

    Dropout draws the same numbers again, and buffers, such as running statistics, are updated once.
    """
    modules = chosen(model, patterns or ())
    before = [vars(module).get("forward") for module in modules]
    for module in modules:
        # On the instance: neither names in a checkpoint nor copies for EMA and MLflow, made outside, change.
        vars(module)["forward"] = partial(
            checkpoint, module.forward, use_reentrant=False, context_fn=partial(_contexts, module)
        )
    try:
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            del vars(module)["forward"]
            if own is not None:
                vars(module)["forward"] = own


def _matched(name: str, patterns: Sequence[str]) -> bool:
    return any(matches(pattern, name) for pattern in patterns)


def _computes(module: nn.Module) -> bool:
    return not isinstance(module, nn.ModuleList | nn.ModuleDict)


def _contexts(module: nn.Module) -> tuple[Any, Any]:
    return nullcontext(), _with_copied_buffers(module)


@contextmanager
def _with_copied_buffers(module: nn.Module) -> Iterator[None]:
    """Let a module update copies of its buffers: running statistics have had their update."""
    before = [(part, name, buffer) for part in module.modules() for name, buffer in part._buffers.items()]
    for part, name, buffer in before:
        part._buffers[name] = None if buffer is None else buffer.clone()
    try:
        yield
    finally:
        for part, name, buffer in before:
            part._buffers[name] = buffer
