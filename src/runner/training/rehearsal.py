"""A rehearsal of a resume beside the training: does a resumed run take the same steps?

A fork of the training process, created before the first step and with a lower priority, takes two steps, saves its
state, and takes two more. A second fork, in the same condition as the first at its start, restores that state and takes
the same two steps. Any difference is state that no checkpoint holds. The training process itself takes no extra step.

Forks import nothing again and copy only what they change. On two cores of an Intel Xeon (Sapphire Rapids) they take 43
to 47 and 22 to 24 ms of CPU time; creating the first takes 7 to 12 ms of the training's own. A whole run of one epoch
of the digits takes 2.2 % more CPU time with them, the comparison of attributes and the read checkpoint (median of 9
pairs on a machine with other work, 95 % interval 0.7 to 4.0 %), and 0.3 % more time.

A run creates its fork before `torch.compile` compiles: a fork cannot compute gradients once torch's engine has started
threads. If that happened earlier in the same process, for example in a notebook, there is no verdict, and all changed
attributes are reported.
"""

import contextlib
import io
import itertools
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from runner.data.loading import Loader
from runner.data.streaming import StreamLoader
from runner.device import free_host_memory
from runner.rundir.ownership import is_own_file
from runner.training.attributes import Walk, addresses
from runner.training.callbacks import Callbacks
from runner.training.evaluation import evaluate
from runner.training.loop import fit
from runner.training.progress import Metrics
from runner.training.saving import restore, stateful
from runner.training.spans import no_span
from runner.training.state import Interrupted, Training
from runner.util.files import read_text, write_atomically
from runner.util.forks import fork
from runner.util.primitives import decode, encode

STEPS = 2  # before and after the checkpoint
LARGEST = 32 << 20  # bytes of a model; its forks take ten times that with SGD, fourteen with AdamW
MEMORY_SHARE = 0.1  # the largest share of the free memory for the model


Shared = Callable[[], Path | None]
"""Returns the file of a verdict that several trainings share; another one if other code was imported meanwhile."""


@dataclass(frozen=True)
class Verdict:
    """The result of two steps after a resume.

    Attributes:
        missed: attributes that differ from those without a resume.
        derived: attributes that training changed, and that a resume does not change; without iterators, which may have
            returned to their start.
        unexplained: a part of the saved state that differs; None if it is equal.
    """

    missed: frozenset[str] = frozenset()
    derived: frozenset[str] = frozenset()
    unexplained: str | None = None


