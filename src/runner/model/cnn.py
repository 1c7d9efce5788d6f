"""Convolutional networks."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..errors import ConfigError
from .activation import activation_layer
from .mlp import hidden_layers


class CNN(nn.Module):
    """3x3 convolutions, adaptive max pool to one value a channel, fully connected head.

    Args:
        input_shape: (C, H, W) of one image; comes from the data.
        num_outputs: classes or values; comes from data and loss.
        channels: output channels of each convolution.
        strides: of each convolution.
        hidden: width of each hidden layer of the head.
        activation: name of the activation behind each layer.
        dropout: probability behind each hidden layer of the head.

    Raises:
        ConfigError: the data are not images, or channels and strides differ in number.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_outputs: int,
        channels: list[int],
        strides: list[int],
        hidden: list[int],
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ConfigError(
                f"model=cnn needs images (C, H, W), the samples are of shape {tuple(input_shape)}: write model=mlp"
            )
        if len(channels) != len(strides) or not channels:
            raise ConfigError(f"model.strides={strides}: write one number for each of model.channels={channels}")
        width = input_shape[0]
        layers: list[nn.Module] = []
        for width_out, stride in zip(channels, strides, strict=True):
            layers += [nn.Conv2d(width, width_out, 3, stride=stride, padding=1), activation_layer(activation)]
            width = width_out
        self.features = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.head = nn.Sequential(*hidden_layers(width, hidden, activation, dropout))
        self.head.append(nn.Linear(hidden[-1] if hidden else width, num_outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, num_outputs)."""
        return self.head(self.features(inputs))
