"""A network for the rows of a table: an embedding for each category column, beside the numbers, in an MLP."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from runner.errors import ConfigError, Problem
from runner.model.mlp import hidden_layers
from runner.util.ranges import COUNT, PROBABILITY, Range

WIDEST = 50


class Tabular(nn.Module):
    """Numbers and embedded categories, hidden layers with activation and dropout, a linear output layer.

    Args:
        input_shape: shapes of `numbers` (F,) and `categories` (C,) of one row; comes from `data=table`.
        num_outputs: classes or values; comes from data and loss.
        categories: the number of codes of each category column, of which 0 is a category that training did not have;
            comes from the data.
        hidden: width of each hidden layer.
        activation: name of the activation after each hidden layer.
        dropout: probability after each hidden layer.
        embedding: width of each embedding; None: 1.6 * codes^0.56, at most 50 (the rule of fastai).

    Raises:
        ConfigError: the samples are not rows of `data=table`.
    """

    def __init__(
        self,
        input_shape: Any,
        num_outputs: int,
        categories: Sequence[int] = (),
        hidden: Annotated[Sequence[int], COUNT] = (128, 64),
        activation: str = "relu",
        dropout: Annotated[float, PROBABILITY] = 0.0,
        embedding: Annotated[int | None, Range(1, whole=True)] = None,
    ) -> None:
        super().__init__()
        if not isinstance(input_shape, Mapping) or not {"numbers", "categories"} <= input_shape.keys():
            text = "model=tabular takes rows of numbers and categories, which only data=table has"
            raise ConfigError(Problem("model", text, "write model=mlp, or data=table", topic="conflict"))
        widths = [embedding or min(WIDEST, round(1.6 * codes**0.56)) for codes in categories]
        # A category that training did not have stays zero: it gets no gradient.
        self.embeddings = nn.ModuleList(
            nn.Embedding(codes, width, padding_idx=0) for codes, width in zip(categories, widths, strict=True)
        )
        inputs = input_shape["numbers"][0] + sum(widths)
        self.layers = nn.Sequential(*hidden_layers(inputs, hidden, activation, dropout))
        self.layers.append(nn.Linear(hidden[-1] if hidden else inputs, num_outputs))

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """(N, F) numbers and (N, C) codes -> (N, num_outputs)."""
        embedded = [embedding(categories[:, place]) for place, embedding in enumerate(self.embeddings)]
        return self.layers(torch.cat([numbers, *embedded], dim=1))
