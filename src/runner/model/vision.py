"""The classifiers of torchvision, fitted to the data: `model=torchvision model.name=resnet18`."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from runner.errors import ConfigError, did_you_mean

USUAL_SIDE = 224
"""Pixels: what these networks were designed for. Every one of them takes images of 224x224."""


def classifier(input_shape: Sequence[int], num_outputs: int, name: str) -> nn.Module:
    """Make a network of `torchvision.models`, with weights drawn anew.

    Its first convolution takes the channels of the data. GoogLeNet and Inception are made without their second
    outputs, vision transformers for the size of the images.

    Args:
        input_shape: (C, H, W) of one image; comes from the data.
        num_outputs: classes or values; comes from data and loss.
        name: one of `torchvision.models.list_models(module=torchvision.models)`.

    Raises:
        ConfigError: there is none of that name, or it does not take such samples.
    """
    if len(input_shape) != 3:
        raise ConfigError(
            f"model=torchvision needs images (C, H, W), the samples are of shape {tuple(input_shape)}: write model=mlp"
        )
    # Late: takes 2.4 s.
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        hint = did_you_mean(name, names)
        if not hint.startswith("did"):
            hint = "write resnet18, say, or another of torchvision.models.list_models(module=torchvision.models)"
        raise ConfigError(f"model.name={name} is no classifier of torchvision: {hint}")
    channels, height, width = input_shape
    model = models.get_model(name, weights=None, num_classes=num_outputs, **_options(name, height, width))
    adapt_stem(model, channels)
    _check_size(model, name, channels, height, width)
    return model


def _options(name: str, height: int, width: int) -> dict[str, Any]:
    """What some constructors need to be told."""
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        patch = int(name.rpartition("_")[2])
        if height != width or height % patch:
            raise ConfigError(
                f"model.name={name} needs square images whose sides are a multiple of {patch} pixels,"
                f" these are {height}x{width}: write model.name=resnet18, which takes any"
            )
        return {"image_size": height}
    if name.startswith("maxvit_"):
        if height % USUAL_SIDE or width % USUAL_SIDE:
            raise ConfigError(
                f"model.name={name} needs images whose sides are a multiple of {USUAL_SIDE} pixels,"
                f" these are {height}x{width}: write model.name=resnet18, which takes any"
            )
        return {"input_size": (height, width)}
    return {}


def adapt_stem(model: nn.Module, channels: int) -> None:
    """Put a convolution over so many channels in the place of the first, with the same settings otherwise.

    Its weights are drawn anew, from a normal distribution that makes its outputs vary as much as before.

    Raises:
        ConfigError: the model does not begin with a convolution over all channels.
    """
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    name, stem = layers[0] if layers else ("", None)
    if not isinstance(stem, nn.Conv2d) or stem.groups != 1:
        raise ConfigError(
            f"model: {type(model).__name__} does not begin with a convolution that could be fitted to the {channels}"
            " channels of the data: write model.name=resnet18"
        )
    if stem.in_channels == channels:
        return
    fresh = type(stem)(
        channels,
        stem.out_channels,
        stem.kernel_size,  # type: ignore[arg-type]
        stride=stem.stride,  # type: ignore[arg-type]
        padding=stem.padding,  # type: ignore[arg-type]
        dilation=stem.dilation,  # type: ignore[arg-type]
        bias=stem.bias is not None,
        padding_mode=stem.padding_mode,
    )
    with torch.no_grad():
        fresh.weight.normal_().mul_(stem.weight.std() * math.sqrt(stem.in_channels / channels))
        if stem.bias is not None and fresh.bias is not None:
            fresh.bias.copy_(stem.bias)
    model.set_submodule(name, fresh)


def _check_size(model: nn.Module, name: str, channels: int, height: int, width: int) -> None:
    """See that the images are not too small, which otherwise shows as a sentence about some inner layer."""
    state = {key: value.to("meta") for key, value in [*model.named_parameters(), *model.named_buffers()]}

    def takes(height: int, width: int) -> bool:
        try:
            functional_call(model, state, (torch.empty(2, channels, height, width, device="meta"),))
        except Exception:  # whatever the layer says that is left without pixels
            return False
        return True

    model.eval()
    with torch.no_grad():
        enough = takes(height, width)
        smallest = 0 if enough else 1 + bisect_left(range(1, USUAL_SIDE + 1), True, key=lambda side: takes(side, side))
    model.train()
    if not enough:
        raise ConfigError(
            f"model.name={name} needs images of at least {smallest}x{smallest} pixels, these are {height}x{width}:"
            " write model.name=resnet18, which takes any"
        )
