"""The activations a config can name."""

from torch import nn

from runner.errors import ConfigError, did_you_mean

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def activation_layer(name: str, key: str = "model.activation") -> nn.Module:
    """Make the activation of that name.

    Args:
        name: one of `ACTIVATIONS`.
        key: where the config names it, for the error.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(f"{key}={name} is not a choice: {did_you_mean(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]()
