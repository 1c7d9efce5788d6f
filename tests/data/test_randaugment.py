"""RandAugment: torchvision's operations, drawn for each image."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from runner.data import randaugment
from runner.data.randaugment import OPERATIONS, SIGNED, RandAugment
from runner.util.rng import make_generator

NAMES = {
    "ShearX": randaugment._shear_x, "ShearY": randaugment._shear_y, "TranslateX": randaugment._translate_x,
    "TranslateY": randaugment._translate_y, "Rotate": randaugment._rotate, "Brightness": randaugment._brightness,
    "Color": randaugment._color, "Contrast": randaugment._contrast, "Sharpness": randaugment._sharpness,
    "Posterize": randaugment._posterize, "Solarize": randaugment._solarize, "AutoContrast": randaugment._autocontrast,
    "Equalize": randaugment._equalize, "Identity": randaugment._identity,
}  # fmt: skip
"""The operations, by their names in torchvision."""


def pictures(samples: int = 32, channels: int = 3, side: int = 16) -> Tensor:
    return torch.rand(samples, channels, side, side, generator=make_generator("pictures"))


def changed(images: Tensor, operations: int = 2, magnitude: float = 9, number: int = 1) -> Tensor:
    """RandAugment of images in [0, 1], whose mean is 0.5 and standard deviation 0.25."""
    augment = RandAugment(operations, magnitude, torch.tensor(-2.0), torch.tensor(2.0))
    return augment((images - 0.5) / 0.25, make_generator("augment", number)) * 0.25 + 0.5


def test_the_operations_are_those_of_torchvision() -> None:
    space: Any = v2.RandAugment._AUGMENTATION_SPACE
    assert set(NAMES) == set(space) and set(NAMES.values()) == set(OPERATIONS)
    assert {NAMES[name] for name, (_, signed) in space.items() if signed} == set(SIGNED)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_each_does_what_torchvision_does_at_the_same_magnitude(name: str, magnitude: int) -> None:
    class One(v2.RandAugment):
        _AUGMENTATION_SPACE = {name: v2.RandAugment._AUGMENTATION_SPACE[name]}  # noqa: RUF012

    theirs = One(num_ops=1, magnitude=magnitude, num_magnitude_bins=31, interpolation=v2.InterpolationMode.BILINEAR)
    images, operation = pictures(4), NAMES[name]
    strength = magnitude / 30
    ours = [operation(functional, images, sign * strength) for sign in ((1, -1) if operation in SIGNED else (1,))]
    for seed in range(3):
        torch.manual_seed(seed)
        expected = theirs(images)
        assert any(torch.allclose(expected, one, atol=1e-6) for one in ours)


def test_each_image_has_operations_of_its_own() -> None:
    image = pictures(1)
    out = changed(image.expand(400, -1, -1, -1).contiguous(), operations=1)
    kinds = {tuple(one.flatten().tolist()) for one in out}
    assert len(kinds) == len(OPERATIONS) + len(SIGNED)  # those with a sign go both ways


def test_the_operations_come_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def added(amount: float) -> Callable[..., Tensor]:
        return lambda functional, images, strength: images + amount

    monkeypatch.setattr(randaugment, "OPERATIONS", (randaugment._identity, added(0.01), added(0.1)))
    monkeypatch.setattr(randaugment, "SIGNED", ())
    out = changed(torch.full((200, 1, 4, 4), 0.25), operations=2)[:, 0, 0, 0] - 0.25
    assert {round(value, 2) for value in out.tolist()} == {0.0, 0.01, 0.1, 0.02, 0.11, 0.2}


def test_images_without_a_change_are_kept_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(randaugment, "OPERATIONS", (randaugment._identity,))
    images = torch.randn(8, 3, 5, 5)  # beyond black and white too
    augment = RandAugment(2, 9, torch.tensor(-1.0), torch.tensor(1.0))
    assert torch.equal(augment(images, make_generator("augment")), images)


def test_values_stay_between_black_and_white() -> None:
    out = changed(pictures(200), operations=3, magnitude=30)
    assert out.min() >= -1e-6 and out.max() <= 1 + 1e-6


def test_grey_images_and_small_ones_are_taken() -> None:
    for channels, side in ((1, 8), (3, 2), (1, 1)):
        images = pictures(100, channels, side)
        assert changed(images, operations=2, magnitude=30).shape == images.shape
