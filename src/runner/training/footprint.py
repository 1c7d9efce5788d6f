"""The memory that training needs at most, predicted before it starts: a step is run on tensors without values."""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from runner.data.collate import Batch
from runner.data.loading import Loaders, TensorLoader
from runner.model.recomputation import recomputing
from runner.optimizer import Combined
from runner.optimizer.several import Several
from runner.util import trees
from runner.util.live_tensors import LiveTensors

if TYPE_CHECKING:
    from runner.assembly.experiment import Experiment

MEGABYTE = 1e6

STEPS = 2
"""The first step makes the optimizer's state, the second is measured."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of tensors on a device, when they are most.

    Attributes:
        weights: with buffers, averaged weights, and, if they are divided between ranks, what is gathered of them.
        gradients: with what ranks need to add them up.
        optimizer: its state.
        activations: with inputs and all that a step holds for a moment.
        data: samples in memory.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    data: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.data

    def __str__(self) -> str:
        parts = {name: size for name, size in vars(self).items() if size or name != "data"}
        listed = ", ".join(f"{name} {size / MEGABYTE:,.1f}" for name, size in parts.items())
        return f"about {self.total / MEGABYTE:,.1f} MB a device ({listed})"


def predict(experiment: "Experiment") -> Footprint:
    """Predict the peak of a training by a step on copies whose tensors have no values, and a batch of evaluation.

    Operations that a device computes in workspaces of its own, and what `trainer.compile` saves, are not in it.

    Args:
        experiment: on its device, with the strategy of the ranks; nothing of it changes.

    Raises:
        Exception: the step needs values, such as a loss that it reads.
    """
    loaders, strategy = experiment.loaders.without_workers(), experiment.strategy
    copies = _Copies(experiment, FakeTensorMode(allow_non_fake_inputs=True))
    batch = copies.batch(loaders.train)
    live = LiveTensors()
    live.add([*copies.tensors, *_tensors(batch)])
    weights = sum(map(_bytes, copies.tensors))
    with copies.fake, live, _marking_gradients(copies.trained, live):
        for _ in range(STEPS):
            live.restart()
            copies.step(batch, min(experiment.trainer.grad_accumulation, 2))
    state = sum(map(_bytes, copies.states()))
    gradients = live.marked_at_peak
    activations = live.peak - weights - state - gradients
    del batch
    if loaders.val is not None:
        held_out = copies.batch(loaders.val)
        live = LiveTensors()
        live.add([*copies.tensors, *_tensors(held_out)])
        with copies.fake, live:
            copies.evaluate(held_out)
        activations = max(activations, live.peak - weights - gradients)
    average = weights if experiment.trainer.ema_decay is not None else 0
    needs = strategy.needs(experiment.model)
    return Footprint(
        weights=round((weights + average) * needs.share) + needs.weights,
        gradients=round(gradients * needs.share) + needs.gradients,
        optimizer=round(state * needs.share),
        activations=activations,
        data=_held(loaders) if experiment.in_memory else 0,
    )


class _Copies:
    """Copies of task, model and optimizers, whose tensors have shapes, and no values.

    Attributes:
        fake: the mode in which they compute.
        tensors: parameters and buffers.
        trained: the parameters that get gradients.
    """

    def __init__(self, experiment: "Experiment", fake: FakeTensorMode) -> None:
        self.fake, self._experiment = fake, experiment
        self._accelerated = experiment.device.torch.type != "cpu"
        roots = (experiment.task, experiment.model)
        real = [tensor for root in roots for tensor in (*root.parameters(), *root.buffers())]
        memo: dict[int, Any] = {id(tensor): fake.from_tensor(tensor) for tensor in real}
        self.tensors = [memo[number] for number in dict.fromkeys(map(id, real))]
        self.trained = [tensor for tensor in self.tensors if tensor.requires_grad]
        several = experiment.optimizer
        named = several.by_name if isinstance(several, Several) else {"": several}
        self._optimizers = {
            name: [self._optimizer(part, memo) for part in _parts(optimizer)] for name, optimizer in named.items()
        }
        self._task, self._model = copy.deepcopy(roots, memo)
        self._task.autocasts = experiment.precision.autocast_dtype is not None

    def _optimizer(self, optimizer: torch.optim.Optimizer, memo: dict[int, Any]) -> torch.optim.Optimizer:
        made = copy.copy(optimizer)
        vars(made).pop("step", None)  # a scheduler's, of the other
        made.state = defaultdict(dict)
        made.param_groups = []
        for group in optimizer.param_groups:
            own = {**group, "params": [memo[id(weight)] for weight in group["params"]]}
            if "foreach" in own and own["foreach"] is None and not own.get("fused"):
                own["foreach"] = self._accelerated  # what torch chooses where tensors have values
            made.param_groups.append(own)
        return made

    def batch(self, loader: Any) -> Batch:
        """Return a batch of a loader."""
        inputs, targets = next(iter(loader.epoch(1)))
        made = trees.tree_map(self.fake.from_tensor, (inputs, targets))
        return made[0], made[1]

    def states(self) -> list[Tensor]:
        """Return the tensors of the optimizers' state."""
        made = [optimizer for optimizers in self._optimizers.values() for optimizer in optimizers]
        return [tensor for optimizer in made for tensor in _tensors(dict(enumerate(optimizer.state.values())))]

    def step(self, batch: Batch, batches: int) -> None:
        """Take a step of some equal batches."""
        self._model.train()
        self._task.train()
        with recomputing(self._model, self._experiment.trainer.activation_checkpointing):
            if isinstance(self._experiment.optimizer, Several):
                self._turns(batch)
                return
            for _ in range(batches):
                with self._experiment.precision.autocast():
                    loss = self._task.measure(self._model, batch).loss
                assert loss is not None
                loss.backward()
                del loss
        self._update("")

    def _turns(self, batch: Batch) -> None:
        running = self._task.turns(self._model, batch)
        while True:
            with self._experiment.precision.autocast():
                name, loss = next(running, (None, None))
            if name is None or loss is None:
                return
            if name in self._optimizers:
                groups = [group for part in self._optimizers[name] for group in part.param_groups]
                loss.backward(inputs=[weight for group in groups for weight in group["params"]])
                self._update(name)

    def _update(self, name: str) -> None:
        for optimizer in self._optimizers[name]:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def evaluate(self, batch: Batch) -> None:
        """Evaluate a batch."""
        self._model.eval()
        self._task.eval()
        with torch.no_grad(), self._experiment.precision.autocast():
            self._task.measure(self._model, batch)


def _parts(optimizer: torch.optim.Optimizer) -> Sequence[torch.optim.Optimizer]:
    return optimizer.parts if isinstance(optimizer, Combined) else [optimizer]


@contextmanager
def _marking_gradients(weights: Sequence[Tensor], live: LiveTensors) -> Iterator[None]:
    def mark(weight: Tensor) -> None:
        if weight.grad is not None:
            live.mark(weight.grad)

    with ExitStack() as stack:
        for weight in weights:
            remove: Callable[[], None] = weight.register_post_accumulate_grad_hook(mark).remove
            stack.callback(remove)
        yield


def _held(loaders: Loaders) -> int:
    """Return the bytes of the samples in memory."""
    parts = (loaders.train, loaders.val, loaders.test)
    held = [(part.inputs, part.targets) for part in parts if isinstance(part, TensorLoader)]
    storages = {tensor.untyped_storage().data_ptr(): _bytes(tensor) for tensor in _tensors(held)}
    return sum(storages.values())


def _bytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in trees.leaves(tree) if isinstance(leaf, Tensor)]
