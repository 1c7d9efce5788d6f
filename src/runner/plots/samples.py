"""Plots of test predictions: confusion matrix, worst mistakes, predicted against true values."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.lines import Line2D
from matplotlib.markers import TICKRIGHT
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from runner.plots.drawing import BLUE, GREY, Drawing, brief, new_drawing, short_number
from runner.plots.images import displayable, range_of
from runner.plots.text import text_width
from runner.plots.ticks import name_ticks
from runner.training.predictions import Classes, Predictions, Values, confusion, mistakes

ANNOTATED = 20  # classes; with more, cells are unreadable
SHARES = 10  # classes; with more, a cell fits only one number
LABELLED = 25  # class labels along an axis
MOST_CLASSES = 1_000
GRID = 5  # mistakes per row, and rows
PANELS = 6  # outputs of a regression with a panel each
POINTS = 5_000  # in a panel
LETTERS = 10  # points
COLORS = "Blues"
BAR = 0.2  # inches
SCALE = (0, 1, 5, 10, 25, 50, 75, 100)  # per cent
NAMES = ("confusion_matrix", "mistakes", "predictions")


def draw_predictions(
    predictions: Predictions,
    folder: Path,
    class_names: Sequence[str] | None = None,
    images: Callable[[list[int]], Tensor] | None = None,
) -> list[Path]:
    """Draw the confusion matrix and the most confident mistakes, or predicted values against true ones.

    Args:
        predictions: the predictions for the test samples.
        folder: the folder of the PNG files; created if missing. Those of an earlier test are deleted.
        class_names: the names of the classes 0, 1, ...; None: their numbers.
        images: returns the raw images (n, C, H, W), uint8 or about 0 to 1, at indices of test samples; None if samples
            are not images.

    Returns:
        The files.
    """
    for name in NAMES:
        (folder / f"{name}.png").unlink(missing_ok=True)
    classes, values = predictions.classes(), predictions.values()
    with new_drawing(folder) as drawing:
        if classes is not None and predictions.num_classes is not None:
            names = [str(name) for name in class_names or range(predictions.num_classes)]
            if 2 <= len(names) <= MOST_CLASSES:
                _draw_confusion(drawing, confusion(classes, predictions.num_classes).numpy(), names)
            if images is not None:
                _draw_mistakes(drawing, classes, names, images)
        if values is not None:
            _draw_values(drawing, values, predictions.samples)
    return drawing.files


def _draw_confusion(drawing: Drawing, counts: NDArray[np.int64], names: Sequence[str]) -> None:
    classes = len(counts)
    every = math.ceil(classes / LABELLED)
    shown = [brief(name, 16) for name in names[::every]]
    cell = min(1.4, max(0.55, 5.0 / classes)) if classes <= ANNOTATED else 7.0 / classes
    longest = text_width(shown, LETTERS)
    flat = longest < 0.9 * cell * every
    left, bottom, size = 0.6 + longest, 0.6 + (0.15 if flat else longest), cell * classes
    drawing.start(left + size + 1.3, bottom + size + 0.5)
    axes = drawing.add(left, bottom, size, size)
    # A class without test samples has no shares.
    with np.errstate(invalid="ignore"):
        shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    # The square root of the share keeps a confusion of 1 % visible beside 99 % correct.
    norm = PowerNorm(0.5, 0, 100)
    axes.imshow(shares, cmap=COLORS, norm=norm, interpolation="nearest")
    axes.set_facecolor("#DDDDDD")
    axes.grid(False)
    axes.spines[:].set_visible(True)
    ticks = range(0, classes, every)
    for axis in (axes.xaxis, axes.yaxis):
        name_ticks(axis, ticks, shown)
    axes.tick_params(labelsize=LETTERS)
    axes.tick_params(axis="x", rotation=0 if flat else 90)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    total, right = int(counts.sum()), int(counts.trace())
    accuracy = f" ({short_number(round(100 * right / total, 2))} %)" if total else ""
    # Across the whole figure: for two classes the text is wider than the matrix.
    drawing.figure.text(
        0.02, 1 - 0.3 / drawing.figure.get_size_inches()[1], f"{right:,} of {total:,} test samples right{accuracy}"
    )
    _draw_scale(drawing, norm, left + size + 0.2, bottom, size)
    if classes <= ANNOTATED:
        _annotate(axes, counts, shares)
    drawing.save("confusion_matrix")


def _draw_scale(drawing: Drawing, norm: PowerNorm, left: float, bottom: float, height: float) -> None:
    """Draw the colors of percentages; matplotlib's color bar takes as long as the matrix. Sizes in inches."""
    figure, inches, right = drawing.figure, drawing.figure.dpi_scale_trans, left + BAR
    drawing.add_picture(norm.inverse(np.linspace(1, 0, 256)).reshape(-1, 1), left, bottom, BAR, height, COLORS, norm)
    figure.add_artist(Rectangle((left, bottom), BAR, height, fill=False, linewidth=0.8, transform=inches))
    places = bottom + height * norm(np.array(SCALE))
    ticks = Line2D([right] * len(SCALE), places, linestyle="none", color="black", transform=inches)
    ticks.set(marker=TICKRIGHT, markersize=3.5, markeredgewidth=0.8)
    figure.add_artist(ticks)
    for share, place in zip(SCALE, places, strict=True):
        figure.add_artist(Text(right + 0.1, place, str(share), va="center_baseline", transform=inches))
    label = Text(right + 0.43, bottom + height / 2, "share of the true class (%)", rotation=90, transform=inches)
    label.set(ha="center", va="top", rotation_mode="anchor")
    figure.add_artist(label)


