"""Predict what waits as one batch; nothing waits for company."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from runner.util import trees
from runner.util.stopping import INTERRUPT
from runner.util.trees import Tree


@dataclass(frozen=True)
class Work:
    """What a request asks to compute.

    Attributes:
        inputs: of the model, of `rows` samples; or anything else, if `kind` is None.
        rows: the number of samples.
        kind: works of an equal kind are computed together; None: this one is computed alone.
        compute: inputs -> a result for each sample; of all works of a kind the same.
    """

    inputs: Tree
    rows: int
    kind: Hashable | None
    compute: Callable[[Any], Sequence[str]]

    @property
    def size(self) -> int:
        """The number of values in the inputs; 0 for other inputs."""
        return 0 if self.kind is None else sum(leaf.numel() for leaf in trees.leaves(self.inputs))


QUICK = 0.002
"""Seconds in which the loop may not read other requests."""

Pending = tuple[Work, "asyncio.Future[Sequence[str]]"]
Outcome = tuple["asyncio.Future[Sequence[str]]", Sequence[str] | BaseException]


def kind_of(inputs: Tree, form: str) -> Hashable:
    """Return the kind of inputs: those of one kind can be joined along the first axis.

    Args:
        inputs: tensors (N, ...).
        form: of the results.
    """
    if isinstance(inputs, torch.Tensor):  # to take a tree apart takes 10 us
        return form, inputs.dtype, inputs.shape[1:]
    return form, tuple((name, leaf.dtype, leaf.shape[1:]) for name, leaf in trees.named_leaves(inputs))


class Batches:
    """The works that wait, and what computes them: a thread; or the loop itself, if that is quick.

    To hand a small model's work to a thread and back costs more than to compute it, as both wait for Python's lock
    (0.38 against 0.26 ms of CPU time for a request of a digits MLP). The loop computes what is no larger than batches
    that took at most `QUICK` seconds; the first ones, and all others, are the thread's, so that the loop goes on.

    Args:
        most_rows: samples in a batch of several requests; a single request may have more.
    """

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows
        self._waiting: deque[Pending] = deque()
        self._changed = threading.Condition()
        self._working = self._closed = self._planned = False
        self._quick_size = 0  # values in the inputs of a batch
        self._thread = threading.Thread(target=self._run, name="predictions", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether works are computed."""
        return self._thread.is_alive() and not self._closed

    async def compute(self, work: Work) -> Sequence[str]:
        """Return the results of a work, one for each sample.

        Raises:
            Exception: what `compute` of the work raised, for this work alone.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Sequence[str]] = loop.create_future()
        with self._changed:
            self._waiting.append((work, future))
        if not self._planned:  # once the requests that have arrived with this one are read too
            self._planned = True
            loop.call_soon(self._start)
        return await future

    def close(self) -> None:
        """Compute nothing more after the present batch."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _start(self) -> None:
        """Compute what waits, or wake the thread; if it works, it takes what waits by itself."""
        self._planned = False
        with self._changed:
            if self._working:
                return
            if not self._is_quick():
                self._working = True
                self._changed.notify()
                return
        while self._waiting:
            batch = self._take()
            _deliver(self._timed(batch))
        INTERRUPT.check()  # a model's code may have got its KeyboardInterrupt

    def _is_quick(self) -> bool:
        works = [work for work, _ in self._waiting]
        return all(work.kind is not None for work in works) and sum(work.size for work in works) <= self._quick_size

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._working or self._closed)
                if self._closed:
                    return
                if not self._waiting:
                    self._working = False
                    continue
                batch = self._take()
            outcomes = self._timed(batch)
            loop = batch[0][1].get_loop()
            if loop.is_closed():
                return
            loop.call_soon_threadsafe(_deliver, outcomes)

    def _timed(self, batch: Sequence[Pending]) -> list[Outcome]:
        """Compute a batch, and learn from it what is quick."""
        size, began, began_cpu = sum(work.size for work, _ in batch), time.perf_counter(), time.thread_time()
        outcomes = _compute(batch)
        # On a busy machine the time of the clock is that of others too: a tenth of it counts.
        if max(time.thread_time() - began_cpu, (time.perf_counter() - began) / 10) > QUICK:
            self._quick_size = min(self._quick_size, size // 2)
        elif batch[0][0].kind is not None:
            self._quick_size = max(self._quick_size, size)
        return outcomes

    def _take(self) -> list[Pending]:
        """Take the first work that waits, and those that can join it; the order of the others stays."""
        first = self._waiting.popleft()
        batch, rows, others = [first], first[0].rows, deque[Pending]()
        while self._waiting and first[0].kind is not None and rows < self._most_rows:
            pending = self._waiting.popleft()
            joins = pending[0].kind == first[0].kind and rows + pending[0].rows <= self._most_rows
            (batch if joins else others).append(pending)
            rows += pending[0].rows if joins else 0
        self._waiting.extendleft(reversed(others))
        return batch


def _compute(batch: Sequence[Pending]) -> list[Outcome]:
    """Compute a batch; if that fails, each work alone, so that one does not fail the others."""
    works = [work for work, _ in batch]
    try:
        inputs = works[0].inputs if len(works) == 1 else _joined([work.inputs for work in works])
        results = works[0].compute(inputs)
    except BaseException as error:  # a user's code may raise anything, and must not end the thread
        return [(batch[0][1], error)] if len(batch) == 1 else [one for each in batch for one in _compute([each])]
    ends, outcomes = 0, list[Outcome]()
    for work, future in batch:
        outcomes.append((future, results[ends : ends + work.rows]))
        ends += work.rows
    return outcomes


def _joined(each: Sequence[Tree]) -> Tree:
    """Join trees of tensors along the first axis."""
    if isinstance(each[0], torch.Tensor):
        return torch.cat(list(each))
    flat = [trees.flatten(tree) for tree in each]
    columns = zip(*(values for values, _ in flat), strict=True)
    return trees.unflatten([None if column[0] is None else torch.cat(column) for column in columns], flat[0][1])


def _deliver(outcomes: Sequence[Outcome]) -> None:
    """Hand results to the requests that wait for them, in the thread of their loop."""
    for future, outcome in outcomes:
        if future.done():  # its request was cancelled
            continue
        if isinstance(outcome, BaseException):
            # asyncio does not pass on a StopIteration, and a SystemExit would end the server.
            passed = isinstance(outcome, Exception) and not isinstance(outcome, StopIteration)
            future.set_exception(outcome if passed else RuntimeError(f"{type(outcome).__name__}: {outcome}"))
        else:
            future.set_result(outcome)
