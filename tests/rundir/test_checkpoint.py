import errno
import mmap
import os
import pickle
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runner.errors import TrainingError
from runner.rundir.checkpoint import Checkpoints
from runner.rundir.checkpoint_file import FORMAT, KEYS, OF_SHARDS, CheckpointError, load
from runner.util.rng import rng_state, set_rng_state
from runner.util.snapshot import snapshot


def state(number: int) -> dict[str, Any]:
    return {
        **dict.fromkeys(KEYS),
        "model": {"w": torch.full((1000,), float(number))},
        "progress": {"epoch": number},
        "format": FORMAT,
    }


def number(path: Path) -> int:
    return load(path)["progress"]["epoch"]


def test_the_last_ones_are_kept_and_the_best_is_one_of_them_or_older(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    for epoch in range(1, 6):
        checkpoints.save(state(epoch), best=epoch == 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.pt", "last-1.pt", "last-2.pt", "last.pt"]
    assert [number(tmp_path / n) for n in ("last.pt", "last-1.pt", "last-2.pt", "best.pt")] == [5, 4, 3, 2]


def test_a_file_system_without_links_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(state(1), best=True)
    checkpoints.save(state(2), best=False)
    assert [number(tmp_path / n) for n in ("last.pt", "last-1.pt", "best.pt")] == [2, 1, 1]


def test_a_kill_between_the_best_and_the_last_repeats_the_epoch_that_is_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1), best=True)
    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target == checkpoints.last:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(state(2), best=True)
    # The run goes on from 1, trains 2 again and finds it the best again.
    assert (number(checkpoints.last), number(checkpoints.best)) == (1, 2)


def test_what_was_measured_is_on_the_disk_before_a_checkpoint(tmp_path: Path) -> None:
    seen: list[bool] = []
    checkpoints = Checkpoints(tmp_path, before=lambda: seen.append((tmp_path / "last.pt").exists()))
    checkpoints.save(state(1), best=False)
    assert seen == [False]


def full_disk(*arguments: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_write_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1), best=True)
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(TrainingError, match=r"No space left on device; .*last\.pt"):
        checkpoints.save(state(2), best=True)
    assert not list(tmp_path.glob(".*")), "what was written is not left to fill the disk"
    assert number(checkpoints.last) == number(checkpoints.best) == 1


