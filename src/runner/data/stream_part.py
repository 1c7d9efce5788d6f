"""A part of the data that is a stream: samples come one after another, and nobody knows the next one before it comes.

Its first samples stand for it before the start: for shapes, for mean and standard deviation, for a fingerprint.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from runner.data.collate import Batch, Divide, collate, divide_pair, to_tensors
from runner.data.dataset_part import MEASURED, SAMPLED, DatasetPart
from runner.data.part import Indices, before_training, bytes_of, check_axis, equal
from runner.data.source import Stateful, saves_itself
from runner.errors import ConfigError, Problem, TrainingError, describe_error
from runner.rundir.checkpoint import find_unsavable
from runner.util import trees
from runner.util.rng import derive_seed, isolated_rng
from runner.util.trees import Tree

TRIED = 5  # samples before and after the place at which a stream is tried to be resumed

LINEAR = {
    f"{kind}Iterable"
    for kind in (
        "ArrowExamples", "Examples", "RebatchedArrowExamples", "SelectColumns", "MappedExamples", "FilteredExamples",
        "SkipExamples", "TakeExamples",
    )
}  # fmt: skip
"""The parts of HF's streams whose state is exact, as their state names them. One that shuffles loses its buffer, which
a trial may not show: a state within a chunk of rows leads back to the start of the chunk (datasets 5.2)."""


class StreamPart(DatasetPart):
    """Samples that come one after another.

    Args:
        stream: an iterable; a pass begins with `iter(stream)`. It may have a length, `collate_fn`, `set_epoch`, which
            is called with the number of each pass, and `state_dict` and `load_state_dict`, which save and restore its
            place within a pass.
        samples: of a training epoch; None for the length of the stream, or for a part that is evaluated.
        divide: divides an item, or a batch, into inputs and targets.
        collate_fn: makes a batch of a list of items; None takes the stream's own, or stacks them.

    Attributes:
        stream: as it was before anything was read from it.
        length: the samples of a pass, of all ranks together; None if the stream does not know it.
        divides_itself: its `__iter__` gives each rank other samples; see `stream_shares.divide`.
    """

    streams = True
    divides_itself = False

    def __init__(
        self,
        stream: Any,
        samples: int | None = None,
        divide: Divide = divide_pair,
        collate_fn: Callable[[list[Any]], Tree] | None = None,
    ) -> None:
        super().__init__(stream, None, divide, collate_fn)
        self.stream, self.length = stream, length_of(stream)
        self._samples = samples
        self._first: list[Any] = []
        self._ended = False
        self._saves: bool | None = None

    def __len__(self) -> int:
        """The samples of a training epoch or, if they are known, of an evaluation; else 0."""
        return self._samples or self.length or 0

    @property
    def is_a_pass(self) -> bool:
        """Whether a training epoch is one pass over the stream."""
        return self._samples is None

    @property
    def by_number(self) -> bool:
        """Whether a pass depends on its number alone, not on the passes before it."""
        return callable(getattr(self.stream, "set_epoch", None))

    def fresh(self) -> Any:
        """Return the stream as it was at first: a copy, or the stream itself if it cannot be copied."""
        try:
            return copy.deepcopy(self.stream)
        except Exception:  # an open file, a connection, a generator
            return self.stream

    def again(self) -> "StreamPart":
        """Return the part as if nothing had been read from it."""
        return StreamPart(self.stream, self._samples, self._divide, self._collate_fn)

    def make_batch(self, items: list[Any]) -> Batch:
        """Collate items and divide them."""
        return self._divide((self._collate_fn or collate)(items))

    def saves(self) -> bool:
        """Whether the stream's own state leads to the very same samples: it is tried, at the first call.

        HF's streams lose the buffer that they shuffle in, for example.
        """
        if self._saves is None:
            with before_training():
                self._saves = saves_itself(self.stream) and self._is_resumed_exactly()
        return self._saves

    def _is_resumed_exactly(self) -> bool:
        stream: Stateful = self.fresh()
        before = copy.deepcopy(stream.state_dict())
        samples = self._read(stream, 2 * TRIED)
        first = [next(samples, None) for _ in range(TRIED)]
        state = copy.deepcopy(stream.state_dict())
        rest = [*samples]
        again = self.fresh()
        try:
            others = [*self._read(again, TRIED, state, start=len(first))]
            again.load_state_dict(before)
        except Exception:  # a stream may save what it cannot load
            return False
        if type(stream).__module__.startswith("datasets.") and not _kinds_of_hf(state) <= LINEAR:
            return False
        if find_unsavable({"state": state}) or len(rest) != len(others):
            return False
        return all(_same(one, other) for one, other in zip(rest, others, strict=True))

    def _read(self, stream: Any, count: int, state: Any = None, start: int = 0) -> Iterator[Any]:
        """Yield the first items of a pass, or some from a state on."""
        with isolated_rng(0):
            if self.by_number:
                stream.set_epoch(0)
            if state is not None:
                stream.load_state_dict(state)
        iterator = iter(stream)
        for index in range(start, start + count):
            with isolated_rng(derive_seed("samples", 0, index)):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
                except OSError as error:
                    raise TrainingError(describe_error(error)) from error
            yield item

    def _items_of(self, count: int) -> list[Any]:
        """Return the first items of a pass."""
        if len(self._first) < count and not self._ended:
            stream = self.fresh()
            before = copy.deepcopy(stream.state_dict()) if stream is self.stream and saves_itself(stream) else None
            with before_training():
                self._first = [*self._read(stream, count)]
            self._ended = len(self._first) < count
            if before is not None:
                stream.load_state_dict(before)
        if not self._first:
            raise ConfigError(Problem("data", "a stream has no samples", "add some", topic="data"))
        return self._first[:count]

    def take(self, index: Tensor) -> "DatasetPart":
        """Refuse: a stream has no indices."""
        raise NotImplementedError("a stream is neither limited nor divided")

    def batch(self, indices: Indices) -> Batch:
        """Refuse: a stream has no indices."""
        raise NotImplementedError("a stream is read by a StreamLoader")

    def sample(self, index: int) -> Batch:
        """Return one of the first samples: the last of those that are known for an index beyond them."""
        items = self._items_of(min(index, MEASURED - 1) + 1)
        with before_training():
            if self.collates:
                inputs, targets = check_axis(self.make_batch(items[-1:]))
                return trees.at(inputs, 0), None if targets is None else trees.at(targets, 0)
            inputs, targets = self._divide(items[-1])
            return to_tensors(inputs), to_tensors(targets)

    def example(self, count: int) -> Batch:
        """Collate the first samples."""
        items = self._items_of(count)
        with before_training(), isolated_rng(0):
            return check_axis(self.make_batch(items))

    def _some(self, count: int) -> Iterator[Batch]:
        """Yield the first samples."""
        for index in range(len(self._items_of(count))):
            yield self.sample(index)

    def file_names(self) -> None:
        """Return None."""

    row_numbers = file_names

    def known_targets(self) -> None:
        """Return None."""

    def _all(self) -> Iterator[Batch]:
        """Yield the first samples, which stand for all."""
        return self._some(MEASURED)

    def hash_into(self, digest: Any) -> None:
        """Hash the first samples."""
        for batch in self._some(SAMPLED):
            for leaf in trees.leaves(batch):
                digest.update(bytes_of(leaf))

    def is_random(self) -> bool:
        """Return False: nothing of a stream is held in memory."""
        return False

    varies = is_random


def is_stream(samples: Any) -> bool:
    """Whether samples come one after another: they have no indices."""
    return hasattr(samples, "__iter__") and (not hasattr(samples, "__getitem__") or _refuses_indices(samples))


def _refuses_indices(samples: Any) -> bool:
    """Whether `samples[...]` is torch's own, which raises: `IterableDataset` has it from `Dataset`."""
    return isinstance(samples, torch.utils.data.IterableDataset)


def length_of(stream: Any) -> int | None:
    """Return the number of samples of a pass; None if the stream does not know it."""
    try:
        return len(stream)
    except (TypeError, NotImplementedError):
        return None


def _kinds_of_hf(state: Any) -> set[str]:
    """Return the parts that an HF stream consists of, by its state."""
    if isinstance(state, Mapping):
        own = {state["type"]} if isinstance(state.get("type"), str) else set()
        return own.union(*map(_kinds_of_hf, state.values()))
    return set().union(*map(_kinds_of_hf, state)) if isinstance(state, list) else set()


def _same(one: Any, other: Any) -> bool:
    """Whether two items have the same leaves, bit for bit."""
    both = trees.flatten(one), trees.flatten(other)
    if both[0][1] != both[1][1]:
        return False
    return all(
        equal(torch.as_tensor(a), torch.as_tensor(b)) if not isinstance(a, str | bytes | None) else a == b
        for a, b in zip(both[0][0], both[1][0], strict=True)
    )
