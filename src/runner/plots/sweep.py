"""The chart of a sweep: the best value of a metric over one to eight parameters."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from runner.comparison.results import SweepResults, gather
from runner.comparison.table import Comparison
from runner.plots.charts import dot_chart, heat_chart, line_chart
from runner.plots.drawing import COLORS, STYLE, write
from runner.plots.parallel import AXES_AT_MOST, parallel_coordinates


def draw_sweep(comparison: Comparison, file: Path, metric: str | None = None) -> Path | None:
    """Write the chart of a sweep.

    Args:
        comparison: the runs of the sweep.
        file: the PNG file.
        metric: see `sweep_figure`.

    Returns:
        The file; None if there is nothing to draw.
    """
    figure = sweep_figure(comparison, metric)
    if figure is None:
        return None
    with mpl.rc_context(STYLE):
        write(figure, file)
    return file


def sweep_figure(comparison: Comparison, metric: str | None = None, one_sweep: bool = True) -> Figure | None:
    """Draw the best value of a metric over the parameters that differ.

    One numeric parameter gives a line, or a line for each value of a category; two give a heat map; one category gives
    rows of dots; anything else parallel coordinates. Runs that differ only in their seed are averaged; runs without a
    finite final value are left out.

    Args:
        comparison: the runs.
        metric: the metric to draw; default: the one that ranks the runs.
        one_sweep: whether the runs are the jobs of one sweep. If it has too many parameters, the most distinctive are
            drawn; other runs with that many differences are not drawn.

    Returns:
        None if there are fewer than two configurations to draw, or too many parameters.
    """
    results = gather(comparison, metric)
    if results is None or (len(results.parameters) > AXES_AT_MOST and not one_sweep):
        return None
    with mpl.rc_context(STYLE):
        return _draw(results)


def _draw(results: SweepResults) -> Figure:
    categories = [parameter for parameter in results.parameters if parameter.categories]
    numbers = len(results.parameters) - len(categories)
    if (
        numbers == 1
        and len(categories) <= 1
        and all(len(set(parameter.values)) <= len(COLORS) for parameter in categories)
    ):
        return line_chart(results)
    if numbers == 2 and not categories:
        return heat_chart(results)
    return dot_chart(results) if len(results.parameters) == 1 else parallel_coordinates(results)
