"""Streams: epochs that go on, workers with shares, and a place that a resumed run finds again."""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from conftest import Called
from helpers.faults import inject
from helpers.killed import assert_ended_the_same, measured
from helpers.problems import about, problem_of
from helpers.sweeping import Forked
from helpers.training import loaders, same
from runner.data.memory import decide_in_memory
from runner.data.source import Source
from runner.data.splits import Splits
from runner.data.splitting import split
from runner.data.stream_part import StreamPart
from runner.data.streaming import StreamLoader, StreamPosition
from runner.device import resolve
from runner.errors import TrainingError
from runner.util import trees


class Numbers(IterableDataset[Any]):
    """Counts from 0; each worker has every n-th number."""

    def __init__(self, count: int | None = 20, known: bool = False, shares: bool = True) -> None:
        self.count, self.shares = count, shares
        if known:
            self.__class__ = _Known

    def numbers(self) -> Iterator[int]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info is not None and self.shares else (0, 1)
        number = first
        while self.count is None or number < self.count:
            yield number
            number += step

    def __iter__(self) -> Iterator[Any]:
        for number in self.numbers():
            yield torch.tensor([float(number)]), number % 3


class _Known(Numbers):
    def __len__(self) -> int:
        assert self.count is not None
        return self.count


class Drawing(Numbers):
    """Adds what it draws at random, from every generator there is."""

    def __iter__(self) -> Iterator[Any]:
        for number in self.numbers():
            yield torch.tensor([number + float(torch.rand(())) + random.random() + float(np.random.rand())]), 0


class Shuffled(Numbers):
    """Orders each pass by its own generator, whose state no checkpoint holds."""

    def __init__(self, count: int = 20) -> None:
        super().__init__(count)
        self.rng = random.Random(3)

    def __iter__(self) -> Iterator[Any]:
        numbers = list(self.numbers())
        self.rng.shuffle(numbers)
        for number in numbers:
            yield torch.tensor([float(number)]), 0


class ByEpoch(Numbers):
    """Orders a pass by its number."""

    epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        numbers = list(self.numbers())
        random.Random(self.epoch).shuffle(numbers)
        for number in numbers:
            yield torch.tensor([float(number)]), 0


class Saving(Numbers):
    """Saves its place, and can go there without reading what is before it."""

    read = 0

    def __init__(self, count: int = 20) -> None:
        super().__init__(count)
        self.done, self.start = 0, 0

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = state["done"]

    def __iter__(self) -> Iterator[Any]:
        self.done, self.start = self.start, 0
        for number in list(self.numbers())[self.done :]:
            Saving.read += 1
            self.done += 1
            yield torch.tensor([float(number)]), 0


class Forgetful(Saving):
    """Saves a place that is wrong, as a stream with a buffer to shuffle in does."""

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = state["done"] + 2


def divided(stream: Any, samples: int | None = 32, **arguments: Any) -> Splits:
    values: dict[str, Any] = {"val_fraction": None, "limit": None, "seed": 0, "samples_per_epoch": samples}
    values |= arguments
    source = {name: values.pop(name) for name in ("val", "test", "classes", "collate_fn") if name in values}
    return split(Source("mine", stream, **source), **values)


def loader(stream: Any, samples: int | None = 32, batch_size: int = 4, **arguments: Any) -> StreamLoader:
    made = loaders(
        divided(stream, samples), prepare=lambda targets, dtype: targets, batch_size=batch_size, in_memory=False,
        **arguments,
    ).train  # fmt: skip
    assert isinstance(made, StreamLoader)
    return made


def numbers_of(batches: Iterator[Any]) -> list[list[float]]:
    return [inputs.flatten().tolist() for inputs, _ in batches]


STREAMS: list[Callable[[], Any]] = [Numbers, Drawing, Shuffled, ByEpoch, Saving, Forgetful]


