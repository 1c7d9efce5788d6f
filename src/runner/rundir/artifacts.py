"""Images, figures and tables that a run's own code makes: files in the run's folder, uploaded as its artifacts."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runner.util.files import replacing, write_atomically

DIGITS = 8  # of a step in a file's name, so that names sort by step
_ILLEGAL = re.compile(r"[^A-Za-z0-9._/-]")


class Artifacts:
    """Writes files such as `artifacts/samples/00000120.png`, each once.

    A file appears whole or not at all, and is on the disk when the call returns. A resumed run measures some steps
    again: a file that exists stays as it is.

    Args:
        folder: theirs; created with the first one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def image(self, name: str, image: Any, step: int) -> Path:
        """Write an image as PNG.

        Args:
            name: of the image; slashes make folders.
            image: a tensor or an array, (H, W), (C, H, W) or (H, W, C) with 1, 3 or 4 channels, of bytes, or of floats
                from 0 to 1; the channels are the first axis if both fit. (N, C, H, W) becomes a grid. Or an image of
                Pillow.
            step: of the epoch or the optimizer step that it shows.

        Raises:
            ValueError: it is not an image.
        """
        return self._write(name, step, ".png", lambda path: _to_pillow(image).save(path))

    def figure(self, name: str, figure: Any, step: int) -> Path:
        """Write a figure of matplotlib as PNG; the caller closes it.

        Args:
            name: of the figure; slashes make folders.
            figure: a `matplotlib.figure.Figure`.
            step: of the epoch or the optimizer step that it shows.
        """
        return self._write(name, step, ".png", lambda path: figure.savefig(path))

    def table(self, name: str, rows: Iterable[Mapping[str, Any]] | Mapping[str, Sequence[Any]], step: int) -> Path:
        """Write a table as CSV.

        Args:
            name: of the table; slashes make folders.
            rows: a mapping by column for each row, or one of columns, each with its values.
            step: of the epoch or the optimizer step that it shows.
        """
        return self._write(name, step, ".csv", lambda path: write_atomically(path, _to_csv(rows)))

    def _write(self, name: str, step: int, suffix: str, write: Callable[[Path], object]) -> Path:
        parts = [part.lstrip(".") for part in _ILLEGAL.sub("_", name).split("/")]
        path = self.folder.joinpath(*filter(None, parts)) / f"{step:0{DIGITS}d}{suffix}"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, suffix) as temporary:
                write(temporary)
        return path


def _to_pillow(image: Any) -> Any:
    """Convert an image to one of Pillow."""
    from PIL import Image  # late: most runs write none

    if isinstance(image, Image.Image):
        return image
    pixels = torch.as_tensor(image).detach().cpu()
    if pixels.ndim == 4:
        from torchvision.utils import make_grid  # late: it takes a second

        pixels = make_grid(pixels)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4):
        pixels = pixels.permute(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,), (4,)) or not pixels.numel():
        raise ValueError(f"an image has shape (H, W) or (C, H, W) with 1, 3 or 4 channels, not {_shape(image)}")
    if pixels.dtype == torch.bool or pixels.is_floating_point():
        pixels = pixels.float().nan_to_num().clamp(0, 1).mul(255).round().to(torch.uint8)
    if pixels.dtype != torch.uint8:
        raise ValueError(f"an image has bytes, or floats from 0 to 1, not {pixels.dtype}")
    return Image.fromarray(np.ascontiguousarray(pixels.numpy()))


def _shape(image: Any) -> str:
    return str(tuple(image.shape)) if hasattr(image, "shape") else type(image).__name__


def _to_csv(rows: Iterable[Mapping[str, Any]] | Mapping[str, Sequence[Any]]) -> str:
    """Format a table; a cell that a row lacks is empty."""
    if isinstance(rows, Mapping):
        columns = list(rows)
        cells = [list(cells) for cells in zip(*rows.values(), strict=True)]
    else:
        rows = list(rows)
        columns = list(dict.fromkeys(column for row in rows for column in row))
        cells = [[row.get(column, "") for column in columns] for row in rows]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[_plain(cell) for cell in row] for row in cells])
    return text.getvalue()


def _plain(cell: Any) -> Any:
    """Convert a tensor or an array to numbers."""
    return cell.tolist() if isinstance(cell, Tensor | np.ndarray | np.generic) else cell
