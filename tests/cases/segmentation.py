"""Squares to find in noise: a mask for each image, and a small convolutional model."""

import torch
from torch import Tensor, nn

from runner.data.source import Source


def squares(count: int = 240, size: int = 16) -> Source:
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 120, (count, 1, size, size), generator=rng, dtype=torch.uint8)
    masks = torch.zeros(count, size, size, dtype=torch.long)
    for number, (row, column) in enumerate(torch.randint(0, size - 5, (count, 2), generator=rng).tolist()):
        masks[number, row : row + 5, column : column + 5] = 1
    images[:, 0][masks == 1] += 100
    train, test = slice(0, 200), slice(200, None)
    return Source("squares", train=(images[train], masks[train]), test=(images[test], masks[test]))


class Pixels(nn.Module):
    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
            nn.Conv2d(8, num_outputs, 1),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)
