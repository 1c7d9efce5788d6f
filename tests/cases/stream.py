"""Samples without end, made as they are asked for; each worker makes its share."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from runner.data.source import Source


class Endless(IterableDataset):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = get_worker_info()
        number, step = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        while True:
            yield sample(number)
            number += step


def sample(number: int) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(6, generator=torch.Generator().manual_seed(number))
    return inputs, (inputs[0] + inputs[1] > 0).long()


def endless() -> Source:
    inputs, targets = zip(*(sample(10**6 + number) for number in range(200)), strict=True)
    held_out = torch.stack(inputs), torch.stack(targets)
    return Source("endless", train=Endless(), val=held_out, test=held_out, classes=["low", "high"])
