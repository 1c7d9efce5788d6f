"""Checks of a model before training: that it fits the data, its size, its FLOPs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from runner.errors import ConfigError, Problem, first_line, user_frame_suffix
from runner.util import trees
from runner.util.private import DispatchMode

BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Layers whose result depends on the other samples of a batch."""

ALONE = "more than 1 value per channel"
"""Words of the error of these layers for a single value."""


def parameter_count(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def operations(model: nn.Module, flops: int | None) -> int:
    """Return a lower bound on the operations of a sample's forward pass: the counted FLOPs, or two per parameter.

    The counter misses some operations: all of an LSTM.
    """
    return max(flops or 0, 2 * parameter_count(model))


def has_convolutions(model: nn.Module) -> bool:
    """Return whether channels_last pays: without it an epoch of the MNIST CNN takes 1.19 times as long on two cores."""
    return any(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in model.modules())


@dataclass(frozen=True)
class Cost:
    """The cost of the forward pass of one sample, or of a sample in the step of a task.

    Attributes:
        flops: floating-point operations without biases and activations, a multiply-add counting as two
            (`torch.utils.flop_counter`); None if it counted none.
        values: the number of values in the largest output of a layer.
        activation: the activation function that computes the model's outputs, as a layer or a function; None if none.
        of_step: `flops` are those of a step without its gradients, which may call the model several times.
    """

    flops: int | None
    values: int
    activation: str | None = None
    of_step: bool = False


COMPUTED = 16 << 20
"""Bytes of the weights of a model that is checked by computing two samples."""

COMPUTED_VALUES = 1 << 16
"""Values of a sample for it: three 3x3 convolutions of 64 channels take 15 s and 5 GB for two samples of 1500x1500."""

ACTIVATIONS = (
    "softmax", "sigmoid", "log_softmax", "tanh", "relu", "gelu", "silu", "elu", "leaky_relu", "softplus", "mish",
    "hardtanh", "hardsigmoid", "hardswish", "clamp", "clamp_min", "exp", "abs",
)  # fmt: skip
"""Operations that restrict outputs to a range; names of torch's dispatcher, without leading and trailing `_`."""

SHAPING = ("view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "flatten", "clone", "alias", "detach", "_to_copy")
"""Operations that return the same values in another shape, memory or dtype."""


class _Activations(DispatchMode):
    """Records which tensors an activation function returned."""

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
            self._seen = [*self._seen[-3:], (result, by)]  # only the last ones: those of attention may be large
        return result

    def by(self, tensor: object) -> str | None:
        """Return the activation function that returned a tensor, if any."""
        return next((by for seen, by in self._seen if seen is tensor), None)


def check_shapes(
    model: nn.Module,
    input_shape: Sequence[int],
    num_outputs: int,
    dtype: torch.dtype,
    output_of: Callable[[Any], Any] = lambda result: result,
) -> Cost:
    """Run two samples through the model, and count the cost of one.

    The samples are zeros; those of a large model, and of one that cannot take zeros, have no values (the meta device).
    Parameters and buffers do not change, nor does the state of torch's random generators.

    Args:
        model: on the CPU.
        input_shape: of one sample.
        num_outputs: of one sample.
        dtype: of the inputs.
        output_of: takes the outputs from what the model returns.

    Raises:
        ConfigError: the model does not accept the samples, or returns outputs of the wrong shape.
    """
    was_training = model.training
    model.eval()
    try:
        with largest_outputs(model) as largest, _Activations() as activations:
            outputs, flops = _forward(model, tuple(input_shape), dtype)
            with suppress(Exception):  # reported below
                outputs = output_of(outputs)
    finally:
        model.train(was_training)
    expected = (2, num_outputs)
    if not isinstance(outputs, Tensor):
        text = f"the model must return one tensor (N, {num_outputs}), it returns a {type(outputs).__name__}"
        raise ConfigError(Problem("model", text, topic="code"))
    if tuple(outputs.shape) != expected:
        shape = "".join(f", {size}" for size in outputs.shape[1:])
        text = f"the model returns outputs of shape (N{shape}), data and loss require (N, {num_outputs})"
        raise ConfigError(Problem("model", text, "let its constructor take num_outputs", topic="shape"))
    return Cost(flops // 2 or None, max(largest) // 2, activations.by(outputs))


@contextmanager
def largest_outputs(model: nn.Module) -> Iterator[list[int]]:
    """Collect the number of values in the output of each layer that runs."""
    counts = [0]

    def count(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor):
            counts.append(output.numel())

    handles = [module.register_forward_hook(count) for module in model.modules()]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def run_samples(
    model: nn.Module,
    count: int,
    input_shape: Sequence[int],
    dtype: torch.dtype,
    observing: Callable[[nn.Module], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Run samples through the model as it is, without gradients; without values if it is large.

    Args:
        model: on the CPU; its tensors do not change.
        count: the number of samples.
        input_shape: of one sample.
        dtype: of the samples.
        observing: returns the context of the forward pass.
    """
    device = "cpu" if _is_small(model, input_shape) else "meta"
    _call_copy(model, (count, *input_shape), dtype, device, lambda: observing(model))


def _forward(model: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, int]:
    for device in ["cpu", "meta"] if _is_small(model, shape) else ["meta"]:  # zeros may be what a model cannot take
        counter = FlopCounterMode(display=False)
        with suppress(Exception):
            with counter:
                outputs = _call_copy(model, (2, *shape), dtype, device)
            return outputs, counter.get_total_flops()
    # It does not fit the samples, or cannot run on the meta device or with copied tensors: this shows which.
    return _forward_real(model, shape, dtype)


def _is_small(model: nn.Module, shape: Sequence[int]) -> bool:
    """Whether computing two samples takes less time than importing what the meta device needs, a second."""
    tensors = [*model.parameters(), *model.buffers()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return size <= COMPUTED and prod(shape) <= COMPUTED_VALUES and not any(tensor.is_meta for tensor in tensors)


def _call_copy(
    model: nn.Module,
    shape: Sequence[int],
    dtype: torch.dtype,
    device: str,
    observing: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Any:
    """Call a model with zeros of this shape, with copies of its tensors, so that these do not change.

    Args:
        model: on the CPU, or on the meta device.
        shape: with the samples.
        dtype: of the samples.
        device: the CPU, or the meta device, which computes no values.
        observing: returns the context of the call.
    """
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    state = {name: tensor.detach().to(device, copy=True) for name, tensor in tensors.items()}
    with torch.random.fork_rng(devices=[]), torch.no_grad(), observing():
        return functional_call(model, state, (torch.zeros(*shape, dtype=dtype, device=device),))


def _forward_real(model: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, int]:
    counter = FlopCounterMode(display=False)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), counter:
            outputs = model(torch.zeros(2, *shape, dtype=dtype))
    except Exception as error:
        reason = f"{first_line(error)}{user_frame_suffix(error)}"
        if problem := wrong_kind(model, (torch.zeros(2, *shape, dtype=dtype),), {}, reason):
            raise ConfigError(problem) from error
        text = f"the model does not accept samples of shape {shape} ({prod(shape)} values): {reason}"
        raise ConfigError(Problem("model", text, topic="shape")) from error
    return outputs, counter.get_total_flops()


def wrong_kind(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], reason: str) -> Problem | None:
    """Return the problem of a model that failed because it got whole numbers instead of floats, or floats instead.

    Args:
        model: on the CPU; as it failed.
        args: what it got.
        kwargs: what it got by name.
        reason: what it failed with.

    Returns:
        None if it failed for another reason.
    """
    tensors = [leaf for leaf in trees.leaves((tuple(args), dict(kwargs))) if isinstance(leaf, Tensor)]
    embeds = any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules())
    if not embeds and tensors and not any(map(torch.is_floating_point, tensors)):
        text = f"the model gets token ids (whole numbers), and none of its layers embeds them: {reason}"
        instead = "write model=gpt or model=huggingface, or begin the model with torch.nn.Embedding"
        return Problem("model", text, instead, topic="shape")
    if not embeds or not all(map(torch.is_floating_point, tensors)):
        return None
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            ids = trees.tree_map(lambda leaf: torch.zeros_like(leaf, dtype=torch.long), (tuple(args), dict(kwargs)))
            model(*ids[0], **ids[1])
    except Exception:  # another reason
        return None
    text = f"the model takes token ids (whole numbers), it gets floats: {reason}"
    return Problem("model", text, "write model=mlp, or data=text task=language_model", topic="shape")
