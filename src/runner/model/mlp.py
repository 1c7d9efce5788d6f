"""Fully connected networks."""

from collections.abc import Sequence
from math import prod
from typing import Annotated

from torch import Tensor, nn

from runner.model.activation import activation_layer
from runner.util.ranges import COUNT, PROBABILITY


class MLP(nn.Module):
    """Flattened input, hidden layers with activation and dropout, an output layer, linear by default.

    Args:
        input_shape: shape of one sample; comes from the data.
        num_outputs: classes or values; comes from data and loss.
        hidden: width of each hidden layer.
        activation: name of the activation after each hidden layer.
        dropout: probability after each hidden layer.
        output_activation: name of the activation after the last layer; None: none, as losses for classes require.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        hidden: Annotated[list[int], COUNT],
        activation: str = "relu",
        dropout: Annotated[float, PROBABILITY] = 0.0,
        output_activation: str | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), *hidden_layers(prod(input_shape), hidden, activation, dropout))
        self.layers.append(nn.Linear(hidden[-1] if hidden else prod(input_shape), num_outputs))
        if output_activation is not None:
            self.layers.append(activation_layer(output_activation, "model.output_activation"))

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, *input_shape) -> (N, num_outputs)."""
        return self.layers(inputs)


def hidden_layers(width: int, hidden: Sequence[int], activation: str, dropout: float) -> list[nn.Module]:
    """Return linear layer, activation and, above 0, dropout for each hidden width."""
    layers: list[nn.Module] = []
    for width_out in hidden:
        layers += [nn.Linear(width, width_out), activation_layer(activation)]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        width = width_out
    return layers
