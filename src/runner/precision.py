"""The number format of the arithmetic: `precision=fp32|tf32|amp|bf16|fp16|fp64`."""

import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import CodeType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import optimizer as torch_optimizer
from torch.optim.lr_scheduler import LambdaLR

from runner.errors import ConfigError, Problem, did_you_mean

NAMES = ("amp", "bf16", "fp16", "fp32", "fp64", "tf32")


class Precision:
    """The format of weights and arithmetic, with the matching backward pass and optimizer step.

    Attributes:
        name: the name in the config.
        dtype: the dtype of weights, inputs and optimizer state.
        autocast_dtype: the dtype of matrix products and convolutions; None: `dtype`.
        scaler: keeps float16 gradients in range (Micikevicius et al., 2018, arXiv:1710.03740); None for other dtypes.

    Raises:
        ConfigError: the name is unknown, or the device does not have the format.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self.dtype = torch.float64 if name == "fp64" else torch.float32
        self.autocast_dtype = _autocast_dtype(name, device)
        if name == "fp64" and device.type == "mps":
            text = "precision=fp64 is not available: MPS has no 64-bit floats"
            raise ConfigError(Problem("precision", text, "write precision=fp32, or device=cpu", topic="unavailable"))
        if name == "tf32" and device.type != "cuda":
            text = f"precision=tf32 requires an NVIDIA GPU, the device is {device.type}"
            raise ConfigError(Problem("precision", text, "write precision=fp32", topic="unavailable"))
        if device.type == "cuda":
            set_tf32(name == "tf32")
        self.scaler = torch.amp.GradScaler(device.type) if self.autocast_dtype is torch.float16 else None
        self._scale = self.scaler.get_scale() if self.scaler else 1.0
        self._device = device
        # One object for all batches: creating a context costs more than entering it.
        self._autocast: AbstractContextManager[Any] = nullcontext()
        if self.autocast_dtype is not None:
            self._autocast = _autocast(name, device, self.autocast_dtype)

    def __str__(self) -> str:
        """Return name and format: `amp -> bfloat16 autocast`."""
        if self.autocast_dtype is None:
            return self.name
        scaler = " with GradScaler" if self.scaler else ""
        return f"{self.name} -> {str(self.autocast_dtype).removeprefix('torch.')} autocast{scaler}"

    def slow_here(self) -> str | None:
        """Return a warning if this CPU has no instructions for the format."""
        if self._device.type != "cpu" or self.autocast_dtype is None:
            return None
        if self.autocast_dtype is torch.bfloat16 and _multiplies_bfloat16():
            return None
        name = str(self.autocast_dtype).removeprefix("torch.")
        return f"this CPU has no fast {name} arithmetic: expect precision={self.name} to be slower than fp32 here"

    @property
    def scale(self) -> float:
        """The factor by which a scaler multiplies gradients; 1 without one."""
        return self._scale

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of a forward pass."""
        return self._autocast

    def call_before_forward(self, begin: Callable[[], None]) -> None:
        """Call a function at the beginning of each context of a forward pass."""
        self._autocast = _After(begin, self._autocast)

    def upcast(self, outputs: Tensor) -> Tensor:
        """Convert outputs to the dtype of the loss: at least 32 bits."""
        return outputs if outputs.dtype == self.dtype else outputs.to(self.dtype)

    def backward(self, loss: Tensor, parameters: Sequence[nn.Parameter] | None = None) -> None:
        """Accumulate the gradients of the (scaled) loss: of these parameters only, or of all."""
        (self.scaler.scale(loss) if self.scaler else loss).backward(inputs=parameters)

    def step(self, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], clip: float | None) -> bool:
        """Clip the gradients, step the optimizer, and reset the gradients.

        Returns:
            False if the scaler found an infinite gradient and skipped the step.
        """
        self.apply(optimizer, parameters, clip)
        return self.scaler is None or self.update()

    def apply(self, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], clip: float | None) -> None:
        """Do what `step` does without its end, `update`, which follows once for several optimizers."""
        if clip is not None:
            if self.scaler:
                self.scaler.unscale_(optimizer)
            clip_grad_norm_(parameters, clip)
        if self.scaler:
            self.scaler.step(optimizer)
        else:
            step_unrecorded(optimizer)
        forget_gradients(optimizer)

    def update(self) -> bool:
        """Update the scaler after the step of all optimizers; returns False if it skipped one."""
        if not self.scaler:
            return True
        self.scaler.update()
        # The only read of the device in a step: the scale falls only if a step is skipped.
        scale, before = self.scaler.get_scale(), self._scale
        self._scale = scale
        return scale >= before

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the scaler; empty without one."""
        return self.scaler.state_dict() if self.scaler else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        if self.scaler and state:
            self.scaler.load_state_dict(state)
            self._scale = self.scaler.get_scale()


class _After(AbstractContextManager[Any]):
    """A context that begins after a function was called.

    Args:
        begin: the function.
        context: may be entered several times.
    """

    def __init__(self, begin: Callable[[], None], context: AbstractContextManager[Any]) -> None:
        self._begin, self._context = begin, context

    def __enter__(self) -> Any:
        self._begin()
        return self._context.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        return self._context.__exit__(*error)


_RECORDED = torch.optim.Optimizer.profile_hook_step(lambda self: None).__code__
_SWITCHED = torch_optimizer._use_grad_for_differentiable(lambda self: None).__code__


@functools.cache
def _scheduled() -> CodeType:
    """Return the code that a scheduler puts around `step`, to note that it was called."""
    optimizer = torch.optim.SGD([torch.zeros(1)])
    LambdaLR(optimizer, lambda epoch: 1.0)
    return cast(Any, optimizer.step).__code__


def step_unrecorded(optimizer: torch.optim.Optimizer) -> None:
    """Call `optimizer.step()`, but without the record that torch makes of each step for its profiler.

    The record takes 10 us of the 39 of SGD on six tensors (one thread of an Intel Xeon, torch 2.14). With hooks before
    a step, or where anything but torch itself is wrapped around the method, the whole is called.

    Most of torch's optimizers also tell its compiler to leave the step out, for which the first step imports it
    (900 modules, 0.5 s). Here no step is compiled.
    """
    method: Any = type(optimizer).step
    own = vars(optimizer).get("step")
    whole = (
        getattr(method, "__code__", None) is not _RECORDED
        or (own is not None and getattr(own, "__code__", None) is not _scheduled())
        or optimizer._optimizer_step_pre_hooks
        or torch_optimizer._global_optimizer_pre_hooks
        or torch_optimizer._global_optimizer_post_hooks
    )
    if whole:
        optimizer.step()
        return
    if own is not None:
        optimizer._opt_called = True  # type: ignore[attr-defined]
    step = method.__wrapped__
    if getattr(step, "__code__", None) is _SWITCHED:
        with torch.set_grad_enabled(optimizer.defaults["differentiable"]):
            step.__wrapped__(optimizer)
    else:
        step(optimizer)
    if optimizer._optimizer_step_post_hooks:
        for hook in list(optimizer._optimizer_step_post_hooks.values()):
            hook(optimizer, (), {})


def forget_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Reset gradients like torch's `zero_grad`, without its overhead: an epoch of the MLP takes 0.96 times as long.

    Measured with one thread of an Intel Xeon (Sapphire Rapids). An optimizer's own `zero_grad` is called if it has one.
    """
    if type(optimizer).zero_grad is not torch.optim.Optimizer.zero_grad:
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def set_tf32(enabled: bool) -> None:
    """Let a GPU use 10 bits of the mantissa of float32, or all 23: torch's default differs between operations."""
    cudnn: Any = torch.backends.cudnn
    for backend in (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn):
        backend.fp32_precision = "tf32" if enabled else "ieee"


