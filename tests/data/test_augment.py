"""Augmentation: what each does to an image, and that every sample's draws are its own and come again."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import Called
from helpers.composed import accuracy, trained
from helpers.problems import about, problems_of
from helpers.training import blobs, divided, loaders, same
from runner.data.augment import Augment, make_augment
from runner.data.loading import Loaders
from runner.data.source import Source
from runner.data.splits import Splits, split
from runner.util.rng import make_generator

EACH = {"crop": {"crop": 3}, "flip": {"flip": True}, "rotation": {"rotation": 20}, "erasing": {"erasing": 0.5}}
ALL: dict[str, Any] = {key: value for one in EACH.values() for key, value in one.items()}

each = pytest.mark.parametrize("name", EACH)
layouts = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])


def drawn(number: int = 1) -> torch.Generator:
    return make_generator("augment", 0, 1, number)


def noise(samples: int = 64, channels: int = 3, height: int = 12, width: int = 12) -> Tensor:
    return torch.randn(samples, channels, height, width, generator=make_generator("noise"))


def pictures(samples: int = 50, channels: int = 3, side: int = 8) -> Splits:
    made = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (samples, channels, side, side), generator=made, dtype=torch.uint8)
    labels = torch.randint(4, (samples,), generator=made)
    source = Source("images", train=(pixels, labels), test=(pixels[:9], labels[:9]), mean=0.4, std=0.2)
    return split(source, val_fraction=0.2, limit=None, seed=0)


@each
def test_identical_images_come_out_different(name: str) -> None:
    image = noise(1)
    out = Augment(**EACH[name])(image.expand(64, -1, -1, -1).contiguous(), drawn())
    kinds = {tuple(one.flatten().tolist()) for one in out}
    # Mirrored or not is all that flip can do; a crop of 3 has 49 places.
    assert len(kinds) == 2 if name == "flip" else len(kinds) > 25


@each
@layouts
def test_shape_type_and_memory_format_stay_and_the_images_given_too(name: str, layout: torch.memory_format) -> None:
    augment = Augment(**EACH[name], black=torch.tensor([-1.0, 0.0, 2.0]).view(3, 1, 1))
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
    augment = Augment(**EACH[name], black=black)
    out = [augment(images.contiguous(memory_format=f), drawn()) for f in (torch.contiguous_format, torch.channels_last)]
    torch.testing.assert_close(out[0], out[1].contiguous(), rtol=0, atol=1e-6)


@each
def test_the_same_draws_give_the_same_and_others_give_others(name: str) -> None:
    images, augment = noise(), Augment(**EACH[name])
    assert torch.equal(augment(images, drawn(1)), augment(images, drawn(1)))
    assert not torch.equal(augment(images, drawn(1)), augment(images, drawn(2)))


def test_turning_one_on_leaves_the_draws_of_the_others_alone() -> None:
    images = noise()
    flipped = Augment(flip=True)(images, drawn())
    both = Augment(flip=True, erasing=1.0)(images, drawn())
    kept = both != 0
    assert torch.equal(both[kept], flipped[kept]) and not kept.all()


@layouts
def test_crop_shifts_by_up_to_so_many_pixels_and_black_comes_in(layout: torch.memory_format) -> None:
    height, width, n = 7, 10, 2
    black = torch.tensor([-1.5, -2.5]).view(2, 1, 1)
    images = noise(400, 2, height, width).contiguous(memory_format=layout)
    out = Augment(crop=n, black=black)(images, drawn())
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
    out = Augment(flip=True)(images, drawn())
    mirrored = (out == images.flip(3)).flatten(1).all(1)
    kept = (out == images).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 0.45 < mirrored.double().mean() < 0.55


def test_rotation_turns_either_way_and_as_far_as_it_is_told() -> None:
    # A bright spot to the right of the middle: where it goes tells the angle.
    images = torch.zeros(500, 1, 41, 41)
    images[:, :, 20, 35] = 1
    out = Augment(rotation=30)(images, drawn())[:, 0]
    y, x = torch.meshgrid(torch.arange(41.0), torch.arange(41.0), indexing="ij")
    weight = out.sum((1, 2))
    angles = torch.rad2deg(torch.atan2((out * (y - 20)).sum((1, 2)) / weight, (out * (x - 20)).sum((1, 2)) / weight))
    assert angles.abs().max() < 31 and angles.abs().max() > 28
    assert abs(angles.mean()) < 3  # the standard error is 0.8
    assert abs(angles.std() - 30 / math.sqrt(3)) < 1.5  # evenly distributed


def test_rotation_keeps_shapes_round_in_an_image_that_is_not_square() -> None:
    y, x = torch.meshgrid(torch.arange(21.0), torch.arange(41.0), indexing="ij")
    blob = torch.exp(-((y - 10) ** 2 + (x - 20) ** 2) / 20).expand(50, 1, -1, -1).contiguous()
    out = Augment(rotation=180)(blob, drawn())
    torch.testing.assert_close(out, blob, rtol=0, atol=0.05)


def test_rotation_by_180_degrees_is_exact_and_black_comes_in_at_the_corners() -> None:
    from runner.data.augment import rotate

    images, black = noise(8, 3, 9, 9), torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    half = rotate(images, torch.full((8,), 180.0), black)
    torch.testing.assert_close(half, images.flip(2, 3), rtol=0, atol=1e-4)
    quarter = rotate(images, torch.full((8,), 45.0), black)
    torch.testing.assert_close(quarter[:, :, 0, 0], black.view(1, 3).expand(8, 3))


def test_erasing_blanks_a_rectangle_of_its_size_in_its_share_of_the_images() -> None:
    images = torch.ones(2000, 3, 32, 32)
    out = Augment(erasing=0.25)(images, drawn())
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
    out = Augment(erasing=1.0)(torch.ones(500, 1, side, 2 * side), drawn())
    assert (out == 0).flatten(1).any(1).all()


def test_no_draw_is_out_of_range() -> None:
    from runner.data.augment import _to_whole

    largest = torch.tensor([1 - 2**-24])
    assert all(_to_whole(largest, count).item() == count - 1 for count in range(1, 500))


# --- from the config ---


def test_nothing_asked_for_is_no_augmentation() -> None:
    off = {"crop": 0, "flip": False, "rotation": 0.0, "erasing": 0.0}
    assert make_augment(divided(), **off) is None and make_augment(pictures(), **off) is None


def test_black_is_the_normalised_zero_of_each_channel() -> None:
    splits = pictures()
    means = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64).view(3, 1, 1)
    splits = dataclasses.replace(splits, normalize=dataclasses.replace(splits.normalize, mean=means))
    augment = make_augment(splits, crop=2, flip=False, rotation=0, erasing=0)
    assert augment is not None
    assert torch.as_tensor(augment.black).flatten().tolist() == pytest.approx([-0.5, -1.0, -1.5])


@pytest.mark.parametrize(
    ("setting", "suggested"),
    [
        ({"crop": 2}, "write data.augment.crop=0"),
        ({"flip": True}, "write data.augment.flip=false"),
        ({"rotation": 5.0}, "write data.augment.rotation=0"),
        ({"erasing": 0.5}, "write data.augment.erasing=0"),
    ],
)
def test_samples_that_are_no_images_are_refused(setting: dict[str, Any], suggested: str) -> None:
    off = {"crop": 0, "flip": False, "rotation": 0.0, "erasing": 0.0}
    (problem,) = problems_of(lambda: make_augment(divided(blobs()), **(off | setting)))
    assert about([problem]) == [(f"data.augment.{next(iter(setting))}", "shape")]
    assert problem.suggestion == suggested and "(6,)" in problem.text
    assert make_augment(divided(blobs()), **off) is None  # as it says


def test_every_augmentation_that_needs_images_is_reported() -> None:
    several = problems_of(lambda: make_augment(divided(blobs()), crop=2, flip=True))
    assert about(several) == [("data.augment.crop", "shape"), ("data.augment.flip", "shape")]


def test_so_is_one_that_there_is_not() -> None:
    several = problems_of(lambda: make_augment(pictures(), flp=True, turn=3))
    assert about(several) == [("data.augment.flp", "unknown"), ("data.augment.turn", "unknown")]
    assert several[0].suggestion == "did you mean flip?"


def test_so_is_a_shift_out_of_the_image(runner: Callable[..., Called]) -> None:
    called = runner("tracking=off", "data.augment.crop=8")
    assert called.code == 2 and called.about == [("data.augment.crop", "range")]
    assert called.problems[0].suggestion == "write data.augment.crop=7 or less"


# --- in the loaders ---


def augmented(splits: Splits, in_memory: bool = True, num_workers: int = 0, **changed: Any) -> Loaders:
    values = {"channels_last": True, "augment": make_augment(splits, **ALL)} | changed
    return loaders(splits, in_memory=in_memory, num_workers=num_workers, **values)


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_training_batches_are_augmented_and_no_others(in_memory: bool) -> None:
    with_it, without = augmented(pictures(), in_memory), augmented(pictures(), in_memory, augment=None)
    for (a, labels), (b, same_labels) in zip(with_it.train.epoch(1), without.train.epoch(1), strict=True):
        assert torch.equal(labels, same_labels) and not torch.equal(a, b)
    for part in ("val", "test"):
        assert same(list(getattr(with_it, part).epoch(1)), list(getattr(without, part).epoch(1)))


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_batch_of_an_epoch_always_looks_the_same_wherever_the_epoch_is_entered(in_memory: bool) -> None:
    made = augmented(pictures(), in_memory)
    whole = list(made.train.epoch(2))
    torch.manual_seed(5)
    for start in (0, 1, 4):
        assert same(list(made.train.epoch(2, start)), whole[start:])
    assert same(list(augmented(pictures(), in_memory).train.epoch(2)), whole)
    other = list(made.train.epoch(3))
    # Another epoch draws anew, not only in another order.
    first = {tuple(image.flatten().tolist()) for inputs, _ in whole for image in inputs}
    assert not any(tuple(image.flatten().tolist()) in first for inputs, _ in other for image in inputs)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_through_workers_they_look_as_they_do_from_memory(channels_last: bool, dtype: torch.dtype) -> None:
    memory = list(augmented(pictures(), channels_last=channels_last, dtype=dtype).train.epoch(1))
    inline = augmented(pictures(), in_memory=False, channels_last=channels_last, dtype=dtype)
    assert same(memory, list(inline.train.epoch(1)))
    if dtype == torch.float32 and channels_last:
        workers = augmented(pictures(), in_memory=False, num_workers=2, channels_last=channels_last, dtype=dtype)
        assert same(memory, list(workers.train.epoch(1)))


@pytest.mark.parametrize("asked", ["crop=1", "flip=true", "rotation=15", "erasing=0.5"])
def test_each_trains_better_than_chance(asked: str, here: Path) -> None:
    assert accuracy(trained(here, f"data.augment.{asked}", "trainer.epochs=3")) > 0.5
