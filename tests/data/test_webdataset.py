"""`data=webdataset`: samples in tar files, local and at addresses, in an order that depends on seed and epoch alone."""

import io
import json
import os
import pickle
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import Called
from helpers.killed import assert_ended_the_same, measured
from helpers.problems import about, problem_of, problems_of
from helpers.ranks import start
from helpers.training import loaders, same
from runner.data import shard_files, shard_index
from runner.data.loading import WorkerLoader
from runner.data.sampling import Nearby, epoch_order
from runner.data.share import Share
from runner.data.source import Source
from runner.data.splitting import split
from runner.data.webdataset import webdataset
from runner.errors import TrainingError

pytest.importorskip("webdataset")

Sample = Mapping[str, bytes]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing goes to the user's cache; files that were just written are settled."""
    monkeypatch.setattr(shard_files, "DOWNLOADS", tmp_path / "cache")
    monkeypatch.setattr(shard_index, "DOWNLOADS", tmp_path / "cache")
    monkeypatch.setattr(shard_index, "RECENT_SECONDS", 0.0)
    return tmp_path / "cache"


def write(path: Path, samples: Mapping[str, Sample]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, files in samples.items():
            for ending, data in files.items():
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def npy(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(values))
    return file.getvalue()


def picture(number: int, form: str = "PNG", side: int = 6) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 60, (side, side, 3), np.uint8) + np.uint8(60 * (number % 3))
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def numbered(number: int) -> Sample:
    """A sample that tells which it is."""
    return {"npy": npy([np.float32(number), np.float32(number % 3)]), "cls": str(number % 3).encode()}


def shards(folder: Path, counts: Sequence[int], make: Callable[[int], Sample] = numbered) -> Path:
    first = 0
    for number, count in enumerate(counts):
        write(folder / f"train-{number:06}.tar", {f"s{at:05}": make(at) for at in range(first, first + count)})
        first += count
    return folder


def numbers(source: Source) -> list[int]:
    return [int(source.train[index][0][0]) for index in range(len(source.train))]


def test_braces_folders_and_lists_name_shards(tmp_path: Path) -> None:
    shards(tmp_path, (3, 2, 4))
    for path in (f"{tmp_path}/train-{{000000..000002}}.tar", str(tmp_path),
                 [f"{tmp_path}/train-000000.tar", f"{tmp_path}/train-{{000001,000002}}.tar"]):  # fmt: skip
        source = webdataset(path)
        assert numbers(source) == list(range(9))
        assert source.train.targets.tolist() == [number % 3 for number in range(9)]
    assert source.notes[0] == "9 samples in 3 shards train"


def test_images_are_pixels_and_words_are_classes(tmp_path: Path) -> None:
    def make(number: int) -> Sample:
        form, ending = (("JPEG", "jpg"), ("PNG", "png"))[number % 2]
        label = json.dumps({"label": {"name": "abc"[number % 3]}, "age": number / 2}).encode()
        return {ending: picture(number, form), "json": label}

    shards(tmp_path, (4, 5), make)
    source = webdataset(str(tmp_path), target="json.label.name", size=4)
    assert source.classes == ["a", "b", "c"] and source.train.targets.tolist() == [number % 3 for number in range(9)]
    assert all(source.train[index][0].shape == (3, 4, 4) for index in range(9))
    with Image.open(io.BytesIO(picture(1))) as image:
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.equal(webdataset(str(tmp_path), target="json.label.name").train[1][0], expected)
    ages = webdataset(str(tmp_path), target="json.age", inputs="jpg;png").train
    assert ages.targets.tolist() == [number / 2 for number in range(9)]
    assert webdataset(str(tmp_path), target="none").train[0].dtype == torch.uint8
    problem = problem_of(lambda: webdataset(str(tmp_path)))
    assert about([problem]) == [("data.target", "missing")] and "json.<" in problem.suggestion


