"""Ticks, grid and labels of axes, drawn at once.

Matplotlib's own axis makes five objects for each tick, visible or not, which takes longer than the rest of a plot.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import TICKDOWN, TICKLEFT
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FixedLocator
from matplotlib.transforms import Transform, offset_copy

from runner.plots.text import text_width

LENGTH, PAD, LABEL_PAD = 3.5, 3.5, 4.0
"""Points: length of a tick, from it to its text, from there to the label of the axis; matplotlib's defaults."""

LETTERS = 11.0
"""Points; also the height of a line of text."""

POINTS_PER_INCH = 72


def name_ticks(axis: Any, places: Sequence[float], names: Sequence[str]) -> None:
    """Give places of an axis names."""
    axis.set_major_locator(FixedLocator(places))
    axis.set_major_formatter(FixedFormatter(names))


def add_ticks(figure: Figure, axes: Axes) -> None:
    """Draw what each axis says (locator, formatter, label, tick parameters) in place of the axis itself."""
    for way in "xy":
        axis = getattr(axes, f"{way}axis")
        if axis.get_visible():
            _add(figure, axes, axis, across=way == "x")
            axis.set_visible(False)


def _add(figure: Figure, axes: Axes, axis: Any, across: bool) -> None:
    look = axis.get_tick_params()
    length, size = look.get("length", LENGTH), look.get("labelsize", LETTERS)
    upright = across and bool(look.get("rotation", look.get("labelrotation", 0)))
    along = axes.get_xaxis_transform() if across else axes.get_yaxis_transform()
    places, texts = _visible(axis)
    if look.get("gridOn", look.get("grid_visible", True)):
        ends = [((place, 0), (place, 1)) if across else ((0, place), (1, place)) for place in places]
        grid = LineCollection(ends, transform=along, colors="#B0B0B0", alpha=0.3, linewidths=0.8, zorder=0.5)
        axes.add_collection(grid, autolim=False)
    if length:
        edge = [0.0] * len(places)
        marks = Line2D(places if across else edge, edge if across else places, linestyle="none", color="black")
        marks.set(marker=TICKDOWN if across else TICKLEFT, markersize=length, markeredgewidth=0.8)
        marks.set(transform=along, clip_on=False)
        figure.add_artist(marks)
    beyond = _moved(figure, along, across, length + PAD)
    for place, text in zip(places, texts, strict=True):
        label = Text(place if across else 0, 0 if across else place, text, fontsize=size, transform=beyond)
        if across:
            label.set(ha="center", va="top", rotation=90 if upright else 0)
        else:
            label.set(ha="right", va="center_baseline")
        figure.add_artist(label)
    if name := axis.get_label_text():
        deep = size if across and not upright else POINTS_PER_INCH * text_width(texts, size)
        beyond = _moved(figure, axes.transAxes, across, length + PAD + deep + LABEL_PAD)
        if across:
            label = Text(0.5, 0, name, ha="center", va="top")
        else:
            label = Text(0, 0.5, name, ha="center", va="bottom", rotation=90, rotation_mode="anchor")
        label.set(fontsize=LETTERS, transform=beyond)
        figure.add_artist(label)


def _visible(axis: Any) -> tuple[list[float], list[str]]:
    """Return the places and texts of the ticks between the limits of an axis."""
    places = np.asarray(axis.get_majorticklocs(), dtype=float)
    low, high = sorted(axis.get_transform().transform(np.array(axis.get_view_interval())))
    seen, margin = axis.get_transform().transform(places), 1e-6 * (high - low)
    inside = (seen >= low - margin) & (seen <= high + margin)
    texts = axis.get_major_formatter().format_ticks(places)
    return places[inside].tolist(), [text for text, shown in zip(texts, inside, strict=True) if shown]


def _moved(figure: Figure, transform: Transform, across: bool, points: float) -> Transform:
    """Return a transform that ends some points below the axes, or left of them."""
    x, y = (0.0, -points) if across else (-points, 0.0)
    return offset_copy(transform, figure, x, y, units="points")
