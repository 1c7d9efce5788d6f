"""`data=shapes`: generated images of discs, squares and triangles, with the shape at each pixel."""

from typing import Annotated

import torch
from torch import Tensor

from runner.data.source import Source
from runner.util.ranges import COUNT, Range
from runner.util.rng import make_generator

CLASSES = ["background", "disc", "square", "triangle"]
SHAPES = 3  # in an image; later ones cover earlier ones
NOISE = 25.0  # standard deviation of a pixel's colour, in steps of 255
AT_ONCE = 500  # images that are drawn at once: their distances take 4 bytes a pixel


def shapes(
    samples: Annotated[int, COUNT] = 1000,
    size: Annotated[int, Range(16, 1024, whole=True)] = 48,
    mean: float | list[float] | None = 0.5,
    std: float | list[float] | None = 0.25,
) -> Source:
    """Draw images of three shapes each, in random colours on a random background, with noise.

    Colours say nothing about the shape. The images do not depend on the run's seed: test metrics of different seeds are
    compared.

    Args:
        samples: images to train and validate on; a fifth as many are drawn for the test.
        size: height and width in pixels.
        mean: subtracted from the pixels.
        std: divides the pixels.

    Returns:
        Inputs are uint8 (N, 3, size, size), targets uint8 (N, size, size): the index of the class in `CLASSES`.
    """
    return Source(
        "shapes",
        train=draw(samples, size, make_generator("shapes", 0)),
        test=draw(max(1, samples // 5), size, make_generator("shapes test", 0)),
        mean=mean,
        std=std,
        classes=CLASSES,
        origin="generated",
    )


def draw(samples: int, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw images (N, 3, size, size) and masks (N, size, size), both uint8."""
    counts = [min(AT_ONCE, samples - first) for first in range(0, samples, AT_ONCE)]
    images, masks = zip(*(_draw(count, size, rng) for count in counts), strict=True)
    return torch.cat(images), torch.cat(masks)


def _draw(samples: int, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(samples, *shape, generator=rng)

    axis = torch.arange(size) / size
    masks = torch.zeros(samples, size, size, dtype=torch.uint8)
    images = uniform(0, 255, 3, 1, 1).repeat(1, 1, size, size)
    for _ in range(SHAPES):
        kinds = torch.randint(1, len(CLASSES), (samples, 1, 1), generator=rng)
        colours, radius = uniform(0, 255, 3, 1, 1), uniform(0.1, 0.25, 1, 1)
        down = axis[:, None] - uniform(0.1, 0.9, 1, 1)
        across = axis[None, :] - uniform(0.1, 0.9, 1, 1)
        # How far a pixel is from the centre, in the norm whose unit ball is the shape.
        disc = (down.square() + across.square()).sqrt()
        square = torch.maximum(down.abs(), across.abs())
        triangle = torch.maximum(down, (3**0.5 * across.abs() - down) / 2)  # equilateral, its tip above
        distance = torch.where(kinds == 1, disc, torch.where(kinds == 2, square, triangle))
        inside = distance <= radius
        masks = torch.where(inside, kinds.to(torch.uint8), masks)
        images = torch.where(inside[:, None], colours, images)
    images += NOISE * torch.randn(images.shape, generator=rng)
    return images.clamp_(0, 255).to(torch.uint8), masks
