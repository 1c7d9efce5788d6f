"""A comparison as PNG: bars of time and quality, loss curves on one axis, the best metric over what was swept."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg  # no window, no display
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator, NullFormatter

from .comparison import Comparison, times_faster
from .console import shown
from .plots.drawing import BLUE, DPI, GREY, STYLE, VERMILION

# The Okabe-Ito palette without its yellow, which is too pale for a line; told apart by everyone.
COLORS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
STYLES = ("-", "--", ":")
MARKERS = "osD^vP"

CURVES_AT_MOST = 12
BARS_AT_MOST = 40
TICKS_AT_MOST = 6


def draw(c: Comparison, folder: Path) -> list[Path]:
    """Draw what there are figures for.

    Returns:
        The files.
    """
    files = []
    with mpl.rc_context(STYLE):
        for name, figure in (("bars", bars(c)), ("loss", loss_curves(c)), ("sweep", swept(c))):
            if figure is not None:
                files.append(folder / f"{name}.png")
                figure.savefig(files[-1])
    return files


def _figure(width: float, height: float) -> Figure:
    """An empty one; inches."""
    figure = Figure((width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def quality(c: Comparison) -> str | None:
    """The metric that tells best how good a run is: of the test part, an accuracy rather than a loss."""
    order = [f"{part}/{name}" for part in ("test", "val") for name in ("accuracy", "r2", "loss")]
    order += ["train/accuracy", "train/loss"]  # of so few samples that R2 is often not defined
    return next((name for name in order if name in c.metrics), None)


def bars(c: Comparison) -> Figure | None:
    """Epoch time (with the speed-up), samples per second and quality, a bar a run."""
    runs = c.runs[:BARS_AT_MOST]
    times, rates = [run.epoch_time for run in runs], [run.samples_per_second for run in runs]
    speed_ups = [c.speed_up(index) for index in range(len(runs))]
    panels = []
    if any(times):
        compared = any(speed_ups[1:])
        said = [
            f"{t:.3g}" + (f" ({times_faster(s)})" if s and compared else "") if t else ""
            for t, s in zip(times, speed_ups, strict=True)
        ]
        speed = "\n(speed-up against the first)" if compared else ""
        panels.append((f"time of an epoch / s{speed}", times, said))
    if any(rates):
        panels.append(("samples / s", rates, [f"{rate:,.0f}" if rate else "" for rate in rates]))
    if name := quality(c):
        values = c.values(name)[: len(runs)]
        percent = name.endswith("accuracy")
        said = ["" if value is None else shown(name, value).strip().removesuffix(" %") for value in values]
        scaled = [100 * value if percent and value is not None else value for value in values]
        panels.append((in_words(name), scaled, said))
    if not panels:
        return None
    figure = _figure(1.8 + 3.4 * len(panels), 1.4 + 0.42 * len(runs))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)
    for axis, (title, values, said) in zip(axes[0], panels, strict=True):
        _bars(axis, values, said, title, [run.status for run in runs])
    axes[0][0].set_yticks(range(len(runs)), c.labels[: len(runs)])
    axes[0][0].invert_yaxis()
    if len(c.runs) > len(runs):
        figure.suptitle(f"the first {len(runs)} of {len(c.runs)} runs")
    return figure


def _bars(axis: Axes, values: Sequence[float | None], said: Sequence[str], title: str, status: Sequence[str]) -> None:
    lengths = [value if value is not None and math.isfinite(value) else 0.0 for value in values]
    axis.barh(range(len(lengths)), lengths, color=BLUE, height=0.66)
    axis.set_xlabel(title)
    longest = max(lengths) or 1.0
    # Room for the figures behind the longest bar, by how long they are.
    axis.set_xlim(min(0.0, *lengths), longest * (1.08 + 0.036 * max(map(len, said))))
    for index, (length, text) in enumerate(zip(lengths, said, strict=True)):
        if text:
            axis.text(max(length, 0.0) + 0.02 * longest, index, text, va="center")
        else:
            why = "none" if status[index] == "FINISHED" else status[index].lower()
            axis.text(0.02 * longest, index, why, va="center", color=GREY, style="italic")
    axis.xaxis.set_major_locator(MultipleLocator(25) if title.endswith("%") else MaxNLocator(4))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.grid(False, axis="y")
    axis.tick_params(axis="y", length=0)


def in_words(metric: str) -> str:
    """`test/accuracy` as the label of an axis, with its unit."""
    part, _, name = metric.partition("/")
    words = {"val": "validation", "train": "training"}.get(part, part)
    return f"{words} {name}{' / %' if name.endswith('accuracy') else ''}"


def loss_curves(c: Comparison) -> Figure | None:
    """The validation loss of all runs by epoch (the training loss, where nothing was validated)."""
    name = next((n for n in ("val/loss", "train/loss") if any(n in run.curves for run in c.runs)), None)
    if name is None:
        return None
    having = [index for index, run in enumerate(c.runs) if name in run.curves]
    chosen = having
    if len(having) > CURVES_AT_MOST:  # the best of them, still in their own order
        chosen = sorted(sorted(having, key=lambda i: min(c.runs[i].curves[name].values()))[:CURVES_AT_MOST])
    longest = max(len(c.labels[index]) for index in chosen)
    figure = _figure(6.4 + 0.085 * longest, 4.6)  # with room for the legend
    axis = figure.subplots()
    for place, index in enumerate(chosen):
        curve = c.runs[index].curves[name]
        axis.plot(
            list(curve),
            list(curve.values()),
            label=c.labels[index],
            linewidth=1.8,
            color=COLORS[place % len(COLORS)],
            linestyle=STYLES[(place + place // len(COLORS)) % len(STYLES)],  # of two on one another both are seen
            marker=MARKERS[place % len(MARKERS)] if len(curve) <= 20 else None,
            markersize=4,
        )
    if all(value > 0 for index in chosen for value in c.runs[index].curves[name].values()):
        axis.set_yscale("log")
        _plain_numbers(axis)
    axis.set_xlabel("epoch")
    axis.set_ylabel(in_words(name))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside right upper")
    if len(chosen) < len(having):
        axis.set_title(f"the {len(chosen)} of {len(having)} runs that come lowest", fontsize=11)
    return figure


def _plain_numbers(axis: Axes) -> None:
    """Ticks as 0.3 instead of 3 x 10^-1; those between two powers of ten are named where there is room."""
    low, high = axis.get_ylim()
    named = "2357" if high / low < 12 else "25" if high / low < 100 else ""
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in named else ""))


def swept(c: Comparison) -> Figure | None:
    """The best validation metric over one or two swept numbers; None if something else differs too.

    Runs that differ in their seed alone are averaged.
    """
    runs = [index for index, run in enumerate(c.runs) if run.config]
    axes = {}
    for key, values in c.differing.items():
        if key != "seed" and (numbers := _numbers([values[index] for index in runs])) is not None:
            axes[key] = numbers
    others = [key for key in c.differing if key not in axes and key != "seed"]
    metric = _monitored(c)
    if metric is None or others or len(axes) not in (1, 2):
        return None
    points: dict[tuple[float, ...], list[float]] = {}
    measured = c.values(metric)
    for place, index in zip(zip(*axes.values(), strict=True), runs, strict=True):
        value = measured[index]
        if value is not None and math.isfinite(value):
            points.setdefault(place, []).append(100 * value if metric.endswith("accuracy") else value)
    if len(points) < 2:
        return None
    keys = list(axes)
    return _line(keys[0], points, metric) if len(keys) == 1 else _heat_map(keys[0], keys[1], points, metric)


def _numbers(values: Sequence[str]) -> list[float] | None:
    """The values of a swept axis; None if they are no numbers."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _monitored(c: Comparison) -> str | None:
    """The validation metric by which the runs were judged."""
    monitors = {run.config.get("trainer.monitor") for run in c.runs if run.config}
    wanted = [name for name in monitors if name in c.metrics] if len(monitors) == 1 else []
    return next((name for name in (*wanted, "val/loss", "test/loss", "train/loss") if name in c.metrics), None)


