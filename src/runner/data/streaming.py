"""Batches of a stream: an epoch goes on where the one before stopped, and a resumed run where it was stopped.

The batches are a function of the seed, the numbers of ranks and workers, and their count since the start of the run. A
checkpoint has the place in the stream. If the stream's own state leads to the very same samples, a resumed run begins
there; otherwise it reads the pass again up to its place and, where a pass may depend on those before it, these too.

Each worker makes whole batches of its share. What is left at the ends of the shares becomes the last batches of the
pass, so that a pass over N samples has ceil(N / batch size) batches, whatever the number of workers.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader, Dataset

from runner.data.augment import Augment
from runner.data.collate import Batch
from runner.data.share import WHOLE, Padding, Share
from runner.data.stream_part import StreamPart
from runner.data.stream_reader import Place, Read, StreamReader
from runner.data.workers import as_it_is, end_workers, set_up_worker, start_workers
from runner.errors import TrainingError
from runner.util import trees
from runner.util.rng import derive_seed, isolated_rng, make_generator
from runner.util.trees import Tree

log = logging.getLogger("runner")


class StreamPosition(Dataset[Any]):
    """How far a stream has been read, as a checkpoint holds it.

    Attributes:
        batches: that training got since the start of the run.
        number: of the pass, from 0.
        turn: the process whose batch comes next.
        places: of the processes that read, within the pass.
        rests: the batches so far of what was left at the ends of the shares.
        moved: another place was loaded since the stream was read.
    """

    def __init__(self, num_workers: int) -> None:
        self._processes = max(1, num_workers)
        self.batches = 0
        self.moved = False
        self.begin_pass(0)

    def begin_pass(self, number: int) -> None:
        """Go to the start of a pass."""
        self.number, self.turn, self.places = number, 0, [Place() for _ in range(self._processes)]
        self.rests = 0

    def advance(self, read: Read) -> None:
        """Count a batch."""
        self.batches += 1
        self.turn = (read.worker + 1) % self._processes
        self.places[read.worker] = read.place

    def rewind(self) -> None:
        """Go to the start of the run."""
        self.batches, self.moved = 0, True
        self.begin_pass(0)

    def state_dict(self) -> dict[str, Any]:
        """Return the place as numbers, and the states of the stream."""
        places = [{"samples": place.samples, "state": place.state} for place in self.places]
        numbers = {"batches": self.batches, "pass": self.number, "turn": self.turn, "rests": self.rests}
        return {**numbers, "places": places}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place that `state_dict` returned.

        Raises:
            TrainingError: it was read by another number of processes.
        """
        if len(state["places"]) != self._processes:
            text = f"the checkpoint has the place in a stream that {len(state['places'])} processes read"
            raise TrainingError(f"{text}; write data.num_workers={len(state['places'])}")
        self.batches, self.number, self.turn = state["batches"], state["pass"], state["turn"]
        self.rests = state.get("rests", 0)
        self.places = [Place(**place) for place in state["places"]]
        self.moved = True