def test_an_epoch_goes_on_where_the_last_one_stopped() -> None:
    made = loader(Numbers(20), samples=12)
    assert len(made) == 3 and made.samples == 12
    epochs = [numbers_of(made.epoch(epoch)) for epoch in (1, 2, 3)]
    assert epochs[0] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert epochs[1] == [[12, 13, 14, 15], [16, 17, 18, 19], [0, 1, 2, 3]]
    assert epochs[2][0] == [4, 5, 6, 7]


def test_an_endless_stream_has_epochs_too() -> None:
    made = loader(Numbers(None), samples=8)
    assert [numbers_of(made.epoch(epoch))[-1][-1] for epoch in (1, 2, 3)] == [7, 15, 23]


def test_a_stream_that_knows_its_length_has_an_epoch_of_one_pass() -> None:
    made = loader(Numbers(10, known=True), samples=None)
    assert len(made) == 3
    assert numbers_of(made.epoch(1)) == numbers_of(made.epoch(2)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(loader(Numbers(10, known=True), samples=8)) == 2, "unless it is said how long one is"


@pytest.mark.parametrize(
    ("stream", "num_workers"),
    [
        *((stream, 0) for stream in STREAMS),
        (Saving, 2),
        (Shuffled, 2),
        *(pytest.param(stream, workers, marks=pytest.mark.soak) for stream in STREAMS for workers in (1, 2, 3)),
    ],
)
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_resumed_run_gets_the_batches_that_were_left(stream: Callable[[], Any], num_workers: int) -> None:
    """At the start, within a pass, at its end where workers are through at different times, and in a later pass."""
    whole = loader(stream(), num_workers=num_workers)
    batches, states = [], []
    for epoch in (1, 2):
        for inputs, _ in whole.epoch(epoch):
            batches.append(inputs)
            states.append(whole.position.state_dict())
    whole.close()
    assert len(batches) == 16
    seen = torch.cat(batches).flatten().floor()
    if stream is not Drawing:
        assert seen[:20].sort().values.tolist() == list(range(20)), "each sample once a pass"
    resumed_at = range(16) if not num_workers else (0, 4, 5, 6, 11)
    for done in resumed_at:
        again = loader(stream(), num_workers=num_workers)
        assert again.data_set is not None
        again.data_set.load_state_dict(states[done])
        epoch, start = divmod(done + 1, 8)
        rest = [inputs for inputs, _ in again.epoch(epoch + 1, start)] if epoch < 2 else []
        again.close()
        assert same(rest, batches[done + 1 : 8 * (epoch + 1)])


def test_any_batch_can_be_asked_for_without_a_place_too() -> None:
    whole = loader(Shuffled())
    epochs = [numbers_of(whole.epoch(epoch)) for epoch in (1, 2)]
    assert numbers_of(loader(Shuffled()).epoch(2, 3)) == epochs[1][3:]
    assert numbers_of(whole.epoch(1, 5)) == epochs[0][5:] and numbers_of(whole.epoch(1)) == epochs[0]


def test_what_saves_its_place_reads_nothing_twice_and_what_does_it_wrongly_is_read_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for stream, saves in ((Saving(2000), True), (Forgetful(2000), False), (Numbers(2000), False)):
        splits = divided(stream, samples=400)
        assert isinstance(splits.train, StreamPart) and splits.train.saves() == saves
        assert ("its place is in the checkpoints" in splits.notes[0]) == saves
        made = loader(stream, samples=400)
        numbers_of(made.epoch(1))
        state = made.position.state_dict()
        again = loader(stream, samples=400)
        again.position.load_state_dict(state)
        caplog.clear()
        with caplog.at_level("INFO", "runner"):
            assert numbers_of(again.epoch(2, 99)) != []
        assert ("reads 400 samples of the stream again" in caplog.text) == (not saves)
    Saving.read = 0
    numbers_of(loader(Saving(2000), samples=400).epoch(2, 99))
    whole = Saving.read
    again = loader(Saving(2000), samples=400)
    again.position.load_state_dict(
        {"batches": 199, "pass": 0, "turn": 0, "places": [{"samples": 796, "state": {"done": 796}}]}
    )
    Saving.read = 0
    assert numbers_of(again.epoch(2, 99)) == [[796.0, 797.0, 798.0, 799.0]] and Saving.read < whole - 790


def test_random_numbers_depend_on_seed_pass_and_sample_alone() -> None:
    torch.manual_seed(1)
    one = numbers_of(loader(Drawing(8), samples=16).epoch(1))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    made = loader(Drawing(8), samples=16)
    assert numbers_of(made.epoch(1)) == one and one[:2] != one[2:]
    assert torch.equal(torch.get_rng_state(), before), "nothing is taken from what dropout draws from"
    assert numbers_of(loader(Drawing(8), samples=16, seed=4).epoch(1)) != one


def test_a_checkpoint_of_other_workers_is_refused() -> None:
    state = loader(Numbers(), num_workers=2).position.state_dict()
    for processes in (0, 1, 3):
        with pytest.raises(TrainingError, match=r"write data\.num_workers=2"):
            StreamPosition(processes).load_state_dict(state)


@pytest.mark.parametrize("stream", [Numbers(shares=False), Drawing(shares=False)])
def test_workers_that_would_read_the_same_samples_are_refused(stream: Any) -> None:
    problem = problem_of(lambda: loader(stream, num_workers=2))
    assert about([problem]) == [("data.num_workers", "conflict")]
    assert "write data.num_workers=1" in problem.suggestion and "get_worker_info" in problem.suggestion
    assert len(numbers_of(loader(stream, num_workers=1).epoch(1))) == 8, "as it says"


def test_a_validation_stream_is_one_pass_each_time() -> None:
    for num_workers in (0, 2):
        splits = divided(Numbers(), val=Drawing(10), test=Saving(10))
        made = loaders(splits, prepare=lambda targets, dtype: targets, in_memory=False, num_workers=num_workers)
        assert splits.sizes == {"train": 32, "val": 0, "test": 0} and splits.val_fraction is None
        assert list(made.data_sets()) == ["train"]
        for part, seen in ((made.val, 10), (made.test, 10)):
            assert part is not None
            first, second = (torch.cat([inputs for inputs, _ in part.epoch(0)]) for _ in range(2))
            assert len(first) == part.samples == seen and torch.equal(first, second)
        in_order = made.train.in_order(8)
        assert sum(len(inputs) for inputs, _ in in_order.epoch(0)) == 20
        in_order.close()
        made.close()


def test_trees_stream_too() -> None:
    class Dicts(Numbers):
        def __iter__(self) -> Iterator[Any]:
            for number in self.numbers():
                yield {"ids": list(range(1 + number % 3)), "name": number}

    def pad(items: list[Any]) -> dict[str, Any]:
        ids = [torch.tensor(item["ids"]) for item in items]
        return {"ids": torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)}

    for num_workers in (0, 1):
        splits = divided(Dicts(), collate_fn=pad)
        made = loaders(splits, prepare=lambda targets, dtype: targets, in_memory=False, num_workers=num_workers)
        batches = list(made.train.epoch(1))
        assert {trees.shapes(inputs)["ids"] for inputs, _ in batches} >= {(7, 3)}
        assert all(targets is None for _, targets in batches)
        made.close()


