"""What stands in for matplotlib's slow parts, its ticks, text and PNG files, draws what matplotlib draws."""

import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from runner.plots.drawing import STYLE, Drawing, new_drawing, short_number
from runner.plots.png import PALETTE, write_png
from runner.plots.text import DPI

# ResourceWarning: a process of another test may be collected here
pytestmark = pytest.mark.filterwarnings("error", "default::ResourceWarning")


def look(file: Path) -> NDArray[np.float64]:
    """The brightness of a plot, blurred: letters may lie half a pixel aside."""
    with Image.open(file) as image:
        return np.asarray(image.convert("L").filter(ImageFilter.GaussianBlur(2)), dtype=float)


def curve(axes: Axes) -> None:
    axes.plot([1, 2, 3, 4], [0.3, 3, 20, 90], "o-")
    axes.set(yscale="log", xlabel="epoch", ylabel="loss (mean)")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axes.minorticks_off()


def upright(axes: Axes) -> None:
    axes.set(xlim=(-5, 5), xlabel="value", ylim=(2, 0))
    axes.tick_params(labelsize=10)
    axes.tick_params(axis="x", rotation=90)
    axes.tick_params(axis="y", length=0)
    axes.text(0, 1, "two\nlines of ünï \N{RIGHTWARDS ARROW}", ha="center", va="center", color="#D55E00")
    axes.text(3, 1, "aslant", rotation=30)


@pytest.mark.parametrize("content", [curve, upright])
def test_axes_look_as_matplotlib_draws_them(content: object, tmp_path: Path) -> None:
    assert callable(content)
    with new_drawing(tmp_path) as drawing:
        drawing.start(5, 4)
        content(drawing.add(1, 1, 3, 2.5))
        drawing.save("ours")
    with mpl.rc_context(STYLE):
        figure = Figure((5, 4), dpi=DPI)
        FigureCanvasAgg(figure)
        content(figure.add_axes((0.2, 0.25, 0.6, 0.625)))
        figure.savefig(tmp_path / "theirs.png")
    ours, theirs = look(tmp_path / "ours.png"), look(tmp_path / "theirs.png")
    assert ours.shape == theirs.shape and ours.min() < 150
    assert np.abs(ours - theirs).max() < 75, "2 points aside it is 82, without a letter 99"


def test_a_letter_that_the_font_lacks_is_left_to_matplotlib(tmp_path: Path) -> None:
    with new_drawing(tmp_path) as drawing:
        drawing.start(2, 1)
        drawing.figure.text(0.1, 0.5, "a \N{CJK UNIFIED IDEOGRAPH-732B} b")
        drawing.save("text")
    assert look(tmp_path / "text.png").min() < 200


def test_axes_that_are_used_again_keep_nothing(tmp_path: Path) -> None:
    def draw(drawing: Drawing, axes: Axes) -> None:
        axes.plot([1, 2], [30, 40])
        axes.set_xlim(0, 3)
        drawing.save("second")

    with new_drawing(tmp_path / "again") as drawing:
        drawing.start(5, 4)
        axes = drawing.add(1, 1, 3, 2.5)
        curve(axes)
        axes.axhline(2)
        drawing.save("first")
        draw(drawing, drawing.start_alike())
    with new_drawing(tmp_path / "new") as drawing:
        drawing.start(5, 4)
        draw(drawing, drawing.add(1, 1, 3, 2.5))
    again, new = ((tmp_path / folder / "second.png").read_bytes() for folder in ("again", "new"))
    assert again == new


def read(file: Path) -> tuple[str, NDArray[np.uint8]]:
    with Image.open(file) as image:
        return image.mode, np.asarray(image.convert("RGB"))


def opaque(colors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([colors, np.full((*colors.shape[:2], 1), 255, dtype=np.uint8)], axis=2)


def test_few_colors_are_exact(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    colors = draws.integers(0, 256, (PALETTE, 3), dtype=np.uint8)[draws.integers(0, PALETTE, (40, 70))]
    write_png(opaque(colors), tmp_path / "few.png")
    mode, found = read(tmp_path / "few.png")
    assert mode == "P" and np.array_equal(found, colors)


def test_the_rarest_of_many_colors_become_the_nearest(tmp_path: Path) -> None:
    gray = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 256, 3).repeat(4, axis=0)
    rare = np.array([[[0, 0, 1], [100, 100, 98], [255, 254, 255]]], dtype=np.uint8)
    colors = gray.copy()
    colors[3, :3] = rare
    write_png(opaque(colors), tmp_path / "many.png")
    mode, found = read(tmp_path / "many.png")
    assert mode == "P" and np.array_equal(found[:3], gray[:3])
    assert found[3, :3].tolist() == [[0, 0, 0], [99, 99, 99], [255, 255, 255]]


def test_a_photograph_keeps_its_colors(tmp_path: Path) -> None:
    colors = np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    write_png(opaque(colors), tmp_path / "photo.png")
    mode, found = read(tmp_path / "photo.png")
    assert mode == "RGB" and np.array_equal(found, colors)


IMPORTS = """
import sys
import {first}
import runner.plots.curves
from matplotlib import artist
from matplotlib.lines import Line2D
print("antialiased" in Line2D.set.__doc__, "antialiased" in artist.kwdoc(Line2D))
"""


@pytest.mark.parametrize("first", ["runner.plots", "matplotlib.figure"])
def test_matplotlib_is_imported_without_the_tables_of_its_docstrings(first: str) -> None:
    code = IMPORTS.format(first=first)
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == f"{first == 'matplotlib.figure'} True\n"
