"""Curves over epochs and steps, from the journal."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from runner.plots.drawing import BLUE, GREY, VERMILION, YELLOW, Drawing, new_drawing, short_number
from runner.plots.legend import add_legend
from runner.plots.thinning import thin
from runner.rundir.points import Curve

PARTS = {"train": "training", "val": "validation"}
COLORS = {"train": BLUE, "val": VERMILION}
MARKERS = {"train": "o", "val": "s"}
MOST_MARKERS = 40  # more merge into a thick line

CURVES = ("train/", "val/", "lr", "time/epoch_seconds")
"""The metrics that are drawn, as `journal.read_curves` takes them."""


class Look(NamedTuple):
    """The look of a metric: axis label, factor to its unit, whether the axis is logarithmic."""

    label: str
    factor: float = 1.0
    log_scale: bool = False


LOOKS = {
    "loss": Look("loss (mean over samples)", log_scale=True),
    "accuracy": Look("accuracy (%)", 100.0),
    "mae": Look("mean absolute error (target's unit)", log_scale=True),
    "r2": Look("R² (1 is perfect)"),
}


def draw(
    curves: Mapping[str, Curve], folder: Path, best_epoch: int | None = None, monitor: str = "val/loss"
) -> list[Path]:
    """Draw a curve for each metric of the journal.

    Args:
        curves: those of the journal.
        folder: the folder of the PNG files; created if missing.
        best_epoch: the best epoch of the run; marked if there are several epochs.
        monitor: the metric that defines the best epoch.

    Returns:
        The files.
    """
    curves = {
        name: Curve(steps, np.where(np.isfinite(values), values, np.nan)) for name, (steps, values) in curves.items()
    }
    with new_drawing(folder) as drawing:
        for name in _metrics(curves):
            parts = {part: curves[f"{part}/{name}"] for part in PARTS if f"{part}/{name}" in curves}
            axes = _curve_axes(drawing, "optimizer step" if name.endswith("_step") else "epoch", *parts.values())
            notes = _draw_parts(axes, name, parts)
            if best_epoch and not name.endswith("_step"):
                _mark_best(axes, best_epoch, monitor, curves, parts, name)
            _legend(drawing, axes, *notes)
            drawing.save(name.replace("_step", "_by_step"))
        if "time/epoch_seconds" in curves:
            _draw_seconds(drawing, curves["time/epoch_seconds"])
        if "lr" in curves:
            axes = _curve_axes(drawing, "epoch (mean over its steps)", curves["lr"])
            _plot(axes, *curves["lr"], "train")
            axes.set_ylim(bottom=0)
            axes.set_ylabel("learning rate")
            drawing.save("learning_rate")
    return drawing.files


def _metrics(curves: Mapping[str, Curve]) -> list[str]:
    """Return the metrics of training or validation: known ones first, those by step last."""
    names = {name.partition("/")[2] for name in curves if name.partition("/")[0] in PARTS}
    known = list(LOOKS)
    return sorted(names, key=lambda n: (n.endswith("_step"), known.index(n) if n in known else len(known), n))


def _curve_axes(drawing: Drawing, x_label: str, *curves: Curve) -> Axes:
    """Return empty axes with the range of the curves and whole numbers along x."""
    if drawing.files:
        axes = drawing.start_alike()
    else:
        drawing.start(6.4, 4.2)
        axes = drawing.add(0.95, 0.6, 5.2, 3.0)
    axes.set_xlabel(x_label)
    steps = np.concatenate([steps for steps, _ in curves])
    margin = 0.03 * np.ptp(steps) or 1.0
    axes.set_xlim(steps.min() - margin, steps.max() + margin)
    one = np.ptp(steps) == 0
    axes.xaxis.set_major_locator(FixedLocator([steps[0]]) if one else MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    return axes


def _plot(axes: Axes, steps: NDArray[np.float64], values: NDArray[np.float64], part: str, label: str = "") -> None:
    marker = MARKERS[part] if len(steps) <= MOST_MARKERS else None
    width = 1.8 if len(steps) <= 500 else 1.0
    axes.plot(*thin(steps, values), color=COLORS[part], marker=marker, markersize=5, linewidth=width, label=label)


def _draw_parts(axes: Axes, name: str, parts: Mapping[str, Curve]) -> list[str]:
    """Draw a metric of training and validation.

    Returns:
        Notes on values that the plot cannot show.
    """
    look = LOOKS.get(name.removesuffix("_step"), Look(name.removesuffix("_step")))
    # Running means restart with each epoch.
    labels = PARTS | ({"train": "training: mean of the epoch so far"} if name.endswith("_step") else {})
    everything = np.concatenate([values for _, values in parts.values()])
    log_scale = look.log_scale and bool((everything > 0).any()) and not bool((everything < 0).any())
    for part, (steps, values) in parts.items():
        shown = np.where(values > 0, values, np.nan) if log_scale else values
        _plot(axes, steps, look.factor * shown, part, labels[part])
    axes.set_ylabel(look.label)
    unseen = {"not finite": int(np.isnan(everything).sum())}
    if log_scale:
        _log_scale(axes)
        unseen["equal to 0"] = int((everything == 0).sum())
    if name == "r2" and bool((everything > -1).any()):
        unseen["below \N{MINUS SIGN}1"] = int((everything < -1).sum())
        if unseen["below \N{MINUS SIGN}1"]:  # that of an untrained model may be -1000
            axes.set_ylim(-1, 1.05)
    return (
        [f"not shown: {', '.join(f'{n:,} {what}' for what, n in unseen.items() if n)}"] if any(unseen.values()) else []
    )


def _log_scale(axes: Axes) -> None:
    """Use a logarithmic y axis with plain numbers, for ranges from half a decade to thirty."""
    axes.set_yscale("log", nonpositive="mask")
    low, high = np.log10(axes.get_ylim())
    if high - low < 0.8:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    else:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high - low < 2.5 else (1,), numticks=9))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axes.yaxis.set_minor_locator(NullLocator())  # a tick takes a millisecond


def _mark_best(
    axes: Axes, epoch: int, monitor: str, curves: Mapping[str, Curve], parts: Mapping[str, Curve], name: str
) -> None:
    """Draw a line at the best epoch, and a star at its value."""
    if max(len(steps) for steps, _ in parts.values()) < 2:
        return
    part, _, metric = monitor.partition("/")
    reason = f"by {PARTS.get(part, part)} {metric}" if monitor in curves else "the last"
    label = f"best epoch: {epoch:,} ({reason})"
    axes.axvline(epoch, color=GREY, linestyle=":", linewidth=1.4, label=label)
    if metric == name and part in parts:
        steps, values = parts[part]
        factor = LOOKS[name].factor if name in LOOKS else 1.0
        at = steps == epoch
        axes.plot(steps[at], factor * values[at], "*", markersize=15, color=YELLOW, markeredgecolor="black", zorder=3)


def _legend(drawing: Drawing, axes: Axes, *notes: str) -> None:
    """Draw a legend of up to four entries above the axes; notes have no line."""
    entries = [(str(line.get_label()), line) for line in axes.lines if not str(line.get_label()).startswith("_")]
    add_legend(drawing.figure, axes, [*entries, *((note, None) for note in notes)])


def _draw_seconds(drawing: Drawing, curve: Curve) -> None:
    steps, seconds = curve
    axes = _curve_axes(drawing, "epoch", curve)
    brief = bool(np.nanmax(seconds, initial=0) < 0.1)
    values, unit = (1000 * seconds, "ms") if brief else (seconds, "s")
    _plot(axes, steps, values, "train", "training of an epoch")
    if len(values) > 1 and np.isfinite(values).any():
        median = float(np.nanmedian(values))
        axes.axhline(median, color=GREY, linestyle="--", linewidth=1.4, label=f"median: {median:.3g} {unit}")
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"time ({unit})")
    _legend(drawing, axes)
    drawing.save("epoch_seconds")