def test_targets_may_be_arrays_and_inputs_texts(tmp_path: Path) -> None:
    shards(tmp_path / "arrays", (3,), lambda number: {"x.npy": npy([number]), "y.npy": npy([[number, 1]])})
    source = webdataset(str(tmp_path / "arrays"), inputs="x.npy", target="y.npy")
    assert source.train[2][1].tolist() == [[2, 1]]
    shards(tmp_path / "texts", (3,), lambda number: {"txt": b"to be or not to be", "cls": b"1"})
    problem = problem_of(lambda: webdataset(str(tmp_path / "texts")))
    assert about([problem]) == [("data.tokenizer", "missing")]


def test_texts_are_tokens_padded_to_the_longest_of_a_batch(tmp_path: Path) -> None:
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    words = {"[PAD]": 0, "[UNK]": 1, "to": 2, "be": 3}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]")
    fast.save_pretrained(tmp_path / "tokenizer")
    shards(tmp_path / "texts", (2,), lambda number: {"txt": ("to be or", "be")[number].encode(), "cls": b"1"})
    samples: Any = webdataset(str(tmp_path / "texts"), tokenizer=str(tmp_path / "tokenizer")).train
    inputs, targets = samples.collate_fn([samples[0], samples[1]])
    assert inputs["input_ids"].tolist() == [[2, 3, 1], [3, 0, 0]] and targets.tolist() == [1, 1]
    whole = webdataset(
        str(tmp_path / "texts"), tokenizer=str(tmp_path / "tokenizer"), padding="max_length", max_length=4
    )
    assert whole.train[1][0]["input_ids"].tolist() == [3, 0, 0, 0]


def test_an_index_is_remembered_and_one_of_another_file_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards(tmp_path / "a", (3, 2))
    webdataset(str(tmp_path / "a"))
    scanned: list[str] = []
    scan = shard_index._scan
    monkeypatch.setattr(
        shard_index, "_scan", lambda shard, target: scanned.append(shard.path.name) or scan(shard, target)
    )
    assert numbers(webdataset(str(tmp_path / "a"))) == [0, 1, 2, 3, 4] and scanned == []
    path = tmp_path / "a" / "train-000001.tar"
    before = path.stat()
    write(path, {f"s{number:05}": numbered(number) for number in (7, 8)})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert numbers(webdataset(str(tmp_path / "a"))) == [0, 1, 2, 7, 8] and set(scanned) == {path.name}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[: data.rindex(b"s00007.npy") + 552], "truncated"),
        (lambda data: data[:1300], "truncated"),
        (lambda data: data[: data.rindex(b"s00006.npy")], "truncated at byte"),
        (lambda data: data.replace(b"s00005.npy", b"s0000\xff.npy", 1), "damaged at byte"),
        (lambda data: b"", "is not a whole tar file"),
        (lambda data: b"<html>" * 1000, "is not a whole tar file"),
    ],
)  # fmt: skip
def test_a_damaged_shard_is_named(tmp_path: Path, damage: Callable[[bytes], bytes], words: str) -> None:
    shards(tmp_path, (3, 5))
    path = tmp_path / "train-000001.tar"
    path.write_bytes(damage(path.read_bytes()))
    problem = problem_of(lambda: webdataset(str(tmp_path)))
    assert about([problem]) == [("data.path", "file")]
    assert str(path) in problem.text and words in problem.text and "\n" not in problem.text


