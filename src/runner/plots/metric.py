"""What all pictures of a sweep have: its metric at an axis and in colours, names of values, notes below."""

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from runner.comparison.results import Parameter, SweepResults, Value
from runner.plots.axes import apart, describe_metric, number, numbers, round_numbers, set_ticks
from runner.plots.drawing import GREY, VERMILION, short
from runner.util.metric_names import format_metric
from runner.util.tables import shorten

BEST_LOOK: dict[str, Any] = {"color": VERMILION, "weight": "bold"}


def names(parameter: Parameter, length: int) -> dict[Value, str]:
    """A text for each value of a parameter, words first; of words that begin alike the end is kept instead."""
    words: dict[Value, str] = {word: shorten(word, length) or "none" for word in parameter.words}
    if len(set(words.values())) < len(words):
        words = {
            word: (word or "none") if len(word) <= length else f"...{word[3 - length :].lstrip('.')}"
            for word in parameter.words
        }
    return words | {value: number(value) for value in parameter.numbers}


def metric_text(results: SweepResults, value: float) -> str:
    """A value of it for people, without its unit."""
    if results.metric.endswith("accuracy"):
        return f"{value:.2f}"
    if 0.01 <= abs(value) < 100 or value == 0:
        return format_metric(results.metric, value)
    return short(float(f"{value:.4g}" if abs(value) >= 100 else f"{value:.3g}"))


def metric_label(metric: str) -> str:
    """Its name, of the best epoch; where only training was measured, the last epoch counts as that."""
    return f"best {describe_metric(metric)}" if metric.startswith(("val/", "test/")) else describe_metric(metric)


def fit_metric(axes: Axes, way: str, metric: str, log_scale: bool) -> None:
    """Fit an axis (`x` or `y`) to a metric that is drawn already, accuracies in per cent."""
    if log_scale:
        getattr(axes, f"set_{way}scale")("log")
    low, high = getattr(axes, f"get_{way}lim")()
    ticks = round_numbers(low, high, log_scale)
    set_ticks(getattr(axes, f"{way}axis"), ticks, numbers(ticks, log_scale))
    getattr(axes, f"set_{way}label")(metric_label(metric))


def colours(results: SweepResults) -> ScalarMappable:
    """From a mean to its colour; the better, the darker: that is seen best on white."""
    low, high = float(results.means.min()), float(results.means.max())
    if low == high:
        norm = Normalize(low - 0.5, high + 0.5)
    else:
        norm = LogNorm(low, high) if results.log_scale else Normalize(low, high)
    return ScalarMappable(norm, "cividis_r" if results.maximized else "cividis")


def label_colours(bar: Colorbar, results: SweepResults, best: float | None = None, least: float = 0.0) -> None:
    """Write numbers and words beside the colours.

    Args:
        bar: of all colours.
        results: what is drawn.
        best: to be among the numbers.
        least: the part of the bar that is left between two numbers.
    """
    low, high = bar.ax.get_ylim()
    log_scale = isinstance(bar.norm, LogNorm)
    ticks = round_numbers(low, high, log_scale)
    texts = numbers(ticks, log_scale)
    if best is not None:
        ticks, texts = [best, *ticks], [metric_text(results, best), *texts]
    kept = apart(np.ma.getdata(bar.norm(np.array(ticks))).tolist(), least)
    bar.set_ticks([ticks[index] for index in kept], labels=[texts[index] for index in kept])
    if best is not None:
        bar.ax.get_yticklabels()[0].set(**BEST_LOOK)
    bar.minorticks_off()
    bar.outline.set_visible(False)
    bar.set_label(f"{metric_label(results.metric)}\n({'higher' if results.maximized else 'lower'} is better)")


def about_best(results: SweepResults, marked: str) -> str:
    """How the best is marked, or why none is."""
    if not results.comparable:
        return "of different data or losses: none is the best"
    return "" if results.best is None else marked


def note(figure: Figure, *texts: str) -> None:
    """What cannot be seen in the picture, small and grey below it."""
    if text := "; ".join(filter(None, texts)):
        text = textwrap.fill(text, int(16 * figure.get_figwidth()))
        figure.supxlabel(text, x=0.06 / figure.get_figwidth(), ha="left", fontsize=8, color=GREY)
