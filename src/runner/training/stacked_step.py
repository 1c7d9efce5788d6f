"""The step of several models as one program: their weights, gradients and optimizer states are rows of stacked tensors.

`torch.func.vmap` computes the gradients of all models at once; SGD, Adam and AdamW are applied to all rows, each with
its own learning rate, momentum and weight decay.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn
from torch.func import functional_call, vmap

from runner.task import Task
from runner.task.supervised import output_of
from runner.training.running_metrics import Summed
from runner.training.stacked_batches import batches
from runner.training.stacked_optimizers import SGD, Adam
from runner.training.state import Training

SMOOTHING = "label_smoothing"
"""The attribute of a loss that may differ between the models."""


class Stack:
    """Several trainings whose models, optimizers and averages hold views of the rows of stacked tensors.

    All else that reads or writes a training works on its own views: validation, checkpoints, schedules.

    Args:
        states: the trainings, which differ in numbers alone, at the same batch of their epochs. Those that share their
            samples stand side by side.
    """

    def __init__(self, states: Sequence[Training]) -> None:
        self.states, first = list(states), states[0]
        groups = _trained_names(first)
        self._places = _places(first.model, [name for group in groups for name in group])
        ends = [self._places[group[-1]].end for group in groups]
        self._groups = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        like = first.parameters[0]
        self._weights = torch.empty(len(states), ends[-1], dtype=like.dtype, device=like.device)
        self._gradients = torch.empty_like(self._weights)
        for state, row in zip(states, self._weights, strict=True):
            self._move(state.model, row)
        self._columns = {
            name: place.of_all(self._weights).detach().requires_grad_() for name, place in self._places.items()
        }
        self._constants = _constants([state.model for state in states])
        self._optimizer = Adam(self) if isinstance(first.optimizer, torch.optim.Adam) else SGD(self)
        self._averages = self._stack_averages()
        self._numbers_change = first.schedule.scheduler is not None and first.schedule.every == "step"
        smoothing = [float(getattr(state.task.loss, SMOOTHING, 0.0)) for state in states]
        self._smoothing = self.column(smoothing).squeeze(1) if len(set(smoothing)) > 1 else None
        in_dims = (0, 0, 0, 0, None if self._smoothing is None else 0)
        self._compute = vmap(loss_of(first.model, first.task), in_dims=in_dims)
        self._losses = torch.zeros(len(states), dtype=torch.float64, device=like.device)
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
        losses, outputs = self._compute(self._columns, self._constants, inputs, targets, self._smoothing)
        # The gradient of the sum has the gradients of all models. Autograd's engine takes less time for it than vmap.
        gradients = torch.autograd.grad(losses.sum(), list(self._columns.values()))
        with torch.no_grad():
            self._add_to_sums(losses, outputs.detach(), targets)
            flat = [place.flatten(each) for place, each in zip(self._places.values(), gradients, strict=True)]
            torch.cat(flat, dim=1, out=self._gradients)
            if (clip := self.states[0].settings.clip_norm) is not None:
                norms = torch.linalg.vector_norm(self._gradients, dim=1, keepdim=True)
                self._gradients.mul_((clip / (norms + 1e-6)).clamp(max=1.0))
            if self._numbers_change:
                self._read_numbers()
            self._optimizer.count_step()
            for number, group in enumerate(self._groups):
                self._optimizer.update(number, self._weights[:, group], self._gradients[:, group], group)
            self._average()

    def column(self, values: Sequence[float]) -> Tensor:
        """Return a number of each model as a column (K, 1)."""
        return torch.tensor(values, dtype=self._weights.dtype, device=self._weights.device).unsqueeze(1)

    def rows(self) -> Tensor:
        """Return zeros of the shape of all weights (K, P)."""
        return torch.zeros_like(self._weights)

    def share(self, key: str, rows: Tensor, chosen: Callable[[dict[str, Any]], bool] = lambda group: True) -> None:
        """Let the states of the optimizers hold views of rows, which take over the values so far.

        Args:
            key: of a parameter's state.
            rows: (K, P).
            chosen: whether a group of parameters has such a state.
        """
        for state, row in zip(self.states, rows, strict=True):
            named = dict(state.model.named_parameters())
            owner = {id(p): group for group in state.optimizer.param_groups for p in group["params"]}
            for name, place in self._places.items():
                parameter, view = named[name], place.of_one(row)
                if not chosen(owner[id(parameter)]):
                    continue
                own = state.optimizer.state[parameter]
                if key in own:
                    view.copy_(own[key])
                own[key] = view

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

    def _stack_averages(self) -> Tensor | None:
        if self.states[0].average is None:
            return None
        rows = self.rows()
        for state, row in zip(self.states, rows, strict=True):
            assert state.average is not None
            self._move(state.average.model, row)
        return rows

    @torch.no_grad()
    def _move(self, model: nn.Module, row: Tensor) -> None:
        """Copy the trained parameters of a model into a row (P,), and make them views of it."""
        named = dict(model.named_parameters())
        for name, place in self._places.items():
            named[name].data = place.of_one(row).copy_(named[name])

    def _average(self) -> None:
        if self._averages is None:
            return
        averages = [state.average for state in self.states if state.average is not None]
        earlier = {average.count_step() for average in averages}
        if earlier == {0}:
            self._averages.copy_(self._weights)
        else:
            assert 0 not in earlier  # they have taken the same number of steps
            self._averages.lerp_(self._weights, 1 - averages[0].decay)


def _trained_names(state: Training) -> list[list[str]]:
    """Return the names of the trained parameters, by group of the optimizer."""
    names = {id(parameter): name for name, parameter in state.model.named_parameters()}
    return [[names[id(parameter)] for parameter in group["params"]] for group in state.optimizer.param_groups]


@dataclass(frozen=True)
class _Place:
    """Where the rows have a parameter.

    Attributes:
        shape: in a row.
        transposed: whether the parameter is the transposed of that: autograd returns the gradients of the weights of
            linear layers so, and to transpose them would take a third of the time of a step.
        start: its first column.
    """

    shape: torch.Size
    transposed: bool
    start: int

    @property
    def end(self) -> int:
        """The column after its last one."""
        return self.start + self.shape.numel()

    def of_one(self, row: Tensor) -> Tensor:
        """Return the parameter in a row (P,)."""
        own = row[self.start : self.end].view(self.shape)
        return own.t() if self.transposed else own

    def of_all(self, rows: Tensor) -> Tensor:
        """Return the parameters (K, ...) in all rows."""
        own = rows[:, self.start : self.end].view(len(rows), *self.shape)
        return own.mT if self.transposed else own

    def flatten(self, gradients: Tensor) -> Tensor:
        """Return the gradients (K, n) in the order of the rows."""
        return (gradients.mT if self.transposed else gradients).flatten(1)


def _places(model: nn.Module, names: Sequence[str]) -> dict[str, _Place]:
    """Place parameters one after the other."""
    named, start = dict(model.named_parameters()), 0
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    places: dict[str, _Place] = {}
    for name in names:
        transposed = id(named[name]) in linear
        shape = named[name].shape[::-1] if transposed else named[name].shape
        places[name] = _Place(torch.Size(shape), transposed, start)
        start = places[name].end
    return places


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


def loss_of(model: nn.Module, task: Task) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return the function from the weights of a model and its batch to the loss, and the outputs."""
    loss, dtype = task.loss, task.dtype
    assert loss is not None

    def compute(
        weights: dict[str, Tensor],
        constants: dict[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
        smoothing: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        outputs = output_of(functional_call(model, {**weights, **constants}, (inputs,))).to(dtype)
        value = loss(outputs, targets) if smoothing is None else smoothed_cross_entropy(outputs, targets, smoothing)
        return value, outputs

    return compute


def smoothed_cross_entropy(outputs: Tensor, targets: Tensor, smoothing: Tensor) -> Tensor:
    """Return the mean cross entropy like `torch.nn.functional.cross_entropy`, whose smoothing cannot be a tensor."""
    logs = outputs.log_softmax(1)
    return (1 - smoothing) * F.nll_loss(logs, targets) - smoothing * logs.mean()