class Rehearsal:
    """A rehearsal of a training that is about to start.

    Args:
        state: the training before its first step, or as restored from a checkpoint. It does not change.
        shared: returns the file with the verdict of the first of several trainings by the same code, which the others
            take; None: the training is not one of several.
    """

    def __init__(self, state: Training, shared: Shared | None = None) -> None:
        self._pid, self._pipe, self._content = 0, -1, b""
        self._shared, self._file = shared, shared() if shared is not None else None
        self._verdict = _read_verdict(_read_shared(self._file)) if self._file is not None else None
        if self._verdict is not None or not _is_possible(state):
            return
        self._is_whole = _steps(state) == STEPS  # fewer steps show less
        self._pipe, end = os.pipe()
        self._pid = fork(end, lambda: _rehearse(state))
        os.close(end)

    def running(self) -> bool:
        """Return whether a verdict may follow."""
        return self._pid != 0

    def verdict(self, wait: float = 0.0) -> Verdict | None:
        """Return the verdict, after waiting up to `wait` seconds; None if it is unknown, or not ready."""
        while self._pid and select.select([self._pipe], [], [], wait)[0]:
            block = os.read(self._pipe, 1 << 16)
            self._content += block
            if not block:
                self._verdict = _read_verdict(self._content)
                self.close()
                self._share()
        return self._verdict

    def _share(self) -> None:
        """Leave the verdict to the next trainings, if no code was imported since this one has looked for it."""
        if self._verdict is None or self._shared is None or self._file is None or not self._is_whole:
            return
        with contextlib.suppress(OSError):  # a full disk: the next one rehearses too
            if self._shared() == self._file:
                write_atomically(self._file, self._content.decode(), private=True)

    def close(self) -> None:
        """End the forks."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            os.close(self._pipe)
            self._pid = 0


def unsaved(state: Training) -> Walk:
    """Walk the attributes that no checkpoint holds as such: all but parameters and buffers of modules."""
    roots = {name: root for name, root in stateful(state).items() if name != "ema"}  # it follows from the model
    return Walk(roots, leave_out=[*addresses(state.model), *addresses(state.task)])


def _is_possible(state: Training) -> bool:
    """Return whether this process can fork, its steps are deterministic and can be taken twice, and memory suffices."""
    if isinstance(state.loaders.train, StreamLoader):  # it would be read a second time up to here
        return False
    if sys.platform != "linux" or state.device.torch.type != "cpu" or torch.cuda.is_initialized():
        return False
    tensors: list[Tensor] = [*state.model.parameters(), *state.model.buffers()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if size > min(LARGEST, MEMORY_SHARE * free_host_memory()):  # a job may be allowed less than what is free
        return False
    return _steps(state) > 0


def _steps(state: Training) -> int:
    """Return how many steps to take before and after the checkpoint: fewer if training has fewer than four."""
    settings = state.settings
    left = settings.epochs * _steps_per_epoch(state) - _position(state)
    if settings.max_steps is not None:
        left = min(left, settings.max_steps - state.progress.step)
    return min(STEPS, left // 2)


def _steps_per_epoch(state: Training) -> int:
    return -(-len(state.loaders.train) // state.settings.grad_accumulation)


def _rehearse(state: Training) -> dict[str, Any]:
    """Take steps, save, let a fork restore that state, and take the same steps in both.

    Returns:
        The fields of a `Verdict`.
    """
    checkpoints = _Memory()
    stop = _Stop(state)
    _without_effects(state, checkpoints, stop)
    steps, before = _steps(state), _attributes(state)
    ours, theirs = os.pipe(), os.pipe()
    fork(theirs[1], lambda: _resumed(state, checkpoints, stop, steps, ours[0]), keep=[ours[0]])
    os.close(ours[0])
    os.close(theirs[1])
    _evaluate(state, stop)
    _train(state, stop, steps)
    with os.fdopen(ours[1], "wb") as file:
        file.write(checkpoints.content())
    between = unsaved(state)
    _train(state, stop, steps)
    _evaluate(state, stop)
    after, fingerprints = _attributes(state), checkpoints.fingerprints()
    with os.fdopen(theirs[0], "rb") as file:
        resumed = json.load(file)
    missed = {name for name in {*after, *resumed["attributes"]} if after.get(name) != resumed["attributes"].get(name)}
    # Attributes that changed only after the checkpoint are not reported: it could not lose them.
    changed = {name for name, value in between.attributes.items() if value != before.get(name)}
    different = [name for name, value in fingerprints.items() if value != resumed["state"].get(name)]
    if different and not missed:  # an attribute that the last step writes is equal again, though that step read it
        missed = (changed - between.outcomes) | between.iterators
    return {
        "missed": sorted(missed),
        "derived": sorted(changed - missed - between.iterators),
        "unexplained": different[0] if different else None,
    }


def _resumed(state: Training, checkpoints: "_Memory", stop: "_Stop", steps: int, source: int) -> dict[str, Any]:
    """Restore the checkpoint that arrives, take the steps after it, and return the fingerprints."""
    with os.fdopen(source, "rb") as file:
        content = torch.load(io.BytesIO(file.read()), weights_only=True)
    restore(state, {key: decode(part) for key, part in content.items()})
    stop.position += steps
    _train(state, stop, steps)
    _evaluate(state, stop)
    return {"attributes": _attributes(state), "state": checkpoints.fingerprints()}


def _evaluate(state: Training, stop: "_Stop") -> None:
    """Evaluate a batch."""
    stop.position += 1  # no stop within the evaluation
    evaluate(state, _First(state.loaders.train.in_order(state.loaders.train.batch_size)))  # type: ignore[arg-type]
    stop.position -= 1


def _train(state: Training, stop: "_Stop", steps: int) -> None:
    """Train a number of steps, and save. A resumed run, too, trains before it evaluates."""
    stop.position += steps
    with contextlib.suppress(Interrupted):
        fit(state)


def _attributes(state: Training) -> dict[str, int]:
    return unsaved(state).attributes


def _without_effects(state: Training, checkpoints: "_Memory", stop: "_Stop") -> None:
    """Let training write and show nothing, and do nothing except steps."""
    state.checkpoints, state.stop = checkpoints, stop  # type: ignore[assignment]
    state.log, state.display = lambda metrics, step: None, _NoDisplay()
    state.epoch_seconds = _NoFile()  # type: ignore[assignment]
    state.callbacks = Callbacks()  # they may do anything
    state.loaders, state.after_save = state.loaders.without_workers(), lambda: None
    state.span = no_span
    state.device = replace(state.device, threads=1, evaluation_threads=1)  # a fork has one
    state.settings = replace(
        state.settings,
        max_time=None,
        validate_every_steps=None,
        log_every_steps=None,
        checkpoint_every_steps=None,
        checkpoint_every_seconds=None,
    )


def _position(state: Training) -> int:
    """Return the number of steps since the start of the run, including skipped ones."""
    steps = -(-state.progress.batch // state.settings.grad_accumulation)
    return (state.progress.epoch - 1) * _steps_per_epoch(state) + steps


class _Stop:
    """A stop request at a position."""

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
    """Checkpoints in memory: the last one, until the next step changes its tensors."""

    def __init__(self) -> None:
        self._state: dict[str, Any] = {}

    def save(self, state: dict[str, Any], best: bool, wait: bool = True) -> None:
        self._state = state

    def wait(self) -> None: ...

    def content(self) -> bytes:
        """Return the content of the file."""
        buffer = io.BytesIO()
        torch.save({key: encode(part, key) for key, part in self._state.items()}, buffer)
        return buffer.getvalue()

    def fingerprints(self) -> dict[str, int]:
        """Return a fingerprint of each part, without times."""
        progress = {name: value for name, value in self._state["progress"].items() if "seconds" not in name}
        attributes = Walk({"": SimpleNamespace(**{**self._state, "progress": progress})}).attributes
        return {name.removeprefix("."): value for name, value in attributes.items()}


class _NoFile:
    """A file of epochs' seconds that is not written."""

    def append(self, done: int, seconds: Sequence[float]) -> None: ...


class _NoDisplay:
    """A display that shows nothing."""

    def start_epoch(self, epoch: int, batches: int, done: int) -> None: ...

    def due(self) -> bool:
        return False

    def batch(self, done: int, loss: float) -> None: ...

    def end_epoch(self, epoch: int, metrics: Metrics, seconds: float, best: bool) -> None: ...

    def note(self, text: str) -> None: ...


def _read_verdict(content: bytes) -> Verdict | None:
    """Read a verdict; None if the rehearsal failed, for example in user code: training itself will report that."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        fields = json.loads(content)
        missed, derived, unexplained = fields["missed"], fields["derived"], fields["unexplained"]
        if all(isinstance(path, str) for path in [*missed, *derived, unexplained or ""]):
            return Verdict(frozenset(missed), frozenset(derived), unexplained)
    return None


def _read_shared(file: Path) -> bytes:
    """Return the verdict of another training, or nothing."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return read_text(file).encode() if is_own_file(file) else b""
    return b""
