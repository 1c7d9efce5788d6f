"""The classifiers of torchvision, adapted to the data: `model=torchvision model.name=resnet18`."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from runner.errors import ConfigError, Problem, close_match

ANY_SIZE = "model.name=resnet18"

USUAL_SIDE = 224
"""The image side, in pixels, that these networks were designed for: all of them take 224x224."""


def classifier(input_shape: Sequence[int], num_outputs: int, name: str) -> nn.Module:
    """Create a network of `torchvision.models` with random weights.

    Its first convolution takes the channels of the data. GoogLeNet and Inception are created without auxiliary
    outputs, vision transformers for the size of the images.

    Args:
        input_shape: (C, H, W) of one image; comes from the data.
        num_outputs: classes or values; comes from data and loss.
        name: one of `torchvision.models.list_models(module=torchvision.models)`.

    Raises:
        ConfigError: the name is unknown, or the network does not take such samples.
    """
    if len(input_shape) != 3:
        text = f"model=torchvision requires images (C, H, W), the samples have shape {tuple(input_shape)}"
        raise ConfigError(Problem("model", text, "write model=mlp, or model=gpt for tokens", topic="shape"))
    # Late: takes 2.4 s.
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        close = close_match(name, names)
        others = "or another name of torchvision.models.list_models(module=torchvision.models)"
        suggestion = f"did you mean {close}?" if close else f"write {ANY_SIZE}, {others}"
        text = f"model.name={name} is not a classifier of torchvision"
        raise ConfigError(Problem("model.name", text, suggestion, topic="unknown"))
    channels, height, width = input_shape
    model = models.get_model(name, weights=None, num_classes=num_outputs, **_options(name, height, width))
    adapt_stem(model, channels)
    _check_size(model, name, channels, height, width)
    return model


def _options(name: str, height: int, width: int) -> dict[str, Any]:
    """Return the options that some constructors need."""
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        patch = int(name.rpartition("_")[2])
        if height != width or height % patch:
            raise _size_error(name, f"square images whose sides are a multiple of {patch} pixels", height, width)
        return {"image_size": height}
    if name.startswith("maxvit_"):
        if height % USUAL_SIDE or width % USUAL_SIDE:
            raise _size_error(name, f"images whose sides are a multiple of {USUAL_SIDE} pixels", height, width)
        return {"input_size": (height, width)}
    return {}


def _size_error(name: str, required: str, height: int, width: int) -> ConfigError:
    text = f"model.name={name} requires {required}, found {height}x{width}"
    return ConfigError(Problem("model.name", text, f"write {ANY_SIZE}, which takes any size", topic="shape"))


def adapt_stem(model: nn.Module, channels: int) -> None:
    """Replace the first convolution by one over this number of channels, with the same settings otherwise.

    Its weights are drawn from a normal distribution that keeps the variance of its outputs.

    Raises:
        ConfigError: the first layer of the model is not a convolution over all channels.
    """
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    name, stem = layers[0] if layers else ("", None)
    if not isinstance(stem, nn.Conv2d) or stem.groups != 1:
        kind = type(model).__name__
        text = f"{kind} has no first convolution to adapt to the {channels} channels of the data"
        raise ConfigError(Problem("model", text, f"write {ANY_SIZE}", topic="shape"))
    if stem.in_channels == channels:
        return
    adapted = type(stem)(
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
        adapted.weight.normal_().mul_(stem.weight.std() * math.sqrt(stem.in_channels / channels))
        if stem.bias is not None and adapted.bias is not None:
            adapted.bias.copy_(stem.bias)
    model.set_submodule(name, adapted)


def _check_size(model: nn.Module, name: str, channels: int, height: int, width: int) -> None:
    """Check that the images are not too small; the error of torch names only some inner layer."""
    state = {key: value.to("meta") for key, value in [*model.named_parameters(), *model.named_buffers()]}

    def takes(height: int, width: int) -> bool:
        try:
            functional_call(model, state, (torch.empty(2, channels, height, width, device="meta"),))
        except Exception:  # a layer without pixels raises various errors
            return False
        return True

    model.eval()
    with torch.no_grad():
        enough = takes(height, width)
        smallest = 0 if enough else 1 + bisect_left(range(1, USUAL_SIDE + 1), True, key=lambda side: takes(side, side))
    model.train()
    if not enough:
        raise _size_error(name, f"images of at least {smallest}x{smallest} pixels", height, width)
