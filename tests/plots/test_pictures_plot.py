"""Samples as their task draws them: layout, colors, brightness, and that the plot is legible."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from torch import Tensor

from helpers.drawn import Plot
from runner.plots.drawing import BLUE
from runner.plots.pictures import FEW, SAMPLES, draw_pictures

# ResourceWarning: a process of another test may be collected here
pytestmark = [pytest.mark.filterwarnings("error", "default::ResourceWarning"), pytest.mark.usefixtures("plots")]

MASK = torch.tensor([[[0, 1], [2, -1]]])


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_three_pictures_stand_side_by_side(tmp_path: Path, plots: dict[str, Plot]) -> None:
    shown = {"image": images(9, 3, 4, 4), "mask": MASK.repeat(9, 2, 2), "prediction": MASK.repeat(9, 2, 2)}
    assert draw_pictures(shown, tmp_path / "plots", "6 of 9 test samples", ["sky", "sea", "tree"]) == [
        tmp_path / "plots" / "samples.png"
    ]
    plot = plots["samples"]
    assert len(plot.images) == 3 * SAMPLES
    assert np.allclose(plot.images[3], shown["image"][1].permute(1, 2, 0), atol=1e-6)
    assert plot.texts == ["image", "mask", "prediction", "sky", "sea", "tree", "no class", "6 of 9 test samples"]
    expected = [[to_rgb(FEW[0]), to_rgb(BLUE)], [to_rgb(FEW[2]), (1, 1, 1)]]
    assert np.allclose(plot.images[1][:2, :2], expected, atol=1e-6)


def test_two_stand_above_each_other(tmp_path: Path, plots: dict[str, Plot]) -> None:
    shown = {"input": images(4, 1, 8, 8), "reconstruction": images(4, 1, 8, 8) + 0.5}
    draw_pictures(shown, tmp_path, "4 of 4 validation samples")
    plot = plots["samples"]
    assert plot.texts == ["input", "reconstruction", "4 of 4 validation samples"]
    assert len(plot.images) == 8
    for place in range(4):
        assert np.allclose(plot.images[place], shown["input"][place, 0], atol=1e-6)
        brighter = shown["reconstruction"][place, 0].clamp(max=1)
        assert np.allclose(plot.images[4 + place], brighter, atol=1e-6), "in the brightness of the first"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (torch.tensor([0, 51, 255], dtype=torch.uint8), [0, 0.2, 1]),
        (torch.tensor([-1.0, 0.0, 3.0]), [0, 0.25, 1]),
        (torch.tensor([0.5, 0.5, 0.25]), [0.5, 0.5, 0.25]),
    ],
)
def test_bytes_and_numbers(raw: Tensor, shown: list[float], tmp_path: Path, plots: dict[str, Plot]) -> None:
    draw_pictures({"input": raw.reshape(1, 1, 1, 3)}, tmp_path, "1 sample")
    assert plots["samples"].images[0].tolist()[0] == pytest.approx(shown)


@pytest.mark.parametrize("shape", [(2, 1, 4, 60), (2, 3, 60, 4), (2, 4, 1, 1), (1, 28, 28), (2, 2, 16, 16)])
@pytest.mark.parametrize("pictures", [1, 2, 5])
def test_pictures_of_all_shapes(shape: tuple[int, ...], pictures: int, tmp_path: Path, plots: dict[str, Plot]) -> None:
    shown = {f"the picture with the number {number}": images(*shape) for number in range(pictures)}
    draw_pictures(shown, tmp_path, "some samples")
    assert len(plots["samples"].images) == pictures * shape[0]


@pytest.mark.parametrize("count", [8, 20, 150])
def test_many_classes(count: int, tmp_path: Path, plots: dict[str, Plot]) -> None:
    masks = torch.arange(count).reshape(1, 1, -1)
    names = [f"a class of a long name, {number}" for number in range(count)]
    for given in (names, None):
        draw_pictures({"mask": masks, "prediction": masks}, tmp_path, "1 sample", given)
        assert len(plots["samples"].texts) == 3 + min(20, count)
        assert len({tuple(color) for color in plots["samples"].images[0][0].tolist()}) == count


@pytest.mark.parametrize("count", [3, 12, 150])
def test_a_class_has_the_same_color_in_other_samples(count: int, tmp_path: Path, plots: dict[str, Plot]) -> None:
    colors = []
    for mask in (MASK, torch.full((1, 2, 2), 2)):
        draw_pictures({"mask": mask}, tmp_path, "1 sample", [str(number) for number in range(count)])
        colors.append(plots["samples"].images[0][1, 0].tolist())
    assert colors[0] == colors[1]


def test_the_same_samples_make_the_same_file(tmp_path: Path) -> None:
    shown = {"image": images(3, 3, 4, 4), "mask": MASK.repeat(3, 2, 2)}
    first, second = (draw_pictures(shown, tmp_path / name, "3 samples")[0].read_bytes() for name in ("a", "b"))
    assert first == second


def test_what_is_no_picture_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"points has the shape \(3, 2\)"):
        draw_pictures({"points": torch.rand(3, 2)}, tmp_path, "3 samples")
