"""`trainer.on_oom=accumulate`: a batch for which memory runs out is computed in parts, with the same gradient.

The step in which memory runs out is repeated from its start, in micro-batches of half the size; so are all later steps.
The loop calls `MicroBatches.add` in place of `add_gradients`, and a run without the key has none of this.

Before each step the buffers of the model and the states of the generators are copied, to repeat it from the same state.
That takes 0.1 ms of CPU time for an MLP of six tensors (two busy cores of an Intel Xeon).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

from runner.data.collate import Batch
from runner.errors import is_out_of_memory
from runner.model.probe import BATCH_NORM
from runner.task import Step
from runner.training.attributes import Walk
from runner.training.module_state import ModuleState
from runner.training.state import Training
from runner.util import trees
from runner.util.rng import generator_state, rng_state, set_generator_state, set_rng_state

Compute = Callable[[Training, Batch, int, bool], Step | None]
"""Forward, loss and backward of a batch, by its index in the epoch; see `loop.compute_gradients`."""


class MicroBatches:
    """Adds the gradients of batches, in micro-batches once memory has run out.

    Args:
        state: the training; `state.progress.micro_batch` is the size of the micro-batches.
        compute: computes and adds the gradients of a batch, or of a part of one.
    """

    def __init__(self, state: Training, compute: Compute) -> None:
        self._state, self._compute = state, compute
        self._modules = list(dict.fromkeys([*state.model.modules(), *state.task.modules()]))
        roots = {"model": state.model, "task": state.task}
        self._generators = list(Walk(roots, generators_only=True).generators.values())
        self._has_batch_norm = any(isinstance(module, BATCH_NORM) for module in self._modules)
        self._batches: list[Batch] = []  # of the step in progress: a backward pass that fails has changed its gradients

    def add(self, state: Training, batch: Batch, index: int, ends_step: bool) -> bool:
        """Add the gradients of the batch `index` (from 0), and count its samples once; see `loop.add_gradients`.

        Raises:
            RuntimeError: out of memory, and a micro-batch cannot be smaller.
        """
        if not self._batches:
            self._before = self._remember()
        self._batches.append(batch)
        steps = self._try([batch], index)
        while steps is None:  # here the failed attempt holds no memory any more: its error is gone
            self._start_again()
            steps = self._try(self._batches, index)
        if ends_step:
            self._batches.clear()
        for step in steps:
            state.sums.add(step)
        return bool(steps)

    def _try(self, batches: Sequence[Batch], last: int) -> list[Step] | None:
        """Add the gradients of batches.

        Args:
            batches: the last one is new, those before it are repeated.
            last: the index of the last one.

        Returns:
            The steps of the parts of the last one, none if `on_nonfinite=skip` rejects one; None if memory ran out.
        """
        steps: list[Step] = []
        try:
            for index, batch in enumerate(batches, last + 1 - len(batches)):
                steps = self._add_parts(batch, index)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not self._halve(batches[-1]):
                raise
            return None
        return steps

    def _add_parts(self, batch: Batch, index: int) -> list[Step]:
        steps: list[Step] = []
        for part in self._parts(batch):
            step = self._compute(self._state, part, index, True)
            if step is None:
                return []
            steps.append(_detached(step))
        return steps

    def _parts(self, batch: Batch) -> list[Batch]:
        """Divide a batch into parts that differ in size by one sample at most."""
        size = self._state.progress.micro_batch
        if size is None or (samples := trees.first_axis(batch)) <= size:
            return [batch]
        count = -(-samples // size)
        if self._has_batch_norm:  # which has no variance of one sample
            count = max(1, min(count, samples // 2))
        edges = [samples * number // count for number in range(count + 1)]
        return [trees.at(batch, slice(*pair)) for pair in pairwise(edges)]

    def _halve(self, batch: Batch) -> bool:
        """Halve the micro-batches; False if that is not possible."""
        progress = self._state.progress
        try:
            samples = trees.first_axis(batch)
        except trees.UnevenTree:  # a `collate_fn` makes batches that have no axis of samples
            return False
        size = samples if progress.micro_batch is None else min(progress.micro_batch, samples)
        if self._state.settings.on_oom == "fail" or size < (4 if self._has_batch_norm else 2):
            return False
        progress.micro_batch = half = -(-size // 2)
        differs = ", BatchNorm has the statistics of each" if self._has_batch_norm else ""
        self._state.display.note(
            f"out of memory with {size:,} samples at once in step {progress.step + 1:,}: from here on micro-batches of"
            f" {half:,} add up to the same batches; dropout draws for each{differs}"
        )
        return True

    def _remember(self) -> Callable[[], None]:
        """Take the state in which the step starts; the result restores it."""
        device = self._state.device.torch
        modules, states = ModuleState(self._modules), rng_state(device)
        held = [(generator, generator_state(generator)) for generator in self._generators]

        def restore() -> None:
            modules.restore()
            set_rng_state(states, device)
            for generator, state in held:
                set_generator_state(generator, state)

        return restore

    def _start_again(self) -> None:
        self._before()
        for parameter in self._state.parameters:
            parameter.grad = None
        self._state.weight = 0
        self._state.device.release_memory()


def _detached(step: Step) -> Step:
    """Return a step without the graph of its tensors."""
    loss, outputs = (None if tensor is None else tensor.detach() for tensor in (step.loss, step.outputs))
    return step._replace(loss=loss, outputs=outputs, scalars={name: one.detach() for name, one in step.scalars.items()})
