"""From a raw batch to the tensors that a model and a loss take, on the device."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from runner.data.collate import Batch
from runner.data.normalize import Normalize
from runner.util import trees
from runner.util.trees import Tree


@dataclass
class Preprocess:
    """Brings raw batches to the device, normalises the inputs and prepares the targets.

    Attributes:
        normalize: of the inputs.
        prepare: of the targets, a whole tree of them: `Loss.prepare`. Not called where items have no targets.
        device: of the result.
        dtype: of the inputs.
        channels_last: memory format of images.
    """

    normalize: Normalize
    prepare: Callable[[Tree, torch.dtype], Tree]
    device: torch.device
    dtype: torch.dtype
    channels_last: bool = False

    def __post_init__(self) -> None:
        self._on_device = self.normalize.to(self.device, self.dtype)

    def __call__(self, inputs: Tree, targets: Tree | None) -> Batch:
        """Raw inputs (N, ...) and targets (N, ...) -> both as the training loop takes them."""
        if self.normalize.wide:  # before the transfer: not every device has float64
            inputs = self._move(self.normalize(inputs, self.dtype))
        else:
            inputs = self.inputs(self._move(inputs))
        if self.channels_last:
            inputs = trees.tree_map(_channels_last, inputs)
        return inputs, self.targets(targets)

    def inputs(self, inputs: Tree) -> Tree:
        """Normalise inputs that are on the device."""
        return self._on_device(inputs, self.dtype)

    def targets(self, targets: Tree | None) -> Tree | None:
        """Transfer and prepare targets."""
        return None if targets is None else self.prepare(self._move(targets), self.dtype)

    def _move(self, tree: Tree) -> Tree:
        """Bring all tensors to the device, without waiting for those in page-locked memory."""
        return trees.tree_map(self._to_device, tree)

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self.device.type == "mps" and tensor.dtype == torch.float64:  # which MPS does not have
            tensor = tensor.float()
        return tensor.to(self.device, non_blocking=True)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
