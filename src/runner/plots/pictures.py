"""Samples as their task draws them: an image, its mask and the predicted mask, for example."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from runner.plots.drawing import COLORS, YELLOW, Drawing, brief, new_drawing
from runner.plots.images import displayable, range_of
from runner.plots.text import text_width

NAME = "samples"
SAMPLES = 6
"""How many samples are drawn."""

STACKED = 2  # pictures of a sample; more stand side by side
LETTERS = 10  # points
TITLE = 11  # points
NAME_LENGTH = 20
IN_LEGEND = 20  # classes
GAP, EDGE, ABOVE, LEAST = 0.08, 0.15, 0.4, 1.3  # inches
FEW = ("#CCCCCC", *COLORS, YELLOW)  # the class 0 is often the background

Color = tuple[float, float, float]
UNCOUNTED: Color = (1.0, 1.0, 1.0)


def draw_pictures(
    pictures: Mapping[str, Tensor], folder: Path, title: str, class_names: Sequence[str] | None = None
) -> list[Path]:
    """Draw the pictures of each sample: up to two above each other, more side by side.

    Args:
        pictures: by title: images (N, C, H, W) or (N, H, W), uint8 or floats in a common unit; or the classes of pixels
            (N, H, W), integers; those below 0 are of no class.
        folder: the folder of the PNG file; created if missing.
        title: of the plot.
        class_names: the names of the classes 0, 1, ...; None: their numbers.

    Returns:
        The file.

    Raises:
        ValueError: a tensor is no such picture.
    """
    (folder / f"{NAME}.png").unlink(missing_ok=True)
    with new_drawing(folder) as drawing:
        _draw(drawing, {name: values.cpu() for name, values in pictures.items()}, title, class_names)
    return drawing.files


def _draw(drawing: Drawing, pictures: Mapping[str, Tensor], title: str, class_names: Sequence[str] | None) -> None:
    for name, values in pictures.items():
        if values.ndim not in (3, 4):
            raise ValueError(f"{name} has the shape {tuple(values.shape)}, not (N, C, H, W) or (N, H, W)")
    classes = {name: values for name, values in pictures.items() if values.ndim == 3 and not values.is_floating_point()}
    images = {name: values.reshape(len(values), -1, *values.shape[-2:]) for name, values in pictures.items()}
    # All images have the brightness of the first: a reconstruction beside its input.
    bounds = next((range_of(image) for name, image in images.items() if name not in classes), (0.0, 1.0))
    colors = _colors(list(classes.values()), class_names)
    drawn = [
        _painted(classes[name], colors) if name in classes else displayable(image, bounds)
        for name, image in images.items()
    ]
    rows = [list(of_a_sample) for of_a_sample in zip(*drawn, strict=True)][:SAMPLES]
    stacked = len(drawn) <= STACKED
    if stacked:
        rows = [list(row) for row in zip(*rows, strict=True)]
    _lay_out(
        drawing, rows, [brief(name, NAME_LENGTH) for name in pictures], stacked, title, _legend_of(colors, class_names)
    )
    drawing.save(NAME)


def _lay_out(
    drawing: Drawing,
    rows: list[list[NDArray[np.float32]]],
    titles: list[str],
    stacked: bool,
    title: str,
    legend: Sequence[tuple[str, Color]],
) -> None:
    """Draw rows of pictures, the titles beside them or above, and a legend on the right; sizes in inches."""
    height, width = rows[0][0].shape[:2]
    names = text_width(titles, LETTERS)
    longest = 1.3 if stacked else 1.4
    across, down = longest * min(1.0, width / height), longest * min(1.0, height / width)
    across, down = max(0.15, across), max(0.25 if stacked else 0.15, down)
    column = max(across, 0.0 if stacked else names) + GAP
    left = EDGE + (names + 0.1 if stacked else 0.0)
    below_title = ABOVE + (0.1 if stacked else 0.3)
    beside = 0.5 + text_width([name for name, _ in legend], LETTERS) if legend else 0.0
    grid_down = max(len(rows) * (down + GAP), 0.22 * len(legend))
    all_across = max(left + len(rows[0]) * column + beside, text_width([title], TITLE) + EDGE) + EDGE
    all_down = max(LEAST, below_title + grid_down + EDGE)
    drawing.start(all_across, all_down)
    axes = drawing.add(0, 0, all_across, all_down)
    for row, pictures in enumerate(rows):
        top = all_down - below_title - row * (down + GAP)
        if stacked:
            axes.text(left - 0.1, top - down / 2, titles[row], ha="right", va="center", fontsize=LETTERS)
        for place, picture in enumerate(pictures):
            middle = left + (place + 0.5) * column - GAP / 2
            extent = (middle - across / 2, middle + across / 2, top - down, top)
            axes.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
            if not stacked and row == 0:
                axes.text(middle, top + 0.06, titles[place], ha="center", va="bottom", fontsize=LETTERS)
    _draw_legend(axes, legend, left + len(rows[0]) * column + 0.1, all_down - below_title)
    axes.set(xlim=(0, all_across), ylim=(0, all_down), aspect="auto")
    axes.axis("off")
    axes.text(EDGE, all_down - 0.12, title, va="top", fontsize=TITLE)


def _draw_legend(axes: Axes, legend: Sequence[tuple[str, Color]], left: float, top: float) -> None:
    for number, (name, color) in enumerate(legend):
        middle = top - 0.22 * (number + 0.5)
        axes.add_patch(Rectangle((left, middle - 0.07), 0.2, 0.14, facecolor=color, edgecolor="black", linewidth=0.6))
        axes.text(left + 0.28, middle, name, va="center_baseline", fontsize=LETTERS)


def _colors(classes: Sequence[Tensor], class_names: Sequence[str] | None) -> dict[int, Color]:
    """Return the colors of the classes that are drawn, -1 for none; names keep them the same for other samples."""
    shown = sorted({max(value, -1) for values in classes for value in values.unique().tolist()})
    count = max(len(class_names or ()), max(shown, default=0) + 1)
    if count <= len(FEW):
        colors = {value: to_rgb(FEW[value]) for value in shown}
    else:
        few = count <= IN_LEGEND
        table = mpl.colormaps["tab20" if few else "turbo"]
        colors = {value: to_rgb(table(value if few else value / (count - 1))) for value in shown}
    return {value: UNCOUNTED if value < 0 else color for value, color in colors.items()}


def _painted(classes: Tensor, colors: Mapping[int, Color]) -> NDArray[np.float32]:
    """Return classes of pixels (N, H, W) as colors (N, H, W, 3)."""
    painted = np.empty((*classes.shape, 3), dtype=np.float32)
    for value, color in colors.items():
        painted[(classes.clamp(min=-1) == value).numpy()] = color
    return painted


def _legend_of(colors: Mapping[int, Color], class_names: Sequence[str] | None) -> list[tuple[str, Color]]:
    """Return names and colors of at most `IN_LEGEND` of the classes that are drawn."""
    names = dict(enumerate(class_names or ()))
    legend = [
        (brief(str(names.get(value, value)), NAME_LENGTH), color) for value, color in colors.items() if value >= 0
    ]
    return legend[:IN_LEGEND] + [("no class", color) for value, color in colors.items() if value < 0]
