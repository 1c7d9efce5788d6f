"""An image file as a tensor."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from runner.errors import TrainingError

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's
MODES = {1: "L", 3: "RGB"}  # Pillow's names, by the number of channels


def is_image(name: str) -> bool:
    """Whether a file is taken for an image: by its ending, and it is not hidden."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def read_image(path: Path, size: int, channels: int = 3) -> Tensor:
    """Decode an image file, resize it so that its shorter side is `size`, and take its middle.

    It is turned as its EXIF orientation says, so that it stands as a person sees it.

    Args:
        path: in any format that Pillow reads.
        size: pixels.
        channels: 3 for colours, 1 for grey; transparency is dropped.

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
            pixels = np.array(to_8_bits(image).convert(MODES[channels]))
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


def to_8_bits(image: "Image.Image") -> "Image.Image":
    """Of 16 bits a pixel keep the upper 8; Pillow itself makes 255 of all that is more."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is not known")
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    return image
