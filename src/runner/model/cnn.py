"""Convolutional networks."""

from collections.abc import Sequence
from math import prod
from typing import Annotated

import torch
from torch import Tensor, nn

from runner.errors import ConfigError, Problem
from runner.model.activation import activation_layer
from runner.model.mlp import hidden_layers
from runner.util.ranges import COUNT, PROBABILITY, Choice


class GlobalMaxPool(nn.AdaptiveMaxPool2d):
    """Adaptive max pool to one value per channel, with a deterministic gradient under `trainer.deterministic`.

    On a GPU torch refuses its own max pool then. On a CPU torch's own takes a third of the time of the replacement, and
    gives the same result, bit for bit. `amax` would not: it spreads the gradient over equal values, such as zeros after
    a ReLU.
    """

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 1, 1)."""
        if torch.are_deterministic_algorithms_enabled():
            return inputs.flatten(2).max(2).values[:, :, None, None]
        return super().forward(inputs)


class FlattenPositions(nn.Module):
    """The values of an image in one row, position by position.

    In this order the row of a channels_last tensor is a view, and its gradient is channels_last too. With `nn.Flatten`,
    which copies both, an epoch of convolutions 16-32-64 takes 1.2 times as long.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, H * W * C)."""
        return inputs.permute(0, 2, 3, 1).flatten(1)


class CNN(nn.Module):
    """Convolutions, adaptive max pool to one value per channel or none, fully connected head.

    Args:
        input_shape: (C, H, W) of one image; comes from the data.
        num_outputs: classes or values; comes from data and loss.
        channels: output channels of each convolution.
        strides: of each convolution.
        hidden: width of each hidden layer of the head.
        activation: name of the activation after each layer.
        dropout: probability after each hidden layer of the head.
        batch_norm: normalise the outputs of each convolution over the batch, before the activation (Ioffe, Szegedy
            2015, arXiv:1502.03167).
        kernel_size: of all convolutions, or one for each; half of it, rounded down, is the padding.
        pool: what the head gets of each channel of the last convolution: `max`, its largest value, or `none`, its
            values at all positions, for images of one size.

    Raises:
        ConfigError: the data are not images, or the numbers of channels, strides and kernel sizes differ.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        channels: Annotated[list[int], COUNT],
        strides: Annotated[list[int], COUNT],
        hidden: Annotated[list[int], COUNT],
        activation: str = "relu",
        dropout: Annotated[float, PROBABILITY] = 0.0,
        batch_norm: bool = False,
        kernel_size: Annotated[int | list[int], COUNT] = 3,
        pool: Annotated[str, Choice(("max", "none"))] = "max",
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            text = f"model=cnn requires images (C, H, W), the samples have shape {tuple(input_shape)}"
            raise ConfigError(Problem("model", text, "write model=mlp, or model=gpt for tokens", topic="shape"))
        if not channels:
            text = "model.channels=[]: the number of convolutions must not be zero"
            raise ConfigError(
                Problem("model.channels", text, "write model.channels=[32] model.strides=[1]", topic="range")
            )
        if len(channels) != len(strides):
            text = f"model.strides={strides} must have one number for each of model.channels={channels}"
            fitting = ",".join(map(str, [*strides, *[2] * len(channels)][: len(channels)]))
            raise ConfigError(Problem("model.strides", text, f"write model.strides=[{fitting}]", topic="conflict"))
        sizes = [kernel_size] * len(channels) if isinstance(kernel_size, int) else kernel_size
        if len(sizes) != len(channels):
            text = f"model.kernel_size={sizes} must have one number for each of model.channels={channels}"
            raise ConfigError(Problem("model.kernel_size", text, "write model.kernel_size=3", topic="conflict"))
        width, *image = input_shape
        layers: list[nn.Module] = []
        for width_out, stride, size in zip(channels, strides, sizes, strict=True):
            # Batch norm removes a bias.
            layers.append(nn.Conv2d(width, width_out, size, stride=stride, padding=size // 2, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm2d(width_out))
            layers.append(activation_layer(activation))
            width, image = width_out, [(length - size % 2) // stride + 1 for length in image]
        if pool == "none":
            layers.append(FlattenPositions())
            width *= prod(image)
        else:
            layers += [GlobalMaxPool(), nn.Flatten()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(*hidden_layers(width, hidden, activation, dropout))
        self.head.append(nn.Linear(hidden[-1] if hidden else width, num_outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, num_outputs)."""
        return self.head(self.features(inputs))
