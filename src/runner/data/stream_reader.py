"""Reads a stream batch by batch, in the training process or in workers, and says how far it is after each batch."""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from runner.data.collate import Batch
from runner.data.share import WHOLE, Share
from runner.data.stream_part import StreamPart
from runner.errors import TrainingError, describe_error
from runner.util import trees
from runner.util.rng import derive_seed, isolated_rng, seed_cpu


@dataclass
class Place:
    """How far a process has read its share of a pass.

    Attributes:
        samples: that it has read.
        state: of the stream after them, if that leads to the very same samples.
    """

    samples: int = 0
    state: Any = None


@dataclass
class Read:
    """A batch that a process has read; None at the start of a resumed pass, if it is not this process's turn.

    Attributes:
        worker: the number of the process.
        batch: as many samples as it should have.
        place: of the process after it.
        rest: the items at the end of the process's share, in place of a batch: they are too few for one.
    """

    worker: int
    batch: Batch | None
    place: Place
    rest: list[Any] = field(default_factory=list)

    def pin_memory(self) -> "Read":
        """Copy all tensors to page-locked memory."""
        batch = None if self.batch is None else trees.tree_map(Tensor.pin_memory, self.batch)
        return Read(self.worker, batch, self.place, self.rest)


class StreamReader(IterableDataset[Read | TrainingError]):
    """Each iteration of it is a pass over the stream, or over the share of a worker.

    What the stream draws at random for a sample depends on (seed, pass, worker, index of the sample) alone. Of several
    ranks, each keeps every n-th sample of what its worker reads, unless the stream divides itself among them; the rank
    then counts like a worker.

    Args:
        part: the stream.
        batch_size: samples in a batch.
        seed: of the random numbers.
        repeats: each pass is the next one; otherwise all are the first.
        share: the rank that reads, and the number of ranks.

    Attributes:
        number: of the pass that comes next, from 0.
        places: where each process begins the next pass, if not at its start.
        turn: the process whose batch comes first, if that pass was interrupted.
        alike: all processes draw the same random numbers.
    """

    def __init__(self, part: StreamPart, batch_size: int, seed: int, repeats: bool, share: Share = WHOLE) -> None:
        self.part, self.batch_size, self.seed, self.repeats = part, batch_size, seed, repeats
        self.kept, self.key = (WHOLE, share.key) if part.divides_itself else (share, ())
        self.number, self.turn, self.places = 0, 0, list[Place]()
        self.alike = False
        self._stream = part.fresh()
        self._begun = False

    def __iter__(self) -> Iterator[Read | TrainingError]:
        """Read a pass, or the rest of it; an error is yielded, as one that a worker raises arrives as a text."""
        try:
            yield from self._pass()
        except OSError as error:  # a file that has been removed, for example
            yield TrainingError(describe_error(error))
        except TrainingError as error:
            yield error

    def _pass(self) -> Iterator[Read]:
        info = get_worker_info()
        worker = 0 if info is None else info.id
        place = self.places[worker] if self.places else Place()
        later, number = worker < self.turn, self.number
        saves = self.part.saves()
        if not self._begun and not saves and not self.part.by_number:
            for earlier in range(number):  # a pass may depend on those before it
                self._skip(self._start(earlier, Place()), earlier, worker, None)
        self._begun, self.turn, self.places, self.number = True, 0, [], number + self.repeats
        iterator = self._start(number, place)
        if place.state is None:
            self._skip(iterator, number, worker, place.samples)
        if later:
            yield Read(worker, None, place)
        samples = place.samples
        while True:
            items, read = self._items(iterator, number, worker, samples, self.batch_size)
            samples += read
            place = Place(samples, copy.deepcopy(self._stream.state_dict()) if saves else None)
            if len(items) < self.batch_size:
                yield Read(worker, None, place, items)
                return
            yield Read(worker, self.part.make_batch(items), place)

    def _start(self, number: int, place: Place) -> Iterator[Any]:
        """Begin a pass, at a state if there is one."""
        if self.part.by_number:
            self._stream.set_epoch(number)
        if place.state is not None:
            self._stream.load_state_dict(copy.deepcopy(place.state))
        elif not self.repeats:
            self._stream = self.part.fresh()
            if self.part.by_number:
                self._stream.set_epoch(number)
        return iter(self._stream)

    def _skip(self, iterator: Iterator[Any], number: int, worker: int, samples: int | None) -> None:
        """Read samples, or the whole pass, and drop them."""
        done = 0
        while samples is None or done < samples:
            wanted = self.batch_size if samples is None else min(self.batch_size, samples - done)
            items, read = self._items(iterator, number, worker, done, wanted, all_of_them=True)
            done += read
            if len(items) < wanted:
                return

    def _items(
        self, iterator: Iterator[Any], number: int, worker: int, first: int, count: int, all_of_them: bool = False
    ) -> tuple[list[Any], int]:
        """Return the next items of a pass that this rank keeps, and how many were read; fewer at its end."""
        items: list[Any] = []
        index = first
        key = 0 if self.alike else worker
        alone = get_worker_info() is not None  # nobody else draws random numbers in this process
        with contextlib.nullcontext() if alone else isolated_rng(0):
            while len(items) < count:
                seed_cpu(derive_seed("stream", self.seed, number, key, index, *self.key))
                try:
                    item = next(iterator)
                except StopIteration:
                    break
                if all_of_them or index % self.kept.ranks == self.kept.rank:
                    items.append(item)
                index += 1
        return items, index - first