class StreamLoader:
    """The batches of a stream.

    Args:
        part: the stream.
        preprocess: (raw inputs, raw targets) of a batch -> both as the training loop takes them, on the device.
        batch_size: samples in a batch; the last of a pass may have fewer.
        seed: of what the stream draws at random, and of the augmentation.
        trains: an epoch has as many batches as `len(part)` asks for, and goes on where the last one stopped;
            otherwise each is the first pass.
        num_workers: processes that read; they live as long as the loader. 0 means this process.
        pin_memory: copy batches to page-locked memory, from which a GPU reads faster.
        augment: applied to each preprocessed batch.
        share: this process reads its part of each batch, the other ranks the others.
    """

    def __init__(
        self,
        part: StreamPart,
        preprocess: Callable[[Tree, Tree | None], Batch],
        batch_size: int,
        seed: int,
        trains: bool,
        num_workers: int = 0,
        pin_memory: bool = False,
        augment: Augment | None = None,
        share: Share = WHOLE,
    ) -> None:
        self.part, self.preprocess, self.augment, self.share = part, preprocess, augment, share
        self.batch_size, self.seed, self.trains, self.num_workers = batch_size, seed, trains, num_workers
        self.samples = len(part)
        self.position = StreamPosition(num_workers)
        self._pin_memory = pin_memory
        self._loader: DataLoader[Any] | None = None
        self._reads: Iterator[Read | TrainingError] = iter(())
        self._own_size = -(-batch_size // share.ranks)
        self._rest: dict[int, list[Any]] = {}

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    @property
    def data_set(self) -> StreamPosition | None:
        """What a checkpoint has to hold of the stream."""
        return self.position if self.trains else None

    def close(self) -> None:
        """End the workers."""
        if self._loader is not None:
            end_workers(self._loader)
        self._loader, self._reads = None, iter(())

    def in_order(self, batch_size: int) -> "StreamLoader":
        """Return a loader of the first pass, not augmented."""
        return StreamLoader(
            self.part, self.preprocess, batch_size, self.seed, False, self.num_workers, self._pin_memory
        )

    def without_workers(self) -> "StreamLoader":
        """Return a loader that reads in this process; its batches are others if this one has workers."""
        return StreamLoader(
            self.part, self.preprocess, self.batch_size, self.seed, self.trains, augment=self.augment, share=self.share
        )

    def padding(self) -> Padding:
        """Return a batch for a step in which this rank has none."""
        return Padding(self.preprocess(*self.part.example(1)))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from index `start` (from 0).

        Raises:
            TrainingError: a sample cannot be read, or there is none.
        """
        if not self.trains:
            yield from self._first_pass()
            return
        self._seek((epoch - 1) * len(self) + start)
        for number in range(start, len(self)):
            batch = self._next(may_end=number + 1 == len(self))
            if batch is None:
                yield self.padding()
                continue
            inputs, targets = self.preprocess(*batch)
            if self.augment is not None:
                generator = make_generator("augment", self.seed, epoch, number, *self.share.key)
                inputs, targets = self.augment(inputs, targets, generator)
            yield inputs, targets

    def _first_pass(self) -> Iterator[Batch]:
        """Yield the batches of the first pass, and count its samples."""
        samples = 0
        self.position.begin_pass(0)
        self._begin()
        while (batch := self._next_of_pass()) is not None:
            samples += trees.first_axis(batch[0])
            yield self.preprocess(*batch)
        self.samples = samples

    def _seek(self, batch: int) -> None:
        """Go to a batch, counted from the start of the run."""
        if self.position.batches > batch:
            self.position.rewind()
        if self._loader is None or self.position.moved:
            self.close()
            self._begin()
        if batch and not self.position.batches:
            log.info("           reads %s samples of the stream again", f"{batch * self.batch_size:,}")
        while self.position.batches < batch:
            self._next(may_end=(self.position.batches + 1) % len(self) == 0)

    def _next(self, may_end: bool) -> Batch | None:
        """Read a batch; the next pass follows the last batch of one.

        Args:
            may_end: this is the last batch of an epoch. If that is a pass, a rank whose share has ended waits for the
                others, and gets None; rank 0, whose share is the largest, never waits.
        """
        position = self.position
        while (batch := self._next_of_pass()) is None:
            if not position.rests and not any(place.samples for place in position.places):
                passes = f"pass {position.number + 1} over the stream" if position.number else "the stream"
                raise TrainingError(f"{passes} has no samples; its __iter__ must start from the beginning")
            begun = position.number >= position.batches // len(self)  # the pass of this epoch
            if may_end and begun and self.part.is_a_pass and self.share.rank:
                position.batches += 1
                return None
            position.begin_pass(position.number + 1)
            self._begin()
        return batch

    def _next_of_pass(self) -> Batch | None:
        """Read the next batch of the pass: a worker's, then one of what is left of the shares; None at its end."""
        for read in self._reads:
            if isinstance(read, TrainingError):
                raise read
            if read.batch is not None:
                self.position.advance(read)
                return read.batch
            self._rest[read.worker] = read.rest
        self._reads = iter(())
        rest = [item for worker in sorted(self._rest) for item in self._rest[worker]]
        first = self.position.rests * self._own_size
        items = rest[first : first + self._own_size]
        if not items:
            return None
        self.position.batches += 1
        self.position.rests += 1
        with isolated_rng(derive_seed("stream rest", self.seed, self.position.number, first, *self.share.key)):
            return self.part.make_batch(items)

    def _begin(self) -> None:
        """Begin a pass, or the rest of it."""
        position = self.position
        if self._loader is None:
            reader = StreamReader(self.part, self._own_size, self.seed, repeats=self.trains, share=self.share)
            reader.number, reader.turn, reader.places = position.number, position.turn, list(position.places)
            position.moved = False
            self._say_what_is_read_again()
            self._loader = make_loader(reader, self.num_workers, self._pin_memory)
        self._rest = {}
        self._reads = start_workers(self._loader)

    def _say_what_is_read_again(self) -> None:
        position = self.position
        if not position.batches or self.part.saves():
            return
        again = sum(place.samples for place in position.places)
        passes = "" if self.part.by_number or not position.number else f" after {position.number} whole passes"
        if again or passes:
            log.info("           reads %s samples of the stream again%s", f"{again:,}", passes)


def make_loader(reader: StreamReader, num_workers: int, pin_memory: bool = False) -> DataLoader[Any]:
    """Make a loader whose processes each read their share of a stream; they live as long as it does."""
    # Without a generator of its own, each pass would draw from the one that dropout draws from.
    rng = make_generator("workers", reader.seed)
    return DataLoader(
        reader,
        batch_size=None,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        collate_fn=as_it_is,
        worker_init_fn=set_up_worker,
        generator=rng,
    )
