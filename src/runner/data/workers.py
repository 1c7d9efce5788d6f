"""Batches of a part through a `DataLoader`: read by this process, or by workers that survive a stop for a while."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import wait
from threading import Thread
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from runner.data.collate import Batch
from runner.data.part import Indices, Part, seeded
from runner.errors import ConfigError, Problem, TrainingError
from runner.util import trees
from runner.util.rng import make_generator

STOPS = (signal.SIGINT, signal.SIGTERM)
STOP_SECONDS = 5  # for which a worker survives a SIGTERM
LOADED_AT_ONCE = 256  # samples of a batch while a whole part is read into memory


class BatchReader:
    """Reads batches of a part.

    Args:
        part: the samples.
        num_workers: processes that read; 0 means this process.
        rng: seeds the workers. Without it, each pass would draw their seed from the generator that dropout draws from.
        persistent: the workers live as long as the reader, not for one pass only.
        pin_memory: copy batches to page-locked memory, from which a GPU reads faster.
    """

    def __init__(
        self,
        part: Part,
        num_workers: int,
        rng: torch.Generator,
        persistent: bool = False,
        pin_memory: bool = False,
    ) -> None:
        self._sampler = _Sampler()
        self._loader: DataLoader[Any] = DataLoader(
            _Fetcher(part),
            batch_sampler=self._sampler,
            num_workers=num_workers,
            persistent_workers=persistent and num_workers > 0,
            pin_memory=pin_memory,
            collate_fn=as_it_is,
            worker_init_fn=set_up_worker,
            generator=rng,
        )

    def read(self, batches: list[Indices]) -> Iterator[Batch]:
        """Yield the samples at these indices, batch by batch.

        Raises:
            TrainingError: a sample cannot be read.
        """
        self._sampler.batches = batches
        for batch in start_workers(self._loader):
            if isinstance(batch, TrainingError):
                try:
                    raise batch
                finally:
                    del batch  # or the error, its frames and the workers form a circle: see `_Sampler`
            yield batch.tree if isinstance(batch, Pinnable) else batch

    def close(self) -> None:
        """End the workers."""
        end_workers(self._loader)


def start_workers(loader: DataLoader[Any]) -> Iterator[Any]:
    """Start a pass of a loader; no stop signal reaches a worker before it has called `set_up_worker`."""
    if multiprocessing.get_start_method() == "forkserver":
        multiprocessing.set_forkserver_preload([__name__])  # else each worker imports torch by itself
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_workers(loader: DataLoader[Any]) -> None:
    """End the workers now: at the end of the process they would be waited for without being told to end."""
    iterator: Any = getattr(loader, "_iterator", None)
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()
    loader._iterator = None


def read_all(part: Part, num_workers: int) -> Batch:
    """Return all samples of a part as tensors; each that is not in memory is read once, in order.

    Raises:
        ConfigError: a sample cannot be read.
    """
    if part.tensors is not None:
        return part.tensors
    count, first = len(part), 0
    batches = [
        seeded(index.tolist(), "samples", number)
        for number, index in enumerate(torch.arange(count).split(LOADED_AT_ONCE))
    ]
    reader = BatchReader(part, num_workers, make_generator("load"))
    bar = partial(tqdm, desc="reading samples", total=len(batches), unit="batch", leave=False, disable=None, delay=2)
    whole: list[Tensor] = []
    structure = None
    try:
        for batch in bar(reader.read(batches)):
            # Each batch is copied to its place at once: concatenated at the end, the samples would need twice the
            # memory.
            leaves, structure = trees.flatten(batch)
            tensors = [leaf for leaf in leaves if leaf is not None]
            whole = whole or [values.new_empty(count, *values.shape[1:]) for values in tensors]
            for place, values in zip(whole, tensors, strict=True):
                if values.shape[1:] != place.shape[1:] or len(values) != len(batches[first // LOADED_AT_ONCE]):
                    raise _uneven()
                place[first : first + len(values)] = values
            first += len(tensors[0])
    except TrainingError as error:
        raise ConfigError(Problem("data", str(error), topic="data")) from error
    assert structure is not None
    filled = iter(whole)
    inputs, targets = trees.unflatten([None if leaf is None else next(filled) for leaf in leaves], structure)
    return inputs, targets


def _uneven() -> ConfigError:
    text = "data.in_memory=true: batches of the data set's `collate_fn` differ in shape"
    return ConfigError(Problem("data.in_memory", text, "write data.in_memory=false", topic="conflict"))


class _Fetcher(Dataset[Batch]):
    """A part behind the interface of `DataLoader`, which fetches a batch at a time.

    An error is returned, not raised: one that is raised in a worker arrives as text with a traceback in it.
    """

    def __init__(self, part: Part) -> None:
        self.part = part

    def __len__(self) -> int:
        return len(self.part)

    def __getitems__(self, indices: Indices) -> Any:
        try:
            batch = self.part.batch(indices)
            return batch if all(isinstance(tree, Tensor) for tree in batch) else Pinnable(batch)
        except TrainingError as error:
            return error


class Pinnable:
    """A batch of trees, which `DataLoader` pins by this method: by itself it leaves dataclasses as they are."""

    def __init__(self, tree: Batch) -> None:
        self.tree = tree

    def pin_memory(self) -> "Pinnable":
        """Copy all tensors to page-locked memory."""
        return Pinnable(trees.tree_map(Tensor.pin_memory, self.tree))


class _Sampler:
    """The batch sampler: yields the indices that the reader has set for this pass.

    It must not refer to the loader: in a circle of references the pipes to the workers may be closed before the
    workers are told to end, and each is then waited for 5 s.
    """

    def __init__(self) -> None:
        self.batches: list[Indices] = []

    def __iter__(self) -> Iterator[Indices]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def as_it_is(batch: Any) -> Any:
    """Collate nothing: a part makes its batches itself."""
    return batch


def set_up_worker(_: int) -> None:
    """Let a worker survive a stop signal for a while, and end with the training process.

    Ctrl-C and schedulers signal the whole process group. The training process finishes its step, and ends its workers
    itself; with SIGTERM too, if one does not answer.
    """
    Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(STOP_SECONDS))  # SIGALRM ends it in any state
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


def _end_with_parent() -> None:
    """End this process once the one that started it has ended, by SIGKILL too.

    torch's workers ask every 5 s whether their parent process is another one. With the start method forkserver that
    is the server, which lives as long as any worker: they would wait for each other for ever.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is started by multiprocessing"
    wait([parent.sentinel])
    os._exit(1)
