"""Figures and colors.

The plots of a run share one figure with a layout by hand, because a person waits for them: matplotlib's layout engines
draw everything twice, and a new figure for each plot costs as much as the plot. The few charts of several runs have a
figure each.
"""

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg  # no window, no display
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine

from runner.errors import to_one_line

# From Okabe and Ito's palette for color-blind readers (jfly.uni-koeln.de/color).
BLUE, VERMILION, YELLOW = "#0072B2", "#D55E00", "#F0E442"
GREY = "#555555"
# Each color has a marker too. Yellow is too pale for a line.
COLORS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = "osD^vP"
DPI = 120
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
    """The figure of all plots of a run, each saved as `<folder>/<name>.png`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.files = folder, list[Path]()
        self.figure = Figure(dpi=DPI)
        FigureCanvasAgg(self.figure)

    def start(self, width: float, height: float) -> None:
        """Clear the figure, and set its size in inches."""
        self.figure.clear()
        self.figure.set_size_inches(width, height)

    def add(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Add axes at a position in inches."""
        all_width, all_height = self.figure.get_size_inches()
        return self.figure.add_axes((left / all_width, bottom / all_height, width / all_width, height / all_height))

    def save(self, name: str) -> None:
        """Save the figure."""
        file = self.folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.png"
        write(self.figure, file)
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
    with _any_glyph():
        figure.savefig(file, pil_kwargs={"compress_level": 3})  # 6 takes twice the time and saves a tenth


def text_width(texts: Iterable[str], size: float, weight: str = "normal") -> float:
    """Return the width of the longest text in inches, at a font size in points."""
    font, renderer = FontProperties(size=size, weight=weight), RendererAgg(1, 1, DPI)
    with _any_glyph():
        return max(renderer.get_text_width_height_descent(text, font, False)[0] for text in texts) / DPI


@contextmanager
def _any_glyph() -> Iterator[None]:
    """Let class names be in scripts without a font, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


def short_number(value: float) -> str:
    """Format a number in few characters: 0.001, 2e-5, 20,000."""
    text = re.sub(r"e([+-])0*", lambda sign: "e" + sign[1].replace("+", ""), f"{value:,g}")
    return text.replace("-", "\N{MINUS SIGN}")


def brief(name: str, length: int) -> str:
    """Shorten a name to its two ends, as names often differ at the end; a line break becomes an escape."""
    name = to_one_line(name)
    return name if len(name) <= length else f"{name[: length // 2]}…{name[length // 2 + 1 - length :]}"