def _autocast_dtype(name: str, device: torch.device) -> torch.dtype | None:
    if name in ("fp32", "tf32", "fp64"):
        return None
    if name == "bf16":
        if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            warnings.warn("this GPU emulates bfloat16: precision=fp16 is faster here", stacklevel=3)
        return torch.bfloat16
    if name == "fp16":
        return torch.float16
    if name == "amp":
        # On a CPU float16 autocast is 19-45 times slower than fp32; recent CPUs have bfloat16 instructions.
        return torch.float16 if device.type == "cuda" else torch.bfloat16
    raise ConfigError(
        Problem("precision", f"precision={name} is not a choice", did_you_mean(name, NAMES), topic="choice")
    )


def _autocast(name: str, device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    try:
        return torch.autocast(device.type, dtype=dtype)
    except (AssertionError, RuntimeError) as error:  # an accelerator of others
        text = f"precision={name} is not available: {device.type} has no autocast in torch"
        raise ConfigError(Problem("precision", text, "write precision=fp32", topic="unavailable")) from error


def _multiplies_bfloat16() -> bool:
    """Return whether torch has oneDNN and this CPU has instructions that multiply bfloat16 (two of x86, one of ARM).

    Torch's own `_is_mkldnn_bf16_supported` exists only with oneDNN, and accepts AVX-512, which emulates them.
    """
    has = torch.cpu.get_capabilities()
    instructions = (has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.backends.mkldnn.is_available() and any(instructions)
