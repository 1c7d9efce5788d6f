"""Shared parts of the charts of a sweep: the metric's axis and colors, labels of values, notes below."""

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from runner.comparison.results import Parameter, SweepResults, Value
from runner.plots.axes import describe_metric, format_number, format_numbers, round_numbers, set_ticks, spaced
from runner.plots.drawing import GREY, VERMILION, short_number
from runner.util.metric_names import format_metric
from runner.util.tables import shorten

BEST_LOOK: dict[str, Any] = {"color": VERMILION, "weight": "bold"}


def value_labels(parameter: Parameter, length: int) -> dict[Value, str]:
    """Return a label for each value of a parameter, words first; words with equal starts are cut at their start."""
    words: dict[Value, str] = {word: shorten(word, length) or "none" for word in parameter.categories}
    if len(set(words.values())) < len(words):
        words = {
            word: (word or "none") if len(word) <= length else f"...{word[3 - length :].lstrip('.')}"
            for word in parameter.categories
        }
    return words | {value: format_number(value) for value in parameter.numbers}


def metric_text(results: SweepResults, value: float) -> str:
    """Format a value of the metric, without its unit."""
    if results.metric.endswith("accuracy"):
        return f"{value:.2f}"
    if 0.01 <= abs(value) < 100 or value == 0:
        return format_metric(results.metric, value)
    return short_number(float(f"{value:.4g}" if abs(value) >= 100 else f"{value:.3g}"))


def metric_label(metric: str) -> str:
    """Return the label of a metric, of the best epoch; for training metrics, of the last."""
    return f"best {describe_metric(metric)}" if metric.startswith(("val/", "test/")) else describe_metric(metric)


def fit_metric(axes: Axes, way: str, metric: str, log_scale: bool) -> None:
    """Fit an axis (`x` or `y`) to a metric that is already drawn; accuracies are in per cent."""
    if log_scale:
        getattr(axes, f"set_{way}scale")("log")
    low, high = getattr(axes, f"get_{way}lim")()
    ticks = round_numbers(low, high, log_scale)
    set_ticks(getattr(axes, f"{way}axis"), ticks, format_numbers(ticks, log_scale))
    getattr(axes, f"set_{way}label")(metric_label(metric))


def color_scale(results: SweepResults) -> ScalarMappable:
    """Return the color scale of means: better is darker, which stands out on white."""
    low, high = float(results.means.min()), float(results.means.max())
    if low == high:
        norm = Normalize(low - 0.5, high + 0.5)
    else:
        norm = LogNorm(low, high) if results.log_scale else Normalize(low, high)
    return ScalarMappable(norm, "cividis_r" if results.maximized else "cividis")


def label_colorbar(bar: Colorbar, results: SweepResults, best: float | None = None, least: float = 0.0) -> None:
    """Label the color bar.

    Args:
        bar: the color bar.
        results: the results that are drawn.
        best: a value to label in any case.
        least: the smallest distance between two labels, as a share of the bar.
    """
    low, high = bar.ax.get_ylim()
    log_scale = isinstance(bar.norm, LogNorm)
    ticks = round_numbers(low, high, log_scale)
    texts = format_numbers(ticks, log_scale)
    if best is not None:
        ticks, texts = [best, *ticks], [metric_text(results, best), *texts]
    chosen = spaced(np.ma.getdata(bar.norm(np.array(ticks))).tolist(), least)
    bar.set_ticks([ticks[index] for index in chosen], labels=[texts[index] for index in chosen])
    if best is not None:
        bar.ax.get_yticklabels()[0].set(**BEST_LOOK)
    bar.minorticks_off()
    bar.outline.set_visible(False)
    bar.set_label(f"{metric_label(results.metric)}\n({'higher' if results.maximized else 'lower'} is better)")


def best_legend(results: SweepResults, marked: str) -> str:
    """Describe how the best is marked, or why none is."""
    if not results.comparable:
        return "different data or losses: no run is the best"
    return "" if results.best is None else marked


def add_note(figure: Figure, *texts: str) -> None:
    """Add a small grey note below the chart."""
    if text := "; ".join(filter(None, texts)):
        text = textwrap.fill(text, int(16 * figure.get_figwidth()))
        figure.supxlabel(text, x=0.06 / figure.get_figwidth(), ha="left", fontsize=8, color=GREY)
