"""What a checkpoint has of a training: it is put together, written, and restored."""

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from runner.data.source import saves_itself
from runner.data.streaming import StreamPosition
from runner.optimizer import load_state
from runner.rundir.checkpoint_file import FORMAT
from runner.rundir.checkpoint_parts import best_weights, load_task, task_buffers, task_state, weight_buffers
from runner.training.attributes import held_generators, restore_generators
from runner.training.progress import Progress
from runner.training.state import Training, require_finite
from runner.util.buffers import load_module, unsaved_buffers
from runner.util.rng import rng_state, set_rng_state
from runner.util.shards import own_part


def save_within_epoch(state: Training, best: bool = False, wait: bool = False) -> None:
    """Write a checkpoint that resumes the epoch in progress at its next batch; see `save`."""
    state.progress.sums, state.progress.more_sums = state.sums.state()
    state.progress.seconds = state.clock.stop()
    save(state, best, wait)
    state.clock.start()


def save(state: Training, best: bool, wait: bool = False) -> None:
    """Write a checkpoint; non-finite weights end the run instead, and the last good checkpoint stays.

    Args:
        state: the training.
        best: its weights are the best so far.
        wait: nothing is left to train meanwhile: return when it is written, also that of a large model.
    """
    if state.parameters:
        bad = state.strategy.agree("finite", not _are_finite(state.parameters), now=True)
        require_finite(state, math.nan if bad else 0.0, "a weight")
    progress = state.progress
    with state.span("checkpoint"):
        state.epoch_seconds.append(progress.finished_epochs - len(progress.epoch_seconds), progress.epoch_seconds)
        progress.epoch_seconds.clear()
        state.checkpoints.save(checkpoint_state(state), best, wait)
    state.after_save()


def _are_finite(weights: Sequence[Tensor]) -> bool:
    """Return whether all numbers are finite. If their sum is, they are, and it takes a tenth of the time."""
    own = [own_part(weight.detach()) for weight in weights]
    if torch.stack([part.sum().isfinite() for part in own]).all():
        return True
    # A sum of large numbers may overflow.
    return bool(torch.stack([part.isfinite().all() for part in own]).all())


def checkpoint_state(state: Training) -> dict[str, Any]:
    """Return everything that an exact resume needs, as tensors and primitives."""
    modules = {
        "model": state.model,
        "ema": state.average.model if state.average is not None else None,
    }
    buffers = {name: unsaved_buffers(module) for name, module in modules.items() if module is not None}
    buffers |= task_buffers(state.task)
    optional = {
        "buffers": {name: tensors for name, tensors in buffers.items() if tensors},
        **task_state(state.task),
        "data": data_state(state),
        "preprocessing": state.preprocessing,
        "callbacks": state.callbacks.state_dict(),
        "ranks": state.strategy.gather(own_state(state)) if state.strategy.ranks > 1 else [],
    }
    return {
        "format": FORMAT,
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scheduler": state.schedule.scheduler.state_dict() if state.schedule.scheduler is not None else {},
        "scaler": state.precision.state_dict(),
        "ema": state.average.state_dict() if state.average is not None else {},
        "rng": rng(state) if state.fixed_rng is None else state.fixed_rng,
        "progress": state.progress.state_dict(),
        **{key: part for key, part in optional.items() if part},
    }


def own_state(state: Training) -> dict[str, Any]:
    """Return what differs between the ranks: generators, sums of the epoch in progress, places in streams."""
    sums, more = state.sums.state(own=True) if state.progress.sums else ([], {})
    return {"rng": rng(state), "sums": sums, "more_sums": more, "data": data_state(state)}


def data_state(state: Training) -> dict[str, Any]:
    """Return the states of the data sets that have one."""
    data_sets = state.loaders.data_sets().items()
    return {name: data_set.state_dict() for name, data_set in data_sets if saves_itself(data_set)}


def restore_data(state: Training, states: Mapping[str, Any]) -> None:
    """Restore the states that `data_state` returned."""
    for name, data_set in state.loaders.data_sets().items():
        if saves_itself(data_set) and name in states:
            data_set.load_state_dict(states[name])


def restore_own(state: Training, ranks: Sequence[Mapping[str, Any]]) -> None:
    """Restore what differs between the ranks; with another number of them, rank 0 takes the sums of all.

    Args:
        state: the training, whose progress is restored.
        ranks: the states that `own_state` returned; empty if one process has written the checkpoint.
    """
    rank, count = state.strategy.rank, state.strategy.ranks
    if len(ranks) == count > 1:
        set_rng(state, ranks[rank]["rng"])
        state.progress.sums, state.progress.more_sums = ranks[rank]["sums"], ranks[rank]["more_sums"]
        restore_data(state, ranks[rank].get("data", {}))
    elif max(len(ranks), 1) != count:
        state.note_once(f"saved by {max(len(ranks), 1)} ranks, resumed by {count}: the result may differ")
        if isinstance(position := state.loaders.train.data_set, StreamPosition):
            position.rewind()  # other samples are this rank's now: the stream is read again
        if rank > 0:
            state.progress.sums, state.progress.more_sums = [], {}


def rng(state: Training) -> dict[str, Any]:
    """Return the states of all generators: the global ones, and under `held` those that objects hold."""
    generators = held_generators(stateful(state))
    return {**rng_state(state.device.torch), **({"held": generators} if generators else {})}


def set_rng(state: Training, states: Mapping[str, Any]) -> None:
    """Restore the states that `rng` returned."""
    set_rng_state(dict(states), state.device.torch)
    restore_generators(stateful(state), states.get("held", {}))


def stateful(state: Training) -> dict[str, Any]:
    """Return all objects that may have state, by the first part of their paths."""
    data_sets = state.loaders.data_sets().items()
    data = {"data" if name == "train" else f"{name}_data": data_set for name, data_set in data_sets}
    averaged = {"ema": state.average.model} if state.average is not None else {}
    schedule = {"scheduler": state.schedule.scheduler} if state.schedule.scheduler is not None else {}
    loss = {"loss": state.task.loss} if state.task.loss is not None else {}
    return {
        "model": state.model, **averaged, **loss, "task": state.task, "optimizer": state.optimizer, **schedule, **data,
        "callbacks": SimpleNamespace(**state.callbacks.by_name),
    }  # fmt: skip


def restore(state: Training, checkpoint: Mapping[str, Any]) -> None:
    """Restore a state that `checkpoint_state` returned."""
    checkpoint = state.strategy.divided(checkpoint, state.model, state.optimizer)
    buffers = checkpoint.get("buffers", {})
    load_module(state.model, checkpoint["model"], buffers.get("model"))
    load_state(state.optimizer, checkpoint["optimizer"])
    if state.schedule.scheduler is not None:
        state.schedule.scheduler.load_state_dict(checkpoint["scheduler"])
    state.precision.load_state_dict(checkpoint["scaler"])
    if state.average is not None:
        state.average.load_state_dict(checkpoint["ema"], buffers.get("ema"))
    load_task(state.task, checkpoint)
    state.preprocessing = dict(checkpoint.get("preprocessing", {}))
    restore_data(state, checkpoint.get("data", {}))
    state.callbacks.load_state_dict(checkpoint.get("callbacks", {}))
    set_rng(state, checkpoint["rng"])
    state.progress = Progress.from_checkpoint(checkpoint["progress"])
    restore_own(state, checkpoint.get("ranks", []))
    state.unfreeze()


def load_weights(state: Training, checkpoint: Mapping[str, Any]) -> None:
    """Load the weights of a checkpoint for evaluation, and the state of its loss."""
    checkpoint = state.strategy.divided(checkpoint, state.model)
    for module in (state.model, state.eval_model):
        load_module(module, best_weights(checkpoint), weight_buffers(checkpoint))
    load_task(state.task, checkpoint)
