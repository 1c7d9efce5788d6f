"""The content of plots, and whether their text is legible."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from matplotlib.image import AxesImage, BboxImage
from matplotlib.text import Text
from PIL import Image

from runner.plots.drawing import Drawing
from runner.plots.text import DPI


@dataclass
class Plot:
    """The content of a PNG: the points of each line by label, the texts, the axes."""

    lines: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    stars: list[tuple[float, float]] = field(default_factory=list)
    markers: set[str] = field(default_factory=set)
    texts: list[str] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)
    y_scale: str = ""
    labels: tuple[str, str] = ("", "")
    size: tuple[int, int] = (0, 0)


@contextmanager
def checked_plots() -> Iterator[dict[str, Plot]]:
    """Yield every saved plot of a run by name; checks that all text lies inside and is legible at half size."""
    found: dict[str, Plot] = {}
    written: list[Text] = []
    save, write = Drawing.save, Text.draw

    def saved(drawing: Drawing, name: str) -> None:
        written.clear()
        save(drawing, name)
        found[drawing.files[-1].stem] = look(drawing)
        assert_readable(drawing, written)

    def drawn(text: Text, renderer: object) -> None:
        if text.get_text() and text.get_visible():
            written.append(text)
        write(text, renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Drawing, "save", saved)
        patch.setattr(Text, "draw", drawn)
        yield found
    for plot in found.values():
        assert min(plot.size) > 150 and max(plot.size) < 2000


def look(drawing: Drawing) -> Plot:
    figure, plot = drawing.figure, Plot()
    pictures: list[AxesImage | BboxImage] = [artist for artist in figure.artists if isinstance(artist, BboxImage)]
    for axes in figure.axes[:1]:
        plot.y_scale, plot.labels = axes.get_yscale(), (axes.get_xlabel(), axes.get_ylabel())
        plot.texts += [text.get_text() for text in axes.texts]
        pictures = [*axes.images, *pictures]
    for line in figure.axes[0].lines if figure.axes else ():
        points = [(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)]
        if line.get_marker() == "*":
            plot.stars += points
            continue
        plot.lines[str(line.get_label())] = points
        plot.markers.add(str(line.get_marker()))
    plot.texts += [text.get_text() for text in figure.texts]
    plot.images = [np.asarray(picture.get_array()) for picture in pictures]
    with Image.open(drawing.files[-1]) as image:
        image.load()
        plot.size = image.size
    return plot


def assert_readable(drawing: Drawing, written: list[Text]) -> None:
    boxes = [(text, text.get_window_extent()) for text in written]
    width, height = drawing.figure.get_size_inches() * DPI
    for text, box in boxes:
        assert text.get_fontsize() * DPI / 72 / 2 > 8, "letters have eight pixels at half size"
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
        assert inside, f"{text.get_text()!r} is cut off"
    for index, (text, box) in enumerate(boxes):
        for other, its_box in boxes[:index]:
            across = min(box.x1, its_box.x1) - max(box.x0, its_box.x0)
            down = min(box.y1, its_box.y1) - max(box.y0, its_box.y0)
            assert across <= 1 or down <= 1, f"{text.get_text()!r} overlaps {other.get_text()!r}"
