"""Train several models as one program: the loop of `loop.py` with a common step for all of them.

Each model is an ordinary training with its own order of samples, schedule, validation, patience, journal and
checkpoints. One that ends, or fails, leaves the stack, and the others continue.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from runner.data.loading import TensorLoader
from runner.training.loop import (
    due,
    ended_early,
    finish_batch,
    finish_epoch,
    finish_step,
    is_last,
    start_batches,
    start_epoch,
)
from runner.training.saving import save, save_within_epoch
from runner.training.stacked_batches import shares_samples
from runner.training.stacked_step import Stack, release
from runner.training.state import Interrupted, Paused, Training


@dataclass(eq=False)
class Member:
    """A training in a stack.

    Attributes:
        number: of its job.
        state: the training, as restored if it is resumed.
        active: the context of everything that is done for it alone, such as lines in its log.
        end: called when it leaves the stack, with the reason why it ended early, or with the error.
    """

    number: int
    state: Training
    active: Callable[[], AbstractContextManager[None]]
    end: Callable[[str | None, BaseException | None], None]


class Store(Protocol):
    """Writes the checkpoints of a stack."""

    def write(self, members: Sequence[Member]) -> None:
        """Write the checkpoints of these members, who are at the same step."""

    def due(self) -> bool:
        """Return whether to write new checkpoints; less often than very short epochs end."""


def fit_stacks(members: Sequence[Member], store: Store) -> None:
    """Train all members until each has ended: those at the same batch together, which a new sweep's all are."""
    by_position: dict[tuple[int, int, int], list[Member]] = {}
    for member in members:
        progress = member.state.progress
        position = progress.epoch, progress.batch, member.state.loaders.train.samples
        by_position.setdefault(position, []).append(member)
    for group in by_position.values():
        _Fit(group, store).run()


