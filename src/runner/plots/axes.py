"""What stands at an axis: a metric's name in words, and round numbers, as many as there is room for."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from runner.plots.drawing import short

TICKS_AT_MOST = 6
WORDS = {"time/epoch_seconds": "time of an epoch / s", "throughput/samples_per_second": "samples / s"}
GRID_AT_MOST = 8
"""Numbers that are taken for those of a grid; of more, for those of a random search."""


def describe_metric(metric: str) -> str:
    """`test/accuracy` as the label of an axis, with its unit."""
    if metric in WORDS:
        return WORDS[metric]
    part, _, name = metric.partition("/")
    words = {"val": "validation", "train": "training"}.get(part, part)
    return f"{words} {name}{' / %' if name.endswith('accuracy') else ''}"


def number(value: float) -> str:
    """In few characters: whole ones as they are, others to three digits where they have many."""
    text = short(value)
    return text if len(text) <= 6 or (value == round(value) and abs(value) < 1e6) else short(float(f"{value:.3g}"))


def numbers(values: Sequence[float], log_scale: bool) -> list[str]:
    """Texts of those at an axis; if they are at even distances, all with as many decimals."""
    texts = [short(value) for value in values]
    if log_scale or any("e" in text for text in texts):
        return texts
    decimals = max((len(text.partition(".")[2]) for text in texts), default=0)
    return [f"{value:,.{decimals}f}".replace("-", "\N{MINUS SIGN}") for value in values]


def round_numbers(low: float, high: float, log_scale: bool) -> list[float]:
    """Ticks from the one to the other."""
    if log_scale and high / low >= 6:
        ticks = LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,), numticks=9).tick_values(low, high)
    else:
        ticks = MaxNLocator(7, steps=[1, 2, 5, 10]).tick_values(low, high)
    margin = 1e-9 * (high - low)
    return [float(tick) for tick in ticks if low - margin <= tick <= high + margin]


def apart(places: Sequence[float], least: float) -> list[int]:
    """The indices of those that are far enough from all kept before them."""
    kept: list[int] = []
    for index, place in enumerate(places):
        if all(abs(place - places[other]) >= least for other in kept):
            kept.append(index)
    return kept


def set_ticks(axis: Any, ticks: Sequence[float], texts: Sequence[str]) -> None:
    """These and no others."""
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_ticklabels(texts)
    axis.set_minor_locator(NullLocator())


def wants_log(values: Sequence[float], tagged: bool = False) -> bool:
    """Whether the ascending values of a parameter are best seen on a logarithmic axis, a zero below it.

    Args:
        values: each once.
        tagged: whether the sweep says so (`tag(log,...)`); values that have no logarithm decide by themselves.
    """
    if tagged and len(values) > 1 and values[0] > 0:
        return True
    positive = values[1:] if values[0] == 0 else values
    if len(positive) < 2 or positive[0] <= 0 or positive[-1] / positive[0] < 10:
        return False
    # What was drawn evenly from 0 to 0.5 spans decades too.
    return len(positive) <= GRID_AT_MOST or median(positive) - positive[0] < (positive[-1] - positive[0]) / 3


def fit_axis(axes: Axes, way: str, values: Sequence[float], tagged: bool = False) -> None:
    """Fit an axis to the ascending values of a parameter, with a tick at each where they are few.

    Args:
        axes: to draw on.
        way: `x` or `y`.
        values: each once.
        tagged: see `wants_log`.
    """
    axis, log_scale, zero = getattr(axes, f"{way}axis"), wants_log(values, tagged), values[0] == 0
    if log_scale:
        scale = {"value": "symlog", "linthresh": values[1], "linscale": 0.6} if zero else {"value": "log"}
        getattr(axes, f"set_{way}scale")(**scale)
    ticks = list(values)
    if len(ticks) > TICKS_AT_MOST:
        ticks = round_numbers(values[1] if log_scale and zero else values[0], values[-1], log_scale)
        ticks += [0.0] if log_scale and zero else []
    ticks = [ticks[0], ticks[-1], *ticks[1:-1]]  # the ends are kept
    low, high, *places = axis.get_transform().transform(np.array([values[0], values[-1], *ticks]))
    chosen = sorted(ticks[index] for index in apart(places, 0.07 * (high - low)))
    set_ticks(axis, chosen, [number(tick) for tick in chosen])
