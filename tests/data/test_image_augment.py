"""Augmented images: what each change does to an image, and that every sample's draws are its own and come again."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from runner.data.image_augment import ImageAugment, _to_whole, rotate
from runner.data.randaugment import RandAugment
from runner.util.rng import make_generator

BLACK_AND_WHITE = {"black": torch.tensor(-3.0), "white": torch.tensor(3.0)}
EACH: dict[str, dict[str, Any]] = {
    "crop": {"crop": 3},
    "flip": {"flip": True},
    "rotation": {"rotation": 20},
    "erasing": {"erasing": 0.5},
    "randaugment": {"randaugment": RandAugment(2, 9, **BLACK_AND_WHITE)},
}

each = pytest.mark.parametrize("name", EACH)
layouts = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])


def drawn(number: int = 1) -> torch.Generator:
    return make_generator("augment", 0, 1, number)


def noise(samples: int = 64, channels: int = 3, height: int = 12, width: int = 12) -> Tensor:
    return torch.randn(samples, channels, height, width, generator=make_generator("noise"))


@each
def test_identical_images_come_out_different(name: str) -> None:
    image = noise(1)
    out = ImageAugment(**EACH[name])(image.expand(64, -1, -1, -1).contiguous(), drawn())
    kinds = {tuple(one.flatten().tolist()) for one in out}
    # Mirrored or not is all that flip can do; a crop of 3 has 49 places.
    assert len(kinds) == 2 if name == "flip" else len(kinds) > 25


@each
@layouts
def test_shape_type_and_memory_format_stay_and_the_images_given_too(name: str, layout: torch.memory_format) -> None:
    augment = ImageAugment(**EACH[name], black=torch.tensor([-1.0, 0.0, 2.0]).view(3, 1, 1))
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        images = noise().to(dtype).contiguous(memory_format=layout)
        before = images.clone()
        out = augment.to(torch.device("cpu"), dtype)(images, drawn())
        assert (out.shape, out.dtype, out.stride()) == (images.shape, dtype, images.stride())
        assert torch.equal(images, before) and not torch.equal(out, images)


@each
@pytest.mark.parametrize("channels", [1, 3])
def test_both_memory_formats_give_the_same(name: str, channels: int) -> None:
    images, black = noise(channels=channels, height=9, width=13), torch.arange(channels).view(-1, 1, 1) - 1.0
    augment = ImageAugment(**EACH[name], black=black)
    out = [augment(images.contiguous(memory_format=f), drawn()) for f in (torch.contiguous_format, torch.channels_last)]
    torch.testing.assert_close(out[0], out[1].contiguous(), rtol=0, atol=1e-6)


@each
def test_the_same_draws_give_the_same_and_others_give_others(name: str) -> None:
    images, augment = noise(), ImageAugment(**EACH[name])
    assert torch.equal(augment(images, drawn(1)), augment(images, drawn(1)))
    assert not torch.equal(augment(images, drawn(1)), augment(images, drawn(2)))


def test_turning_one_on_leaves_the_draws_of_the_others_alone() -> None:
    images = noise()
    flipped = ImageAugment(flip=True)(images, drawn())
    both = ImageAugment(flip=True, erasing=1.0)(images, drawn())
    kept = both != 0
    assert torch.equal(both[kept], flipped[kept]) and not kept.all()


@layouts
def test_crop_shifts_by_up_to_so_many_pixels_and_black_comes_in(layout: torch.memory_format) -> None:
    height, width, n = 7, 10, 2
    black = torch.tensor([-1.5, -2.5]).view(2, 1, 1)
    images = noise(400, 2, height, width).contiguous(memory_format=layout)
    out = ImageAugment(crop=n, black=black)(images, drawn())
    padded = black.expand(400, 2, height + 2 * n, width + 2 * n).clone()
    padded[:, :, n:-n, n:-n] = images
    places = [(top, left) for top in range(2 * n + 1) for left in range(2 * n + 1)]
    counts = dict.fromkeys(places, 0)
    for padding, image in zip(padded, out, strict=True):
        (found,) = [p for p in places if torch.equal(padding[:, p[0] : p[0] + height, p[1] : p[1] + width], image)]
        counts[found] += 1
    assert min(counts.values()) > 0  # 16 are expected of each


@layouts
def test_flip_mirrors_every_other_image_exactly(layout: torch.memory_format) -> None:
    images = noise(1000, 2, 4, 5).contiguous(memory_format=layout)
    out = ImageAugment(flip=True)(images, drawn())
    mirrored = (out == images.flip(3)).flatten(1).all(1)
    kept = (out == images).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 0.45 < mirrored.double().mean() < 0.55


def test_rotation_turns_either_way_and_as_far_as_it_is_told() -> None:
    # A bright spot to the right of the middle: where it goes tells the angle.
    images = torch.zeros(500, 1, 41, 41)
    images[:, :, 20, 35] = 1
    out = ImageAugment(rotation=30)(images, drawn())[:, 0]
    y, x = torch.meshgrid(torch.arange(41.0), torch.arange(41.0), indexing="ij")
    weight = out.sum((1, 2))
    angles = torch.rad2deg(torch.atan2((out * (y - 20)).sum((1, 2)) / weight, (out * (x - 20)).sum((1, 2)) / weight))
    assert angles.abs().max() < 31 and angles.abs().max() > 28
    assert abs(angles.mean()) < 3  # the standard error is 0.8
    assert abs(angles.std() - 30 / math.sqrt(3)) < 1.5  # evenly distributed


def test_rotation_keeps_shapes_round_in_an_image_that_is_not_square() -> None:
    y, x = torch.meshgrid(torch.arange(21.0), torch.arange(41.0), indexing="ij")
    blob = torch.exp(-((y - 10) ** 2 + (x - 20) ** 2) / 20).expand(50, 1, -1, -1).contiguous()
    out = ImageAugment(rotation=180)(blob, drawn())
    torch.testing.assert_close(out, blob, rtol=0, atol=0.05)


def test_rotation_by_180_degrees_is_exact_and_black_comes_in_at_the_corners() -> None:
    images, black = noise(8, 3, 9, 9), torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    half = rotate(images, torch.full((8,), 180.0), black)
    torch.testing.assert_close(half, images.flip(2, 3), rtol=0, atol=1e-4)
    quarter = rotate(images, torch.full((8,), 45.0), black)
    torch.testing.assert_close(quarter[:, :, 0, 0], black.view(1, 3).expand(8, 3))


def test_erasing_blanks_a_rectangle_of_its_size_in_its_share_of_the_images() -> None:
    images = torch.ones(2000, 3, 32, 32)
    out = ImageAugment(erasing=0.25)(images, drawn())
    blank = out == 0
    assert torch.equal(blank[:, 0], blank[:, 2])
    blank = blank[:, 0]
    erased = blank.flatten(1).any(1)
    assert 0.22 < erased.double().mean() < 0.28
    shares, corners = [], set()
    for mask in blank[erased]:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        assert mask.sum() == len(rows) * len(columns) == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        shares.append(mask.double().mean().item())
        corners.add((int(rows[0]), int(columns[-1])))
        assert 0.25 < len(rows) / len(columns) < 3.7  # 0.3 to 3.3, in whole pixels
    assert 0.015 < min(shares) < 0.04 and 0.3 < max(shares) < 0.36
    assert abs(sum(shares) / len(shares) - 0.175) < 0.02
    assert len(corners) > 100


@pytest.mark.parametrize("side", [1, 2, 8])
def test_erasing_fits_into_small_images(side: int) -> None:
    out = ImageAugment(erasing=1.0)(torch.ones(500, 1, side, 2 * side), drawn())
    assert (out == 0).flatten(1).any(1).all()


def test_no_draw_is_out_of_range() -> None:
    largest = torch.tensor([1 - 2**-24])
    assert all(_to_whole(largest, count).item() == count - 1 for count in range(1, 500))
