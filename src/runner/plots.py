"""Curves as PNG, drawn from the journal after training."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # no window, no display
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .tracking.journal import Point

# Blue and orange of the Okabe-Ito palette, told apart by everyone.
COLORS = {"train": "#0072B2", "val": "#D55E00", "only": "#0072B2"}
MARKERS = {"train": "o", "val": "s", "only": "o"}
LABELS = {"train": "training", "val": "validation"}


def draw(points: Sequence[Point], folder: Path) -> list[Path]:
    """Draw every curve there are points for.

    Args:
        points: of the journal.
        folder: where the PNG files go.

    Returns:
        The files.
    """
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for point in points:
        steps, values = curves.setdefault(point.name, ([], []))
        steps.append(point.step)
        values.append(point.value)
    folder.mkdir(exist_ok=True)
    files = []
    for name, parts, unit, log_scale in (
        ("loss", {"train": "train/loss", "val": "val/loss"}, "loss", True),
        ("accuracy", {"train": "train/accuracy", "val": "val/accuracy"}, "accuracy / %", False),
        ("epoch_seconds", {"only": "time/epoch_seconds"}, "training time of the epoch / s", False),
        ("learning_rate", {"only": "lr"}, "learning rate", False),
    ):
        shown = {part: curves[metric] for part, metric in parts.items() if metric in curves}
        if not shown:
            continue
        figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
        for part, (steps, values) in shown.items():
            if unit.endswith("%"):
                values = [100 * value for value in values]
            _curve(axes, steps, values, part)
        if log_scale and all(value > 0 for _, values in shown.values() for value in values):
            axes.set_yscale("log")
        if name == "loss" and "val" in shown:
            _mark_best(axes, *shown["val"])
        if name == "epoch_seconds":
            axes.set_ylim(bottom=0)
        axes.set_xlabel("epoch")
        axes.set_ylabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(True, which="both", alpha=0.25)
        if "only" not in shown:
            axes.legend()
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=120)
        plt.close(figure)
    return files


def _curve(axes: Axes, steps: list[int], values: list[float], part: str) -> None:
    marker = MARKERS[part] if len(steps) <= 40 else None
    axes.plot(steps, values, color=COLORS[part], marker=marker, markersize=4, linewidth=1.8, label=LABELS.get(part))


def _mark_best(axes: Axes, steps: list[int], values: list[float]) -> None:
    best = min(range(len(values)), key=values.__getitem__)
    axes.axvline(
        steps[best],
        color="#555555",
        linestyle=":",
        linewidth=1.2,
        label=f"lowest validation loss: epoch {steps[best]}",
    )
