"""A resume, rehearsed beside the training: does a run that goes on from a checkpoint take the same steps?

A fork of the training process, which is made before the first step and has a lower priority, takes two steps, saves
its state, and takes two more. A second fork, as fresh as the first one was, restores that state and takes the same two
steps. Whatever then differs is state that no checkpoint has. The training process itself takes no step for it.

Forks need no second import and no copy of what they only read. On two cores of an Intel Xeon (Sapphire Rapids) they
take 43 to 47 and 22 to 24 ms of CPU time, making the first one 7 to 12 ms of the training's own. A whole run of one
epoch of the digits takes 2.2 % more CPU time with them, the looks at attributes and the checkpoint that is read back
(median of 9 pairs on a machine with other work, 95 % interval 0.7 to 4.0 %), and 0.3 % more time.

A run makes its fork before `torch.compile` compiles: a fork cannot compute gradients once torch's engine has started
threads. Where that was earlier in the same process, in a notebook say, there is no verdict, and what changes is named
whether it matters or not.
"""

import contextlib
import io
import itertools
import json
import os
import select
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from runner.data.loading import Loader
from runner.device import free_host_memory
from runner.training.attributes import Walk, addresses
from runner.training.loop import evaluate, fit
from runner.training.progress import Metrics
from runner.training.spans import no_span
from runner.training.state import Interrupted, Training, restore, stateful
from runner.util.forks import fork
from runner.util.primitives import decode, encode

STEPS = 2  # before the checkpoint, and after it
MEMORY_SHARE = 0.1  # of the free memory, that the model may take


@dataclass(frozen=True)
class Verdict:
    """What two steps after a resume showed.

    Attributes:
        missed: attributes that are not what they would have been.
        derived: attributes that training changed, and that are what they would have been; no iterators, which may
            only have come round.
        elsewhere: a part of the saved state that differs; None if two steps led to the same.
    """

    missed: frozenset[str] = frozenset()
    derived: frozenset[str] = frozenset()
    elsewhere: str | None = None


