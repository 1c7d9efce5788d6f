"""`data.augment`: training images turned, shifted, mirrored and blanked, each by draws of its own."""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Self

import torch
from torch import Tensor
from torch.nn import functional

from runner.data.splits import Splits
from runner.errors import ConfigError, did_you_mean
from runner.util.ranges import Choice, Range

DRAWS = 9  # random numbers a sample; always all of them, so that one augmentation doesn't change another's
ERASED_SHARE = (0.02, 0.33)  # of the image's area
ERASED_RATIO = (0.3, 3.3)  # of the rectangle's height to its width


@dataclass(frozen=True, eq=False)
class Augment:
    """Changes a batch of normalised images, on their device, without a loop over the samples.

    Args:
        crop: pixels; an image is padded by so many on each side and cut out again at a random place (He et
            al. 2016, "Deep Residual Learning for Image Recognition").
        flip: mirror left and right, every other image.
        rotation: degrees; turned about the centre by up to so many, either way, bilinear.
        erasing: probability that a rectangle of 2-33 % of the image, 0.3-3.3 times as high as wide, becomes
            0, which is the mean (Zhong et al. 2020, "Random Erasing Data Augmentation").
        black: the normalised value of a pixel that is 0, a scalar or (C, 1, 1): what comes in at the edges
            of a shifted or turned image.
    """

    crop: int = 0
    flip: bool = False
    rotation: float = 0.0
    erasing: float = 0.0
    black: Tensor | float = 0.0

    @property
    def active(self) -> bool:
        """Whether it changes anything."""
        return bool(self.crop or self.flip or self.rotation or self.erasing)

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """The same, with what it needs already where the images will be."""
        return replace(self, black=torch.as_tensor(self.black).to(device, dtype))

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images (N, C, H, W) -> new ones of the same shape, dtype and memory format.

        Args:
            images: normalised, on any device; not changed.
            generator: of the CPU, so that every device gets the same draws.
        """
        draws = torch.rand(DRAWS, len(images), generator=generator)
        mirrored = (draws[-1] < 0.5).nonzero().flatten()  # before the move: to count them, a GPU would be waited for
        draws, mirrored = draws.to(images.device, non_blocking=True), mirrored.to(images.device, non_blocking=True)
        angle, top, left, erased, area, ratio, above, before, _ = draws.unbind()
        black = torch.as_tensor(self.black, dtype=images.dtype, device=images.device).reshape(-1, 1, 1)
        if self.rotation:
            images = rotate(images, (2 * angle - 1) * self.rotation, black)
        if self.crop:
            shifts = 2 * self.crop + 1
            images = crop(images, self.crop, _whole(top, shifts), _whole(left, shifts), black)
        if self.flip:
            images = flip(images, mirrored)
        if self.erasing:
            blanked = rectangles(area, ratio, above, before, images.shape[2], images.shape[3])
            blanked &= (erased < self.erasing).view(-1, 1, 1, 1)
            images = images * (~blanked).to(images.dtype)  # half the time of filling by the mask, on a CPU
        return images


def make_augment(
    splits: Splits,
    *,
    crop: Annotated[int, Range(0, whole=True)] = 0,
    flip: Annotated[bool, Choice((True, False))] = False,
    rotation: Annotated[float, Range(0, 180)] = 0.0,
    erasing: Annotated[float, Range(0, 1)] = 0.0,
    **others: object,
) -> Augment | None:
    """The augmentation of a data set's training images; None if there is none.

    Raises:
        ConfigError: the samples are not images, or are smaller than the shift; or `others` are asked for.
    """
    if others:
        hint = did_you_mean(next(iter(others)), ("crop", "flip", "rotation", "erasing"))
        raise ConfigError(*(f"data.augment.{name}: there is no such augmentation; {hint}" for name in others))
    black = splits.normalize(torch.zeros_like(splits.normalize.mean), torch.float64)
    augment = Augment(crop, flip, rotation, erasing, black)
    if not augment.active:
        return None
    shape = splits.input_shape
    if len(shape) != 3:
        values = {"crop": crop, "flip": flip, "rotation": rotation, "erasing": erasing}
        wanted = next(key for key, value in values.items() if value)
        raise ConfigError(
            f"data.augment.{wanted}={str(values[wanted]).lower()} needs images (C, H, W), the samples are of shape"
            f" {tuple(shape)}: write data.augment.{wanted}={'false' if wanted == 'flip' else 0}"
        )
    if crop >= min(shape[1:]):
        raise ConfigError(
            f"data.augment.crop={crop} may shift an image of {shape[1]}x{shape[2]} out of sight: write at most"
            f" {min(shape[1:]) - 1}"
        )
    return augment


def crop(images: Tensor, padding: int, top: Tensor, left: Tensor, black: Tensor) -> Tensor:
    """Pad images and cut each out of the result again, at a place of its own.

    Args:
        images: (N, C, H, W).
        padding: pixels on each side.
        top: (N,) whole numbers from 0 to 2 * padding: the first row taken.
        left: (N,) the same for the columns.
        black: (C or 1, 1, 1), what the padding is filled with.
    """
    count, channels, height, width = images.shape
    black = black.expand(channels, 1, 1)
    channels_last = _is_channels_last(images)
    if channels_last:
        planes, values = images.permute(0, 2, 3, 1), channels  # (N, H, W, C)
        edge = black.reshape(channels).repeat(width + 2 * padding)
    else:
        planes, values = images.reshape(count * channels, height, width, 1), 1
        top, left = top.repeat_interleave(channels), left.repeat_interleave(channels)
        edge = black.reshape(channels, 1, 1).repeat(count, 1, 1)
    padded = images.new_empty(len(planes), height + 2 * padding, (width + 2 * padding) * values)
    padded.copy_(edge)
    inside = padded[:, padding:-padding, padding * values : -padding * values]
    inside.copy_(planes.reshape(len(planes), height, width * values))

    # A row of a result is a window over neighbouring pixels, which lie together in memory. Taken out of all such
    # windows row by row, an image costs H copies; pixel by pixel it takes three to six times as long (on a CPU).
    pixels_a_row = width + 2 * padding
    pixels = len(planes) * (height + 2 * padding) * pixels_a_row
    windows = padded.as_strided((pixels - width + 1, width * values), (values, 1))
    device = images.device
    row = torch.arange(len(planes), device=device) * (height + 2 * padding) + top
    first = (row.unsqueeze(1) + torch.arange(height, device=device)) * pixels_a_row + left.unsqueeze(1)
    taken = windows.index_select(0, first.flatten())
    if channels_last:
        return taken.view(count, height, width, channels).permute(0, 3, 1, 2)
    return taken.view(count, channels, height, width)


def rotate(images: Tensor, degrees: Tensor, black: Tensor) -> Tensor:
    """Turn each image (N, C, H, W) about its centre by degrees (N,); `black` (C or 1, 1, 1) comes in."""
    height, width = images.shape[2:]
    # Half precision has too few digits for coordinates.
    dtype = images.dtype if images.dtype in (torch.float32, torch.float64) else torch.float32
    radians = (degrees * (math.pi / 180)).to(dtype)
    cos, sin, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    # From where in the image a pixel comes; its coordinates go from -1 to 1 whatever the sides are.
    matrix = torch.stack([cos, -sin * (height / width), zero, sin * (width / height), cos, zero], 1).view(-1, 2, 3)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    lit = (images - black).to(dtype)  # `grid_sample` fills with 0
    turned = functional.grid_sample(lit, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    turned = turned.to(images.dtype).add_(black)
    return turned.contiguous(memory_format=torch.channels_last) if _is_channels_last(images) else turned


def flip(images: Tensor, which: Tensor) -> Tensor:
    """Mirror those of the images (N, C, H, W) that `which` (M,) gives the numbers of."""
    flipped = images.clone()
    # In the order in which it lies in memory, or it takes several times as long.
    stored, width = (flipped.permute(0, 2, 3, 1), 2) if _is_channels_last(images) else (flipped, 3)
    stored.index_copy_(0, which, stored.index_select(0, which).flip(width))
    return flipped


def rectangles(area: Tensor, ratio: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """A rectangle in each image, as a mask (N, 1, H, W), from four draws (N,) out of [0, 1)."""
    low, high = ERASED_SHARE
    pixels = (low + (high - low) * area) * (height * width)
    # Evenly on a logarithmic scale, as far as the rectangle fits into the image.
    least = (pixels / width**2).clamp(min=ERASED_RATIO[0]).log()
    most = (height**2 / pixels).clamp(max=ERASED_RATIO[1]).log()
    shape = (least + (most - least) * ratio).exp()
    high_by = (pixels * shape).sqrt().round().clamp(1, height).unsqueeze(1)
    wide_by = (pixels / shape).sqrt().round().clamp(1, width).unsqueeze(1)
    first_row = ((height - high_by + 1) * top.unsqueeze(1)).floor()
    first_column = ((width - wide_by + 1) * left.unsqueeze(1)).floor()
    rows = torch.arange(height, device=area.device)
    columns = torch.arange(width, device=area.device)
    inside_rows = (rows >= first_row) & (rows < first_row + high_by)
    inside_columns = (columns >= first_column) & (columns < first_column + wide_by)
    return (inside_rows.unsqueeze(2) & inside_columns.unsqueeze(1)).unsqueeze(1)


def _whole(draw: Tensor, count: int) -> Tensor:
    """Whole numbers from 0 to count - 1 out of draws from [0, 1); their product may be rounded up to the count."""
    return (draw * count).long().clamp_(max=count - 1)


def _is_channels_last(images: Tensor) -> bool:
    return images.stride(1) == 1 and images.is_contiguous(memory_format=torch.channels_last)
