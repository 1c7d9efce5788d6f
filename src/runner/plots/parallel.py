"""The chart of a sweep over many parameters: parallel coordinates."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from runner.comparison.results import Floats, Parameter, SweepResults, Value
from runner.comparison.table import sort_by_distinction
from runner.plots.axes import GRID_AT_MOST, format_number, round_numbers, spaced, use_log_scale
from runner.plots.drawing import VERMILION, new_figure
from runner.plots.metric import BEST_LOOK, add_note, best_legend, color_scale, label_colorbar, metric_text, value_labels
from runner.plots.text import text_width
from runner.util.tables import shorten

AXES_AT_MOST = 8


class Ruler(NamedTuple):
    """The positions of a parameter's values on a vertical axis, from 0 to 1.

    Attributes:
        places: the position of each value.
        ticks: candidates for tick labels: value, position, text.
    """

    places: dict[Value, float]
    ticks: list[tuple[Value, float, str]]


def parallel_coordinates(results: SweepResults) -> Figure:
    """Draw a vertical axis for each parameter, and for the metric at the end; a line for each configuration."""
    drawn = results.parameters
    if len(drawn) > AXES_AT_MOST:
        keys = sort_by_distinction(
            [parameter.key for parameter in drawn],
            {parameter.key: list(map(str, parameter.values)) for parameter in drawn},
        )
        drawn = [parameter for parameter in drawn if parameter.key in keys[:AXES_AT_MOST]]
    length = 26 if len(drawn) <= 3 else 18 if len(drawn) <= 5 else 14
    rulers = [
        _with_best(_ruler(parameter, length), None if results.best is None else parameter.values[results.best])
        for parameter in drawn
    ]
    titles = [".\n".join(shorten(part, 22) for part in parameter.key.rsplit(".", 1)) for parameter in drawn]
    *stops, end = _stops(titles, rulers)
    rows = max(len(parameter.categories) + len(parameter.numbers[:GRID_AT_MOST]) for parameter in drawn)
    bottom, tall = 0.65, min(7.0, max(3.4, 0.19 * rows))
    beside = text_width(
        [metric_text(results, results.means.min()), metric_text(results, results.means.max())], 11, "bold"
    )
    width, height = end + beside + 0.95, bottom + tall + 0.75
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    # The unit of x is an inch.
    axes = figure.add_axes((0, bottom / height, 1, tall / height), xlim=(0, width), ylim=(0, 1))
    axes.set_axis_off()
    scale = color_scale(results)
    ends = np.ma.getdata(scale.norm(results.means))
    heights = [_heights(parameter, ruler, ends, 0.26 / tall) for parameter, ruler in zip(drawn, rulers, strict=True)]
    _draw_lines(axes, results, scale, np.array([*stops, end]), np.array([*heights, ends]).T)
    for stop, title, parameter, ruler in zip(stops, titles, drawn, rulers, strict=True):
        axes.plot([stop, stop], [-0.14 / tall, 1 + 0.14 / tall], color="black", linewidth=1, clip_on=False, zorder=4)
        axes.text(stop, 1 + 0.24 / tall, title, ha="center", va="bottom", fontsize=10)
        _name_ticks(axes, stop, ruler, None if results.best is None else parameter.values[results.best], 0.16 / tall)
    bar = figure.colorbar(scale, cax=figure.add_axes((end / width, bottom / height, 0.13 / width, tall / height)))
    label_colorbar(bar, results, None if results.best is None else float(results.means[results.best]), 0.19 / tall)
    add_note(
        figure,
        "each line is a configuration" + (" (mean over seeds)" if results.repeated else ""),
        best_legend(results, "thick: the best"),
        f"{len(drawn)} of {len(results.parameters)} parameters" if len(drawn) < len(results.parameters) else "",
        *results.notes,
    )
    return figure


def _ruler(parameter: Parameter, length: int) -> Ruler:
    texts, values = value_labels(parameter, length), parameter.numbers
    log_scale = bool(values) and use_log_scale(values, parameter.log)
    few = len(values) <= GRID_AT_MOST
    if few and not (parameter.log and log_scale):
        places = {value: rank / (len(texts) - 1) for rank, value in enumerate(texts)}
        return Ruler(places, [(value, places[value], text) for value, text in texts.items()])
    # Words, and a zero on a logarithmic axis, lie below the numbers.
    below: list[Value] = [*parameter.categories, *(values[:1] if log_scale and values[0] == 0 else [])]
    values = [value for value in values if value not in below]
    norm = LogNorm(values[0], values[-1]) if log_scale else Normalize(values[0], values[-1])
    start = min(0.1 * len(below), 0.5)

    def place(value: float) -> float:
        return start + (1 - start) * float(norm(value))

    places = {value: start * rank / len(below) for rank, value in enumerate(below)}
    ticks = [(value, places[value], texts[value]) for value in below]
    named = values if few else round_numbers(values[0], values[-1], log_scale)
    ticks += [(tick, place(tick), format_number(tick)) for tick in named]
    return Ruler(places | {value: place(value) for value in values}, ticks)


def _with_best(ruler: Ruler, best: Value | None) -> Ruler:
    """Make the best value the first tick, so that it always gets a label."""
    if best is None:
        return ruler
    text = next((text for value, _, text in ruler.ticks if value == best), None)
    return Ruler(ruler.places, [(best, ruler.places[best], text or format_number(float(best))), *ruler.ticks])


def _stops(titles: Sequence[str], rulers: Sequence[Ruler]) -> list[float]:
    """Return the positions of the axes in inches, with room for labels and titles; the last is the metric's."""
    beside = [text_width([text for _, _, text in ruler.ticks], 9, "bold") for ruler in rulers]
    above = [text_width(title.splitlines(), 10) for title in titles]
    stops = [max(beside[0] + 0.3, above[0] / 2 + 0.1)]
    for index in range(1, len(titles)):
        stops.append(stops[-1] + max(1.2, beside[index] + 0.7, (above[index - 1] + above[index]) / 2 + 0.15))
    return [*stops, stops[-1] + max(1.2, above[-1] / 2 + 0.2)]