def test_the_first_samples_stand_for_a_stream() -> None:
    splits = divided(Numbers(), classes=["a", "b", "c"])
    assert splits.input_shape == (1,) and splits.example(3)[0].shape == (3, 1)
    assert len(splits.fingerprint) == 32 and splits.fingerprint != divided(Numbers(19)).fingerprint
    fitted = split(Source("mine", Numbers(), mean=None, std=None), val_fraction=None, limit=None, seed=0,
                   samples_per_epoch=8).normalize  # fmt: skip
    assert fitted.mean.item() == 9.5
    assert splits.targets().tolist() == [number % 3 for number in range(20)]
    problem = problem_of(lambda: divided(Numbers()).targets())
    assert about([problem]) == [("data", "code")] and "Source(classes=[" in problem.suggestion


@pytest.mark.parametrize(
    ("make", "key", "topic"),
    [
        (lambda: divided(Numbers(), samples=None), "trainer.steps_per_epoch", "missing"),
        (lambda: divided((torch.zeros(4, 2), torch.zeros(4))), "trainer.steps_per_epoch", "conflict"),
        (lambda: divided(Numbers(), val_fraction=0.2), "data.val_fraction", "conflict"),
        (lambda: divided(Numbers(), limit=5), "data.limit", "conflict"),
        (lambda: divided((torch.zeros(4, 1), torch.zeros(4)), None, val=Numbers(), limit=5), "data.limit", "conflict"),
        (lambda: divided(iter(Numbers())), "data", "code"),
        (lambda: divided(DataLoader(Numbers())), "data", "code"),
        (lambda: divided(Numbers(0)), "data", "data"),
        (lambda: decide_in_memory(True, divided(Numbers()), torch.float32, resolve("cpu", threads=1)),
         "data.in_memory", "conflict"),
    ],
)  # fmt: skip
def test_what_a_stream_cannot_be_is_refused(make: Callable[[], Any], key: str, topic: str) -> None:
    assert about([problem_of(make)]) == [(key, topic)]


