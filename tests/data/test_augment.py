"""`data.augment`: from the config to the batches of the loaders."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import Called
from helpers.composed import accuracy, trained
from helpers.problems import about, problem_of, problems_of
from helpers.training import blobs, divided, loaders, same
from runner.data.augment import Augment, make_augment
from runner.data.loading import Loaders
from runner.data.source import Source
from runner.data.splits import Splits
from runner.data.splitting import split

ALL: dict[str, Any] = {
    "crop": 3, "flip": True, "rotation": 20, "erasing": 0.5, "randaugment": {"operations": 1}, "mixup": {"alpha": 1},
    "cutmix": {"alpha": 1},
}  # fmt: skip


def pictures(samples: int = 50, channels: int = 3, side: int = 8) -> Splits:
    made = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (samples, channels, side, side), generator=made, dtype=torch.uint8)
    labels = torch.randint(4, (samples,), generator=made)
    source = Source("images", train=(pixels, labels), test=(pixels[:9], labels[:9]), mean=0.4, std=0.2)
    return split(source, val_fraction=0.2, limit=None, seed=0)


def test_nothing_asked_for_is_no_augmentation() -> None:
    off = {"crop": 0, "flip": False, "rotation": 0.0, "erasing": 0.0}
    assert make_augment(divided(), **off) is None and make_augment(pictures(), **off) is None


def test_black_is_the_normalised_zero_of_each_channel() -> None:
    splits = pictures()
    means = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64).view(3, 1, 1)
    splits = dataclasses.replace(splits, normalize=dataclasses.replace(splits.normalize, mean=means))
    augment = make_augment(splits, crop=2, flip=False, rotation=0, erasing=0)
    assert augment is not None and augment.images is not None and augment.mixing is None
    assert torch.as_tensor(augment.images.black).flatten().tolist() == pytest.approx([-0.5, -1.0, -1.5])


@pytest.mark.parametrize(
    ("setting", "suggested"),
    [
        ({"crop": 2}, "write data.augment.crop=0"),
        ({"flip": True}, "write data.augment.flip=false"),
        ({"rotation": 5.0}, "write data.augment.rotation=0"),
        ({"erasing": 0.5}, "write data.augment.erasing=0"),
        ({"randaugment": {"operations": 2}}, "write data.augment.randaugment.operations=0"),
        ({"cutmix": {"alpha": 1}}, "write data.augment.cutmix.alpha=0"),
    ],
)
def test_samples_that_are_no_images_are_refused(setting: dict[str, Any], suggested: str) -> None:
    problem = problem_of(lambda: make_augment(divided(blobs()), **setting))
    assert about([problem]) == [(suggested.removeprefix("write ").partition("=")[0], "shape")]
    assert problem.suggestion == suggested and "(6,)" in problem.text
    off = {"crop": 0, "flip": False, "randaugment": {"operations": 0}, "cutmix": {"alpha": 0}}
    assert make_augment(divided(blobs()), **off) is None  # as it says


def test_rows_can_be_mixed_but_several_inputs_and_indices_cannot() -> None:
    augment = make_augment(divided(blobs()), mixup={"alpha": 1})
    assert augment is not None and augment.images is None and augment.mixing is not None
    labels = torch.arange(20) % 2
    two = {"a": torch.randn(20, 3), "b": torch.randn(20, 2)}
    problem = problem_of(lambda: make_augment(divided(Source("two", (two, labels))), mixup={"alpha": 1}))
    assert about([problem]) == [("data.augment.mixup.alpha", "conflict")] and "several" in problem.text
    problem = problem_of(lambda: make_augment(divided(Source("two", (two, labels))), crop=1))
    assert about([problem]) == [("data.augment.crop", "shape")]


def test_masks_of_the_images_size_are_not_left_behind() -> None:
    pixels, masks = torch.rand(20, 1, 8, 8), torch.zeros(20, 8, 8, dtype=torch.long)
    problem = problem_of(lambda: make_augment(divided(Source("masks", (pixels, masks))), flip=True))
    assert about([problem]) == [("data.augment.flip", "conflict")]


@pytest.mark.parametrize(
    ("keys", "key", "topic"),
    [
        ({"mixup": {"alhpa": 1}}, "data.augment.mixup.alhpa", "unknown"),
        ({"randaugment": {"black": 1}}, "data.augment.randaugment.black", "unknown"),
        ({"mixup": 0.4}, "data.augment.mixup", "type"),
        ({"cutmix": True}, "data.augment.cutmix", "type"),
    ],
)
def test_keys_of_an_augmentation_are_checked(keys: dict[str, Any], key: str, topic: str) -> None:
    assert about(problems_of(lambda: make_augment(pictures(), **keys))) == [(key, topic)]


def test_what_randaugment_takes_as_black_and_white() -> None:
    def extremes(splits: Splits) -> list[float]:
        augment = make_augment(splits, randaugment={"operations": 2})
        assert augment is not None and augment.images is not None and augment.images.randaugment is not None
        made = augment.images.randaugment
        return [float(splits.normalize.std * value + splits.normalize.mean) for value in (made.black, made.white)]

    labels = torch.arange(20) % 2
    assert extremes(pictures()) == pytest.approx([0, 1])  # bytes, divided by 255
    floats = torch.linspace(0, 16, 20).view(20, 1, 1, 1).expand(20, 1, 4, 4)
    source = Source("floats", (floats, labels), mean=3.0, std=2.0)
    # The largest value of the training part; the last one may be held out.
    assert extremes(split(source, val_fraction=0, limit=None, seed=0)) == pytest.approx([0, 16])
    assert extremes(split(source, val_fraction=0, limit=None, seed=0, scale=32.0)) == pytest.approx([0, 16])
    negative = divided(Source("negative", (floats - 1, labels)))
    assert about(problems_of(lambda: extremes(negative))) == [("data.augment.randaugment.operations", "data")]
    planes = divided(Source("planes", (floats.expand(20, 5, 4, 4), labels)))
    assert about(problems_of(lambda: extremes(planes))) == [("data.augment.randaugment.operations", "shape")]


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


def everything(splits: Splits) -> Augment:
    augment = make_augment(splits, **ALL)
    assert augment is not None and augment.mixing is not None
    return dataclasses.replace(augment, mixing=dataclasses.replace(augment.mixing, classes=4))


def augmented(splits: Splits, in_memory: bool = True, num_workers: int = 0, **changed: Any) -> Loaders:
    values = {"channels_last": True, "augment": everything(splits)} | changed
    return loaders(splits, in_memory=in_memory, num_workers=num_workers, **values)


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_training_batches_are_augmented_and_no_others(in_memory: bool) -> None:
    with_it, without = augmented(pictures(), in_memory), augmented(pictures(), in_memory, augment=None)
    for (a, labels), (b, same_labels) in zip(with_it.train.epoch(1), without.train.epoch(1), strict=True):
        assert not torch.equal(a, b) and labels.shape == (len(same_labels), 4)
        assert (labels.gather(1, same_labels.unsqueeze(1)) > 0).all()  # each keeps a share of its own class
        torch.testing.assert_close(labels.sum(1), torch.ones(len(labels)))
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


@pytest.mark.parametrize(
    "asked", ["crop=1", "flip=true", "rotation=15", "erasing=0.5", "mixup.alpha=0.2", "cutmix.alpha=1"]
)
def test_each_trains_better_than_chance(asked: str, here: Path) -> None:
    assert accuracy(trained(here, f"data.augment.{asked}", "trainer.epochs=3")) > 0.5


def test_randaugment_trains_better_than_chance(here: Path) -> None:
    asked = ("data.augment=[{randaugment:{operations:1,magnitude:5}}]", "data.limit=600", "trainer.epochs=5")
    assert accuracy(trained(here, *asked)) > 0.5


def test_the_draws_of_the_images_do_not_change_with_the_mixing() -> None:
    splits = pictures()
    alone = make_augment(splits, **ALL | {"mixup": None, "cutmix": None})
    half = make_augment(splits, **ALL | {"mixup": {"alpha": 1, "probability": 0.5}, "cutmix": None})
    assert alone is not None and half is not None and half.mixing is not None
    half = dataclasses.replace(half, mixing=dataclasses.replace(half.mixing, classes=4))
    batches = [
        next(iter(augmented(splits, augment=augment, batch_size=40).train.epoch(1))) for augment in (alone, half)
    ]
    same_images = [torch.equal(one, other) for one, other in zip(batches[0][0], batches[1][0], strict=True)]
    assert 10 < sum(same_images) < 30  # half of them are mixed
