"""Text of plots: each line is laid out once, in place of matplotlib's three times, and drawn as a bitmap."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg, get_hinting_flag
from matplotlib.font_manager import FontProperties, findfont, get_font
from numpy.typing import NDArray

DPI = 120


class Line(NamedTuple):
    """A line of text in pixels: its size as matplotlib measures it, its bitmap, and where that is from its start."""

    size: tuple[float, float, float]
    mask: NDArray[np.uint8]
    offset: tuple[float, float]


@lru_cache(1024)
def _lay_out(text: str, path: str, points: float, dpi: float, hinting: Any) -> Line | None:
    """Return a line of text; None if the font lacks one of its characters."""
    font = get_font(path)
    if not all(font.get_char_index(ord(letter)) for letter in text):
        return None
    font.clear()
    font.set_size(points, dpi)
    font.set_text(text, 0.0, flags=hinting)
    (width, height), descent = font.get_width_height(), font.get_descent()
    font.draw_glyphs_to_bitmap(antialiased=True)
    left, down = font.get_bitmap_offset()
    mask = np.array(font.get_image(), dtype=np.uint8)
    return Line((width / 64, height / 64, descent / 64), mask, (left / 64, (down + descent) / 64))


class Renderer(RendererAgg):
    """Draws horizontal and upright lines of text as bitmaps, and all else as matplotlib does."""

    def _line(self, text: str, font: FontProperties) -> Line | None:
        return _lay_out(text, findfont(font), font.get_size_in_points(), self.dpi, get_hinting_flag())

    def get_text_width_height_descent(
        self, s: str, prop: FontProperties, ismath: bool | str
    ) -> tuple[float, float, float]:
        """Measure a line of text."""
        line = None if ismath else self._line(s, prop)
        return super().get_text_width_height_descent(s, prop, ismath) if line is None else line.size

    def draw_text(
        self,
        gc: Any,
        x: float,
        y: float,
        s: str,
        prop: FontProperties,
        angle: float,
        ismath: bool | str = False,
        mtext: Any = None,
    ) -> None:
        """Draw a line of text that starts at a point; y counts from the top."""
        line = None if ismath or angle not in (0, 90) else self._line(s, prop)
        if line is None:
            super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)
            return
        (before, below), mask = line.offset, line.mask
        left, bottom = x + before, self.height - y - below - 1
        if angle == 90:
            mask = np.rot90(mask)
            left, bottom = x + below - mask.shape[1], self.height - y + before - 1
        image = np.empty((*mask.shape, 4), dtype=np.uint8)
        image[..., :3] = [round(255 * channel) for channel in gc.get_rgb()[:3]]
        image[..., 3] = mask[::-1]  # the lowest row comes first
        self.draw_image(gc, round(left), round(bottom), image)


def text_width(texts: Iterable[str], size: float, weight: str = "normal") -> float:
    """Return the width of the longest text in inches, at a font size in points."""
    font, renderer = FontProperties(size=size, weight=weight), Renderer(1, 1, DPI)
    with any_glyph():
        return max((renderer.get_text_width_height_descent(text, font, False)[0] for text in texts), default=0) / DPI


@contextmanager
def any_glyph() -> Iterator[None]:
    """Let class names be in scripts without a font, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield
