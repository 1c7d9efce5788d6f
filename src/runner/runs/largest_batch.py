"""`data.batch_size=max`: the largest batch whose step fits in memory.

A training is built and tried before the run, and thrown away. The run itself is then built from the number that was
found, as if it had been typed: it cannot differ by a bit.
"""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from omegaconf import DictConfig, OmegaConf

from runner.assembly import build
from runner.assembly.experiment import Experiment, Setup
from runner.config.settings import LARGEST
from runner.data.loading import Loaders
from runner.errors import ConfigError, Problem, first_line, is_out_of_memory
from runner.model.recomputation import recomputing
from runner.rundir.checkpoint import Checkpoints
from runner.training.display import Bar
from runner.training.loop import add_gradients
from runner.training.state import Training, make_training
from runner.training.turns import take_turns
from runner.training.weighting import correct_gradients
from runner.util import cores
from runner.util.live_tensors import LiveTensors
from runner.util.stopping import Stop

KEY = "data.batch_size"

SHARE = 0.8
"""The largest share of the free memory: later steps may need more, and what operations take for themselves."""

FIRST = 2
"""The first size: BatchNorm has no variance of one sample."""

PRECISION = 32
"""The search ends when a step of the size times 1 + 1 / PRECISION does not fit."""


def find(
    cfg: DictConfig, choices: Mapping[str, str], problems: Sequence[Problem], checkpoint: Mapping[str, Any] | None
) -> tuple[int, str]:
    """Find the largest batch for a config; the arguments are those of `build.prepare`.

    Returns:
        The number of samples, and how it was found, in words.

    Raises:
        ConfigError: with all problems of the config; or not even one sample fits.
    """
    setup, _ = build.prepare(cfg, choices, problems, checkpoint)
    device, most = setup.device, len(setup.splits.train)
    state = _training(setup)
    fits: _Real | _Predicted
    with recomputing(state.model, setup.trainer.activation_checkpointing):
        kind = _Predicted if device.torch.type == "cpu" else _Real
        fits = kind(setup, state, _share(cfg, setup))
        size = search(fits, most)
    if not size:
        raise too_large(str(fits))
    while size > FIRST and most % size == 1:  # a last batch of one sample, which BatchNorm does not take
        size -= 1
    what = "all samples of the training part" if size == most else f"the largest that fits in memory ({fits})"
    del state, fits
    device.release_memory()
    return size, f"{KEY}={LARGEST}: {size:,}, {what}"


def too_large(how: str) -> ConfigError:
    """Return the error of a step of which not even one sample fits in memory."""
    text = f"{KEY}={LARGEST}: a step of one sample does not fit in memory ({how})"
    instead = "choose a smaller model, or write precision=amp or trainer.activation_checkpointing=[<modules>]"
    return ConfigError(Problem(KEY, text, instead, topic="unavailable"))


