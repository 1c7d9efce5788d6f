"""`trainer.compile`: compile the model with `torch.compile` before the first epoch."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from time import perf_counter

import torch
from torch import Tensor, nn

from runner.data.collate import Batch
from runner.data.loading import Loader
from runner.data.source import saves_itself
from runner.task import Step
from runner.training.module_state import ModuleState
from runner.training.saving import rng, set_rng
from runner.training.state import Training
from runner.util import trees
from runner.util.compile_modes import mode_of, uses_graphs


def compile_model(state: Training) -> float:
    """Compile training and evaluation for all batch sizes of the run; all other state stays unchanged.

    `torch.compile` compiles at the first call, which would count as time of the first epoch. It takes 8 s on two cores
    for the MNIST MLP, whose epochs then take 0.8 to 1.1 times as long, varying between attempts; and 11 s for the CNN
    (3 s if its code is cached), whose epochs of 20 s take 0.93 times as long: eight epochs (or three) pay for it.

    Returns:
        The seconds it took.
    """
    started_at = perf_counter()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of missing CUDA
    mode = mode_of(state.settings.compile)
    if uses_graphs(mode, state.device.torch.type):
        state.precision.call_before_forward(torch.compiler.cudagraph_mark_step_begin)
    compiled = partial(state.strategy.compile, mode=mode)
    state.forward = compiled(state.model)
    state.eval_forward = state.forward if state.eval_model is state.model else compiled(state.eval_model)
    with _restored(state):
        for batch in _batches(state, state.loaders.train):
            with state.precision.autocast():
                losses = _losses(state, batch)
            for loss in losses:
                loss.backward()
        state.optimizer.zero_grad(set_to_none=True)
        state.eval_model.eval()
        state.task.eval()
        with torch.inference_mode():
            for loader in (state.loaders.val, state.loaders.test):
                for batch in _batches(state, loader) if loader is not None else ():
                    with state.precision.autocast():
                        _measure(state, state.eval_forward, batch)
        state.eval_model.train()
        state.task.train()
    state.device.synchronize()
    return perf_counter() - started_at


def _losses(state: Training, batch: Batch) -> list[Tensor]:
    """Compute what is minimised for a batch: the loss, or those of several optimizers."""
    if state.takes_turns:
        return [loss for name, loss in state.task.turns(state.forward, batch) if name in state.losses]
    loss = _measure(state, state.forward, batch).loss
    assert loss is not None
    return [loss]


def _measure(state: Training, model: nn.Module, batch: Batch) -> Step:
    """Compute a step; where each rank has a part of the weights, together with the others."""
    if state.strategy.divides:
        return state.strategy.measure(state.task, model, batch)
    return state.task.measure(model, batch)


@contextmanager
def _restored(state: Training) -> Iterator[None]:
    """Restore the state that forward passes change: buffers, extra state, plain attributes, data sets, generators."""
    modules = ModuleState([module for root in (state.model, state.eval_model, state.task) for module in root.modules()])
    data = [
        (data_set, deepcopy(data_set.state_dict()))
        for data_set in state.loaders.data_sets().values()
        if saves_itself(data_set)
    ]
    generators = deepcopy(rng(state))
    yield
    modules.restore()
    for data_set, data_state in data:
        data_set.load_state_dict(data_state)
    set_rng(state, generators)


def _batches(state: Training, loader: Loader) -> Iterator[Batch]:
    """Yield a batch of each size in an epoch, full and rest; none once a stop is requested, of any rank."""
    if state.stopping():
        return
    batch = next(iter(loader.epoch(1)))
    yield batch
    rest = loader.samples % loader.batch_size
    if rest and loader.samples > rest and not state.stopping():
        first, last = loader.share.of(0, rest)
        inputs, targets = trees.tree_map(lambda leaf: leaf[: max(1, last - first)], batch)
        yield inputs, targets
