"""Decode an image file into a tensor."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's
BYTE = 255
RANGES = (BYTE, 1023, 4095, 16383, 65535)  # of 8, 10, 12, 14 and 16 bits
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # Pillow's modes with one channel of more than 8 bits
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's names, by the number of channels


class ImageError(Exception):
    """An image file cannot be read; the message is the reason, in one line."""


class UnknownRange(ImageError):
    """The number that stands for white is unknown, or pixels exceed it."""


def is_image(name: str) -> bool:
    """Whether a file name has the extension of an image and is not hidden."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def read_image(file: Path | BinaryIO, size: int, channels: int = 3, white: float | None = None) -> Tensor:
    """Decode an image file, resize its shorter side to `size`, and crop the centre square.

    The image is rotated as its EXIF orientation says.

    Args:
        file: its path, or its bytes; in any format that Pillow reads.
        size: pixels.
        channels: 3 for colour, 1 for grey; transparency is dropped.
        white: the number that stands for white in files of more than 8 bits per pixel; below 255 also in others.
            None: 255, and 65,535 in files of 16 bits that use more than 14 of them.

    Returns:
        uint8 (channels, size, size).

    Raises:
        ImageError: the file cannot be read.
    """
    from PIL import Image, UnidentifiedImageError  # late: other data sets do not need them

    try:
        with Image.open(file) as image:
            # A JPEG is decoded at a half, a quarter or an eighth of its size if that is enough: this takes a third of
            # the time for a large photograph.
            image.draft(MODES[channels], (size, size))
            pixels = to_pixels(image, channels, white)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not an image") from error
    except Exception as error:  # a damaged file can raise anything in a decoder
        raise ImageError(_reason(error)) from error
    return fit_square(pixels, size)


def to_pixels(image: "Image.Image", channels: int, white: float | None = None) -> np.ndarray:
    """Return the pixels of an image, rotated as its EXIF orientation says: uint8 (H, W) or (H, W, channels).

    Args:
        image: opened by Pillow.
        channels: as for `read_image`.
        white: as for `read_image`.

    Raises:
        UnknownRange: see `to_8_bits`; a decoder may raise other exceptions.
    """
    from PIL import ImageOps

    mode = image.mode
    ImageOps.exif_transpose(image, in_place=True)
    pixels = np.array(to_8_bits(image, white).convert(MODES[channels]))
    return scale_to_bytes(pixels, white) if white is not None and white < BYTE and mode not in DEEP else pixels


def fit_square(pixels: np.ndarray, size: int) -> Tensor:
    """Resize the shorter side of an image to `size`, and crop the centre square.

    Args:
        pixels: uint8 (H, W) or (H, W, channels).
        size: pixels.

    Returns:
        uint8 (channels, size, size).
    """
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = torch.from_numpy(pixels[top : top + side, left : left + side].reshape(side, side, -1))
    images = middle.permute(2, 0, 1).unsqueeze(0)
    # Resizing by torch takes half the time of Pillow's, and differs from it by at most one step of 255.
    if side != size:
        images = functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
    return images[0].contiguous()


def _reason(error: Exception) -> str:
    """Describe what a decoder raised, in one line."""
    return (isinstance(error, OSError) and error.strerror) or str(error).split("\n")[0] or type(error).__name__


def to_8_bits(image: "Image.Image", white: float | None = None) -> "Image.Image":
    """Scale pixels of more than 8 bits to 0-255; Pillow itself would clip them at 255.

    Raises:
        UnknownRange: the number that stands for white is unknown, or a pixel exceeds it.
    """
    from PIL import Image

    if image.mode not in DEEP:
        return image
    values = np.asarray(image)
    if white is None and image.mode == "F":
        raise UnknownRange("its pixels are floating-point numbers of unknown range")
    if white is None and not RANGES[-2] < values.max() <= RANGES[-1] and image.format != "PPM":
        raise UnknownRange(f"its pixels are integers up to {values.max():,}, and white is unknown")
    return Image.fromarray(scale_to_bytes(values, RANGES[-1] if white is None else white))


def scale_to_bytes(values: np.ndarray, white: float) -> np.ndarray:
    """Scale numbers from 0 to `white` to uint8 from 0 to 255.

    Raises:
        UnknownRange: some numbers are outside 0 to `white`.
    """
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= white):
        raise UnknownRange(f"its pixels go from {low:g} to {high:g}, outside of 0 to {white:g}")
    if white == RANGES[-1]:  # the upper 8 bits, as in version 0.1.0
        return (values.astype(np.int64) >> 8).astype(np.uint8)
    return np.rint(values.astype(np.float64) * (BYTE / white)).astype(np.uint8)


def inspect_pixels(path: Path) -> tuple[str, float]:
    """Return the kind of a file's pixels, in words, and the largest number; 255 for those of 8 bits per channel.

    Raises:
        OSError: it cannot be read; a decoder may raise other exceptions.
    """
    from PIL import Image

    with Image.open(path) as image:
        mode = image.mode
        packed = ";16" in str(image.tile[0].args if image.tile else "") and mode not in DEEP  # colours of 16 bits
        if mode not in DEEP and not packed:
            return "8-bit", BYTE
        if image.format == "PPM":  # its header has the number of white, by which Pillow scales
            return "16-bit", RANGES[-1]
        if packed:  # Pillow keeps the upper 8 bits and drops the others
            bands: Any = image.getextrema()
            return "16-bit colour", max(high for _, high in bands) * 256 + BYTE
        return {"F": "float", "I": "32-bit"}.get(mode, "16-bit"), float(np.asarray(image).max())