def _heights(parameter: Parameter, ruler: Ruler, ends: Floats, room: float) -> Floats:
    """Return where the lines cross an axis; lines through the same value are spread in the order of their ends."""
    heights = np.array([ruler.places[value] for value in parameter.values])
    places = sorted(ruler.places.values())
    for below, place, above in zip([-1, *places], places, [*places[1:], 2], strict=False):
        at = np.flatnonzero(heights == place)
        free = min(room, 0.6 * (place - below), 0.6 * (above - place))
        steps = np.arange(len(at)) - (len(at) - 1) / 2
        heights[at[np.argsort(ends[at], kind="stable")]] += steps * min(0.16 * room, free / len(at))
    return heights


def _draw_lines(axes: Axes, results: SweepResults, scale: ScalarMappable, stops: Floats, heights: Floats) -> None:
    """Draw lines that cross the axes at right angles, better ones on top; heights are (configurations, axes)."""
    fractions = np.linspace(0, 1, 24)
    xs = (stops[:-1, None] + np.diff(stops)[:, None] * fractions).ravel()
    ys = (heights[:, :-1, None] + np.diff(heights)[:, :, None] * (3 * fractions**2 - 2 * fractions**3)).reshape(
        len(heights), -1
    )
    worst_first = results.order[::-1]
    look = {"alpha": float(np.clip(60 / len(ys), 0.2, 0.85)), "linewidths": 1.8 if len(ys) <= 60 else 1.1}
    curves = [np.column_stack([xs, ys[index]]) for index in worst_first]
    lines = LineCollection(curves, cmap=scale.cmap, norm=scale.norm, clip_on=False, **look)
    lines.set_array(results.means[worst_first])
    axes.add_collection(lines, autolim=False)
    if results.best is not None:
        axes.plot(xs, ys[results.best], color=VERMILION, linewidth=3.2, clip_on=False, zorder=3)


def _name_ticks(axes: Axes, stop: float, ruler: Ruler, best: Value | None, least: float) -> None:
    """Draw labels left of a vertical axis, as many as fit; the first ones take precedence."""
    ticks = ruler.ticks
    box = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1}
    for index in spaced([place for _, place, _ in ticks], least):
        value, place, text = ticks[index]
        look = BEST_LOOK if value == best else {}
        axes.text(stop - 0.09, place, text, ha="right", va="center", fontsize=9, bbox=box, zorder=5, **look)
        axes.plot([stop - 0.05, stop], [place, place], color="black", linewidth=1, clip_on=False, zorder=4)
