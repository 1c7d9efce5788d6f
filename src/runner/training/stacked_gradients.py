"""The gradients of several models at once: by `torch.func.vmap` or, for chains of linear layers, without."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn
from torch.func import functional_call, vmap

from runner.task import Task
from runner.task.supervised import output_of
from runner.training.stacked_layers import CrossEntropies, chain_of, is_plain_cross_entropy, outputs_of

SMOOTHING = "label_smoothing"
"""The attribute of a loss that may differ between the models."""


class Gradients:
    """Computes the gradients of several models.

    Args:
        model: one of them.
        task: its task.
    """

    def __init__(self, model: nn.Module, task: Task) -> None:
        assert task.loss is not None
        self._model, self._task, self._loss = model, task, task.loss
        self._chain = chain_of(model)
        self._linear = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Linear)}
        self._own: dict[str, Tensor] = {}

    def stack(self, values: Sequence[Tensor], name: str) -> Tensor:
        """Stack values that are like the parameter of this name.

        With `vmap`, autograd returns the gradients of the weights of linear layers transposed: so are then the weights,
        as to transpose the gradients would take a third of the time of a step.
        """
        if self._chain is None and name in self._linear:
            return torch.stack([value.mT for value in values]).mT
        return torch.stack([*values])

    def compute(
        self,
        weights: Mapping[str, Tensor],
        constants: Mapping[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
        smoothing: Tensor | None,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return losses (K,), outputs (K, N, ...), and gradients like the weights, which may be changed.

        Args:
            weights: the trained weights (K, ...); these are the results of `stack`.
            constants: other parameters and buffers (K, ...) that differ.
            inputs: (K, N, ...).
            targets: (K, N, ...).
            smoothing: of the labels (K,); None: as the loss says.
        """
        columns = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        if self._chain is None:
            return self._with_vmap(columns, constants, inputs, targets, smoothing)
        if self._own.keys() != columns.keys() or any(self._own[n].shape != c.shape for n, c in columns.items()):
            self._own = {name: torch.empty_like(weight) for name, weight in weights.items()}
        outputs = outputs_of(self._chain, columns, inputs, self._own).to(self._task.dtype)
        if outputs.ndim == 3 and is_plain_cross_entropy(self._loss, targets):
            if smoothing is None and (value := float(getattr(self._loss, SMOOTHING))):
                smoothing = outputs.new_full((len(outputs),), value)
            losses = CrossEntropies.apply(outputs, targets, smoothing)
        else:
            losses = vmap(self._loss_of_outputs, (0, 0, None if smoothing is None else 0))(outputs, targets, smoothing)
        torch.autograd.backward(losses, torch.ones_like(losses))
        return losses.detach(), outputs.detach(), self._own

    def _with_vmap(
        self,
        columns: dict[str, Tensor],
        constants: Mapping[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
        smoothing: Tensor | None,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        def compute(
            weights: dict[str, Tensor], own: dict[str, Tensor], x: Tensor, y: Tensor, smoothed: Tensor | None
        ) -> tuple[Tensor, Tensor]:
            outputs = output_of(functional_call(self._model, {**weights, **own}, (x,))).to(self._task.dtype)
            return self._loss_of_outputs(outputs, y, smoothed), outputs

        in_dims = (0, 0, 0, 0, None if smoothing is None else 0)
        losses, outputs = vmap(compute, in_dims)(columns, dict(constants), inputs, targets, smoothing)
        # The gradient of the sum has the gradients of all models. Autograd's engine takes less time for it than vmap.
        gradients = torch.autograd.grad(losses.sum(), list(columns.values()))
        return losses.detach(), outputs.detach(), dict(zip(columns, gradients, strict=True))

    def _loss_of_outputs(self, outputs: Tensor, targets: Tensor, smoothing: Tensor | None) -> Tensor:
        return (
            self._loss(outputs, targets) if smoothing is None else smoothed_cross_entropy(outputs, targets, smoothing)
        )


def smoothed_cross_entropy(outputs: Tensor, targets: Tensor, smoothing: Tensor) -> Tensor:
    """Return the mean cross entropy like `torch.nn.functional.cross_entropy`, whose smoothing cannot be a tensor."""
    logs = outputs.log_softmax(1)
    return (1 - smoothing) * F.nll_loss(logs, targets) - smoothing * logs.mean()
