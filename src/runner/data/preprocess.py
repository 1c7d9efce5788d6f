"""From a raw batch to the tensors that a model and a loss take, on the device."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from runner.data.normalize import Normalize
from runner.data.parts import Batch


@dataclass
class Preprocess:
    """Brings raw batches to the device, normalises the inputs and prepares the targets.

    Attributes:
        normalize: of the inputs.
        prepare: of the targets: `Loss.prepare`.
        device: of the result.
        dtype: of the inputs.
        channels_last: memory format of images.
    """

    normalize: Normalize
    prepare: Callable[[Tensor, torch.dtype], Tensor]
    device: torch.device
    dtype: torch.dtype
    channels_last: bool = False

    def __post_init__(self) -> None:
        self._on_device = self.normalize.to(self.device, self.dtype)

    def __call__(self, inputs: Tensor, targets: Tensor) -> Batch:
        """Raw inputs (N, ...) and targets (N, ...) -> both as the training loop takes them."""
        if self.normalize.wide:  # before the transfer: not every device has float64
            inputs = self.normalize(inputs, self.dtype).to(self.device, non_blocking=True)
        else:
            inputs = self.inputs(inputs.to(self.device, non_blocking=True))
        if self.channels_last and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs, self.targets(targets)

    def inputs(self, inputs: Tensor) -> Tensor:
        """Normalise inputs that are on the device."""
        return self._on_device(inputs, self.dtype)

    def targets(self, targets: Tensor) -> Tensor:
        """Transfer and prepare targets."""
        if self.device.type == "mps" and targets.dtype == torch.float64:  # which MPS does not have
            targets = targets.float()
        return self.prepare(targets.to(self.device, non_blocking=True), self.dtype)
