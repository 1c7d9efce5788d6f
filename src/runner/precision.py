"""In which number format to compute: `precision=fp32|tf32|amp|bf16|fp16|fp64`."""

import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from runner.errors import ConfigError


class Precision:
    """The format of weights and arithmetic, and the backward pass and step that go with it.

    Attributes:
        name: what the config asked for.
        dtype: of weights, inputs and optimizer state.
        autocast_dtype: what matrix products and convolutions compute in; None: in `dtype`.
        scaler: keeps float16 gradients in range (Micikevicius et al., 2018, arXiv:1710.03740), or None.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self.dtype = torch.float64 if name == "fp64" else torch.float32
        self.autocast_dtype = _autocast_dtype(name, device)
        if name == "fp64" and device.type == "mps":
            raise ConfigError("precision=fp64: mps has no 64-bit floats; write device=cpu, or precision=fp32")
        if name == "tf32" and device.type != "cuda":
            raise ConfigError(f"precision=tf32 needs an NVIDIA GPU, the device is {device.type}: write precision=fp32")
        if device.type == "cuda":
            set_tf32(name == "tf32")
        self.scaler = torch.amp.GradScaler(device.type) if self.autocast_dtype is torch.float16 else None
        self._scale = self.scaler.get_scale() if self.scaler else 1.0
        self._device = device
        # One object for all batches: making one costs more than entering it.
        self._autocast: AbstractContextManager[Any] = nullcontext()
        if self.autocast_dtype is not None:
            self._autocast = torch.autocast(device.type, dtype=self.autocast_dtype)

    def __str__(self) -> str:
        """`amp -> bfloat16 autocast`."""
        if self.autocast_dtype is None:
            return self.name
        scaler = " with GradScaler" if self.scaler else ""
        return f"{self.name} -> {str(self.autocast_dtype).removeprefix('torch.')} autocast{scaler}"

    def slow_here(self) -> str | None:
        """A sentence if this machine computes the format without instructions for it."""
        if self._device.type != "cpu" or self.autocast_dtype is None:
            return None
        if self.autocast_dtype is torch.bfloat16 and _multiplies_bfloat16():
            return None
        name = str(self.autocast_dtype).removeprefix("torch.")
        return f"this CPU has no fast {name} arithmetic: expect precision={self.name} to be slower than fp32 here"

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        return self._autocast

    def upcast(self, outputs: Tensor) -> Tensor:
        """Outputs as the loss takes them: at least 32 bits."""
        return outputs if outputs.dtype == self.dtype else outputs.to(self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the (scaled) loss."""
        (self.scaler.scale(loss) if self.scaler else loss).backward()

    def step(self, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], clip: float | None) -> bool:
        """Clip, step and reset the gradients.

        Returns:
            False if the scaler found an infinite gradient and skipped the step.
        """
        if clip is not None:
            if self.scaler:
                self.scaler.unscale_(optimizer)
            clip_grad_norm_(parameters, clip)
        stepped = True
        if self.scaler:
            self.scaler.step(optimizer)
            self.scaler.update()
            # The one read of the device in a step: only a skipped step lowers the scale.
            scale = self.scaler.get_scale()
            stepped = scale >= self._scale
            self._scale = scale
        else:
            optimizer.step()
        forget_gradients(optimizer)
        return stepped

    def state_dict(self) -> dict[str, Any]:
        """The scaler's state; empty without one."""
        return self.scaler.state_dict() if self.scaler else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the state of `state_dict`."""
        if self.scaler and state:
            self.scaler.load_state_dict(state)
            self._scale = self.scaler.get_scale()


def forget_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Do what torch's `zero_grad` does, without what it does around it: an epoch of the MLP takes 0.96 times as long.

    Measured with one thread of an Intel Xeon (Sapphire Rapids). A class that overrides it has its own called.
    """
    if type(optimizer).zero_grad is not torch.optim.Optimizer.zero_grad:
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def set_tf32(enabled: bool) -> None:
    """Let a GPU read 10 bits of each 32-bit float's mantissa, or all: torch's own default differs by operation."""
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
        # float16 autocast is 19-45 times slower than fp32 on a CPU; bfloat16 has instructions on new ones.
        return torch.float16 if device.type == "cuda" else torch.bfloat16
    raise ConfigError(f"precision={name}: choose from amp, bf16, fp16, fp32, fp64, tf32")


def _multiplies_bfloat16() -> bool:
    """Whether torch has oneDNN, and this CPU instructions that multiply bfloat16: two of x86's, one of ARM's.

    Torch's own `_is_mkldnn_bf16_supported` is there with oneDNN alone, and content with AVX-512, which emulates them.
    """
    has = torch.cpu.get_capabilities()
    instructions = (has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.backends.mkldnn.is_available() and any(instructions)
