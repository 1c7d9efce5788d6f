"""What can be known of a model before it is trained: that it fits the data, its size, its arithmetic."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from runner.errors import ConfigError, at, first_line


def parameter_count(model: nn.Module) -> int:
    """How many numbers training changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def operations(model: nn.Module, flops: int | None) -> int:
    """The least that a sample's forward pass takes: the FLOPs counted, and two for each parameter.

    Not all are counted: of an LSTM none.
    """
    return max(flops or 0, 2 * parameter_count(model))


def has_convolutions(model: nn.Module) -> bool:
    """Whether channels_last storage pays: without it an epoch of the MNIST CNN takes 1.19 times as long, two cores."""
    return any(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in model.modules())


@dataclass(frozen=True)
class Cost:
    """What the forward pass of one sample takes.

    Attributes:
        flops: floating-point operations, a multiply-add counting as two, biases and activations left out
            (`torch.utils.flop_counter`); None if nothing that it counts was seen.
        values: in the largest tensor that a layer gives.
        activation: the activation function that gives the model's outputs, be it a layer or not; None if none does.
    """

    flops: int | None
    values: int
    activation: str | None = None


ACTIVATIONS = (
    "softmax", "sigmoid", "log_softmax", "tanh", "relu", "gelu", "silu", "elu", "leaky_relu", "softplus", "mish",
    "hardtanh", "hardsigmoid", "hardswish", "clamp", "clamp_min", "exp", "abs",
)  # fmt: skip
"""Operations after which outputs cannot be any numbers, as torch's dispatcher names them but for `_` at their ends."""

SHAPING = ("view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "flatten", "clone", "alias", "detach", "_to_copy")
"""Operations that give the same values in another shape, place or type."""


class _Activations(TorchDispatchMode):
    """Sees which tensors an activation function has given."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[tuple[Tensor, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        by = next((activation for activation in ACTIVATIONS if name.strip("_") == activation), None)
        if by is None and name in SHAPING and args:
            by = self.by(args[0])
        if by is not None and isinstance(result, Tensor):
            self._seen = [*self._seen[-3:], (result, by)]  # the last ones: an attention's may be large
        return result

    def by(self, tensor: object) -> str | None:
        """The activation function that has given a tensor, if one has."""
        return next((by for seen, by in self._seen if seen is tensor), None)


def check_shapes(model: nn.Module, input_shape: Sequence[int], num_outputs: int, dtype: torch.dtype) -> Cost:
    """Send two samples through the model without computing anything, and count what one would cost.

    Parameters and inputs are stood in for by tensors on the meta device; a model that cannot run there
    gets two real samples on the CPU. Either way the state of the random generators is restored.

    Raises:
        ConfigError: the model does not take the data, or gives outputs of another shape.
    """
    was_training = model.training
    model.eval()
    try:
        with _largest(model) as largest, _Activations() as activations:
            outputs, flops = _forward(model, tuple(input_shape), dtype)
    finally:
        model.train(was_training)
    expected = (2, num_outputs)
    if not isinstance(outputs, Tensor):
        raise ConfigError(f"the model must return one tensor (N, {num_outputs}), it returns a {type(outputs).__name__}")
    if tuple(outputs.shape) != expected:
        raise ConfigError(
            f"the model gives outputs of shape (N{''.join(f', {n}' for n in outputs.shape[1:])}), data and loss"
            f" need (N, {num_outputs}): let its constructor take num_outputs"
        )
    return Cost(flops // 2 or None, max(largest) // 2, activations.by(outputs))


@contextmanager
def _largest(model: nn.Module) -> Iterator[list[int]]:
    """The numbers of values that the layers of a model give, as they come."""
    seen = [0]

    def see(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor):
            seen.append(output.numel())

    handles = [module.register_forward_hook(see) for module in model.modules()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def check_single_sample(model: nn.Module, input_shape: Sequence[int], dtype: torch.dtype) -> None:
    """See that the model can be trained on a batch of one, as the last of an epoch may be.

    Raises:
        ConfigError: BatchNorm has but one value to take a variance of.
    """
    state = {name: tensor.to("meta") for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            functional_call(model, state, (torch.empty(1, *input_shape, dtype=dtype, device="meta"),))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            "data.batch_size leaves a last batch of one sample, of which the model's BatchNorm can take no variance:"
            " write another data.batch_size"
        ) from error
    except Exception:  # a model that cannot run on the meta device: `check_shapes` has tried it for real
        return


def _forward(model: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, int]:
    state = {name: tensor.to("meta") for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    counter = FlopCounterMode(display=False)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), counter:
            outputs = functional_call(model, state, (torch.empty(2, *shape, dtype=dtype, device="meta"),))
        return outputs, counter.get_total_flops()
    except Exception:
        # Either the model cannot run on meta, or it does not fit: real numbers tell which.
        return _forward_real(model, shape, dtype)


def _forward_real(model: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, int]:
    counter = FlopCounterMode(display=False)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), counter:
            outputs = model(torch.zeros(2, *shape, dtype=dtype))
    except Exception as error:
        raise ConfigError(
            f"the model does not take samples of shape {shape} ({prod(shape)} values): {first_line(error)}{at(error)}"
        ) from error
    return outputs, counter.get_total_flops()
