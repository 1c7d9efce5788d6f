"""The charts of a search: its history, the importance of each key, and two metrics against each other."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from runner.comparison.objectives import Objective
from runner.comparison.results import spans_powers
from runner.plots.axes import describe_metric
from runner.plots.drawing import BLUE, GREY, STYLE, VERMILION, new_figure, write
from runner.plots.metric import fit_metric
from runner.rundir import layout
from runner.util.tables import shorten

MOST_NUMBERS = 12
"""The most points of a front with a number beside them."""

NAME_LENGTH = 40
"""The most characters of a key beside its bar."""


def draw_history(trials: Iterable[tuple[int, float | None, str]], metric: str, lower: bool, folder: Path) -> Path:
    """Draw each trial's value, and the best so far.

    Args:
        trials: number, value and state (complete, pruned, fail) of each trial.
        metric: the name of the metric.
        lower: whether lower is better.
        folder: the folder of the sweep.

    Returns:
        The file.
    """
    with mpl.rc_context(STYLE):
        return _write(history(trials, metric, lower), folder / layout.PLOTS / "history.png")


def history(trials: Iterable[tuple[int, float | None, str]], metric: str, lower: bool) -> Figure:
    """Return the figure of `draw_history`."""
    measured = [(number, _unit(metric) * value, state) for number, value, state in trials if value is not None]
    done = [(number, value) for number, value, state in measured if state == "complete"]
    pruned = [(number, value) for number, value, state in measured if state == "pruned"]
    best = list(accumulate((value for _, value in done), min if lower else max))
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    axes.step([number for number, _ in done], best, where="post", color=VERMILION, linewidth=1.8, label="best so far")
    axes.plot(*zip(*done, strict=True), "o", color=BLUE, markersize=5, label="finished")
    if pruned:
        axes.plot(*zip(*pruned, strict=True), "x", color=GREY, markersize=6, label="pruned: its last value")
    fit_metric(axes, "y", metric, spans_powers([value for _, value, _ in measured], not lower))
    axes.set_xlabel("trial")
    numbers = [number for number, _, _ in measured]
    margin = max(0.5, 0.03 * (numbers[-1] - numbers[0]))
    axes.set_xlim(numbers[0] - margin, numbers[-1] + margin)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    _legend(axes)
    return figure


def draw_front(
    points: Sequence[tuple[int, Sequence[float], bool]], objectives: Sequence[Objective], file: Path
) -> Path:
    """Draw two metrics of each finished job against each other, with numbers on the Pareto front.

    Args:
        points: number of the job, both values, and whether it is on the front.
        objectives: both objectives.
        file: the PNG file.

    Returns:
        The file.
    """
    with mpl.rc_context(STYLE):
        return _write(front(points, objectives), file)


def front(points: Sequence[tuple[int, Sequence[float], bool]], objectives: Sequence[Objective]) -> Figure:
    """Return the figure of `draw_front`."""
    units = [_unit(objective.metric) for objective in objectives]
    placed = [
        (number, [unit * value for unit, value in zip(units, values, strict=True)], on) for number, values, on in points
    ]
    figure = new_figure(6.4, 4.6)
    axes = figure.subplots()
    ahead = sorted(tuple(values) for _, values, on in placed if on)
    rest = [values for _, values, on in placed if not on]
    if rest:
        axes.plot(*zip(*rest, strict=True), "o", color=BLUE, alpha=0.6, markersize=5, label="finished")
    # Between two points of the front only the worse of both is known.
    line = "steps-post" if objectives[0].direction == "min" else "steps-pre"
    xs, ys = zip(*ahead, strict=True)
    axes.plot(xs, ys, "D-", drawstyle=line, color=VERMILION, linewidth=1.8, markersize=7, label="Pareto front")
    for number, values, on in placed:
        if on and len(ahead) <= MOST_NUMBERS:
            axes.annotate(
                f"job {number}", (values[0], values[1]), xytext=(7, 5), textcoords="offset points", fontsize=9
            )
    axes.margins(x=0.12, y=0.1)  # for the number of the last point
    for way, place, objective in zip("xy", (0, 1), objectives, strict=True):
        log_scale = spans_powers([values[place] for _, values, _ in placed], objective.direction == "max")
        fit_metric(axes, way, objective.metric, log_scale)
    _legend(axes)
    return figure


def draw_importances(importances: Mapping[str, float], metric: str, folder: Path) -> Path:
    """Draw the share of each key in the metric's variance (fANOVA: Hutter et al., 2014, ICML 32).

    Returns:
        The file.
    """
    with mpl.rc_context(STYLE):
        return _write(importance_bars(importances, metric), folder / layout.PLOTS / "importances.png")


def importance_bars(importances: Mapping[str, float], metric: str) -> Figure:
    """Return the figure of `draw_importances`."""
    figure = new_figure(7.4, 1.3 + 0.42 * len(importances))
    axes = figure.subplots()
    shares = list(importances.values())
    bars = axes.barh(range(len(shares)), shares, color=BLUE, height=0.66)
    axes.bar_label(bars, [f"{share:.0%}" for share in shares], padding=4)
    axes.set_yticks(range(len(shares)), [shorten(key, NAME_LENGTH) for key in importances])
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel=f"share in the variance of {describe_metric(metric).partition(' / ')[0]}", xlim=(0, 1.1))
    axes.set_xticks((0, 0.25, 0.5, 0.75, 1))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def _unit(metric: str) -> float:
    """Return the factor to the unit of the axis: accuracies are in per cent."""
    return 100.0 if metric.endswith("accuracy") else 1.0


def _legend(axes: Axes) -> None:
    """Draw the legend above the axes."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)


def _write(figure: Figure, file: Path) -> Path:
    file.parent.mkdir(exist_ok=True)
    write(figure, file)
    return file