def _line(key: str, points: dict[tuple[float, ...], list[float]], metric: str) -> Figure:
    places = sorted(points)
    xs = [place[0] for place in places]
    figure = _figure(6.4, 4.2)
    axis = figure.subplots()
    repeated = any(len(values) > 1 for values in points.values())
    means = [mean(points[place]) for place in places]
    axis.plot(xs, means, "-" if repeated else "o-", color=BLUE, label="mean" if repeated else None)
    if repeated:
        dots = [(place[0], value) for place in places for value in points[place]]
        axis.plot(*zip(*dots, strict=True), "o", color=VERMILION, markersize=5, label="one run")
        axis.legend()
    if min(xs) > 0 and max(xs) / min(xs) >= 10:
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())
    if len(xs) <= TICKS_AT_MOST:
        axis.set_xticks(xs)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlabel(key)
    axis.set_ylabel(_of_best(metric))
    return figure


def _of_best(metric: str) -> str:
    """The label of a metric of the best epoch; where only training was measured, the last epoch counts as that."""
    return in_words(metric) if metric.startswith("train/") else f"best {in_words(metric)}"


def _heat_map(across: str, up: str, points: dict[tuple[float, ...], list[float]], metric: str) -> Figure:
    columns, lines = (sorted({place[axis] for place in points}) for axis in (0, 1))
    grid = np.full((len(lines), len(columns)), np.nan)
    for (x, y), values in points.items():
        grid[lines.index(y), columns.index(x)] = mean(values)
    figure = _figure(2.6 + 0.85 * max(3, len(columns)), 1.8 + 0.6 * max(3, len(lines)))
    axis = figure.subplots()
    image = axis.imshow(grid, origin="lower", aspect="auto", cmap="cividis")
    middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
    for (y, x), value in np.ndenumerate(grid):
        if math.isfinite(value):
            axis.text(x, y, f"{value:.3g}", ha="center", va="center", color="white" if value < middle else "black")
    axis.grid(False)
    axis.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    axis.set_yticks(range(len(lines)), [f"{value:g}" for value in lines])
    axis.set_xlabel(across)
    axis.set_ylabel(up)
    figure.colorbar(image, label=_of_best(metric))
    return figure
