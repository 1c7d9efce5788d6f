"""A model for which memory runs out with more samples than a limit."""

import torch
from torch import Tensor, nn


class Limited(nn.Module):
    """An MLP with BatchNorm and dropout, whose forward or backward pass fails half-way for large batches.

    Args:
        limit: the most samples that memory suffices for.
        in_backward: whether it runs out in the backward pass.
        from_call: the first forward pass in training with this limit, from 1.
        dropout: of the hidden layer; without it, and without BatchNorm, the gradient is a sum over samples.
    """

    def __init__(
        self, limit: int = 16, in_backward: bool = False, from_call: int = 1, dropout: float = 0.3, features: int = 6
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(16) if dropout else nn.Identity()
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(features, 16), norm, nn.Dropout(dropout))
        self.last = nn.Linear(16, 3)
        self.limit, self.in_backward, self.from_call = limit, in_backward, from_call
        self.calls, self.largest = 0, 0

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        if self.training:
            self.calls += 1
            if len(inputs) > self.limit and self.calls >= self.from_call:
                if not self.in_backward:
                    _fail()
                hidden.register_hook(_fail)  # when the last layer has its gradient
            self.largest = max(self.largest, len(inputs))
        return self.last(hidden.relu())


def _fail(_: object = None) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
