"""Bars of a metric for each class, label or output."""

from collections.abc import Collection, Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from runner.plots.axes import describe_metric
from runner.plots.drawing import BLUE, GREY, Drawing, brief, new_drawing, short_number
from runner.plots.text import text_width
from runner.plots.ticks import name_ticks
from runner.util.metric_names import format_metric

MOST_BARS = 40
NAME_LENGTH = 28
LETTERS = 10  # points
TITLE = 11  # points
ROW, LEAST, BARS = 0.27, 0.9, 4.2  # inches: height of a row, least height of all, width of the bars
BELOW, ABOVE, BESIDE = 0.6, 0.65, 0.15


def draw_by_class(
    metrics: Mapping[str, Mapping[str, float | None]],
    folder: Path,
    kind: str = "class",
    lower_is_better: Collection[str] = (),
) -> list[Path]:
    """Draw a bar of a metric for each class; of many classes, the worst.

    Args:
        metrics: the values by class of metrics such as `test/f1`; None where a class has no value.
        folder: the folder of the PNG files; created if missing.
        kind: what the values are of: class, label or output.
        lower_is_better: the metrics whose highest values are the worst.

    Returns:
        The files: `f1_by_class.png`.
    """
    with new_drawing(folder) as drawing:
        for metric, values in metrics.items():
            if any(value is not None for value in values.values()):
                _draw(drawing, metric, values, kind, metric in lower_is_better)
    return drawing.files


def _draw(drawing: Drawing, metric: str, values: Mapping[str, float | None], kind: str, lowest_last: bool) -> None:
    known = {name: value for name, value in values.items() if value is not None}
    name = metric.partition("/")[2]
    plural = "classes" if kind == "class" else f"{kind}s"
    mean = sum(known.values()) / len(known)
    title = f"{name} by {kind}"
    shown = dict(values)  # in the order of the confusion matrix
    if len(values) > MOST_BARS:
        worst = sorted(known, key=lambda one: known[one], reverse=lowest_last)[:MOST_BARS]
        shown = {one: known[one] for one in worst}
        title += f": the {'highest' if lowest_last else 'lowest'} {len(shown)} of {len(values):,} {plural}"
    notes = [f"dashed: the mean of all {plural}, {_text(metric, mean)}"]
    if unknown := len(values) - len(known):
        notes.append(f"undefined for {unknown:,} of {len(values):,}")
    _lay_out(drawing, metric, shown, mean, f"{title}\n{'; '.join(notes)}")
    drawing.save(f"{name}_by_{kind}")


def _lay_out(drawing: Drawing, metric: str, shown: Mapping[str, float | None], mean: float, title: str) -> None:
    """Draw a row for each class: its name, its bar, its value."""
    names = [brief(name, NAME_LENGTH) for name in shown]
    texts = ["\N{EN DASH}" if value is None else _text(metric, value) for value in shown.values()]
    left, right = BESIDE + 0.1 + text_width(names, LETTERS), 0.1 + text_width(texts, LETTERS) + BESIDE
    height = max(LEAST, ROW * len(names))
    width = max(left + BARS + right, 2 * BESIDE + text_width(title.split("\n"), TITLE))
    drawing.start(width, BELOW + height + ABOVE)
    axes = drawing.add(left, BELOW, width - left - right, height)
    factor = _factor(metric)
    bars = [0.0 if value is None else factor * value for value in shown.values()]
    axes.barh(range(len(bars)), bars, height=0.7, color=BLUE)
    for row, text in enumerate(texts):
        axes.text(1.02, row, text, va="center_baseline", fontsize=LETTERS, transform=axes.get_yaxis_transform())
    axes.axvline(factor * mean, color=GREY, linestyle="--", linewidth=1.4, label="mean")
    name_ticks(axes.yaxis, range(len(names)), names)
    axes.tick_params(axis="y", length=0, labelsize=LETTERS)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    _fit_values(axes, [*bars, factor * mean], factor)
    axes.set_xlabel(describe_metric(metric))
    drawing.figure.text(BESIDE / width, 1 - 0.12 / (BELOW + height + ABOVE), title, va="top", fontsize=TITLE)


def _fit_values(axes: Axes, values: list[float], whole: float) -> None:
    """Fit the axis to bars, which begin at 0: up to 1, or 100 %, for shares."""
    low, high = min(0.0, *values), max(0.0, *values)
    if low == 0 and high <= whole:
        axes.set_xlim(0, whole)
    else:
        margin = 0.04 * (high - low)
        axes.set_xlim(low - margin if low < 0 else 0, high + margin if high > 0 else 0)
        axes.axvline(0, color="black", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))


def _factor(metric: str) -> float:
    """Return the factor to the unit of the axis: accuracies are in per cent."""
    return 100.0 if metric.endswith("accuracy") else 1.0


def _text(metric: str, value: float) -> str:
    if 1e-3 <= abs(value) < 1e4 or value == 0:
        return format_metric(metric, value).strip().replace("-", "\N{MINUS SIGN}")
    return short_number(float(f"{value:.3g}"))