def search(fits: Callable[[int], bool], most: int) -> int:
    """Return about the largest number up to `most` that fits, by doubling and then by bisection; 0: not even 1 does."""
    good, bad = 0, most + 1
    while good < most and bad > most:
        size = min(2 * good or FIRST, most)
        good, bad = (size, bad) if fits(size) else (good, size)
    while good < most and bad - good > max(1, good // PRECISION):
        size = (good + bad) // 2
        good, bad = (size, bad) if fits(size) else (good, size)
    return good


class _Real:
    """Whether a step fits on a device whose allocator raises an error.

    What the run will need beside steps is held meanwhile: its samples, and the share of memory that is to stay free.
    """

    def __init__(self, setup: Setup, state: Training, share: float) -> None:
        self._setup, self._state = setup, state
        try:
            _step(setup, state, min(FIRST, len(setup.splits.train)))  # the optimizer makes its state
            setup.device.release_memory()
            free = setup.device.free_memory()
            held = free - int(SHARE * share * free) + _samples(setup)
            self._held = torch.empty(held, dtype=torch.uint8, device=setup.device.torch)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise too_large(f"tried: {first_line(error)}") from error
            raise
        self._words = f"tried; {SHARE * share:.0%} of {free / 1e9:.1f} GB"

    def __call__(self, size: int) -> bool:
        try:
            _step(self._setup, self._state, size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return True
        for parameter in self._state.parameters:
            parameter.grad = None
        self._state.device.release_memory()
        return False

    def __str__(self) -> str:
        return self._words


class _Predicted:
    """Whether a step is predicted to fit on a CPU, whose system ends a process that takes too much.

    The memory of a size is extrapolated from the last two steps. A step is taken, and its memory counted, for sizes at
    least twice the last one: it is then of half the size of a prediction at least.
    """

    def __init__(self, setup: Setup, state: Training, share: float) -> None:
        self._setup, self._state = setup, state
        _step(setup, state, min(FIRST, len(setup.splits.train)))  # the optimizer makes its state
        self._limit = SHARE * share * setup.device.free_memory() - _samples(setup)
        self._measured: list[tuple[int, int]] = []

    def __call__(self, size: int) -> bool:
        if self._predict(size) > self._limit:
            return False
        if not self._measured or size >= 2 * self._measured[-1][0]:
            with LiveTensors() as memory:
                _step(self._setup, self._state, size)
            self._measured = [*self._measured[-1:], (size, memory.peak)]
        return self._predict(size) <= self._limit

    def _predict(self, size: int) -> float:
        if not self._measured:
            return 0.0
        last, peak = self._measured[-1]
        first, before = self._measured[0] if len(self._measured) > 1 else (0, 0)
        return peak + (size - last) * (peak - before) / (last - first)

    def __str__(self) -> str:
        size, peak = self._measured[-1]
        needed = f"{peak / 1e6:,.0f} MB for a step of {size:,}"
        return f"predicted: {needed} of {max(0.0, self._limit) / 1e6:,.0f} MB that it may take"


def _share(cfg: DictConfig, setup: Setup) -> float:
    """Return the share of the free memory that other jobs of a sweep leave to this one."""
    if setup.device.torch.type != "cpu":
        return 1 / (OmegaConf.select(cfg, "sweep.jobs_per_gpu") or 1)
    if multiprocessing.parent_process() is None:
        return 1.0
    return min(1.0, cores.usable_cores() / (psutil.cpu_count(logical=False) or 1))


def _training(setup: Setup) -> Training:
    experiment = Experiment(**vars(setup), loaders=_loaders(setup, 1))
    bar = Bar(1, 1, 1, quiet=True)
    return make_training(experiment, Checkpoints(Path()), lambda metrics, step: None, bar, Stop())


def _loaders(setup: Setup, size: int) -> Loaders:
    """Return the batches of a training part of `size` samples: one batch."""
    first = setup.splits.train.take(torch.arange(min(size, len(setup.splits.train))))
    weights = None if setup.splits.weights is None else setup.splits.weights[: len(first)]
    splits = replace(setup.splits, train=first, val=None, test=None, weights=weights)
    return build.load(replace(setup, splits=splits), {"batch_size": size, "num_workers": 0})


def _step(setup: Setup, state: Training, size: int) -> None:
    """Take a step as training does: forward, backward, optimizer, averaged weights."""
    state.loaders = _loaders(setup, size)
    state.model.train()
    state.task.train()
    state.sums.reset()
    for index in range(min(2, state.settings.grad_accumulation)):  # the second needs the gradients of the first too
        for batch in state.loaders.train.epoch(1):
            add_gradients(state, batch, 0, ends_step=bool(index))
    correct_gradients(state, 0)
    if state.takes_turns:
        take_turns(state)
    else:
        state.precision.step(state.optimizer, state.parameters, state.settings.clip_norm)
    if state.average is not None:
        state.average.update(state.model)


def _samples(setup: Setup) -> int:
    """Return the bytes of the samples that are held on the device."""
    return setup.splits.nbytes(setup.precision.dtype) if setup.in_memory else 0
