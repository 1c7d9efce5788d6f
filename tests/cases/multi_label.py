"""Several labels a sample, of which one is rare."""

import torch

from runner.data.source import Source


def labels(count: int = 500) -> Source:
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 6, generator=rng)
    targets = torch.stack([inputs[:, 0] > 0, inputs[:, 1] + inputs[:, 2] > 0, inputs[:, 3] > 1.3], 1).float()
    return Source("labels", train=(inputs[:400], targets[:400]), test=(inputs[400:], targets[400:]))
