"""A comparison as PNG: bars of time and quality, loss curves on one axis, and the chart of the sweep."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from runner.comparison.table import Comparison, format_speed_up
from runner.plots.axes import describe_metric
from runner.plots.drawing import BLUE, COLORS, GREY, MARKERS, STYLE, new_figure, write
from runner.plots.sweep import sweep_figure
from runner.plots.thinning import thin
from runner.util.metric_names import format_metric

STYLES = ("-", "--", ":")
CURVES_AT_MOST = 12
BARS_AT_MOST = 40


def draw(comparison: Comparison, folder: Path, one_sweep: bool = False) -> list[Path]:
    """Draw the charts for which the runs have numbers.

    Args:
        comparison: the runs.
        folder: where the PNG files go.
        one_sweep: see `sweep_figure`.

    Returns:
        The files.
    """
    files = []
    with mpl.rc_context(STYLE):
        for name, figure in (
            ("bars", bars(comparison)),
            ("loss", loss_curves(comparison)),
            ("sweep", sweep_figure(comparison, one_sweep=one_sweep)),
        ):
            if figure is not None:
                files.append(folder / f"{name}.png")
                write(figure, files[-1])
    return files


def quality(comparison: Comparison) -> str | None:
    """Return the metric for the quality of a run: test before validation, accuracy before loss."""
    order = [f"{part}/{name}" for part in ("test", "val") for name in ("accuracy", "r2", "loss")]
    order += ["train/accuracy", "train/loss"]  # for so few samples that R2 is often undefined
    return next((name for name in order if name in comparison.metrics), None)


def bars(comparison: Comparison) -> Figure | None:
    """Draw epoch time (with the speed-up), samples per second and quality, a bar per run."""
    runs = comparison.runs[:BARS_AT_MOST]
    times, rates = [run.epoch_time for run in runs], [run.samples_per_second for run in runs]
    speed_ups = [comparison.speed_up(index) for index in range(len(runs))]
    panels = []
    if any(times):
        compared = any(speed_ups[1:])
        texts = [
            f"{seconds:.3g}" + (f" ({format_speed_up(speed_up)})" if speed_up and compared else "") if seconds else ""
            for seconds, speed_up in zip(times, speed_ups, strict=True)
        ]
        speed = "\n(speed-up against the first)" if compared else ""
        panels.append((f"time of an epoch / s{speed}", times, texts))
    if any(rates):
        panels.append(("samples / s", rates, [f"{rate:,.0f}" if rate else "" for rate in rates]))
    if name := quality(comparison):
        values = comparison.values(name)[: len(runs)]
        percent = name.endswith("accuracy")
        texts = ["" if value is None else format_metric(name, value).strip().removesuffix(" %") for value in values]
        scaled = [100 * value if percent and value is not None else value for value in values]
        panels.append((describe_metric(name), scaled, texts))
    if not panels:
        return None
    figure = new_figure(1.8 + 3.4 * len(panels), 1.4 + 0.42 * len(runs))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)
    for axis, (title, values, texts) in zip(axes[0], panels, strict=True):
        _bars(axis, values, texts, title, [run.status for run in runs])
    axes[0][0].set_yticks(range(len(runs)), comparison.labels[: len(runs)])
    axes[0][0].invert_yaxis()
    if len(comparison.runs) > len(runs):
        figure.suptitle(f"the first {len(runs)} of {len(comparison.runs)} runs")
    return figure


def _bars(axis: Axes, values: Sequence[float | None], texts: Sequence[str], title: str, status: Sequence[str]) -> None:
    lengths = [value if value is not None and math.isfinite(value) else 0.0 for value in values]
    axis.barh(range(len(lengths)), lengths, color=BLUE, height=0.66)
    axis.set_xlabel(title)
    longest = max(lengths) or 1.0
    # Room for the text behind the longest bar.
    axis.set_xlim(min(0.0, *lengths), longest * (1.08 + 0.036 * max(map(len, texts))))
    for index, (length, text) in enumerate(zip(lengths, texts, strict=True)):
        if text:
            axis.text(max(length, 0.0) + 0.02 * longest, index, text, va="center")
        else:
            text = "none" if status[index] == "FINISHED" else status[index].lower()
            axis.text(0.02 * longest, index, text, va="center", color=GREY, style="italic")
    axis.xaxis.set_major_locator(MultipleLocator(25) if title.endswith("%") else MaxNLocator(4))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.grid(False, axis="y")
    axis.tick_params(axis="y", length=0)


def loss_curves(comparison: Comparison) -> Figure | None:
    """Draw the validation loss of all runs by epoch, or the training loss if none was validated."""
    name = next((n for n in ("val/loss", "train/loss") if any(n in run.curves for run in comparison.runs)), None)
    if name is None:
        return None
    with_curve = [index for index, run in enumerate(comparison.runs) if name in run.curves]
    chosen = with_curve
    if len(with_curve) > CURVES_AT_MOST:  # the best, in their original order
        chosen = sorted(
            sorted(with_curve, key=lambda i: np.nanmin(comparison.runs[i].curves[name].values, initial=math.inf))[
                :CURVES_AT_MOST
            ]
        )
    longest = max(len(comparison.labels[index]) for index in chosen)
    figure = new_figure(6.4 + 0.085 * longest, 4.6)  # with room for the legend
    axis = figure.subplots()
    for place, index in enumerate(chosen):
        curve = comparison.runs[index].curves[name]
        axis.plot(
            *thin(*curve),
            label=comparison.labels[index],
            linewidth=1.8,
            color=COLORS[place % len(COLORS)],
            linestyle=STYLES[(place + place // len(COLORS)) % len(STYLES)],  # overlapping curves remain visible
            marker=MARKERS[place % len(MARKERS)] if len(curve.steps) <= 20 else None,
            markersize=4,
        )
    if all((comparison.runs[index].curves[name].values > 0).all() for index in chosen):
        axis.set_yscale("log")
        _plain_numbers(axis)
    axis.set_xlabel("epoch")
    axis.set_ylabel(describe_metric(name))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside right upper")
    if len(chosen) < len(with_curve):
        axis.set_title(f"the {len(chosen)} of {len(with_curve)} runs with the lowest loss", fontsize=11)
    return figure


def _plain_numbers(axis: Axes) -> None:
    """Format ticks as 0.3 instead of 3 x 10^-1; label those between powers of ten if they fit."""
    low, high = axis.get_ylim()
    named = "2357" if high / low < 12 else "25" if high / low < 100 else ""
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in named else ""))
