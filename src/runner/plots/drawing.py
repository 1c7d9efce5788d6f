"""Figures and colors.

A person, or a sweep, waits for the plots of a run: their layout is by hand, as matplotlib's layout engines draw
everything twice, and so are ticks, text and legends (`ticks.py`, `text.py`, `legend.py`). The few charts of several
runs leave all that to matplotlib.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg  # no window, no display
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import BboxImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.transforms import Bbox, TransformedBbox
from numpy.typing import NDArray

from runner.errors import to_one_line
from runner.plots.png import write_png
from runner.plots.text import DPI, Renderer, any_glyph
from runner.plots.ticks import add_ticks

# From Okabe and Ito's palette for color-blind readers (jfly.uni-koeln.de/color).
BLUE, VERMILION, YELLOW = "#0072B2", "#D55E00", "#F0E442"
GREY = "#555555"
# Each color has a marker too. Yellow is too pale for a line.
COLORS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = "osD^vP"
STYLE = {
    "font.size": 11,
    "text.parse_math": False,  # a class may be called $5
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "agg.path.chunksize": 10_000,  # the renderer refuses longer curves
}


class Drawing:
    """Plots of a run, one figure after the other, each saved as `<folder>/<name>.png`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.files = folder, list[Path]()
        self.figure = Figure(dpi=DPI)

    def start(self, width: float, height: float) -> None:
        """Start an empty figure; its size in inches."""
        self.figure = Figure((width, height), dpi=DPI)  # to clear one takes as long as to draw it

    def start_alike(self) -> Axes:
        """Empty the axes of the last plot, for one of the same look: new ones take as long as all that is in them."""
        (axes,) = self.figure.axes
        for artist in (*self.figure.artists, *axes.lines, *axes.collections, *axes.texts):
            artist.remove()
        axes.set(xscale="linear", yscale="linear", xlabel="", ylabel="")
        axes.set_prop_cycle(None)
        axes.relim()
        axes.autoscale()
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_visible(True)
        return axes

    def add(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Add axes at a position in inches."""
        all_width, all_height = self.figure.get_size_inches()
        place = (left / all_width, bottom / all_height, width / all_width, height / all_height)
        return self.figure.add_axes(place)

    def add_picture(
        self,
        picture: NDArray[Any],
        left: float,
        bottom: float,
        width: float,
        height: float,
        cmap: str = "gray",
        norm: Normalize | None = None,
    ) -> None:
        """Add a picture, by default of gray values or colors from 0 to 1, at a position in inches, without axes."""
        inches = TransformedBbox(Bbox.from_bounds(left, bottom, width, height), self.figure.dpi_scale_trans)
        image = BboxImage(inches, cmap=cmap, norm=norm or Normalize(0, 1), interpolation="nearest", origin="upper")
        image.set_data(picture)
        self.figure.add_artist(image)

    def save(self, name: str) -> None:
        """Save the figure."""
        file = self.folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.png"
        width, height = (int(DPI * inches) for inches in self.figure.get_size_inches())
        renderer = Renderer(width, height, DPI)
        with any_glyph():
            for axes in self.figure.axes:
                if axes.axison:
                    add_ticks(self.figure, axes)
            self.figure.draw(renderer)
        write_png(np.asarray(renderer.buffer_rgba()), file)
        self.files.append(file)


@contextmanager
def new_drawing(folder: Path) -> Iterator[Drawing]:
    """Draw in the style of runner, independent of the style of the process."""
    with mpl.rc_context(STYLE):
        yield Drawing(folder)


def new_figure(width: float, height: float) -> Figure:
    """Create an empty figure with a layout by matplotlib; sizes in inches."""
    figure = Figure((width, height), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    FigureCanvasAgg(figure)
    return figure


def write(figure: Figure, file: Path) -> None:
    """Write a figure as PNG."""
    with any_glyph():
        figure.savefig(file, pil_kwargs={"compress_level": 3})  # 6 takes twice the time and saves a tenth


def short_number(value: float) -> str:
    """Format a number in few characters: 0.001, 2e-5, 20,000."""
    text = re.sub(r"e([+-])0*", lambda sign: "e" + sign[1].replace("+", ""), f"{value:,g}")
    return text.replace("-", "\N{MINUS SIGN}")


def brief(name: str, length: int) -> str:
    """Shorten a name to its two ends, as names often differ at the end; a line break becomes an escape."""
    name = to_one_line(name)
    return name if len(name) <= length else f"{name[: length // 2]}…{name[length // 2 + 1 - length :]}"