class TestWrittenBeside:
    """A large state is written by a thread, from a copy."""

    @pytest.fixture
    def disk(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
        """A disk that is not ready until the event is set; each state counts as a large one."""
        ready = threading.Event()
        flush = os.fsync

        def flushed(file: int) -> None:
            assert ready.wait(30)
            flush(file)

        monkeypatch.setattr(os, "fsync", flushed)
        monkeypatch.setattr("runner.rundir.checkpoint.LARGE", 1)
        yield ready
        ready.set()

    def test_the_file_is_the_state_as_it_was(self, tmp_path: Path, disk: threading.Event) -> None:
        made = state(1)
        weights = made["model"]["w"]
        made["model"] |= {"tied": weights, "view": weights[3:9:2], "matrix": weights.view(10, 100).t()}
        made["progress"] |= {"metrics": [1.0, {"loss": 2.0}], "raw": bytearray(b"12")}
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(made, best=True, wait=False)
        weights.zero_()
        made["progress"]["metrics"][1]["loss"] = 0.0
        made["progress"]["metrics"].append(3.0)
        made["progress"]["raw"][0] = 0
        made["model"].clear()
        assert not checkpoints.last.exists()
        disk.set()
        checkpoints.wait()
        for path in (checkpoints.last, checkpoints.best):
            saved = load(path)
            model = saved["model"]
            assert saved["progress"] == {"epoch": 1, "metrics": [1.0, {"loss": 2.0}], "raw": bytearray(b"12")}
            assert (model["w"].sum(), model["view"].tolist(), model["matrix"].stride()) == (1000, [1.0] * 3, (1, 100))
            assert len({tensor.untyped_storage().data_ptr() for tensor in model.values()}) == 1

    def test_it_is_the_same_file(self, tmp_path: Path, disk: threading.Event) -> None:
        disk.set()
        for name, wait in (("beside", False), ("at once", True)):
            checkpoints = Checkpoints(tmp_path / name)
            checkpoints.save(state(1), best=False, wait=wait)
            checkpoints.wait()
        assert (tmp_path / "beside" / "last.pt").read_bytes() == (tmp_path / "at once" / "last.pt").read_bytes()

    def test_the_next_one_waits_and_so_does_who_asks_for_the_newest(
        self, tmp_path: Path, disk: threading.Event
    ) -> None:
        checkpoints = Checkpoints(tmp_path, keep=2)
        checkpoints.save(state(1), best=False, wait=False)
        threading.Timer(0.2, disk.set).start()
        checkpoints.save(state(2), best=False, wait=False)
        assert number(checkpoints.newest() or tmp_path) == 2
        assert number(tmp_path / "last-1.pt") == 1

    def test_a_write_that_fails_is_told_at_the_next_wait_once(
        self, tmp_path: Path, disk: threading.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        disk.set()
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(state(1), best=True, wait=False)
        checkpoints.wait()
        monkeypatch.setattr(os, "fsync", full_disk)
        for wait in (checkpoints.wait, checkpoints.newest, lambda: checkpoints.save(state(3), best=True)):
            checkpoints.save(state(2), best=True, wait=False)
            with pytest.raises(TrainingError, match=r"No space left on device; .*last\.pt"):
                wait()
            checkpoints.wait()
            assert not list(tmp_path.glob(".*"))
            assert number(checkpoints.last) == number(checkpoints.best) == 1

    @pytest.mark.filterwarnings("ignore:Validating sparse tensor")
    @pytest.mark.parametrize("kind", ("small", "sparse", "no memory for a copy"))
    def test_others_are_written_at_once(
        self, tmp_path: Path, disk: threading.Event, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        disk.set()
        made = state(1)
        if kind == "small":
            monkeypatch.setattr("runner.rundir.checkpoint.LARGE", 5000)
        elif kind == "sparse":
            made["model"]["s"] = torch.eye(3).to_sparse()
        else:
            monkeypatch.setattr("runner.util.snapshot.MEMORY_SHARE", 0.0)
        checkpoints = Checkpoints(tmp_path)
        monkeypatch.setattr("runner.rundir.checkpoint.in_background", refuse)
        checkpoints.save(made, best=False, wait=False)
        assert number(checkpoints.last) == 1


@pytest.mark.parametrize("damage", ["truncated", "one byte", "empty"])
def test_damage_is_named_and_the_one_before_is_used(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(state(1), best=False)
    checkpoints.save(state(2), best=False)
    content = bytearray(checkpoints.last.read_bytes())
    if damage == "one byte":
        content[content.index(b"\x00\x00\x00\x40" * 8) + 5] ^= 1  # within the weights, which are all 2.0
    else:
        content = content[: len(content) // 2 if damage == "truncated" else 0]
    checkpoints.last.unlink()  # it shares nothing with the one before
    checkpoints.last.write_bytes(content)
    for mapped in (False, True):
        with pytest.raises(CheckpointError, match=r"last\.pt is damaged"):
            load(checkpoints.last, mapped)
    assert checkpoints.load_last()["progress"]["epoch"] == 1
    (message,) = caplog.messages
    assert re.search(r"last\.pt is damaged \(.*\); .* last-1\.pt", message)
    checkpoints.save(state(2), best=False)
    assert number(tmp_path / "last-1.pt") == 1, "the damaged one does not take the good one's place"


@pytest.mark.parametrize("maps", [True, False])
def test_tensors_of_a_mapped_checkpoint_are_those_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maps: bool
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1), best=True)
    if not maps:
        monkeypatch.setattr(mmap, "mmap", refuse)
        monkeypatch.setattr(torch.UntypedStorage, "from_file", refuse)
    mapped = load(checkpoints.best, mapped=True)
    checkpoints.save(state(2), best=True)
    assert mapped["model"]["w"].tolist() == [1.0] * 1000, "and not those of the file that took its place"


def refuse(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENODEV, "No such device")


def test_the_best_is_a_way_out_too_and_all_damage_is_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for epoch in (1, 2, 3):
        checkpoints.save(state(epoch), best=epoch == 1)
    for name in ("last.pt", "last-1.pt"):
        (tmp_path / name).unlink()
        (tmp_path / name).write_bytes(b"PK")
    assert checkpoints.load_last()["progress"]["epoch"] == 1
    for path in (checkpoints.last, tmp_path / "last-1.pt", checkpoints.best):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"last\.pt is damaged.*last-1\.pt is damaged.*best\.pt is damaged"):
        checkpoints.load_last()


def test_a_pickle_payload_is_refused_and_does_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"

    class Payload:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(witness),)

    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(state(1), best=True)
    checkpoints.save(state(2), best=True)
    path = checkpoints.last
    path.unlink()
    for write in (
        lambda: torch.save({**state(1), "model": Payload()}, path),
        lambda: torch.save({**state(1), "model": Payload()}, path, _use_new_zipfile_serialization=False),
        lambda: path.write_bytes(pickle.dumps(Payload())),
    ):
        write()
        with pytest.raises(CheckpointError, match=r"last\.pt holds more than tensors"):
            checkpoints.load_last()  # nor is it passed over for the one before
    assert not witness.exists()


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load(tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"does not exist"):
        load(tmp_path / "nothing.pt")
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        Checkpoints(tmp_path / "nowhere").load_last()


def test_a_checkpoint_of_0_1_0_is_read_and_one_of_a_newer_runner_names_what_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({**state(1), "format": 1}, path)
    assert load(path)["progress"]["epoch"] == 1
    torch.save({**state(1), "format": OF_SHARDS + 1}, path)
    with pytest.raises(CheckpointError, match=r"format 4, .* formats 1 to 3: .* newer runner"):
        load(path)
    torch.save({**state(1), "format": OF_SHARDS + 1, "version": "0.9.0"}, path)
    with pytest.raises(CheckpointError, match=r"newer runner, version 0\.9\.0"):
        load(path)


def test_every_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    device = torch.device("cpu")
    path = tmp_path / "rng.pt"
    torch.save(rng_state(device), path)
    drawn = torch.rand(3), random.random(), np.random.rand()
    set_rng_state(torch.load(path, weights_only=True), device)
    again = torch.rand(3), random.random(), np.random.rand()
    assert torch.equal(drawn[0], again[0])
    assert drawn[1:] == again[1:]


def test_a_set_in_a_state_is_copied_too() -> None:
    """The file has what was there when it was saved, though a thread writes it later."""
    seen = {1, 2}
    state = {"callbacks": {"seen": seen}, "model": {"weight": torch.zeros(9)}}
    copied = snapshot(state, 1)
    seen.add(3)
    assert copied is not None and copied["callbacks"]["seen"] == {1, 2}
