"""Training images rotated, shifted, flipped, changed by RandAugment and erased, each by its own random draws."""

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from runner.data.randaugment import RandAugment

DRAWS = 9  # random numbers for each sample; always all of them: one augmentation does not change another's draws
ERASED_SHARE = (0.02, 0.33)  # smallest and largest share of the image's area
ERASED_RATIO = (0.3, 3.3)  # smallest and largest ratio of the rectangle's height to its width


@dataclass(frozen=True, eq=False)
class ImageAugment:
    """Augments a batch of normalised images, on their device, without a loop over the samples.

    Args:
        crop: padding in pixels; an image is padded on each side and cropped to its size at a random position (He et
            al. 2016, "Deep Residual Learning for Image Recognition").
        flip: mirror left and right, with probability 0.5.
        rotation: largest angle in degrees of a rotation about the centre, in either direction, bilinear.
        erasing: probability that a rectangle of 2-33 % of the image, 0.3-3.3 times as high as wide, becomes
            0, the mean (Zhong et al. 2020, "Random Erasing Data Augmentation").
        randaugment: after the three above, before the erasing; None leaves it out.
        black: the normalised value of a pixel that is 0, a scalar or (C, 1, 1): it fills the edges of a shifted or
            rotated image.
    """

    crop: int = 0
    flip: bool = False
    rotation: float = 0.0
    erasing: float = 0.0
    randaugment: RandAugment | None = None
    black: Tensor | float = 0.0

    @property
    def active(self) -> bool:
        """Whether anything is augmented."""
        return bool(self.crop or self.flip or self.rotation or self.erasing or self.randaugment)

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Return a copy whose tensors are on the device already."""
        randaugment = self.randaugment and self.randaugment.to(device)
        return replace(self, black=torch.as_tensor(self.black).to(device, dtype), randaugment=randaugment)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images (N, C, H, W) -> new ones of the same shape, dtype and memory format.

        Args:
            images: normalised, on any device; not changed.
            generator: on the CPU: every device gets the same draws. RandAugment draws after the others.
        """
        draws = torch.rand(DRAWS, len(images), generator=generator)
        mirrored = (draws[-1] < 0.5).nonzero().flatten()  # before the transfer: to count them would synchronise a GPU
        draws, mirrored = draws.to(images.device, non_blocking=True), mirrored.to(images.device, non_blocking=True)
        angle, top, left, erased, area, ratio, above, before, _ = draws.unbind()
        black = torch.as_tensor(self.black, dtype=images.dtype, device=images.device).reshape(-1, 1, 1)
        if self.rotation:
            images = rotate(images, (2 * angle - 1) * self.rotation, black)
        if self.crop:
            shifts = 2 * self.crop + 1
            images = crop(images, self.crop, _to_whole(top, shifts), _to_whole(left, shifts), black)
        if self.flip:
            images = flip(images, mirrored)
        if self.randaugment:
            images = self.randaugment(images, generator)
        if self.erasing:
            erased_pixels = draw_rectangles(area, ratio, above, before, images.shape[2], images.shape[3])
            erased_pixels &= (erased < self.erasing).view(-1, 1, 1, 1)
            images = images * (~erased_pixels).to(images.dtype)  # half the time of filling by the mask, on a CPU
        return images


def crop(images: Tensor, padding: int, top: Tensor, left: Tensor, black: Tensor) -> Tensor:
    """Pad images and crop each to its size, at its own position.

    Args:
        images: (N, C, H, W).
        padding: pixels on each side.
        top: (N,) whole numbers from 0 to 2 * padding: the first row of the crop.
        left: (N,) whole numbers from 0 to 2 * padding: the first column of the crop.
        black: (C or 1, 1, 1), the value of the padding.
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

    # A row of a crop is a window over neighbouring pixels, which are contiguous in memory. Copied window by window, an
    # image costs H copies; pixel by pixel it takes three to six times as long (on a CPU).
    pixels_a_row = width + 2 * padding
    pixels = len(planes) * (height + 2 * padding) * pixels_a_row
    windows = padded.as_strided((pixels - width + 1, width * values), (values, 1))
    device = images.device
    row = torch.arange(len(planes), device=device) * (height + 2 * padding) + top
    first = (row.unsqueeze(1) + torch.arange(height, device=device)) * pixels_a_row + left.unsqueeze(1)
    crops = windows.index_select(0, first.flatten())
    if channels_last:
        return crops.view(count, height, width, channels).permute(0, 3, 1, 2)
    return crops.view(count, channels, height, width)


def rotate(images: Tensor, degrees: Tensor, black: Tensor) -> Tensor:
    """Rotate each image (N, C, H, W) about its centre by degrees (N,); `black` (C or 1, 1, 1) fills the corners."""
    height, width = images.shape[2:]
    # Half precision has too few digits for coordinates.
    dtype = images.dtype if images.dtype in (torch.float32, torch.float64) else torch.float32
    radians = (degrees * (math.pi / 180)).to(dtype)
    cos, sin, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    # From an output pixel to its place in the image; coordinates go from -1 to 1 along both sides.
    matrix = torch.stack([cos, -sin * (height / width), zero, sin * (width / height), cos, zero], 1).view(-1, 2, 3)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    shifted = (images - black).to(dtype)  # `grid_sample` fills with 0
    rotated = functional.grid_sample(shifted, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    rotated = rotated.to(images.dtype).add_(black)
    return rotated.contiguous(memory_format=torch.channels_last) if _is_channels_last(images) else rotated


def flip(images: Tensor, index: Tensor) -> Tensor:
    """Mirror the images (N, C, H, W) at the indices (M,), left and right."""
    flipped = images.clone()
    # In memory order: any other takes several times as long.
    stored, width = (flipped.permute(0, 2, 3, 1), 2) if _is_channels_last(images) else (flipped, 3)
    stored.index_copy_(0, index, stored.index_select(0, index).flip(width))
    return flipped


def draw_rectangles(area: Tensor, ratio: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Return a mask (N, 1, H, W) of one rectangle in each image, from four draws (N,) in [0, 1)."""
    low, high = ERASED_SHARE
    pixels = (low + (high - low) * area) * (height * width)
    # Uniform on a logarithmic scale, within the ratios whose rectangle fits into the image.
    least = (pixels / width**2).clamp(min=ERASED_RATIO[0]).log()
    most = (height**2 / pixels).clamp(max=ERASED_RATIO[1]).log()
    height_to_width = (least + (most - least) * ratio).exp()
    erased_rows = (pixels * height_to_width).sqrt().round().clamp(1, height).unsqueeze(1)
    erased_columns = (pixels / height_to_width).sqrt().round().clamp(1, width).unsqueeze(1)
    first_row = ((height - erased_rows + 1) * top.unsqueeze(1)).floor()
    first_column = ((width - erased_columns + 1) * left.unsqueeze(1)).floor()
    rows = torch.arange(height, device=area.device)
    columns = torch.arange(width, device=area.device)
    inside_rows = (rows >= first_row) & (rows < first_row + erased_rows)
    inside_columns = (columns >= first_column) & (columns < first_column + erased_columns)
    return (inside_rows.unsqueeze(2) & inside_columns.unsqueeze(1)).unsqueeze(1)


def _to_whole(draw: Tensor, count: int) -> Tensor:
    """Return whole numbers from 0 to count - 1 for draws in [0, 1); their product may round up to the count."""
    return (draw * count).long().clamp_(max=count - 1)


def _is_channels_last(images: Tensor) -> bool:
    return images.stride(1) == 1 and images.is_contiguous(memory_format=torch.channels_last)