def test_settings_that_stay_at_their_defaults_are_no_error() -> None:
    assert divided(Numbers(), val_fraction=0).val is None
    assert not decide_in_memory("auto", divided(Numbers()), torch.float32, resolve("cpu", threads=1))


def test_a_stream_that_is_used_up_says_so() -> None:
    class Once(Numbers):
        used = False

        def __iter__(self) -> Iterator[Any]:
            if not self.used:
                self.used = True
                yield from super().__iter__()

    made = loader(Once(8), samples=16)
    with pytest.raises(TrainingError, match="pass 2 over the stream has no samples"):
        numbers_of(made.epoch(1))
    gone = loader(Missing(), samples=100)
    with pytest.raises(TrainingError, match=r"part-9\.csv: No such file"):
        numbers_of(gone.epoch(1))


class Missing(Numbers):
    def __iter__(self) -> Iterator[Any]:
        for number in range(90):
            yield torch.tensor([float(number)]), 0
        raise FileNotFoundError(2, "No such file or directory", "part-9.csv")


CHANGES: dict[str, Callable[[Any], Any]] = {
    "plain": lambda rows: rows,
    "mapped": lambda rows: rows.map(_doubled).filter(_is_even),
    "shuffled": lambda rows: rows.shuffle(seed=1, buffer_size=8),
    "shuffled and mapped": lambda rows: rows.shuffle(seed=1, buffer_size=8).map(_doubled),
}


def _doubled(row: Any) -> Any:
    return {"labels": row["labels"] * 2}


def _is_even(row: Any) -> bool:
    return bool(row["labels"] % 2 == 0)


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.soak)])
@pytest.mark.parametrize("change", CHANGES)
def test_a_hugging_face_stream_is_resumed_exactly(change: str, num_workers: int) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"x": [[float(n)] for n in range(30)], "labels": list(range(30))})

    def made() -> StreamLoader:
        stream = CHANGES[change](rows.to_iterable_dataset(num_shards=4).with_format("torch"))
        splits = divided(stream, samples=32, divide=lambda item: (item["x"], item["labels"]))
        part = splits.train
        assert isinstance(part, StreamPart) and part.saves() == ("shuffled" not in change)
        made = loaders(splits, prepare=lambda targets, dtype: targets, batch_size=4, in_memory=False,
                       num_workers=num_workers).train  # fmt: skip
        assert isinstance(made, StreamLoader)
        return made

    whole, batches, states = made(), [], []
    for epoch in (1, 2, 3):
        for _, targets in whole.epoch(epoch):
            batches.append(targets)
            states.append(whole.position.state_dict())
    whole.close()
    factor = 2 if "mapped" in change else 1
    for first in (0, 30, 60):  # a pass is whole; a loaded state must not shorten the later ones
        assert sorted(torch.cat(batches)[first : first + 30].tolist()) == [number * factor for number in range(30)]
    for done in (2, 9, 17):
        again = made()
        again.position.load_state_dict(states[done])
        epoch, start = divmod(done + 1, 8)
        assert same([targets for _, targets in again.epoch(epoch + 1, start)], batches[done + 1 : 8 * (epoch + 1)])
        if epoch < 2:
            assert same([targets for _, targets in again.epoch(epoch + 2)], batches[8 * (epoch + 1) : 8 * (epoch + 2)])
        again.close()


