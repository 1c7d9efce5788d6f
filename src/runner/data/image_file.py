"""An image file as a tensor."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from runner.errors import TrainingError

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's
BYTE = 255
RANGES = (BYTE, 1023, 4095, 16383, 65535)  # of 8, 10, 12, 14 and 16 bits
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # Pillow's modes of one number a pixel, of more than 8 bits
MODES = {1: "L", 3: "RGB"}  # Pillow's names, by the number of channels


def is_image(name: str) -> bool:
    """Whether a file is taken for an image: by its ending, and it is not hidden."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


class UnknownRange(ValueError):
    """Pixels whose white is not known, or that go beyond it."""


def read_image(path: Path, size: int, channels: int = 3, white: float | None = None) -> Tensor:
    """Decode an image file, resize it so that its shorter side is `size`, and take its middle.

    It is turned as its EXIF orientation says, so that it stands as a person sees it.

    Args:
        path: in any format that Pillow reads.
        size: pixels.
        channels: 3 for colours, 1 for grey; transparency is dropped.
        white: the number that stands for white, in files of more than 8 bits a pixel; below 255 in all others too.
            None: 255, and 65,535 in files of 16 bits that use more than 14 of them.

    Returns:
        uint8 (channels, size, size).

    Raises:
        TrainingError: the file cannot be read.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError  # late: other data need none of it

    try:
        with Image.open(path) as image:
            # A JPEG is decoded at a half, a quarter or an eighth where that is enough: for large photographs, in a
            # third of the time.
            image.draft(MODES[channels], (size, size))
            ImageOps.exif_transpose(image, in_place=True)
            pixels = np.array(to_8_bits(image, white).convert(MODES[channels]))
        if white is not None and white < BYTE and image.mode not in DEEP:
            pixels = scaled(pixels, white)
    except UnknownRange as error:
        raise TrainingError(
            f"data.path: {path} cannot be read ({error}): write data.scale=<its whole range>"
        ) from error
    except Exception as error:  # what a decoder makes of a damaged file can be anything
        reason = (isinstance(error, OSError) and error.strerror) or str(error).split("\n")[0] or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "it is no image"
        raise TrainingError(f"data.path: {path} cannot be read ({reason}): replace it, or move it away") from error
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = torch.from_numpy(pixels[top : top + side, left : left + side].reshape(side, side, channels))
    images = middle.permute(2, 0, 1).unsqueeze(0)
    # torch's own resizing takes half the time of Pillow's, and differs from it by one step of 255 at most.
    if side != size:
        images = functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
    return images[0].contiguous()


def to_8_bits(image: "Image.Image", white: float | None = None) -> "Image.Image":
    """Pixels of more than 8 bits scaled to 0-255; Pillow itself makes 255 of all that is more.

    Raises:
        UnknownRange: it is not known which number is white, or a pixel is beyond it.
    """
    from PIL import Image

    if image.mode not in DEEP:
        return image
    values = np.asarray(image)
    if white is None and image.mode == "F":
        raise UnknownRange("its pixels are floating-point numbers, whose range is not known")
    if white is None and not RANGES[-2] < values.max() <= RANGES[-1] and image.format != "PPM":
        raise UnknownRange(f"its pixels are whole numbers up to {values.max():,}, of which white is not known")
    return Image.fromarray(scaled(values, RANGES[-1] if white is None else white))


def scaled(values: np.ndarray, white: float) -> np.ndarray:
    """Numbers from 0 to `white` as uint8 from 0 to 255.

    Raises:
        UnknownRange: there are others.
    """
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= white):
        raise UnknownRange(f"its pixels go from {low:g} to {high:g}, of 0 to {white:g}")
    if white == RANGES[-1]:  # the upper 8 bits, as version 0.1.0 took them
        return (values.astype(np.int64) >> 8).astype(np.uint8)
    return np.rint(values.astype(np.float64) * (BYTE / white)).astype(np.uint8)


def look(path: Path) -> tuple[str, float]:
    """What kind of pixels a file has, in words, and its largest number; 255 for those of 8 bits a channel.

    Raises:
        OSError: it cannot be read; or whatever its decoder makes of it.
    """
    from PIL import Image

    with Image.open(path) as image:
        mode = image.mode
        packed = ";16" in str(image.tile[0].args if image.tile else "") and mode not in DEEP  # colours of 16 bits
        if mode not in DEEP and not packed:
            return "8-bit", BYTE
        if image.format == "PPM":  # whose header has its white, by which Pillow scales
            return "16-bit", RANGES[-1]
        if packed:  # of which Pillow keeps the upper 8 bits, the others are not to be had
            bands: Any = image.getextrema()
            return "16-bit colour", max(high for _, high in bands) * 256 + BYTE
        return {"F": "float", "I": "32-bit"}.get(mode, "16-bit"), float(np.asarray(image).max())
