"""Checkpoints of divided weights, here on one rank; runs/test_ranked.py has several."""

import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import HashStore
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

from runner.errors import TrainingError
from runner.rundir.checkpoint import Checkpoints
from runner.rundir.checkpoint_file import FORMAT, KEYS, OF_SHARDS, CheckpointError, load
from runner.rundir.sharded import ShardedCheckpoints
from runner.rundir.shards import sums
from runner.util.nested import replace_tensors

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # runner does so, too


@pytest.fixture(autouse=True)
def rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process is the only rank, and each state is a large one."""
    monkeypatch.setattr("runner.rundir.checkpoint.LARGE", 1)
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def divided(values: Tensor) -> Tensor:
    mesh = DeviceMesh.from_group(dist.group.WORLD, "cpu")  # type: ignore[arg-type]
    return distribute_tensor(values, mesh, [Shard(0)])


def state(number: int) -> dict[str, Any]:
    weights = torch.full((10, 7), float(number))
    return {
        **{key: {} for key in KEYS},
        "model": {"layers.0/w": divided(weights), "buffer": torch.tensor([number])},
        "optimizer": {"state": {0: {"momentum": divided(-weights), "step": torch.tensor(5.0)}}, "param_groups": []},
        "progress": {"epoch": number, "metrics": [1.0]},
        "format": FORMAT,
    }


def whole(value: Any) -> Any:
    return replace_tensors(value, lambda tensor, _: tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor)


def made(folder: Path, **more: Any) -> ShardedCheckpoints:
    return ShardedCheckpoints(folder, keep=2, whole=whole, **more)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def number(path: Path) -> int:
    return load(path)["progress"]["epoch"]


def test_any_process_reads_whole_tensors(tmp_path: Path) -> None:
    made(tmp_path).save(state(3), best=True)
    saved = load(tmp_path / "last.pt")
    assert saved["format"] == OF_SHARDS
    assert torch.equal(saved["model"]["layers.0/w"], torch.full((10, 7), 3.0))
    assert torch.equal(saved["optimizer"]["state"][0]["momentum"], torch.full((10, 7), -3.0))
    assert (saved["optimizer"]["state"][0]["step"], saved["model"]["buffer"].tolist()) == (5.0, [3])


def test_the_best_is_one_file_of_whole_weights(tmp_path: Path) -> None:
    checkpoints = made(tmp_path)
    for epoch in (1, 2, 3, 4):
        checkpoints.save(state(epoch), best=epoch == 1)
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    assert (best["format"], best["optimizer"], best["progress"]["epoch"]) == (FORMAT, {}, 1)
    assert torch.equal(best["model"]["layers.0/w"], torch.full((10, 7), 1.0))
    for path in tmp_path.glob("last*.pt"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"last\.pt is damaged.*last-1\.pt is damaged"):
        checkpoints.load_last()  # the best cannot be resumed: it lacks the state of the optimizer


def test_shards_that_no_checkpoint_names_are_removed(tmp_path: Path) -> None:
    checkpoints = made(tmp_path)
    (tmp_path / "shards-7").mkdir(parents=True)  # of a run that was killed
    for epoch in (1, 2, 3):
        checkpoints.save(state(epoch), best=False)
    assert names(tmp_path) == ["last-1.pt", "last.pt", "shards-10", "shards-9"]
    assert [number(tmp_path / name) for name in ("last.pt", "last-1.pt")] == [3, 2]
    plain = Checkpoints(tmp_path, keep=2)
    for epoch in (4, 5):
        plain.save(whole(state(epoch)), best=False)
    assert names(tmp_path) == ["last-1.pt", "last.pt"]


@pytest.mark.parametrize("damage", ("a byte", "truncated", "missing", "the list"))
def test_damaged_shards_are_named_and_the_checkpoint_before_is_used(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = made(tmp_path)
    checkpoints.save(state(1), best=True)
    checkpoints.save(state(2), best=True)
    file = tmp_path / "shards-2" / (".metadata" if damage == "the list" else "__0_0.distcp")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content[: len(content) // 2] if damage == "truncated" else content)
    if damage == "missing":
        file.unlink()
    assert checkpoints.load_last()["progress"]["epoch"] == 1
    (message,) = [record.getMessage() for record in caplog.records if record.name == "runner"]
    assert f"last.pt is damaged (shards-2/{file.name}); resuming from last-1.pt" in message


def test_a_program_in_the_list_of_shards_does_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"

    class Payload:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(witness),)

    checkpoints = made(tmp_path)
    checkpoints.save(state(1), best=False)
    listed = tmp_path / "shards-1" / ".metadata"
    listed.write_bytes(pickle.dumps(Payload()))
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    content["shards"]["files"][".metadata"] = sums(listed)
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"posix\.mkdir, which a list of tensors does not need"):
        load(tmp_path / "last.pt")
    assert not witness.exists()


class TestBeside:
    @pytest.fixture
    def disk(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
        """A disk that is not ready until the event is set."""
        ready, flush = threading.Event(), os.fsync

        def flushed(file: int) -> None:
            assert ready.wait(30)
            flush(file)

        monkeypatch.setattr(os, "fsync", flushed)
        yield ready
        ready.set()

    def test_the_shards_are_the_state_as_it_was(self, tmp_path: Path, disk: threading.Event) -> None:
        given, checkpoints = state(3), made(tmp_path)
        checkpoints.save(given, best=True, wait=False)
        given["model"]["layers.0/w"].to_local().zero_()
        given["optimizer"]["state"][0]["step"].zero_()
        given["progress"]["metrics"].append(2.0)
        assert not checkpoints.last.exists()
        disk.set()
        assert checkpoints.newest() == tmp_path / "last.pt"
        for path in (checkpoints.last, checkpoints.best):
            saved = load(path)
            assert torch.equal(saved["model"]["layers.0/w"], torch.full((10, 7), 3.0))
            assert saved["progress"] == {"epoch": 3, "metrics": [1.0]}
        assert load(checkpoints.last)["optimizer"]["state"][0]["step"] == 5.0

    @pytest.mark.parametrize("wait", (True, False))
    def test_a_full_disk_leaves_the_one_before(
        self, tmp_path: Path, disk: threading.Event, monkeypatch: pytest.MonkeyPatch, wait: bool
    ) -> None:
        def full(file: int) -> None:
            raise OSError(28, "No space left on device")

        disk.set()
        checkpoints = made(tmp_path)
        checkpoints.save(state(1), best=True)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(TrainingError, match=r"No space left on device; the last good one is .*last\.pt"):
                checkpoints.save(state(2), best=True, wait=wait)
                checkpoints.wait()
        assert names(tmp_path) == ["best.pt", "last.pt", "shards-1"]
        assert number(checkpoints.last) == number(checkpoints.best) == 1
        checkpoints.save(state(3), best=True)
        assert number(checkpoints.last) == 3


@pytest.mark.parametrize("why", ("small", "uploaded", "no shared folder"))
def test_others_are_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    if why == "small":
        monkeypatch.setattr("runner.rundir.checkpoint.LARGE", 10_000)
    checkpoints = made(tmp_path, in_one_file=why == "uploaded")
    if why == "no shared folder":
        monkeypatch.setattr(checkpoints, "_gathered", lambda value: [value, False])
    checkpoints.save(state(1), best=True)
    assert names(tmp_path) == ["best.pt", "last.pt"]
    assert torch.load(checkpoints.last, weights_only=True)["optimizer"]["state"][0]["momentum"].sum() == -70