def _annotate(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    """Write counts, and shares if they fit, into non-zero cells."""
    for row, column in zip(*counts.nonzero(), strict=True):
        share = shares[row, column]
        text = f"{counts[row, column]:,}"
        if len(counts) <= SHARES:
            text += "\n100 %" if share == 100 else f"\n{share:.1f} %" if share >= 0.1 else "\n<0.1 %"
        color = "white" if share > 35 else "black"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=10)


def _draw_mistakes(
    drawing: Drawing, classes: Classes, names: Sequence[str], images: Callable[[list[int]], Tensor]
) -> None:
    wrong = mistakes(classes)
    worst = wrong[: GRID * GRID].tolist()
    if not worst:
        return
    raw = images(worst)
    pictures = displayable(raw, range_of(raw))
    captions = _captions(classes, worst, names)
    columns = min(GRID, max(3, len(worst)))
    rows = math.ceil(len(worst) / columns)
    # Sizes in inches. A tile is as wide as its caption, and as high as its image within limits.
    across = max(1.5, 0.15 + text_width("\n".join(captions).split("\n"), LETTERS))
    height, width = pictures.shape[1:3]
    scale = min((across - 0.15) / width, 2.2 / height)
    caption = 0.42 if "\n" in captions[0] else 0.26
    down = scale * height + caption
    all_across, all_down = columns * across + 0.2, rows * down + 0.75
    drawing.start(all_across, all_down)
    inches = drawing.figure.dpi_scale_trans
    for place, (picture, text) in enumerate(zip(pictures, captions, strict=True)):
        middle = 0.1 + across * (place % columns + 0.5)
        top = all_down - 0.6 - place // columns * down - caption
        drawing.add_picture(picture, middle - scale * width / 2, top - scale * height, scale * width, scale * height)
        drawing.figure.text(middle, top + 0.03, text, ha="center", va="bottom", fontsize=LETTERS, transform=inches)
    which = f"The most confident {len(worst)} of {len(wrong):,} mistakes" if len(wrong) > len(worst) else "All mistakes"
    text = f"{which} in {len(classes.actual):,} test samples\ntrue class → predicted class, its probability"
    drawing.figure.text(0.15, all_down - 0.1, text, va="top", transform=inches)
    drawing.save("mistakes")


def _captions(classes: Classes, indices: Sequence[int], names: Sequence[str]) -> list[str]:
    """Return a caption for each mistake, on one line if names are short."""
    short = [brief(name, 10) for name in names]
    arrow = " →\n" if max(map(len, short)) > 4 else " → "
    captions = []
    for index in indices:
        share = math.floor(1000 * float(classes.probability[index])) / 10  # 99.96 % must not become 100 %
        actual, predicted = short[int(classes.actual[index])], short[int(classes.predicted[index])]
        captions.append(f"{actual}{arrow}{predicted}, {share:.3g} %")
    return captions


def _draw_values(drawing: Drawing, values: Values, samples: int) -> None:
    actual, predicted = values.actual.double().numpy(), values.predicted.double().numpy()
    outputs = actual.shape[1]
    panels = min(outputs, PANELS)
    columns = min(panels, 3)
    rows = math.ceil(panels / columns)
    side = 3.9 if panels == 1 else 2.8
    across, down = side + 1.15, side + 0.75
    drawing.start(columns * across + 0.15, rows * down + 0.5)
    every = math.ceil(len(actual) / POINTS)
    for panel in range(panels):
        row, column = divmod(panel, columns)
        axes = drawing.add(column * across + 0.95, (rows - 1 - row) * down + 0.65, side, side)
        _scatter(axes, 5 if panels == 1 else 3, actual[::every, panel], predicted[::every, panel])
        of = f" of output {panel + 1}" if outputs > 1 else ""
        axes.set_xlabel(f"true value{of}")
        axes.set_ylabel(f"predicted value{of}")
    text = f"{samples:,} test samples" + (
        f", {len(actual[::every]):,} of them shown" if len(actual[::every]) < samples else ""
    )
    if outputs > panels:
        text += f"; the first {panels} of {outputs} outputs"
    if missing := int((~np.isfinite(predicted)).any(axis=1).sum()):
        text += f"; {missing:,} predictions are not finite"
    drawing.figure.text(0.95 / (columns * across + 0.15), 1 - 0.3 / (rows * down + 0.5), text)
    drawing.save("predictions")


def _scatter(axes: Axes, ticks: int, actual: NDArray[np.float64], predicted: NDArray[np.float64]) -> None:
    """Draw points, and the diagonal of perfect predictions."""
    finite = np.isfinite(actual) & np.isfinite(predicted)
    actual, predicted = actual[finite], predicted[finite]
    both = np.concatenate([actual, predicted, [] if finite.any() else [0.0]])
    low, high = both.min(), both.max()
    margin = 0.05 * (high - low) or 0.5 * abs(low) or 0.5
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color=GREY, linestyle="--", linewidth=1.2)
    size, alpha = (5, 0.7) if len(actual) <= 500 else (3, 0.3)
    axes.plot(actual, predicted, "o", color=BLUE, markersize=size, alpha=alpha, markeredgewidth=0)
    axes.set(xlim=limits, ylim=limits)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(ticks))
        axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