class Rehearsal:
    """Starts the rehearsal of a training that is about to begin.

    Args:
        state: at its first step, or as a checkpoint has restored it. It is left as it is.
    """

    def __init__(self, state: Training) -> None:
        self._pid, self._said, self._content = 0, -1, b""
        self._verdict: Verdict | None = None
        if not _is_possible(state):
            return
        self._said, end = os.pipe()
        self._pid = fork(end, lambda: _rehearse(state))
        os.close(end)

    def running(self) -> bool:
        """Whether there may be a verdict later."""
        return self._pid != 0

    def verdict(self, wait: float = 0.0) -> Verdict | None:
        """What was found, waited for at most so many seconds; None if it is not known, or not yet."""
        while self._pid and select.select([self._said], [], [], wait)[0]:
            block = os.read(self._said, 1 << 16)
            self._content += block
            if not block:
                self._verdict = _verdict(self._content)
                self.close()
        return self._verdict

    def close(self) -> None:
        """End it."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            os.close(self._said)
            self._pid = 0


def unsaved(state: Training) -> Walk:
    """The attributes that no checkpoint has as such: parameters and buffers of the modules are left out."""
    roots = {name: held for name, held in stateful(state).items() if name != "ema"}  # which is made out of the model
    return Walk(roots, leave_out=[*addresses(state.model), *addresses(state.loss)])


def _is_possible(state: Training) -> bool:
    """Whether this process can be forked, its steps are deterministic, and there are memory and steps enough."""
    if sys.platform != "linux" or state.device.torch.type != "cpu" or torch.cuda.is_initialized():
        return False
    tensors: list[Tensor] = [*state.model.parameters(), *state.model.buffers()]
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors) > MEMORY_SHARE * free_host_memory():
        return False
    return _steps(state) > 0


def _steps(state: Training) -> int:
    """How many steps to take before and after: fewer where training is to have fewer than four."""
    batches, settings, progress = len(state.loaders.train), state.settings, state.progress
    left = (settings.epochs - progress.epoch + 1) * -(-batches // settings.grad_accumulation) - -(
        -progress.batch // settings.grad_accumulation
    )
    if settings.max_steps is not None:
        left = min(left, settings.max_steps - progress.step)
    return min(STEPS, left // 2)


def _rehearse(state: Training) -> dict[str, Any]:
    """Take steps, save, have a fork restore it, and take the same steps here and there.

    Returns:
        The fields of a `Verdict`.
    """
    saved = _Memory()
    stop = _Stop(state)
    _without_effects(state, saved, stop)
    steps, before = _steps(state), _attributes(state)
    ours, theirs = os.pipe(), os.pipe()
    fork(theirs[1], lambda: _resumed(state, saved, stop, steps, ours[0]), keep=[ours[0]])
    os.close(ours[0])
    os.close(theirs[1])
    _evaluate(state, stop)
    _go(state, stop, steps)
    with os.fdopen(ours[1], "wb") as file:
        file.write(saved.content())
    between = unsaved(state)
    _go(state, stop, steps)
    _evaluate(state, stop)
    after, fingerprints = _attributes(state), saved.fingerprints()
    with os.fdopen(theirs[0], "rb") as file:
        resumed = json.load(file)
    missed = {name for name in {*after, *resumed["attributes"]} if after.get(name) != resumed["attributes"].get(name)}
    # Of what moved after the checkpoint alone, nothing is shown: it had nothing to lose there.
    changed = {name for name, seen in between.attributes.items() if seen != before.get(name)}
    elsewhere = [name for name, seen in fingerprints.items() if seen != resumed["state"].get(name)]
    if elsewhere and not missed:  # what the last step alone writes is the same again, though the one before read it
        missed = (changed - between.outcomes) | between.iterators
    return {
        "missed": sorted(missed),
        "derived": sorted(changed - missed - between.iterators),
        "elsewhere": elsewhere[0] if elsewhere else None,
    }


def _resumed(state: Training, saved: "_Memory", stop: "_Stop", steps: int, source: int) -> dict[str, Any]:
    """Restore the checkpoint that comes, and take the steps after it; what is then there."""
    with os.fdopen(source, "rb") as file:
        content = torch.load(io.BytesIO(file.read()), weights_only=True)
    restore(state, {key: decode(part) for key, part in content.items()})
    stop.position += steps
    _go(state, stop, steps)
    _evaluate(state, stop)
    return {"attributes": _attributes(state), "state": saved.fingerprints()}


def _evaluate(state: Training, stop: "_Stop") -> None:
    """Evaluate a batch."""
    stop.position += 1  # which is not asked for within it
    evaluate(state, _First(state.loaders.train.in_order(state.loaders.train.batch_size)))  # type: ignore[arg-type]
    stop.position -= 1


def _go(state: Training, stop: "_Stop", steps: int) -> None:
    """Train so many steps, and save. After a resume they come first: what begins again, begins in training."""
    stop.position += steps
    with contextlib.suppress(Interrupted):
        fit(state)


def _attributes(state: Training) -> dict[str, int]:
    return unsaved(state).attributes


def _without_effects(state: Training, saved: "_Memory", stop: "_Stop") -> None:
    """Let training write nothing, show nothing, and do nothing that is not a step."""
    state.checkpoints, state.log, state.display, state.stop = saved, lambda metrics, step: None, _Unseen(), stop  # type: ignore[assignment]
    state.loaders, state.after_save = state.loaders.without_workers(), lambda: None
    state.span = no_span
    state.device = replace(state.device, threads=1, evaluation_threads=1)  # a fork has no more
    state.settings = replace(
        state.settings,
        max_time=None,
        validate_every_steps=None,
        log_every_steps=None,
        checkpoint_every_steps=None,
        checkpoint_every_seconds=None,
    )


def _position(state: Training) -> int:
    """Steps from the run's beginning on, the skipped ones included."""
    progress, accumulation = state.progress, state.settings.grad_accumulation
    return (progress.epoch - 1) * -(-len(state.loaders.train) // accumulation) + -(-progress.batch // accumulation)


class _Stop:
    """Asks for a stop at a position."""

    def __init__(self, state: Training) -> None:
        self._state, self.position = state, _position(state)

    @property
    def requested(self) -> bool:
        return _position(self._state) >= self.position


class _First:
    """The first batch of a loader."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        return itertools.islice(self._loader.epoch(epoch), 1)


class _Memory:
    """Stands for the folder of checkpoints, and has the last one until the next step, which changes its tensors."""

    def __init__(self) -> None:
        self._state: dict[str, Any] = {}

    def save(self, state: dict[str, Any], best: bool) -> None:
        self._state = state

    def content(self) -> bytes:
        """What its file would hold."""
        buffer = io.BytesIO()
        torch.save({key: encode(part, key) for key, part in self._state.items()}, buffer)
        return buffer.getvalue()

    def fingerprints(self) -> dict[str, int]:
        """Of each part of it, but for times."""
        progress = {name: value for name, value in self._state["progress"].items() if "seconds" not in name}
        found = Walk({"": SimpleNamespace(**{**self._state, "progress": progress})}).attributes
        return {name.removeprefix("."): seen for name, seen in found.items()}


class _Unseen:
    """Shows nothing."""

    def start_epoch(self, epoch: int, batches: int, done: int) -> None: ...

    def due(self) -> bool:
        return False

    def batch(self, done: int, loss: float) -> None: ...

    def end_epoch(self, epoch: int, metrics: Metrics, seconds: float, best: bool) -> None: ...

    def note(self, text: str) -> None: ...


def _verdict(content: bytes) -> Verdict | None:
    """What a rehearsal said; None where it failed, in the user's code say, of which training itself will tell."""
    if not content:
        return None
    found = json.loads(content)
    return Verdict(frozenset(found["missed"]), frozenset(found["derived"]), found["elsewhere"])
