"""How workers and ranks share a stream: each of its samples is read by one of them."""

from collections.abc import Callable, Mapping
from hashlib import blake2b
from itertools import combinations, islice
from typing import Any

from runner.data.collate import Batch
from runner.data.listing import list_names
from runner.data.part import equal
from runner.data.split_checks import LABELS
from runner.data.stream_part import StreamPart
from runner.data.stream_reader import Read, StreamReader
from runner.data.streaming import make_loader
from runner.data.workers import end_workers, start_workers
from runner.errors import ConfigError, Problem, TrainingError
from runner.util import trees


def check_shares(part: StreamPart, batch_size: int, num_workers: int, label: str) -> None:
    """Check that several workers do not read the same samples: let each read a batch, with equal random numbers.

    Raises:
        ConfigError: two of them read the same, or one cannot be read.
    """
    if num_workers < 2:
        return
    reader = StreamReader(part, batch_size, 0, repeats=False)
    reader.alike = True
    loader = make_loader(reader, num_workers)
    try:
        reads = list(islice(start_workers(loader), num_workers))
        batches = [batch for read in reads if (batch := _batch_of(part, read)) is not None]
    except TrainingError as error:
        raise ConfigError(Problem("data", str(error), topic="data")) from error
    finally:
        end_workers(loader)
    for one, other in combinations(batches, 2):
        if all(map(equal, trees.leaves(one), trees.leaves(other))):
            key = "data.num_workers"
            text = f"{key}={num_workers}: {label} gives each worker the same samples"
            instead = f"write {key}=1, or let its __iter__ yield a share, by torch.utils.data.get_worker_info()"
            raise ConfigError(Problem(key, text, instead, topic="conflict"))


def _batch_of(part: StreamPart, read: Read | TrainingError) -> Batch | None:
    """Return the first samples of a worker; None if it has none."""
    if isinstance(read, TrainingError):
        raise read
    return part.make_batch(read.rest) if read.rest else read.batch


def divide(parts: Mapping[str, StreamPart], gather: Callable[[Any], list[Any]]) -> list[str]:
    """Find out, together with the other ranks, which streams give each rank other samples.

    Of the others, each rank keeps every n-th sample.

    Args:
        parts: the streams by the names of their parts.
        gather: returns what all ranks pass to it, in their order.

    Returns:
        Notes for the user.

    Raises:
        ConfigError: some samples would be read by two ranks.
    """
    problems, notes = [], []
    for name, part in parts.items():
        label = f"the {LABELS[name]} stream"
        first = _digest(part.again())  # rank 0 has not joined the others when it first reads a sample
        found = gather((first, first == _digest(part.again()), part.length))
        digests, repeatable, lengths = zip(*found, strict=True)
        same = [(one, other) for one, other in combinations(range(len(found)), 2) if digests[one] == digests[other]]
        if len(set(lengths)) > 1:
            text = f"{label} has the lengths {list_names(map(str, lengths))} on the ranks"
            problems.append(_problem(text, "let __len__ return the number of samples of all ranks together"))
        elif len(set(digests)) == 1:
            notes.append(f"{label}: each rank reads all of it, and keeps one sample of {len(found)}")
        elif not all(repeatable):
            text = f"{label} has other samples each time, and ranks could read some of them twice"
            problems.append(_problem(text, "let it draw from torch, numpy.random or random, which are seeded"))
        elif same:
            text = f"ranks {same[0][0]} and {same[0][1]} read the same samples of {label}"
            problems.append(_problem(text, "let its __iter__ yield a share by torch.distributed.get_rank(), or all"))
        else:
            part.divides_itself = True
    if problems:
        raise ConfigError(*problems)
    return notes


def _digest(part: StreamPart) -> bytes:
    """Hash the first samples of a stream."""
    digest = blake2b()
    part.hash_into(digest)
    return digest.digest()


def _problem(text: str, suggestion: str) -> Problem:
    return Problem("data", text, suggestion, topic="code")
