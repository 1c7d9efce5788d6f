"""The plot of a learning-rate range test."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.ticker import FuncFormatter, LogLocator

from runner.plots.drawing import BLUE, GREY, VERMILION, new_drawing, short_number
from runner.plots.legend import add_legend


def draw(
    rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggestion: int | None, folder: Path
) -> None:
    """Draw the loss over the learning rate as `lr_range.png`.

    Args:
        rates: by step.
        losses: of the batch of each step.
        smoothed: their exponential mean.
        suggestion: the place of the suggested rate; None: there is none.
        folder: of the PNG file; created if missing.
    """
    with new_drawing(folder) as drawing:
        drawing.start(6.4, 4.2)
        axes = drawing.add(0.95, 0.6, 5.2, 3.0)
        axes.set_xscale("log")
        axes.plot(rates, losses, color=GREY, linewidth=1, alpha=0.4)
        axes.plot(rates, smoothed, color=BLUE, linewidth=1.8)
        names = ["loss of the batch", "smoothed"]
        if suggestion is not None:
            axes.plot(rates[suggestion], smoothed[suggestion], "o", color=VERMILION, markersize=8)
            names.append(f"suggestion: {rates[suggestion]:.3g}")
        low, high = min(smoothed), max(smoothed)
        margin = 0.1 * (high - low) or 1.0
        axes.set_ylim(low - margin, high + margin)  # single batches may lie far outside
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss")
        axes.xaxis.set_major_locator(LogLocator(numticks=9))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
        add_legend(drawing.figure, axes, list(zip(names, axes.lines, strict=True)))
        drawing.save("lr_range")
