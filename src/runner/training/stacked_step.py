"""The step of several models as one program: weights, gradients and optimizer states of all are stacked tensors.

The gradients of all models are computed at once, by `torch.func.vmap` or, for chains of linear layers, without. SGD,
Adam and AdamW are applied to all, each with its own learning rate, momentum and weight decay.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from runner.training.running_metrics import Summed
from runner.training.stacked_batches import batches
from runner.training.stacked_gradients import SMOOTHING, Gradients
from runner.training.stacked_optimizers import SGD, Adam, along
from runner.training.state import Training


class Stack:
    """Several trainings whose models, optimizers and averages hold views of stacked tensors.

    All else that reads or writes a training works on its own views: validation, checkpoints, schedules.

    Args:
        states: the trainings, which differ in numbers alone, at the same batch of their epochs. Those that share their
            samples stand side by side.

    Attributes:
        weights: of all models, (K, ...) by the name of the parameter.
        groups: the names in each group of the optimizer.
    """

    def __init__(self, states: Sequence[Training]) -> None:
        self.states, first = list(states), states[0]
        self.groups = _trained_names(first)
        self._gradients = Gradients(first.model, first.task)
        self.weights = self._stack([state.model for state in states])
        self._constants = _constants([state.model for state in states])
        self._optimizer = Adam(self) if isinstance(first.optimizer, torch.optim.Adam) else SGD(self)
        self._averages = self._stack_averages()
        self._numbers_change = first.schedule.scheduler is not None and first.schedule.every == "step"
        smoothing = [float(getattr(state.task.loss, SMOOTHING, 0.0)) for state in states]
        self._smoothing = self.column(smoothing) if len(set(smoothing)) > 1 else None
        self._losses = torch.zeros(len(states), dtype=torch.float64, device=first.parameters[0].device)
        self._totals: dict[Summed, Tensor] = {}

    def start_epoch(self) -> None:
        """Draw the order of the samples of each model, and share the sums that its epoch starts with."""
        self.batches = batches(self.states)
        for state, total in zip(self.states, self._losses, strict=True):
            state.sums.share_loss(total)
        self._totals = {}
        self._read_numbers()

    def step(self) -> None:
        """Take a step with the next batch of each model: add to its sums, clip its gradients, update its weights."""
        inputs, targets = next(self.batches)
        losses, outputs, gradients = self._gradients.compute(
            self.weights, self._constants, inputs, targets, self._smoothing
        )
        with torch.no_grad():
            self._add_to_sums(losses, outputs, targets)
            if (clip := self.states[0].settings.clip_norm) is not None:
                _clip(gradients.values(), clip)
            if self._numbers_change:
                self._read_numbers()
            self._optimizer.count_step()
            for number, names in enumerate(self.groups):
                for name in names:
                    self._optimizer.update(number, name, self.weights[name], gradients[name])
            self._average()

    def column(self, values: Sequence[float]) -> Tensor:
        """Return a number of each model (K,)."""
        like = next(iter(self.weights.values()))
        return torch.tensor(values, dtype=like.dtype, device=like.device)

    def share(self, key: str, chosen: Callable[[dict[str, Any]], bool] = lambda group: True) -> dict[str, Tensor]:
        """Let the states of the optimizers hold views of stacked tensors, which take over the values so far.

        Args:
            key: of a parameter's state.
            chosen: whether a group of parameters has such a state.

        Returns:
            The stacked tensors (K, ...), by the name of the parameter.
        """
        shared = {name: torch.zeros_like(column) for name, column in self.weights.items()}
        for place, state in enumerate(self.states):
            named = dict(state.model.named_parameters())
            for names, group in zip(self.groups, state.optimizer.param_groups, strict=True):
                for name in names if chosen(group) else ():
                    own, view = state.optimizer.state[named[name]], shared[name][place]
                    if key in own:
                        view.copy_(own[key])
                    own[key] = view
        return shared

    def _read_numbers(self) -> None:
        by_model = [state.optimizer.param_groups for state in self.states]
        self._optimizer.read_numbers(list(zip(*by_model, strict=True)))

    def _add_to_sums(self, losses: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch to the sums of loss and metrics of each model."""
        samples = targets.shape[1]
        self._losses.add_(losses.detach().double(), alpha=samples)
        with_metrics = False
        for state in self.states:
            state.sums.count(samples)
            with_metrics |= state.sums.with_metrics
        if not with_metrics:
            return
        for summed in self.states[0].sums.summed:
            sums = vmap(summed[0])(outputs, targets)
            if summed in self._totals:
                self._totals[summed].add_(sums)
            else:
                self._start_totals(summed, sums)

    def _start_totals(self, summed: Summed, sums: Tensor) -> None:
        total = self._totals[summed] = torch.zeros(sums.shape, dtype=torch.float64, device=sums.device)
        for state, own in zip(self.states, total, strict=True):
            state.sums.share_total(summed, own)
        total.add_(sums)

    def _stack_averages(self) -> dict[str, Tensor] | None:
        averages = [state.average for state in self.states if state.average is not None]
        if not averages:
            return None
        return self._stack([average.model for average in averages])

    def _stack(self, models: Sequence[nn.Module]) -> dict[str, Tensor]:
        """Stack the trained parameters of all models, which become views of the result."""
        named = [dict(model.named_parameters()) for model in models]
        stacked: dict[str, Tensor] = {}
        for name in (name for names in self.groups for name in names):
            stacked[name] = self._gradients.stack([own[name].detach() for own in named], name)
            for own, view in zip(named, stacked[name], strict=True):
                own[name].data = view
        return stacked

    def _average(self) -> None:
        if self._averages is None:
            return
        averages = [state.average for state in self.states if state.average is not None]
        earlier = {average.count_step() for average in averages}
        assert earlier == {0} or 0 not in earlier  # they have taken the same number of steps
        for name, average in self._averages.items():
            if earlier == {0}:
                average.copy_(self.weights[name])
            else:
                average.lerp_(self.weights[name], 1 - averages[0].decay)


def _trained_names(state: Training) -> list[list[str]]:
    """Return the names of the trained parameters, by group of the optimizer."""
    names = {id(parameter): name for name, parameter in state.model.named_parameters()}
    return [[names[id(parameter)] for parameter in group["params"]] for group in state.optimizer.param_groups]


def _clip(gradients: Collection[Tensor], norm: float) -> None:
    """Scale the gradients (K, ...) of each model whose norm is larger."""
    squares = [gradient.flatten(1).square().sum(1) for gradient in gradients]
    scale = (norm / (torch.stack(squares).sum(0).sqrt() + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(along(scale, gradient))


@torch.no_grad()
def release(state: Training) -> None:
    """Let a training that has left a stack own its weights again."""
    for model in {state.model, state.eval_model}:
        for parameter in model.parameters():
            parameter.data = parameter.detach().clone(memory_format=torch.contiguous_format)


def _constants(models: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Stack what is not trained and differs between the models: frozen parameters, and buffers."""
    held = [
        {name: p for name, p in model.named_parameters() if not p.requires_grad} | dict(model.named_buffers())
        for model in models
    ]
    differ = [name for name, own in held[0].items() if not all(torch.equal(own, each[name]) for each in held[1:])]
    return {name: torch.stack([each[name].detach() for each in held]) for name in differ}
