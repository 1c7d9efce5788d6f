"""The batches of several models: each has its own order, and those that share their samples stand side by side."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from runner.data.loading import TensorLoader
from runner.training.state import Training


def batches(states: Sequence[Training]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches (K, N, ...) of the rest of an epoch, each model's in its own order."""
    by_samples: list[tuple[TensorLoader, list[Tensor]]] = []
    for state in states:
        loader = state.loaders.train
        assert isinstance(loader, TensorLoader)
        if not by_samples or not shares_samples(by_samples[-1][0], loader):
            by_samples.append((loader, []))
        by_samples[-1][1].append(loader.order(state.progress.epoch))
    first = by_samples[0][0]
    orders = [(loader, torch.stack(each)) for loader, each in by_samples]
    for start in range(states[0].progress.batch * first.batch_size, first.samples, first.batch_size):
        parts = []
        for loader, order in orders:
            index = order[:, start : start + first.batch_size]
            batch = loader.select(index.flatten())
            parts.append([part.unflatten(0, index.shape) for part in batch])
        inputs, targets = parts[0] if len(parts) == 1 else (torch.cat(each) for each in zip(*parts, strict=True))
        yield inputs, targets


def shares_samples(one: TensorLoader, other: TensorLoader) -> bool:
    """Return whether two loaders have the same tensors."""
    return one.inputs is other.inputs and one.targets is other.targets
