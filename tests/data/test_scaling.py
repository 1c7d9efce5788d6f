"""What raw numbers are divided by."""

import pytest
import torch

from helpers.composed import built
from helpers.problems import about
from runner.data.scaling import is_image
from runner.data.source import Source
from runner.data.splits import Splits
from runner.data.splitting import split
from runner.errors import ConfigError


def divided(inputs: torch.Tensor, scale: float | str = "auto", **others: object) -> Splits:
    source = Source("made", (inputs, torch.arange(len(inputs)) % 2), **others)
    return split(source, val_fraction=0, limit=None, seed=0, scale=scale)


def seen(splits: Splits) -> list[float]:
    return splits.normalize(splits.train.inputs, torch.float64).flatten().tolist()


@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 2, 2), (4, 2, 2), (5, 7)])
def test_images_of_bytes_are_divided_by_255(shape: tuple[int, ...]) -> None:
    splits = divided(torch.full((2, *shape), 51, dtype=torch.uint8))
    assert set(seen(splits)) == {0.2} and splits.notes == ("uint8 images: divided by 255",)


@pytest.mark.parametrize("shape", [(3,), (), (5, 2, 2), (2, 9, 9), (3, 2, 2, 2)])
def test_bytes_that_are_no_images_stay_whole_numbers(shape: tuple[int, ...]) -> None:
    tokens = torch.arange(2 * torch.Size(shape).numel(), dtype=torch.uint8).reshape(2, *shape) + 14
    splits = divided(tokens)
    assert seen(splits) == tokens.flatten().tolist()
    assert splits.notes == ("uint8 values, not images: not scaled",)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int16, torch.float32, torch.float64])
def test_other_numbers_stay_what_they_are(dtype: torch.dtype) -> None:
    splits = divided(torch.full((2, 3, 2, 2), 200, dtype=dtype))
    assert set(seen(splits)) == {200} and splits.notes == ()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(4,), (1, 2, 2), (4, 1, 1, 1)])
def test_a_number_is_the_whole_range_of_whatever_it_is(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    values = torch.arange(8, dtype=dtype).reshape(2, *shape)
    splits = divided(values, 10, mean=0.1, std=0.2)
    assert seen(splits) == pytest.approx(((values.double() / 10 - 0.1) / 0.2).flatten().tolist())
    measured = divided(values, 10, mean=None, std=None)
    assert seen(measured) == pytest.approx(seen(divided(values, "none", mean=None, std=None)))
    with pytest.raises(ConfigError) as caught:
        divided(values, 5)
    assert about(caught) == [("data.scale", "range")]
    assert "write data.scale=7 " in caught.value.problems[0].suggestion


def test_none_leaves_images_alone() -> None:
    assert set(seen(divided(torch.full((2, 1, 2, 2), 200, dtype=torch.uint8), "none"))) == {200}


@pytest.mark.parametrize("white", [1, 15, 16])
def test_images_that_use_little_of_a_byte_are_not_guessed(white: int) -> None:
    masks = torch.tensor([0, white], dtype=torch.uint8).reshape(2, 1, 1, 1)
    with pytest.raises(ConfigError) as caught:
        divided(masks)
    assert about(caught) == [("data.scale", "data")]
    assert all(f"data.scale={value}" in caught.value.problems[0].suggestion for value in (white, 255, "none"))
    assert seen(divided(masks, white)) == [0, 1]  # as the error says
    assert seen(divided(masks, 255)) == [0, white / 255] and seen(divided(masks, "none")) == [0, white]
    assert seen(divided(masks * 0)) == [0, 0]  # black, whatever the range


@pytest.mark.parametrize("white", [3, 16, 17])
def test_images_read_one_by_one_follow_the_same_rule(white: int) -> None:
    samples = [(torch.full((1, 2, 2), value, dtype=torch.uint8), value % 2) for value in range(white + 1)]
    source = Source("made", samples)
    if white > 16:
        splits = split(source, val_fraction=0, limit=None, seed=0)
        assert splits.notes == ("uint8 images: divided by 255",) and splits.normalize.scale == 255
        return
    with pytest.raises(ConfigError) as caught:
        split(source, val_fraction=0, limit=None, seed=0)
    assert about(caught) == [("data.scale", "data")]
    assert f"write data.scale={white} " in caught.value.problems[0].suggestion
    assert split(source, val_fraction=0, limit=None, seed=0, scale=white).normalize.scale == white


def test_what_a_data_set_knows_is_no_guess() -> None:
    dark = torch.full((2, 1, 1, 1), 9, dtype=torch.uint8)
    source = Source("known", (dark, torch.arange(2)), scale=255)
    splits = split(source, val_fraction=0, limit=None, seed=0)
    assert seen(splits) == [9 / 255] * 2 and splits.notes == ()


def test_it_is_a_key_of_every_data_set() -> None:
    whole, scaled = built(), built("data.scale=2")
    torch.testing.assert_close(scaled.splits.normalize.mean, 2 * whole.splits.normalize.mean)
    assert not is_image(torch.float32, (1, 8, 8))