USERS = """
import os, random, signal
import torch
from torch.utils.data import IterableDataset, get_worker_info
from runner.data.source import Source

class Blobs(IterableDataset):
    def __init__(self, saves):
        self.done, self.start, self.passes, self.rng = 0, 0, 0, random.Random(1)
        if saves:
            self.state_dict, self.load_state_dict = self._state, self._load

    def _state(self):
        return {"done": self.done, "passes": self.passes}

    def _load(self, state):
        self.start, self.passes = state["done"], state["passes"] - 1

    def __iter__(self):
        self.done, self.start = self.start, 0
        self.passes += 1
        info = get_worker_info()
        mine = range(info.id, 60, info.num_workers) if info else range(60)
        for number in list(mine)[self.done:]:
            self.done += 1
            if self.passes == 3 and number > 50 and os.path.exists("kill"):
                os.remove("kill")
                os.kill(os.getppid() if info else os.getpid(), signal.SIGKILL)
            label = number % 3
            yield torch.randn(4) + 2 * torch.eye(3, 4)[label], label

def stream(saves=True, **_):
    return Source("stream", Blobs(saves), val=Blobs(saves), classes=["a", "b", "c"])
"""


@pytest.mark.parametrize(
    ("saves", "num_workers"), [("true", 0), *(pytest.param(saves, workers, marks=pytest.mark.soak)
                                              for saves in ("true", "false") for workers in (0, 1, 2))]
)  # fmt: skip
def test_a_run_on_a_stream_that_is_killed_is_resumed_bit_for_bit(
    saves: str, num_workers: int, here: Path, runner: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "streams.py").write_text(USERS)
    monkeypatch.syspath_prepend(here)
    arguments = (
        "data._target_=streams.stream", f"+data.saves={saves}", f"data.num_workers={num_workers}", "data.batch_size=8",
        "trainer.steps_per_epoch=3", "trainer.grad_accumulation=2", "trainer.epochs=4", "trainer.log_every_steps=1",
        "trainer.checkpoint_every_steps=1", "model.hidden=[8]", "model.dropout=0.2", "tracking=off", "device.threads=1",
    )  # fmt: skip
    whole = runner(*arguments, "hydra.run.dir=whole")
    assert whole.code == 0, whole.err
    (here / "kill").touch()
    killed = Forked(here, *arguments, "hydra.run.dir=killed", prepare=inject(None))
    code, printed = killed.wait(60)
    assert code and not (here / "kill").exists(), printed
    progress = torch.load(here / "killed" / "checkpoints" / "last.pt", weights_only=True)["progress"]
    assert progress["step"] > 3 and (progress["batch"] or num_workers), "in mid-epoch"
    wrong = f"data.num_workers={num_workers + 1}"
    while (refused := runner("resume=killed", wrong)).about == [("", "run")]:  # until the workers have noticed
        time.sleep(0.2)
    assert refused.code == 2 and refused.about == [("data.num_workers", "conflict")]
    resumed = runner("resume=killed")
    assert resumed.code == 0, resumed.err
    assert ("of the stream again" in resumed.err) == (saves == "false")
    assert_ended_the_same(here / "killed", here / "whole")
    assert measured(here / "whole")["val/accuracy", 4] > 0.5


def test_a_stream_without_a_length_asks_for_one(
    here: Path, runner: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "streams.py").write_text(USERS)
    monkeypatch.syspath_prepend(here)
    called = runner("data._target_=streams.stream")
    assert called.code == 2 and called.about == [("trainer.steps_per_epoch", "missing")]
    called = runner("trainer.steps_per_epoch=3")
    assert called.code == 2 and called.about == [("trainer.steps_per_epoch", "conflict")]
    assert not (here / "outputs").exists()
