import pytest
import torch
from torch import nn

from helpers.problems import about
from runner.errors import ConfigError
from runner.model.probe import parameter_count
from runner.model.unet import UNet


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (4, 5)])
def test_outputs_are_as_large_as_the_image(size: tuple[int, int]) -> None:
    model = UNet((3, *size), 5, channels=[4, 6, 8])
    assert model(torch.randn(2, 3, *size)).shape == (2, 5, *size)


def test_resolutions_are_those_of_the_channels() -> None:
    model, shapes = UNet((1, 16, 16), 2, channels=[4, 6, 8]), list[tuple[int, ...]]()
    for block in model.down:
        block.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    model(torch.randn(2, 1, 16, 16))
    assert shapes == [(4, 16, 16), (6, 8, 8), (8, 4, 4)]
    assert parameter_count(UNet((1, 16, 16), 2, channels=[4])) < parameter_count(model)
    assert not any(isinstance(part, nn.ConvTranspose2d) for part in UNet((1, 1, 1), 2, channels=[4]).modules())


def test_a_pixel_is_seen_from_afar() -> None:
    torch.manual_seed(0)
    model = UNet((1, 32, 32), 2, channels=[8, 8, 8]).eval()
    image = torch.randn(1, 1, 32, 32, requires_grad=True)
    model(image)[0, :, 16, 16].sum().backward()
    assert image.grad is not None
    assert (image.grad[0, 0] != 0).any(1).sum() > 16, "the four convolutions of the highest resolution alone see 9"


@pytest.mark.parametrize(
    ("shape", "channels", "key", "topic", "suggestion"),
    [
        ((4,), [4], "model", "shape", "write model=mlp, or model=gpt for tokens, or data=shapes task=segmentation"),
        ((1, 8, 8), [], "model.channels", "range", "write model.channels=[16,32,64]"),
        ((1, 5, 3), [4, 6, 8], "model.channels", "shape", "write model.channels=[4,6]"),
    ],
)
def test_what_does_not_fit_is_said(
    shape: tuple[int, ...], channels: list[int], key: str, topic: str, suggestion: str
) -> None:
    with pytest.raises(ConfigError) as error:
        UNet(shape, 2, channels=channels)
    assert about(error) == [(key, topic)]
    assert error.value.problems[0].suggestion == suggestion
