"""The picture of a sweep: the best value of a metric over what was varied, be it one parameter or eight."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from runner.comparison.results import SweepResults, gather
from runner.comparison.table import Comparison
from runner.plots.charts import colour_map, dots, lines
from runner.plots.drawing import COLORS, STYLE, write
from runner.plots.parallel import AXES_AT_MOST, parallel_coordinates


def draw_sweep(comparison: Comparison, file: Path, metric: str | None = None) -> Path | None:
    """Write the picture of a sweep.

    Args:
        comparison: the sweep's runs.
        file: the PNG.
        metric: see `swept`.

    Returns:
        The file; None if there is nothing to draw.
    """
    figure = swept(comparison, metric)
    if figure is None:
        return None
    with mpl.rc_context(STYLE):
        write(figure, file)
    return file


def swept(comparison: Comparison, metric: str | None = None, one_sweep: bool = True) -> Figure | None:
    """Draw the best value of a metric over the parameters that differ.

    One number is a line, with a few categories a line each; two numbers are a map in colours, one category a row
    of dots for each; all else are parallel coordinates. Runs that differ in their seed alone are averaged, those
    that did not finish with a finite value left out.

    Args:
        comparison: the runs.
        metric: by default the one the runs were judged by.
        one_sweep: whether they are the jobs of one; of it the parameters that tell most are drawn, where there are
            too many. What differs so much otherwise was not varied to be seen side by side.

    Returns:
        None if there are fewer than two configurations to draw, or too many parameters.
    """
    results = gather(comparison, metric)
    if results is None or (len(results.parameters) > AXES_AT_MOST and not one_sweep):
        return None
    with mpl.rc_context(STYLE):
        return _draw(results)


def _draw(results: SweepResults) -> Figure:
    categories = [parameter for parameter in results.parameters if parameter.words]
    numbers = len(results.parameters) - len(categories)
    if (
        numbers == 1
        and len(categories) <= 1
        and all(len(set(parameter.values)) <= len(COLORS) for parameter in categories)
    ):
        return lines(results)
    if numbers == 2 and not categories:
        return colour_map(results)
    return dots(results) if len(results.parameters) == 1 else parallel_coordinates(results)
