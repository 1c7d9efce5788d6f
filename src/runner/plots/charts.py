"""The charts of a sweep over one or two parameters: lines, rows of dots, a heat map."""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from runner.comparison.results import Floats, Parameter, SweepResults
from runner.plots.axes import GRID_AT_MOST, fit_axis, format_number, set_ticks, spaced
from runner.plots.drawing import BLUE, COLORS, GREY, MARKERS, VERMILION, new_figure
from runner.plots.metric import (
    BEST_LOOK,
    add_note,
    best_legend,
    color_scale,
    fit_metric,
    label_colorbar,
    metric_text,
    value_labels,
)

ROWS_AT_MOST = 40
NAME_LENGTH = 28


def line_chart(results: SweepResults) -> Figure:
    """Draw the metric over a numeric parameter, with a line for each value of a category if there is one."""
    x = next(parameter for parameter in results.parameters if not parameter.categories)
    category = next((parameter for parameter in results.parameters if parameter.categories), None)
    labels = value_labels(category, NAME_LENGTH) if category else {"": "mean" if results.repeated else ""}
    figure = new_figure(6.4 + (0.5 + 0.085 * max(map(len, labels.values())) if category else 0), 4.2)
    axes = figure.subplots()
    # With many points, as in a random search, the line only guides the eye.
    width = 1.5 if len(x.numbers) <= 2 * GRID_AT_MOST else 0.7
    for color, marker, value, name in zip(COLORS, MARKERS, labels, labels.values(), strict=False):
        chosen = [i for i in range(len(results.values)) if category is None or category.values[i] == value]
        chosen.sort(key=lambda i: x.values[i])
        xs = [x.values[i] for i in chosen]
        axes.plot(
            xs,
            results.means[chosen],
            color=color,
            marker="" if results.repeated else marker,
            label=name,
            linewidth=width,
        )
        if results.repeated:
            low, high = zip(*(_band(results.values[i]) for i in chosen), strict=True)
            axes.fill_between(xs, low, high, color=color, alpha=0.15, linewidth=0)
            dots = [(x.values[i], value) for i in chosen for value in results.values[i]]
            look = {"color": color, "alpha": 0.6} if category else {"color": VERMILION, "label": "one run"}
            axes.plot(*zip(*dots, strict=True), marker, markersize=5, **look)
    fit_axis(axes, "x", x.numbers, x.log)
    fit_metric(axes, "y", results.metric, results.log_scale)
    axes.set_xlabel(x.key)
    if category:
        figure.legend(loc="outside right upper", title=category.key, alignment="left")
    elif results.repeated:
        axes.legend()
    lines = "lines: means over seeds, points: single runs, " if category else ""
    add_note(
        figure, f"{lines}bands: one standard deviation, within the runs" if results.repeated else "", *results.notes
    )
    return figure