class _Fit:
    """Trains members that are at the same batch of their epochs."""

    def __init__(self, members: Sequence[Member], store: Store) -> None:
        self._members, self._store = _by_samples(members), store
        self._stack: Stack | None = None

    def run(self) -> None:
        """Train until each member has ended."""
        for member in self._members:
            member.state.model.train()
            member.state.task.train()
        try:
            while self._members:
                self._start_epoch()
                if self._members:
                    self._run_epoch()
        except Interrupted:
            self._interrupt()
        except BaseException as error:  # not of a single member: in the step of all
            for member in list(self._members):
                self._leave(member, error=error)
            raise

    def _start_epoch(self) -> None:
        """Start an epoch of each member, or resume it; those whose training is over leave."""
        over: dict[Member, str | None] = {}
        try:
            for member in list(self._members):
                state = member.state
                with self._of(member):
                    reason = None if state.progress.batch else ended_early(state)
                    if reason is not None or state.progress.epoch > state.settings.epochs:
                        over[member] = reason
                    elif (limit := self._begin(member)) is not None:
                        over[member] = limit
        except Interrupted:
            self._interrupt(finished=self._members)
        for member, reason in over.items():
            self._leave(member, reason)

    def _begin(self, member: Member) -> str | None:
        """Start an epoch of a member; one that pauses leaves. See `start_epoch`."""
        try:
            return start_epoch(member.state)
        except Paused as pause:
            save_within_epoch(member.state)
            self._leave(member, error=pause)
            return None

    def _run_epoch(self) -> None:
        limits: dict[Member, str | None] = {}
        for member in list(self._members):
            with self._of(member):
                limits[member] = start_batches(member.state)
        if not self._members:
            return
        first = self._members[0].state
        stack, saved_at = self._make_stack(), perf_counter()
        for index in range(first.progress.batch, 0 if any(limits.values()) else len(first.loaders.train)):
            stack.step()
            for member in list(self._members):
                with self._of(member, quietly=True):
                    member.state.progress.batch = index + 1
                    finish_step(member.state)
                    limits[member] = finish_batch(member.state)
            if not self._members or any(limits[member] for member in self._members):
                break
            if index + 1 == len(first.loaders.train):
                break
            saved_at = self._save_within_epoch(saved_at)
            if first.stop.requested:
                raise Interrupted
            if len(self._members) < len(stack.states):
                stack = self._make_stack()
        self._finish_epoch(limits)

    def _make_stack(self) -> Stack:
        """Stack the members, unless they are stacked already, and start the rest of the epoch."""
        states = [member.state for member in self._members]
        if self._stack is None or [*map(id, self._stack.states)] != [*map(id, states)]:
            self._stack = Stack(states)
        self._stack.start_epoch()
        return self._stack

    def _save_within_epoch(self, saved_at: float) -> float:
        """Save if it is due between two steps; return when it was done last."""
        state = self._members[0].state
        seconds = state.settings.checkpoint_every_seconds
        by_steps = due(state.settings.checkpoint_every_steps, state.progress.step)
        if not by_steps and (seconds is None or perf_counter() - saved_at < seconds):
            return saved_at
        for member in list(self._members):
            with self._of(member):
                save_within_epoch(member.state)
        self._store.write(self._members)
        return perf_counter()

    def _finish_epoch(self, limits: dict[Member, str | None]) -> None:
        """Finish the epoch of each member; those whose last one it was leave."""
        members, leaving = list(self._members), list[Member]()
        for member in members:
            member.state.progress.seconds = member.state.clock.stop()
        for place, member in enumerate(members):
            state, last = member.state, is_last(member.state, limits[member])
            try:
                with self._of(member):
                    finish_epoch(state, last)
                    if last or ended_early(state) is not None:
                        leaving.append(member)
            except Interrupted:
                self._interrupt(finished=members[:place])
                return
        if leaving or len(self._members) < len(members) or self._store.due():
            self._store.write(self._members)
        # The best first: with `sweep.artifacts=best` the others then need no plots and no saved model.
        for member in sorted(leaving, key=_rank):
            self._leave(member, limits[member] or ended_early(member.state))

    def _interrupt(self, finished: Sequence[Member] = ()) -> None:
        """Save all members where they are, and let them leave as interrupted.

        Args:
            finished: those between two epochs, or after their last one; the sums of an epoch are none of theirs.
        """
        for member in list(self._members):
            with self._of(member):
                if member in finished:
                    save(member.state, best=False)
                else:
                    save_within_epoch(member.state)
        self._store.write(self._members)
        for member in list(self._members):
            self._leave(member, error=Interrupted())

    def _of(self, member: Member, quietly: bool = False) -> AbstractContextManager[None]:
        """Return the context of what is done for a member alone: an error ends its training, but no other's.

        Args:
            member: the member.
            quietly: nothing will be logged, and the context must cost little.
        """
        return _OfMember(self, member, nullcontext() if quietly else member.active())

    def _leave(self, member: Member, reason: str | None = None, error: BaseException | None = None) -> None:
        if member in self._members:
            self._members.remove(member)
            release(member.state)
            with member.active():
                member.end(reason, error)


class _OfMember:
    """See `_Fit._of`. A class, as a generator's context takes a microsecond in each step of each member."""

    def __init__(self, fit: _Fit, member: Member, active: AbstractContextManager[None]) -> None:
        self._fit, self._member, self._active = fit, member, active

    def __enter__(self) -> None:
        self._active.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self._active.__exit__(None, None, None)
        if error is None or not isinstance(error, Exception) or isinstance(error, Interrupted):
            return False
        self._fit._leave(self._member, error=error)
        return True


def _rank(member: Member) -> float:
    best = member.state.progress.best
    return math.inf if best is None else -best if member.state.monitor.higher_is_better else best


def _by_samples(members: Sequence[Member]) -> list[Member]:
    """Return the members with those side by side that share their samples."""
    groups: list[list[Member]] = []
    for member in members:
        loader = member.state.loaders.train
        assert isinstance(loader, TensorLoader)
        for group in groups:
            other = group[0].state.loaders.train
            assert isinstance(other, TensorLoader)
            if shares_samples(other, loader):
                group.append(member)
                break
        else:
            groups.append([member])
    return [member for group in groups for member in group]
