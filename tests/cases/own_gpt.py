"""A transformer of one's own on the characters of a text."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runner.data.source import Source

TEXT = "the cat sat on the mat and the dog sat on the log " * 60


def characters(block: int = 16) -> Source:
    names = sorted(set(TEXT))
    ids = torch.tensor([names.index(letter) for letter in TEXT])
    windows = ids.unfold(0, block + 1, block // 2).clone()
    return Source("characters", train=windows[:300], test=windows[300:], classes=names)


class Tiny(nn.Module):
    def __init__(self, num_outputs: int, width: int = 32, block: int = 16) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(num_outputs, width), nn.Embedding(block, width)
        self.query, self.head = nn.Linear(width, 3 * width), nn.Linear(width, num_outputs)
        self.mix = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        query, key, value = self.query(x).chunk(3, -1)
        x = x + F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.head(x + self.mix(x))
