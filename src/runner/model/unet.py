"""A small U-Net, from images to a value of each class at each pixel."""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from runner.errors import ConfigError, Problem
from runner.util.ranges import COUNT


def convolutions(inputs: int, outputs: int) -> nn.Sequential:
    """Return two 3x3 convolutions, each with batch norm and ReLU; sizes stay."""
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Convolutions at several resolutions, and back to that of the image (Ronneberger et al. 2015, arXiv:1505.04597).

    Unlike there, convolutions are padded, so that outputs are as large as the image, and have batch norm. An image may
    have any size of at least one pixel at the lowest resolution.

    Args:
        input_shape: (C, H, W) of one image; comes from the data.
        num_outputs: classes of a pixel.
        channels: at each resolution, the highest first; each next one has half the height and width.

    Raises:
        ConfigError: the samples are not images, or too small.
    """

    def __init__(self, input_shape: Sequence[int], num_outputs: int, channels: Annotated[list[int], COUNT]) -> None:
        super().__init__()
        if len(input_shape) != 3:
            text = f"model=unet requires images (C, H, W), the samples have shape {tuple(input_shape)}"
            raise ConfigError(
                Problem(
                    "model",
                    text,
                    "write model=mlp, or model=gpt for tokens, or data=shapes task=segmentation",
                    topic="shape",
                )
            )
        if not channels:
            text = "model.channels=[]: the number of resolutions must not be zero"
            raise ConfigError(Problem("model.channels", text, "write model.channels=[16,32,64]", topic="range"))
        halvings = len(channels) - 1
        if min(input_shape[1:]) < 2**halvings:
            size = f"{input_shape[1]}x{input_shape[2]}"
            text = f"model.channels={channels}: images of {size} pixels cannot be halved {halvings} times"
            fitting = ",".join(map(str, channels[: min(input_shape[1:]).bit_length()]))
            raise ConfigError(Problem("model.channels", text, f"write model.channels=[{fitting}]", topic="shape"))
        widths = [input_shape[0], *channels]
        self.down = nn.ModuleList(convolutions(*pair) for pair in zip(widths, channels, strict=False))
        upwards = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(low, high, 2, stride=2) for low, high in upwards)
        self.up = nn.ModuleList(convolutions(2 * high, high) for _, high in upwards)
        self.head = nn.Conv2d(channels[0], num_outputs, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, num_outputs, H, W)."""
        features: list[Tensor] = []
        for block in self.down:
            inputs = block(F.max_pool2d(inputs, 2) if features else inputs)
            features.append(inputs)
        for enlarge, block, beside in zip(self.enlarge, self.up, features[-2::-1], strict=True):
            larger = enlarge(inputs)
            if larger.shape[2:] != beside.shape[2:]:  # an odd side lost a pixel when it was halved
                missing = [beside.shape[axis] - larger.shape[axis] for axis in (3, 2)]
                larger = F.pad(larger, (0, missing[0], 0, missing[1]))
            inputs = block(torch.cat([beside, larger], dim=1))
        return self.head(inputs)
