"""Pairs of views pulled together, and pushed from a queue of earlier ones that is a buffer of the task."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runner.data.source import Source
from runner.task import Task


def views(count: int = 400) -> Source:
    rng = torch.Generator().manual_seed(0)
    things = torch.randn(count, 8, generator=rng)
    first, second = (things + 0.3 * torch.randn(count, 8, generator=rng) for _ in "12")
    train, test = slice(0, 320), slice(320, None)
    return Source("views", train={"a": first[train], "b": second[train]}, test={"a": first[test], "b": second[test]})


class Contrastive(Task):
    maximized = ("found",)

    def __init__(self, temperature: float = 0.2, length: int = 128) -> None:
        super().__init__()
        self.temperature = temperature
        self.register_buffer("queue", F.normalize(torch.randn(length, 8, generator=torch.Generator().manual_seed(1))))

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        one, other = F.normalize(model(batch["a"])), F.normalize(model(batch["b"]))
        near = (one * other).sum(1, keepdim=True)
        logits = torch.cat([near, one @ self.queue.T.to(one)], 1) / self.temperature
        if self.training:
            self.queue = torch.cat([self.queue[len(other) :], other.detach()])
        first = torch.zeros(len(one), dtype=torch.long, device=one.device)
        return {"loss": F.cross_entropy(logits, first), "found": (logits.argmax(1) == 0).float().mean()}

    def predict(self, model: nn.Module, inputs: Any) -> Tensor:
        return F.normalize(model(inputs["a"]))