def _band(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of a band of one standard deviation around the mean, within the values."""
    spread = stdev(values) if len(values) > 1 else 0.0
    return max(fmean(values) - spread, min(values)), min(fmean(values) + spread, max(values))


def dot_chart(results: SweepResults) -> Figure:
    """Draw a row for each category: its runs as dots, their mean as a bar, and as a number beside it."""
    (category,) = results.parameters
    shown = {category.values[index] for index in results.order[:ROWS_AT_MOST]}
    rows = [(value, name) for value, name in value_labels(category, NAME_LENGTH).items() if value in shown]
    figure = new_figure(5.6 + 0.085 * max(len(name) for _, name in rows), 1.3 + 0.36 * max(3, len(rows)))
    axes = figure.subplots()
    for row, (value, _) in enumerate(rows):
        index = category.values.index(value)
        values, mean = results.values[index], float(results.means[index])
        axes.plot(values, [row] * len(values), "o", color=BLUE, alpha=0.6 if results.repeated else 1, markersize=6)
        if results.repeated:
            axes.plot([mean], [row], "|", color="black", markersize=16, markeredgewidth=2)
        look = BEST_LOOK if index == results.best else {"color": GREY}
        axes.text(
            1.02, row, metric_text(results, mean), va="center_baseline", transform=axes.get_yaxis_transform(), **look
        )
    axes.set_yticks(range(len(rows)), [name for _, name in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel(category.key)
    fit_metric(axes, "x", results.metric, results.log_scale)
    add_note(
        figure,
        "dots: single runs, bars and figures: means over seeds" if results.repeated else "",
        best_legend(results, "bold: the best"),
        f"the best {len(rows)} of {len(results.values)}" if len(rows) < len(results.values) else "",
        *results.notes,
    )
    return figure


def heat_chart(results: SweepResults) -> Figure:
    """Draw a cell for each pair of values of a grid; for a random search, a point for each configuration."""
    across, up = results.parameters
    scale = color_scale(results)
    grid = 3 * len(results.values) > len(across.numbers) * len(up.numbers)
    figure = _heat_map(results, scale) if grid else _scatter(results, scale)
    axes = figure.axes[0]
    axes.set_xlabel(across.key)
    axes.set_ylabel(up.key)
    label_colorbar(figure.colorbar(scale, ax=axes), results)
    best = f"{'framed' if grid else 'ringed'}: the best, {metric_text(results, results.means[results.order[0]])}"
    add_note(figure, "means over seeds" if results.repeated else "", best_legend(results, best), *results.notes)
    return figure


def _scatter(results: SweepResults, scale: ScalarMappable) -> Figure:
    across, up = results.parameters
    figure = new_figure(6.8, 4.6)
    axes = figure.subplots()
    axes.scatter(across.values, up.values, c=scale.to_rgba(results.means), s=60, edgecolors="white", linewidths=0.5)
    fit_axis(axes, "x", across.numbers, across.log)
    fit_axis(axes, "y", up.numbers, up.log)
    if results.best is not None:
        ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": VERMILION, "markeredgewidth": 2.5}
        axes.plot([across.values[results.best]], [up.values[results.best]], "o", markersize=14, **ring)
    return figure


class Cells(NamedTuple):
    """The columns, or the rows, of a heat map.

    Attributes:
        values: the values in ascending order.
        log_scale: whether cells have logarithmic widths; otherwise all have the same width.
        at: the positions of the values along the axis: the values themselves, or 0, 1, ...
        centers: the centers of the cells, for their texts.
        edges: the edges of the cells, one more than cells.
        fitting: how many cells of the smallest width, or smallest distances of two values, fit the axis.
    """

    values: list[float]
    log_scale: bool
    at: Floats
    centers: Floats
    edges: Floats
    fitting: float


def _cells(parameter: Parameter) -> Cells:
    log_scale = parameter.log and parameter.numbers[0] > 0
    places = np.log(parameter.numbers) if log_scale else np.arange(len(parameter.numbers), dtype=float)
    between = (places[1:] + places[:-1]) / 2
    edges = np.array([2 * places[0] - between[0], *between, 2 * places[-1] - between[-1]])
    fitting = float(np.ptp(edges) / min(np.diff(edges).min(), np.diff(places).min()))
    centers = (edges[1:] + edges[:-1]) / 2
    if log_scale:
        return Cells(parameter.numbers, True, np.array(parameter.numbers), np.exp(centers), np.exp(edges), fitting)
    return Cells(parameter.numbers, False, places, centers, edges, fitting)


def _heat_map(results: SweepResults, scale: ScalarMappable) -> Figure:
    pairs = zip(*(parameter.values for parameter in results.parameters), strict=True)
    across, up = map(_cells, results.parameters)
    columns, rows = across.values, up.values
    width, height = min(0.85, 10 / across.fitting), min(0.6, 7 / up.fitting)  # of the smallest cell, in inches
    figure = new_figure(2.6 + width * max(3, across.fitting), 1.8 + height * max(3, up.fitting))
    axes = figure.subplots()
    grid = np.full((len(rows), len(columns)), np.nan)
    places = [(columns.index(float(x)), rows.index(float(y))) for x, y in pairs]
    texts = [metric_text(results, value) for value in results.means]
    size = min(10.0, 72 * 0.8 * width / (0.62 * max(map(len, texts))), 72 * 0.6 * height)
    for (x, y), text, value in zip(places, texts, results.means, strict=True):
        grid[y, x] = value
        if size >= 7:  # points: smaller text is unreadable
            dark = np.dot(scale.to_rgba(value)[:3], (0.299, 0.587, 0.114)) < 0.5
            look: dict[str, Any] = {"fontsize": size, "color": "white" if dark else "black"}
            axes.text(across.centers[x], up.centers[y], text, ha="center", va="center", **look)
    if across.log_scale or up.log_scale:
        axes.pcolormesh(across.edges, up.edges, grid).set(cmap=scale.cmap, norm=scale.norm)
    else:
        axes.imshow(grid, origin="lower", aspect="auto").set(cmap=scale.cmap, norm=scale.norm)
    axes.set_facecolor("#EEEEEE")  # cells without a value
    if results.best is not None:
        x, y = places[results.best]
        frame: dict[str, Any] = {"fill": False, "edgecolor": VERMILION, "linewidth": 3, "clip_on": False, "zorder": 3}
        corner, sides = (across.edges[x], up.edges[y]), (np.diff(across.edges)[x], np.diff(up.edges)[y])
        axes.add_patch(Rectangle(corner, *sides, **frame))
    axes.grid(False)
    axes.spines[:].set_visible(False)
    _fit_cells(axes, "x", across, 0.1 * max(len(format_number(value)) for value in columns) / width)
    _fit_cells(axes, "y", up, 0.18 / height)
    return figure


def _fit_cells(axes: Axes, way: str, cells: Cells, least: float) -> None:
    """Fit an axis (`x` or `y`) to cells; labels are at least `least` cells of the smallest width apart."""
    axis, ends = getattr(axes, f"{way}axis"), cells.edges[[0, -1]]
    if cells.log_scale:
        getattr(axes, f"set_{way}scale")("log")
    getattr(axes, f"set_{way}lim")(*ends)
    low, high, *places = axis.get_transform().transform(np.array([*ends, *cells.at]))
    chosen = spaced(places, least * (high - low) / cells.fitting)
    set_ticks(axis, cells.at[chosen].tolist(), [format_number(cells.values[index]) for index in chosen])
