"""Image files as new samples."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from runner.data.image_file import EXTENSIONS, MODES, ImageError, UnknownRange, is_image, read_image, to_8_bits
from runner.errors import ConfigError, Problem
from runner.runs.new_values import KEY, refuse
from runner.saved.input_spec import InputSpec

log = logging.getLogger("runner")


def is_scaled_to_1(spec: InputSpec) -> bool:
    """Whether the images of a run were floats from 0 to 1."""
    return spec.value_range is not None and spec.value_range[0] >= 0 and spec.value_range[1] <= 1


def find_images(folder: Path, shown: str) -> list[Path]:
    """Find the images below a folder, sorted.

    Raises:
        ConfigError: there are none.
    """
    images = [path for path in sorted(folder.rglob("*")) if is_image(path.name) and path.is_file()]
    if not images:
        text = f"the folder contains no images ({' '.join(EXTENSIONS)})"
        raise refuse(shown, text, "name a folder with images", topic="file")
    return images


class ImageReader:
    """Read image files as raw inputs of a run, some at a time.

    Args:
        paths: of the files.
        spec: the inputs that the model takes.
        shown: the argument, for errors.

    Raises:
        ConfigError: the model does not take images, or images in other units.
    """

    def __init__(self, paths: Sequence[Path], spec: InputSpec, shown: str) -> None:
        if not spec.images or spec.input_shape[0] not in MODES:
            shape = ", ".join(map(str, spec.input_shape))
            text = f"the input is an image, and the model takes samples of shape ({shape})"
            raise refuse(shown, text, "name a .csv, .npy, .npz or .pt file", topic="shape")
        if spec.value_range is not None and not is_scaled_to_1(spec) and spec.data != "image_folder":
            low, high = spec.value_range
            text = (
                "pixels of image files are read as numbers from 0 to 1, and the model was trained on values from"
                f" {low:g} to {high:g}"
            )
            raise refuse(shown, text, "save them in a .npy file, scaled as the training values", topic="range")
        self.paths, self.spec = paths, spec
        self.resized = False

    def read(self, first: int, last: int) -> Tensor:
        """Read the images from `first` up to, but not including, `last`: uint8 (n, C, H, W).

        Raises:
            ConfigError: a file cannot be read.
        """
        return torch.stack([self._read(path) for path in self.paths[first:last]])

    def _read(self, path: Path) -> Tensor:
        _, height, width = self.spec.input_shape
        image, size = decode(path, self.spec, f"{KEY}: {path}")
        # Those of an image_folder were also resized for training.
        if size != (width, height) and self.spec.data != "image_folder" and not self.resized:
            self.resized = True
            log.info("resized    to %dx%d pixels: %s and others of another size", width, height, path.name)
        return image


def decode(file: Path | BinaryIO, spec: InputSpec, shown: str) -> tuple[Tensor, tuple[int, int]]:
    """Decode an image as training decodes image files.

    Args:
        file: its path, or its bytes.
        spec: the inputs that the model takes, which are images.
        shown: its name, for errors.

    Returns:
        uint8 (C, H, W), and the width and height of the file.

    Raises:
        ConfigError: it cannot be read.
    """
    from PIL import Image

    channels, height, width = spec.input_shape
    try:
        if height != width or channels == 4:
            return _decode_any(file, channels, height, width, spec.white)
        with Image.open(file) as image:
            size = image.size
        return read_image(file, height, channels, spec.white), size
    except UnknownRange as error:
        text = f"{shown} cannot be read as an image ({error})"
        raise ConfigError(Problem(KEY, text, "save it with 8 bits per pixel", topic="data")) from error
    except (ImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's errors
        text = f"{shown} cannot be read as an image ({error})"
        raise ConfigError(Problem(KEY, text, "replace it, or move it away", topic="file")) from error


def _decode_any(
    file: Path | BinaryIO, channels: int, height: int, width: int, white: float | None
) -> tuple[Tensor, tuple[int, int]]:
    """Decode an image that `read_image` does not support: not square, or with transparency.

    The largest centre crop of the right proportions is resized.
    """
    from PIL import Image, ImageOps

    with Image.open(file) as opened:
        image = to_8_bits(ImageOps.exif_transpose(opened), white).convert(MODES[channels])
    size = image.size
    pixels = torch.from_numpy(np.array(image)).reshape(size[1], size[0], channels).permute(2, 0, 1)
    # The side that is shorter, relative to the model's, decides.
    across, down = max(1, min(size[0], size[1] * width // height)), max(1, min(size[1], size[0] * height // width))
    left, top = (size[0] - across) // 2, (size[1] - down) // 2
    middle = pixels[:, top : top + down, left : left + across].unsqueeze(0)
    if (across, down) != (width, height):
        middle = functional.interpolate(middle, (height, width), mode="bilinear", antialias=True)
    return middle[0].contiguous(), size