@pytest.mark.parametrize(
    ("path", "arguments", "key", "words"),
    [
        (None, {}, "data.path", "is not set"),
        ("no-{000..003}.tar", {}, "data.path", "3 more of 4 shards do not exist"),
        ("a.tar.gz", {}, "data.path", "is compressed"),
        (["train-000000.tar"] * 2, {}, "data.path", "twice"),
        ("train-000000.tar", {"inputs": "jpg"}, "data.inputs", "samples have cls, npy"),
        ("train-000000.tar", {"target": "label"}, "data.target", "samples have cls, npy"),
        ("train-000000.tar", {"tokenizer": "x"}, "data.tokenizer", "no texts"),
        ("lacks.tar", {}, "data.path", "sample b has no .cls"),
        ("empty.tar", {}, "data.path", "has no samples"),
        ("word.tar", {}, "data.path", "sample a has no cls: ValueError"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(here: Path, path: Any, arguments: dict[str, Any], key: str, words: str) -> None:
    shards(here, (3,))
    write(here / "lacks.tar", {"a": numbered(1), "b": {"npy": npy([1.0, 2.0])}})
    write(here / "empty.tar", {})
    write(here / "word.tar", {"a": {"npy": npy([1.0]), "cls": b"cat"}})
    problems = problems_of(lambda: webdataset(path, **arguments))
    assert [problem.key for problem in problems] == [key] and words in problems[0].text


def test_without_the_library_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "webdataset"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "webdataset", None)
    problem = problem_of(lambda: webdataset(str(shards(tmp_path, (3,)))))
    assert 'pip install "runner-torch[webdataset]"' in problem.suggestion


def test_a_sample_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    shards(tmp_path, (2, 3), lambda number: {"png": picture(number)[: 80 if number == 3 else None], "cls": b"1"})
    source = webdataset(str(tmp_path))
    with pytest.raises(TrainingError, match=r"train-000001\.tar: s00003\.png: an image cannot be read"):
        source.train[3]
    path = tmp_path / "train-000001.tar"
    path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(TrainingError, match=r"train-000001\.tar has changed since"):
        pickle.loads(pickle.dumps(source.train))[4]


# --- the order ---


def test_an_epoch_is_near_the_order_of_the_shards() -> None:
    files = torch.arange(20).repeat_interleave(50)
    orders = [epoch_order(1000, 3, epoch, nearby=Nearby(files, 40)) for epoch in (1, 2)]
    for order in orders:
        assert order.sort().values.tolist() == list(range(1000))
        open_at_once = [len(set((order[at : at + 40] // 50).tolist())) for at in range(0, 960, 40)]
        assert max(open_at_once) <= 4, "few files are read at a time"
        assert len({tuple(row) for row in (order.reshape(20, 50) // 50).tolist()}) == 20
    assert not torch.equal(*orders) and torch.equal(orders[0], epoch_order(1000, 3, 1, nearby=Nearby(files, 40)))
    some = Nearby(files, 40).take(list(range(0, 1000, 3)))
    assert epoch_order(334, 3, 1, nearby=some).sort().values.tolist() == list(range(334))
    assert torch.equal(epoch_order(1000, 3, 1, nearby=Nearby(files, 1000)), epoch_order(1000, 3, 1))


@pytest.mark.parametrize(
    ("ranks", "num_workers", "in_memory"),
    [(1, 0, True), (3, 0, False), (2, 2, False),
     *(pytest.param(ranks, workers, False, marks=pytest.mark.soak) for ranks in (1, 2, 3) for workers in (0, 1, 2))],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_ranks_and_workers_get_the_same_order(tmp_path: Path, ranks: int, num_workers: int, in_memory: bool) -> None:
    """Two shards, fewer than there may be readers; from the start, and from the middle of an epoch."""
    splits = split(webdataset(str(shards(tmp_path, (31, 22))), shuffle_window=8), val_fraction=0.1, limit=None, seed=0)
    order = epoch_order(48, 0, 2, nearby=splits.train.nearby)  # type: ignore[attr-defined]
    kept = torch.tensor([int(splits.train.sample(index)[0][0]) for index in range(48)])
    for first in (0, 2):
        shares = []
        for rank in range(ranks):
            made = loaders(splits, prepare=lambda targets, dtype: targets, batch_size=12, in_memory=in_memory, seed=0,
                           num_workers=num_workers, share=Share(rank, ranks)).train  # fmt: skip
            shares.append([inputs for inputs, _ in made.epoch(2, first)])
            made.close()
        read = torch.cat([torch.cat(parts) for parts in zip(*shares, strict=True)])
        expected = splits.normalize(torch.stack([kept, kept % 3], 1).float(), torch.float32)[order][12 * first :]
        assert same([read], [expected])


# --- addresses ---


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "served"))) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}", asked
        served.shutdown()


def test_shards_at_addresses_are_downloaded_once(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    address, asked = server
    shards(tmp_path / "served", (3, 2))
    path = f"{address}/train-{{000000..000001}}.tar"
    assert numbers(webdataset(path)) == numbers(webdataset(path)) == [0, 1, 2, 3, 4]
    assert sorted(asked) == ["/train-000000.tar", "/train-000001.tar"]
    problem = problem_of(lambda: webdataset(f"{address}/train-000007.tar"))
    assert "train-000007.tar cannot be downloaded" in problem.text and "404" in problem.text


def test_downloads_stay_within_their_limit(tmp_path: Path, own_cache: Path, server: tuple[str, list[str]]) -> None:
    address, asked = server
    shards(tmp_path / "served", (3, 3, 3))
    size = (tmp_path / "served" / "train-000000.tar").stat().st_size
    source = webdataset(f"{address}/train-{{000000..000002}}.tar", download_limit=2.5 * size / 1e9)
    assert numbers(source) == list(range(9)), "what has been removed is downloaded again"
    assert len(list(own_cache.glob("*/*.tar"))) == 2 and len(asked) >= 3


# --- runs ---


def failing(epoch: Callable[..., Iterator[Any]], batches: int) -> Callable[..., Iterator[Any]]:
    """A method `epoch` that fails in the second training epoch."""

    def replaced(self: WorkerLoader, number: int, start: int = 0) -> Iterator[Any]:
        for done, batch in enumerate(epoch(self, number, start)):
            if number == 2 and self.seed is not None and done == batches:
                raise TrainingError("a shard is away")
            yield batch

    return replaced


class TestRuns:
    ARGUMENTS = (
        "data=webdataset", "data.size=4", "data.batch_size=8", "model=mlp", "model.hidden=[8]", "tracking=off",
        "device=cpu", "device.threads=1", "precision=fp64", "trainer.epochs=2", "data.in_memory=false",
        "data.shuffle_window=10",
    )  # fmt: skip

    def test_a_run_that_fails_in_mid_epoch_is_resumed_bit_for_bit(
        self, here: Path, runner: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shards(here / "shards", (25, 20), lambda number: {"png": picture(number), "cls": str(number % 3).encode()})
        arguments = (*self.ARGUMENTS, "data.path=shards/train-{000000..000001}.tar", "trainer.checkpoint_every_steps=1")
        whole = runner(*arguments, "hydra.run.dir=whole")
        assert whole.code == 0, whole.err
        assert "45 samples in 2 shards train" in whole.err
        parts = ("data.val_path=shards/train-000001.tar", "data.test_path=shards/train-000001.tar")
        tested = runner(*arguments, "data.path=shards/train-000000.tar", *parts, "hydra.run.dir=tested")
        assert tested.code == 0 and "20 samples in 1 shard validate" in tested.err
        assert measured(here / "tested")["test/loss", 2] == measured(here / "tested")["val/loss", 2]
        listed = "data.path=[shards/train-000000.tar,shards/train-000001.tar]"
        assert runner(*arguments, listed, "trainer.max_steps=1", "hydra.run.dir=listed").code == 0
        with monkeypatch.context() as patch:
            patch.setattr(WorkerLoader, "epoch", failing(WorkerLoader.epoch, 3))
            assert runner(*arguments, "hydra.run.dir=part").code == 1
        progress = torch.load(here / "part" / "checkpoints" / "last.pt", weights_only=True)["progress"]
        assert (progress["epoch"], progress["batch"]) == (2, 3)
        resumed = runner("resume=part", "data.num_workers=1")
        assert resumed.code == 0, resumed.err
        assert_ended_the_same(here / "part", here / "whole")

    @pytest.mark.soak
    def test_two_ranks_measure_what_one_measures(self, here: Path, runner: Callable[..., Called]) -> None:
        shards(here / "shards", (25, 20), lambda number: {"png": picture(number), "cls": str(number % 3).encode()})
        arguments = (*self.ARGUMENTS, f"data.path={here}/shards")
        assert runner(*arguments, "hydra.run.dir=one").code == 0
        started = start(here / "two", "strategy=ddp", "strategy.nproc_per_node=2", *arguments)
        _, printed = started.communicate()
        assert started.returncode == 0, printed
        one, two = measured(here / "one"), measured(here / "two")
        assert one.keys() == two.keys()
        for key, value in one.items():
            assert two[key] == (value if "accuracy" in key[0] else pytest.approx(value, rel=1e-12)), key
