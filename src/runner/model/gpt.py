"""A small GPT: a decoder of pre-norm transformer blocks, in nanoGPT's shape."""

from collections.abc import Sequence
from typing import Annotated

import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from runner.errors import ConfigError, Problem
from runner.util.ranges import COUNT, PROBABILITY

INIT_STD = 0.02  # GPT-2's


class Attention(nn.Module):
    """Causal self-attention with several heads; queries, keys and values come from one matrix."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, T, width) -> (N, T, width)."""
        samples, tokens, width = inputs.shape
        split = self.qkv(inputs).view(samples, tokens, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        return self.out(attended.transpose(1, 2).reshape(samples, tokens, width))


class Block(nn.Module):
    """Attention and a feed-forward layer of four times the width, each added to its normalised input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.feed_norm = (nn.LayerNorm(width, bias=False) for _ in range(2))
        self.attention = Attention(width, heads, dropout)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, T, width) -> (N, T, width)."""
        attended = inputs + self.dropout(self.attention(self.attention_norm(inputs)))
        return attended + self.dropout(self.down(F.gelu(self.up(self.feed_norm(attended)))))


class GPT(nn.Module):
    """Scores of the next token at each place of a sequence.

    Positions are learned, linear layers have no bias (Radford et al. 2019, as in nanoGPT). The output layer is not tied
    to the embedding: with the few tokens of a character model tying saves 1 % of the parameters, and each tensor has
    one name, for `model.freeze`, `optimizer.groups` and files of weights.

    Args:
        input_shape: (T,): the tokens of a sample.
        num_outputs: the number of different tokens.
        layers: number of blocks.
        heads: of attention in each block.
        width: of the embedding; a multiple of `heads`.
        dropout: probability after each embedding, attention and feed-forward layer.

    Attributes:
        context: how many tokens `generate` shows the model: one less than a sample has. All but the last of a sample
            are inputs in training, so its last position may never have been trained.

    Raises:
        ConfigError: samples are not sequences of tokens, or the heads do not divide the width.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        layers: Annotated[int, COUNT] = 4,
        heads: Annotated[int, COUNT] = 4,
        width: Annotated[int, COUNT] = 128,
        dropout: Annotated[float, PROBABILITY] = 0.0,
    ) -> None:
        super().__init__()
        if isinstance(input_shape, dict) or len(input_shape) != 1 or isinstance(input_shape[0], tuple):
            shape = input_shape if isinstance(input_shape, dict) else tuple(input_shape)
            text = f"model=gpt requires sequences of tokens (T,), the samples have shape {shape}"
            raise ConfigError(
                Problem("model", text, "write model=mlp, or data=text task=language_model", topic="shape")
            )
        if width % heads:
            text = f"model.heads={heads} does not divide model.width={width}"
            fitting = max(count for count in range(1, heads) if width % count == 0)
            raise ConfigError(Problem("model.heads", text, f"write model.heads={fitting}", topic="conflict"))
        self.context = max(1, input_shape[0] - 1)
        self.tokens, self.positions = nn.Embedding(num_outputs, width), nn.Embedding(input_shape[0], width)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width, bias=False), nn.Linear(width, num_outputs, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                # What is added to the residual stream: its variance must not grow with the number of layers (GPT-2).
                added = name.endswith(("attention.out.weight", "down.weight"))
                nn.init.normal_(parameter, std=INIT_STD / (2 * layers) ** 0.5 if added else INIT_STD)

    def forward(self, inputs: Tensor) -> Tensor:
        """Token ids (N, T) -> scores (N, T, num_outputs)."""
        embedded = self.tokens(inputs) + self.positions.weight[: inputs.shape[1]]
        return self.head(self.norm(self.blocks(self.dropout(embedded))))
