"""A legend above axes, in two columns; matplotlib's own takes as long as the curves."""

from collections.abc import Sequence
from math import ceil

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from runner.plots.text import text_width

LETTERS = 10.0  # points
COLUMNS = 2
EDGE, HANDLE, GAP, BETWEEN = 0.083, 0.278, 0.111, 0.278
"""Inches: left of the legend, length of a line, from it to its text, between columns."""

LOWEST, ROW = 0.158, 0.208
"""Inches: from the axes to the middle of the lowest row, and from row to row."""


def add_legend(figure: Figure, axes: Axes, entries: Sequence[tuple[str, Line2D | None]]) -> None:
    """Draw names, with the look of their lines, above the axes, column by column.

    Args:
        figure: has the axes.
        axes: the axes.
        entries: the lines by name; None for a name without a line.
    """
    box, rows = axes.get_position(), ceil(len(entries) / COLUMNS)
    width, height = figure.get_size_inches()
    left, lowest = box.x0 * width + EDGE, box.y1 * height + LOWEST
    for first in range(0, len(entries), max(1, rows)):
        column = entries[first : first + rows]
        for row, (name, line) in enumerate(column):
            middle = lowest + ROW * (rows - 1 - row)
            if line is not None:
                handle = Line2D([left, left + HANDLE / 2, left + HANDLE], [middle] * 3, markevery=[1])
                handle.set(color=line.get_color(), linestyle=line.get_linestyle(), linewidth=line.get_linewidth())
                handle.set(marker=line.get_marker(), markersize=line.get_markersize())
                handle.set_transform(figure.dpi_scale_trans)
                figure.add_artist(handle)
            start = left + HANDLE + GAP
            axes.text(start, middle, name, fontsize=LETTERS, va="center", transform=figure.dpi_scale_trans)
        left += HANDLE + GAP + text_width([name for name, _ in column], LETTERS) + BETWEEN
