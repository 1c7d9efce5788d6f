"""Streams that several ranks read: each sample once a pass, by the rank's own division or every n-th of all."""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset, get_worker_info

from conftest import Called
from helpers.killed import measured
from helpers.problems import about, problem_of
from helpers.ranks import start
from helpers.training import same
from runner.data.collate import Batch
from runner.data.preprocess import Preprocess
from runner.data.share import Padding, Share
from runner.data.source import Source
from runner.data.splitting import split
from runner.data.stream_part import StreamPart
from runner.data.stream_shares import divide
from runner.data.streaming import StreamLoader

SAMPLES = 53


class Numbers(IterableDataset[Any]):
    """Counts from 0, and draws; `rank` and `ranks` are those that it divides itself by."""

    def __init__(self, count: int = SAMPLES, rank: int = 0, ranks: int = 1) -> None:
        self.count, self.rank, self.ranks = count, rank, ranks

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info is not None else (0, 1)
        for number in range(self.rank * step + first, self.count, step * self.ranks):
            yield torch.tensor([number + float(torch.rand(())) / 2]), 0


class Restless(Numbers):
    """Begins elsewhere each time, by a generator that nobody seeds."""

    def __iter__(self) -> Iterator[Any]:
        start = random.SystemRandom().randrange(1, 10**9)
        yield from ((torch.tensor([float(start + number)]), 0) for number in range(self.count))


def part_of(stream: Any, samples: int | None = None) -> StreamPart:
    part = split(Source("mine", stream), val_fraction=None, limit=None, seed=0, samples_per_epoch=samples).train
    assert isinstance(part, StreamPart)
    return part


def loader(part: StreamPart, share: Share, num_workers: int = 0, batch_size: int = 12) -> StreamLoader:
    splits = split(Source("mine", part.stream), val_fraction=None, limit=None, seed=0, samples_per_epoch=8)
    preprocess = Preprocess(splits.normalize, lambda targets, _: targets, torch.device("cpu"), torch.float32)
    return StreamLoader(part, preprocess, batch_size, 0, True, num_workers, share=share)


def counted(batches: list[Batch]) -> list[Any]:
    """The inputs of the batches that count."""
    return [inputs for inputs, _ in (batch for batch in batches if not isinstance(batch, Padding))]


def divided(make: Callable[[int], Any], ranks: int, num_workers: int, batch_size: int = 12) -> list[StreamLoader]:
    """The loaders of all ranks, which have agreed on their shares."""
    parts = [part_of(make(rank)) for rank in range(ranks)]
    agree(parts)
    return [loader(part, Share(rank, ranks), num_workers, batch_size) for rank, part in enumerate(parts)]


def agree(parts: list[StreamPart]) -> list[str]:
    """Let ranks divide a stream among them, one after another."""
    said: list[Any] = []
    for part in parts:
        divide({"train": part}, lambda value: said.append(value) or [value] * len(parts))  # type: ignore[func-returns-value]
    for part in parts:
        part.divides_itself = False
    return [note for part in parts for note in divide({"train": part}, lambda _: said)]


MAKE: dict[str, Callable[[int], Any]] = {
    "every n-th": lambda rank: Numbers(),
    "own division": lambda rank: Numbers(rank=rank, ranks=3),
}


