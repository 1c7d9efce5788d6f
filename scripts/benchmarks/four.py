"""A dict batch of four tensors: the data set and the model that both runner and a bare loop train."""

from typing import Any

import torch
from torch import Tensor, nn

SIZE = 196  # values in each of the four tensors: a quarter of one of MNIST's images
NAMES = ("a", "b", "c", "d")


class Net(nn.Module):
    """Four inputs, each by a layer of its own, then 128-64-10: as many weights as the MLP 784-128-64-10 or fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleDict({name: nn.Linear(SIZE, 32) for name in NAMES})
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        """Tensors (N, 196) -> (N, 10)."""
        parts = zip(self.first.values(), (a, b, c, d), strict=True)
        outputs: Tensor = self.rest(torch.cat([layer(part) for layer, part in parts], dim=1))
        return outputs


def samples(count: int) -> tuple[dict[str, Tensor], Tensor]:
    """Return four tensors (N, 196) by name, and classes (N,)."""
    made = torch.Generator().manual_seed(0)
    inputs = {name: torch.randn(count, SIZE, generator=made) for name in NAMES}
    return inputs, torch.randint(10, (count,), generator=made)


def data(count: int, **_: Any) -> Any:
    """Return them as runner takes them."""
    from runner.data.source import Source

    return Source("four", train=samples(count))
