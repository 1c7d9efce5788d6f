"""`model.lora`: low-rank adapters, trained instead of the weights that they stand beside (Hu et al., arXiv:2106.09685).

The adapters are those of peft, in the model itself: a checkpoint has them beside all other tensors, and the statistics
of BatchNorm, which peft's own files of adapters lack. For export they are added to the weights.
"""

import re
import warnings
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Annotated, Any

import torch
from torch import nn

from runner.errors import ConfigError, Problem, first_line
from runner.model.freeze import Freeze, layers_at_rest
from runner.util.hub import library
from runner.util.patterns import patterns_of, select
from runner.util.ranges import COUNT, POSITIVE, PROBABILITY

ADAPTER = ".lora_"
"""In the name of each tensor of an adapter, as peft names it."""

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
"""Layers that peft has adapters for. Attention of torch uses the weights of its layers itself, and passes them by."""

KEY, TRAIN = "model.lora.params", "model.lora.train"


def add_adapters(
    model: nn.Module,
    params: str | Sequence[str],
    rank: Annotated[int, COUNT] = 8,
    alpha: Annotated[float | None, POSITIVE] = None,
    dropout: Annotated[float, PROBABILITY] = 0.0,
    train: str | Sequence[str] | None = None,
) -> Freeze:
    """Add adapters to layers of a model, and freeze all else but what is to be trained in full.

    Args:
        model: is changed in place.
        params: patterns of the layers, or of their weights; of what they match, the layers of `KINDS` get adapters.
        rank: of each adapter.
        alpha: `alpha / rank` scales an adapter; None: 1.
        dropout: of the inputs of the adapters.
        train: patterns of parameters that are trained in full; None: those of the last linear layer, unless it gets an
            adapter or shares its weight.

    Returns:
        What is frozen.

    Raises:
        ConfigError: peft is not installed, or the patterns match no such layer.
    """
    peft = library("peft", "model.lora", "lora")
    names = dict(model.named_parameters(remove_duplicate=False))
    layers = _layers(model, select(KEY, patterns_of(params), names, several=not isinstance(params, str)), names)
    trained = _trained_in_full(model, layers, names, train)
    before = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if any(isinstance(module, nn.TransformerEncoderLayer) for module in model.modules()):
        torch.backends.mha.set_fastpath_enabled(False)  # in evaluation it passes by the adapters
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha or rank,
        lora_dropout=dropout,
        bias="none",
        target_modules="|".join(map(re.escape, layers)),  # a text is a regular expression, and has to match in full
    )
    try:
        with warnings.catch_warnings():  # that it stores the weights of GPT-2's layers the other way round
            warnings.simplefilter("ignore")
            peft.inject_adapter_in_model(config, model)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise ConfigError(Problem(KEY, f"{KEY}: peft refuses: {first_line(error)}", topic="code")) from error
    for parameter in before:
        parameter.requires_grad_(id(parameter) in trained)
    frozen = [parameter for parameter in before if id(parameter) not in trained]
    in_full = [name for name, parameter in names.items() if parameter.requires_grad]
    adapters = f"{len(layers)} adapter{'s' if len(layers) > 1 else ''} of rank {rank}"
    note = f"{adapters}; trained in full: {', '.join(in_full)}" if in_full else adapters
    adapted = Freeze(frozen, layers_at_rest(model, {id(parameter) for parameter in frozen}), note=note)
    adapted.at_epoch(1)
    return adapted


def _layers(model: nn.Module, chosen: Iterable[str], names: dict[str, nn.Parameter]) -> list[str]:
    """Find the layers that get an adapter.

    Raises:
        ConfigError: there is none, or its weight is shared.
    """
    modules = dict(model.named_modules())
    attention = [f"{name}." for name, module in modules.items() if isinstance(module, nn.MultiheadAttention)]
    kinds = (*KINDS, *_kinds_of_transformers(model))
    owners = dict.fromkeys(name.rpartition(".")[0] for name in chosen if name.endswith(".weight"))
    layers = [name for name in owners if isinstance(modules[name], kinds) and not name.startswith(tuple(attention))]
    if not layers:
        able = [name for name, module in modules.items() if name and isinstance(module, kinds)]
        text = f"{KEY} matches no layer that can have an adapter"
        suggestion = f"such layers are {', '.join(able[:4])}" if able else "train it without model.lora"
        raise ConfigError(Problem(KEY, text, suggestion, topic="conflict"))
    for layer in layers:
        weight = names[f"{layer}.weight"]
        shared = [name for name, other in names.items() if other is weight and name != f"{layer}.weight"]
        if shared:
            text = f"{KEY}: the weight of {layer} is that of {shared[0]} too, which an adapter would not change"
            raise ConfigError(Problem(KEY, text, "write patterns without it", topic="conflict"))
    return layers


def _kinds_of_transformers(model: nn.Module) -> tuple[type, ...]:
    """Return the linear layer of GPT-2 in Transformers, if the model comes from there."""
    return tuple(
        {type(module) for module in model.modules() if type(module).__module__ == "transformers.pytorch_utils"}
    )


def _trained_in_full(
    model: nn.Module, layers: Sequence[str], names: dict[str, nn.Parameter], train: str | Sequence[str] | None
) -> set[int]:
    """Find the parameters that are trained besides the adapters; those that are frozen stay so."""
    if train is not None:
        chosen = select(TRAIN, patterns_of(train), names) if train else []
    else:
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        last = linear[-1] if linear and linear[-1] not in layers else None
        weight = names.get(f"{last}.weight") if last else None
        alone = weight is not None and sum(other is weight for other in names.values()) == 1
        chosen = [name for name in (f"{last}.weight", f"{last}.bias") if alone and name in names]
    return {id(names[name]) for name in chosen if names[name].requires_grad}


def is_adapted(names: Iterable[str]) -> bool:
    """Return whether the names of tensors are those of a model with adapters."""
    return any(ADAPTER in name for name in names)


def merge(model: nn.Module) -> nn.Module:
    """Add the adapters of a model to its weights, in place, and remove them; returns the model."""
    for name, module in list(model.named_modules()):
        if hasattr(module, "lora_A") and hasattr(module, "get_base_layer"):
            layer: Any = module
            layer.merge()
            model.set_submodule(name, layer.get_base_layer())
    return model


def merged(model: nn.Module) -> nn.Module:
    """Return a model without adapters: itself, or a copy with the adapters added to the weights."""
    return merge(deepcopy(model)) if is_adapted(name for name, _ in model.named_parameters()) else model