@pytest.mark.parametrize(
    ("ranks", "num_workers", "kind"),
    [
        (2, 0, "every n-th"),
        (3, 0, "own division"),
        (2, 2, "every n-th"),
        *(pytest.param(ranks, workers, "every n-th", marks=pytest.mark.soak) for ranks in (1, 2, 3)
          for workers in (0, 1, 2)),
        *(pytest.param(3, workers, "own division", marks=pytest.mark.soak) for workers in (1, 2)),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_ranks_read_every_sample_once_an_epoch_after_a_resume_too(ranks: int, num_workers: int, kind: str) -> None:
    loaders = divided(MAKE[kind], ranks, num_workers)
    epochs: list[list[Any]] = []
    states = []
    for made in loaders:
        epochs.append([])
        for epoch in (1, 2):
            batches = []
            for number, batch in enumerate(made.epoch(epoch)):
                batches.append(batch)
                if (epoch, number) in ((2, 2), (2, 4)):
                    states.append(made.position.state_dict())
            epochs[-1].append(batches)
            assert len(batches) == len(made) == -(-SAMPLES // 12)
            assert all(len(inputs) <= 12 // ranks for inputs, _ in batches)
        made.close()
    for epoch in (0, 1):
        read = torch.cat([inputs for own in epochs for inputs in counted(own[epoch])]).flatten()
        assert read.floor().sort().values.tolist() == list(range(SAMPLES))
        assert num_workers or sum(map(len, counted(epochs[0][epoch]))) == -(-SAMPLES // ranks)
    assert not same(counted(epochs[0][0]), counted(epochs[0][1])), "draws are those of the pass"
    for rank, made in enumerate(divided(MAKE[kind], ranks, num_workers)):
        for done, start_at in zip((3, 5), states[2 * rank : 2 * rank + 2], strict=True):
            made.position.load_state_dict(start_at)
            assert same(counted(list(made.epoch(2, done))), counted(epochs[rank][1][done:]))
            assert same(
                counted(list(made.epoch(3))), counted(list(loader(made.part, made.share, num_workers).epoch(3)))
            )
        made.close()


def test_two_ranks_have_the_batches_of_one() -> None:
    (one,), two = divided(MAKE["every n-th"], 1, 0), divided(MAKE["every n-th"], 2, 0)
    for epoch in (1, 2):
        for whole, *shares in zip(*(made.epoch(epoch) for made in (one, *two)), strict=True):
            assert torch.equal(torch.cat(counted(shares)).sort(0).values, whole[0].sort(0).values)


def test_an_epoch_of_one_batch_is_a_pass_too() -> None:
    loaders = divided(lambda rank: Numbers(9), 2, 0)
    for epoch in (1, 2, 3):
        read = torch.cat([inputs for made in loaders for inputs in counted(list(made.epoch(epoch)))])
        assert read.flatten().floor().sort().values.tolist() == list(range(9))


def test_with_steps_per_epoch_passes_follow_one_another() -> None:
    part = part_of(Numbers(10), samples=24)
    made = loader(part, Share(1, 2))
    assert [inputs.flatten().floor().tolist() for inputs, _ in made.epoch(1)] == [[1, 3, 5, 7, 9], [1, 3, 5, 7, 9]]


@pytest.mark.parametrize(
    ("make", "topic", "words"),
    [
        (lambda rank: Restless(), "code", "other samples each time"),
        (lambda rank: Numbers(rank=rank % 2, ranks=2), "code", "ranks 0 and 2 read the same samples"),
        (lambda rank: Numbers(SAMPLES + rank, rank=rank, ranks=3), "code", "lengths 53, 54, 55"),
    ],
)
def test_samples_that_would_be_read_twice_are_refused(make: Callable[[int], Any], topic: str, words: str) -> None:
    problem = problem_of(lambda: agree([part_of(make(rank)) for rank in range(3)]))
    assert about([problem]) == [("data", topic)] and words in problem.text


def test_a_stream_that_does_not_know_of_ranks_says_who_reads_what() -> None:
    assert agree([part_of(Numbers()) for _ in range(2)])[0].endswith("keeps one sample of 2")
    assert agree([part_of(Numbers(rank=rank, ranks=2)) for rank in range(2)]) == []


STREAM = """
import os, time
import torch
from torch.utils.data import IterableDataset, get_worker_info
from runner.data.source import Source

class Blobs(IterableDataset):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __iter__(self):
        info = get_worker_info()
        for number in range(info.id, self.count, info.num_workers) if info else range(self.count):
            label = number % 3
            time.sleep(0.02 * os.path.exists("slow"))
            yield torch.randn(4) + 2 * torch.eye(3, 4)[label], label

def stream(**_):
    return Source("stream", Blobs(53), val=Blobs(31), test=Blobs(7), classes=["a", "b", "c"])
"""


class TestRuns:
    ARGUMENTS = (
        "data._target_=shared_streams.stream", "data.batch_size=12", "model.hidden=[8]", "tracking=off", "device=cpu",
        "device.threads=1", "precision=fp64", "trainer.epochs=3", "trainer.checkpoint_every_steps=1",
        "trainer.grad_accumulation=2",
    )  # fmt: skip

    @pytest.fixture
    def folder(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        (here / "shared_streams.py").write_text(STREAM)
        monkeypatch.syspath_prepend(here)
        return here

    def start(self, folder: Path, *arguments: str) -> str:
        started = start(folder, "strategy=ddp", "strategy.nproc_per_node=2", *self.ARGUMENTS, *arguments)
        _, printed = started.communicate()
        assert started.returncode == 0, printed
        return printed

    @pytest.mark.soak
    def test_two_ranks_measure_what_one_measures(self, folder: Path, runner: Callable[..., Called]) -> None:
        assert "keeps one sample of 2" in self.start(folder / "two")
        called = runner(*self.ARGUMENTS, "hydra.run.dir=one")
        assert called.code == 0, called.err
        one, two = measured(folder / "one"), measured(folder / "two")
        assert one.keys() == two.keys() and ("test/loss", 3) in one
        for key, value in one.items():
            assert two[key] == (value if "accuracy" in key[0] else pytest.approx(value, rel=1e-12)), key

    @pytest.mark.soak
    def test_one_that_differs_each_time_is_refused_in_one_line(self, folder: Path) -> None:
        restless = STREAM.replace("range(self.count):", "os.urandom(self.count):")
        (folder / "shared_streams.py").write_text(restless)
        started = start(folder / "two", "strategy=ddp", "strategy.nproc_per_node=2", *self.ARGUMENTS)
        _, printed = started.communicate()
        assert started.returncode == 2, printed
        assert "error: the training stream has other samples each time" in printed
        assert "Traceback" not in printed

    @pytest.mark.soak
    def test_another_number_of_ranks_goes_on_with_the_samples_that_are_left(self, folder: Path) -> None:
        self.start(folder / "run", "trainer.epochs=2")
        resumed = start(folder / "run", "strategy.nproc_per_node=3", "trainer.epochs=3")
        _, printed = resumed.communicate()
        assert resumed.returncode == 0, printed
        assert "saved by 2 ranks, resumed by 3" in printed
        assert "reads 120 samples of the stream again" in printed
        assert ("test/loss", 3) in measured(folder / "run")

    @pytest.mark.soak
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_a_run_stopped_in_mid_epoch_is_resumed_bit_for_bit(self, folder: Path, num_workers: int) -> None:
        more = (f"data.num_workers={num_workers}", "trainer.log_every_steps=1")
        self.start(folder / "whole", *more)
        (folder / "slow").touch()
        stopped = start(folder / "part", "strategy=ddp", "strategy.nproc_per_node=2", *self.ARGUMENTS, *more)
        journal = folder / "part" / "metrics.jsonl"
        while not journal.exists() or "train/loss_step" not in journal.read_text():
            time.sleep(0.05)
        stopped.terminate()
        _, printed = stopped.communicate()
        assert stopped.returncode == 143, printed
        (folder / "slow").unlink()
        progress = torch.load(folder / "part" / "checkpoints" / "last.pt", weights_only=True)["progress"]
        assert progress["epoch"] == 1 and progress["batch"], "in mid-epoch"
        resumed = start(folder / "part", "strategy.nproc_per_node=2")
        _, printed = resumed.communicate()
        assert resumed.returncode == 0, printed
        whole, part = (
            torch.load(folder / name / "checkpoints" / "last.pt", weights_only=True)["model"]
            for name in ("whole", "part")
        )
        assert all(torch.equal(whole[key], part[key]) for key in whole)
