"""The activations that a config can name."""

from torch import nn

from runner.errors import ConfigError, Problem, did_you_mean

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def activation_layer(name: str, key: str = "model.activation") -> nn.Module:
    """Create an activation by name.

    Args:
        name: one of `ACTIVATIONS`.
        key: the config key that names it, for the error.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(
            Problem(key, f"{key}={name} is not a choice", did_you_mean(name, ACTIVATIONS), topic="choice")
        )
    return ACTIVATIONS[name]()
