"""Axis labels and ticks: a metric's name in words, and as many round numbers as fit."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from runner.plots.drawing import short_number

TICKS_AT_MOST = 6
WORDS = {
    "time/epoch_seconds": "time of an epoch / s",
    "throughput/samples_per_second": "samples / s",
    "energy/kwh": "energy / kWh",
}
GRID_AT_MOST = 8
"""The most values of a parameter that count as a grid; more count as a random search."""


def describe_metric(metric: str) -> str:
    """Return the axis label of a metric such as `test/accuracy`, with its unit."""
    if metric in WORDS:
        return WORDS[metric]
    part, _, name = metric.partition("/")
    words = {"val": "validation", "train": "training"}.get(part, part)
    return f"{words} {name}{' / %' if name.endswith('accuracy') else ''}"


def format_number(value: float) -> str:
    """Format a number in few characters: whole numbers in full, long fractions with three digits."""
    text = short_number(value)
    if len(text) <= 6 or (value == round(value) and abs(value) < 1e6):
        return text
    return short_number(float(f"{value:.3g}"))


def format_numbers(values: Sequence[float], log_scale: bool) -> list[str]:
    """Format the numbers of an axis; on a linear axis all with the same decimals."""
    texts = [short_number(value) for value in values]
    if log_scale or any("e" in text for text in texts):
        return texts
    decimals = max((len(text.partition(".")[2]) for text in texts), default=0)
    return [f"{value:,.{decimals}f}".replace("-", "\N{MINUS SIGN}") for value in values]


def round_numbers(low: float, high: float, log_scale: bool) -> list[float]:
    """Return round ticks between two values."""
    if log_scale and high / low >= 6:
        ticks = LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,), numticks=9).tick_values(low, high)
    else:
        ticks = MaxNLocator(7, steps=[1, 2, 5, 10]).tick_values(low, high)
    margin = 1e-9 * (high - low)
    return [float(tick) for tick in ticks if low - margin <= tick <= high + margin]


def spaced(places: Sequence[float], least: float) -> list[int]:
    """Return the indices of places that are at least `least` from all chosen before them."""
    chosen: list[int] = []
    for index, place in enumerate(places):
        if all(abs(place - places[other]) >= least for other in chosen):
            chosen.append(index)
    return chosen


def set_ticks(axis: Any, ticks: Sequence[float], texts: Sequence[str]) -> None:
    """Set the ticks of an axis, without minor ticks."""
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_ticklabels(texts)
    axis.set_minor_locator(NullLocator())


def use_log_scale(values: Sequence[float], tagged: bool = False) -> bool:
    """Return whether to draw the ascending values of a parameter on a logarithmic axis, with a zero below it.

    Args:
        values: the distinct values.
        tagged: whether the sweep asks for it (`tag(log,...)`); ignored for values without a logarithm.
    """
    if tagged and len(values) > 1 and values[0] > 0:
        return True
    positive = values[1:] if values[0] == 0 else values
    if len(positive) < 2 or positive[0] <= 0 or positive[-1] / positive[0] < 10:
        return False
    # Uniform draws from 0 to 0.5 span decades too.
    return len(positive) <= GRID_AT_MOST or median(positive) - positive[0] < (positive[-1] - positive[0]) / 3


def fit_axis(axes: Axes, way: str, values: Sequence[float], tagged: bool = False) -> None:
    """Fit an axis to the ascending values of a parameter, with a tick at each value if they are few.

    Args:
        axes: the axes.
        way: `x` or `y`.
        values: the distinct values.
        tagged: see `use_log_scale`.
    """
    axis, log_scale, zero = getattr(axes, f"{way}axis"), use_log_scale(values, tagged), values[0] == 0
    if log_scale:
        scale = {"value": "symlog", "linthresh": values[1], "linscale": 0.6} if zero else {"value": "log"}
        getattr(axes, f"set_{way}scale")(**scale)
    ticks = list(values)
    if len(ticks) > TICKS_AT_MOST:
        ticks = round_numbers(values[1] if log_scale and zero else values[0], values[-1], log_scale)
        ticks += [0.0] if log_scale and zero else []
    ticks = [ticks[0], ticks[-1], *ticks[1:-1]]  # the ends come first, so that they stay
    low, high, *places = axis.get_transform().transform(np.array([values[0], values[-1], *ticks]))
    chosen = sorted(ticks[index] for index in spaced(places, 0.07 * (high - low)))
    set_ticks(axis, chosen, [format_number(tick) for tick in chosen])
