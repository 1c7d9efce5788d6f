"""The pictures of a search: its course, and how much each key mattered."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from runner.plots.drawing import new_figure, write
from runner.sweep.objectives import Objective

MOST_NUMBERS = 12
"""On a front that are written beside its points."""


def draw_history(trials: Iterable[tuple[int, float | None, str]], metric: str, lower: bool, folder: Path) -> Path:
    """Each trial's value, and the best so far.

    Args:
        trials: number, value and how it ended: complete, pruned, fail.
        metric: its name.
        lower: whether lower is better.
        folder: the sweep's.

    Returns:
        The file.
    """
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    trials = list(trials)
    done = [(number, value) for number, value, state in trials if state == "complete" and value is not None]
    pruned = [(number, value) for number, value, state in trials if state == "pruned" and value is not None]
    best: list[float] = []
    for _, value in done:
        best.append(value if not best else min(best[-1], value) if lower else max(best[-1], value))
    axes.plot([number for number, _ in done], [value for _, value in done], "o", label="finished")
    if pruned:
        axes.plot(*zip(*pruned, strict=True), "x", color="0.5", label="pruned, where it was then")
    axes.step([number for number, _ in done], best, where="post", label="the best so far")
    if min((value for _, value in done), default=0.0) > 0:
        axes.set_yscale("log")
    axes.set(xlabel="trial", ylabel=metric)
    axes.legend()
    return _write(figure, folder / "plots" / "history.png")


def draw_front(
    points: Sequence[tuple[int, Sequence[float], bool]], objectives: Sequence[Objective], file: Path
) -> Path:
    """Two metrics against each other: each finished job, and those that are on the Pareto front by number.

    Args:
        points: number of the job, both values, and whether it is on the front.
        objectives: both.
        file: the PNG.

    Returns:
        The file.
    """
    figure = new_figure(6.4, 4.4)
    axes = figure.subplots()
    ahead = sorted(tuple(values) for _, values, leads in points if leads)
    rest = [values for _, values, leads in points if not leads]
    if rest:
        axes.plot(*zip(*rest, strict=True), "o", color="0.6", label="finished")
    # Between two of the front nothing was found: the worse of both is what is known there.
    axes.step(
        *zip(*ahead, strict=True),
        where="post" if objectives[0].direction == "min" else "pre",
        marker="o",
        label="Pareto front",
    )
    for number, values, leads in points:
        if leads and len(ahead) <= MOST_NUMBERS:
            axes.annotate(f"job {number}", (values[0], values[1]), xytext=(6, -3), textcoords="offset points")
    axes.margins(x=0.12)  # for the last one's number
    axes.set(xlabel=objectives[0].metric, ylabel=objectives[1].metric)
    axes.legend()
    return _write(figure, file)


def draw_importances(importances: Mapping[str, float], metric: str, folder: Path) -> Path:
    """The share of each key in the metric's variance (fANOVA: Hutter et al., 2014, ICML 32).

    Returns:
        The file.
    """
    figure = new_figure(6.4, 1.2 + 0.35 * len(importances))
    axes = figure.subplots()
    keys = list(importances)[::-1]
    bars = axes.barh(keys, [importances[key] for key in keys])
    axes.bar_label(bars, [f"{importances[key]:.0%}" for key in keys], padding=3)
    axes.set(xlabel=f"share in the variance of {metric}", xlim=(0, 1.1))
    return _write(figure, folder / "plots" / "importances.png")


def _write(figure: Figure, file: Path) -> Path:
    file.parent.mkdir(exist_ok=True)
    write(figure, file)
    return file
