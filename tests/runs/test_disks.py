"""Where a run lies and what it reads: disks that are full, things in the way, files that vanish, too little memory."""

import contextlib
import errno
import os
import re
import resource
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from PIL import Image

from conftest import Called, run_folder
from helpers.delivered import copy_store
from helpers.faults import inject
from helpers.killed import EVERYTHING, assert_delivered, assert_ended_the_same, only_run
from helpers.sweeping import Forked, wait_for
from runner.device import Device
from runner.rundir.checkpoint import Checkpoints
from runner.saved.run import read_result
from runner.sync import main as sync
from runner.tracking.store import local_uri
from runner.training.display import Bar

Runner = Callable[..., Called]


class TestFullDisks:
    """The run fails with a sentence, what was saved loads, and with room it goes on as if nothing had happened."""

    LOGS_MUCH = (*EVERYTHING, "trainer.epochs=20", "model.hidden=[4]", "tracking.log_model=false")

    @pytest.fixture(scope="class")
    @staticmethod
    def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
        here = tmp_path_factory.mktemp("whole")
        assert Forked(here, *TestFullDisks.LOGS_MUCH, "tracking=off", prepare=inject(None)).wait()[0] == 0
        return run_folder(here)

    @pytest.mark.usefixtures("delivery_here")
    def test_a_file_may_not_grow(self, here: Path, runner: Runner, empty_store: Path, whole: Path) -> None:
        uri = copy_store(empty_store, here / "outputs")
        size = (whole / "checkpoints" / "last.pt").stat().st_size
        code, printed = Forked(here, *self.LOGS_MUCH, prepare=partial(limited, size + 2_000)).wait()
        assert code == 1, printed
        folder = run_folder(here)
        (error,) = [line for line in printed.splitlines() if line.startswith("error:")]
        assert error == f"error: {folder}/metrics.jsonl: File too large"
        assert f"resume     python -m runner resume={folder.relative_to(here)}" in printed
        assert "Traceback" not in printed
        run = only_run(uri)[1]
        assert run.info.status == "FAILED"
        assert run.data.tags["runner.error"] == error.removeprefix("error: ")
        assert Checkpoints(folder / "checkpoints").load_last()["progress"]["epoch"] > 1
        assert runner(f"resume={folder}").code == 0
        assert_ended_the_same(folder, whole)
        assert_delivered(uri, folder)

    @pytest.mark.parametrize("beside", (False, pytest.param(True, marks=pytest.mark.soak)))
    def test_a_checkpoint_cannot_be_written(
        self, here: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, beside: bool
    ) -> None:
        if beside:
            monkeypatch.setattr("runner.rundir.checkpoint.LARGE", 1)
        uri = copy_store(empty_store, here / "outputs")
        code, printed = Forked(here, *EVERYTHING, prepare=partial(limited, 10_000)).wait()
        folder = run_folder(here)
        assert code == 1, printed
        where = (folder / "checkpoints").relative_to(here)
        (error,) = [line for line in printed.splitlines() if line.startswith("error:")]
        assert f" {where}: File too large; " in error
        assert f"run        {folder.relative_to(here)} " in printed and "runner resume=" not in printed
        assert only_run(uri)[1].info.status == "FAILED"
        assert list((folder / "checkpoints").iterdir()) == []

    @pytest.mark.usefixtures("delivery_here")
    def test_a_file_system_without_room(self, here: Path, runner: Runner, empty_store: Path, whole: Path) -> None:
        disk = here / "disk"
        disk.mkdir()
        with mounted(disk, kilobytes=138):  # room for the run's files and three of its four checkpoints at a time
            uri = copy_store(empty_store, here / "outputs")
            arguments = (*self.LOGS_MUCH, f"tracking.uri={uri}", f"hydra.run.dir={disk}/run")
            code, printed = Forked(here, *arguments, prepare=inject(None)).wait()
            assert code == 1, printed
            assert re.search("^error: .*: No space left on device", printed, re.MULTILINE)
            assert "Traceback" not in printed and "Logging error" not in printed
            assert read_result(disk / "run")["status"] == "FAILED"
            wait_for(lambda: only_run(uri)[1].info.status == "FAILED")
            assert Checkpoints(disk / "run" / "checkpoints").load_last()["progress"]["epoch"] >= 1
            subprocess.run(["mount", "-o", "remount,size=5m", str(disk)], check=True)
            assert runner(f"resume={disk}/run").code == 0
            assert_ended_the_same(disk / "run", whole)
            assert_delivered(uri, disk / "run")

    def test_a_folder_that_may_only_be_read(self, here: Path, runner: Runner) -> None:
        disk = here / "disk"
        disk.mkdir()
        with mounted(disk, kilobytes=5000):
            assert runner("tracking=off", "data.limit=50", "trainer.epochs=1", f"hydra.run.dir={disk}/run").code == 0
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            called = runner(f"resume={disk}/run", "trainer.epochs=2")
        assert called.code == 2
        assert called.about == [("", "file")]
        assert f"{disk}/run" in called.problems[0].text and "(Read-only file system)" in called.problems[0].text


def limited(size: int) -> None:
    """Let this process write no file longer than that, in bytes; what tells MLflow is another."""
    inject(None)()
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@contextlib.contextmanager
def mounted(folder: Path, kilobytes: int) -> Iterator[None]:
    """A file system of that size in a folder; where none can be made, the test is skipped."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


class TestPlaces:
    @pytest.mark.parametrize(
        ("what", "code", "about", "words"),
        [
            ("outputs", 2, [("hydra.run.dir", "file")], "RUNNER_OUTPUTS"),
            ("outputs/runs", 2, [("hydra.run.dir", "file")], "RUNNER_OUTPUTS"),
            ("mine/run.log/", 2, [("hydra.run.dir", "file")], "mine is not empty, it has run.log"),
            ("mine/checkpoints", 2, [("hydra.run.dir", "conflict")], "resume=mine"),
        ],
    )
    def test_what_is_in_the_way_is_named(
        self, what: str, code: int, about: list[tuple[str, str]], words: str, here: Path, runner: Runner
    ) -> None:
        path = here / what
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if what.endswith("/") else path.touch()
        mine = ["hydra.run.dir=mine"] if what.startswith("mine") else []
        called = runner("tracking=off", "data.limit=50", "trainer.epochs=1", *mine)
        assert called.code == code and called.about == about
        (error,) = called.errors
        assert words in error and what.partition("/")[0] in error

    def test_a_folder_in_place_of_the_store_costs_the_record_and_not_the_run(
        self, here: Path, empty_store: Path
    ) -> None:
        (here / "outputs" / "mlflow.db").mkdir(parents=True)
        arguments = ("data.limit=50", "trainer.epochs=1", "tracking.wait=0")
        code, printed = Forked(here, *arguments, prepare=inject(None)).wait()
        assert code == 0, printed
        assert str(here / "outputs" / "mlflow.db") in printed and "move it away" in printed
        (here / "outputs" / "mlflow.db").rmdir()
        copy_store(empty_store, here / "outputs")
        assert sync([]) == 0
        assert_delivered(local_uri(here / "outputs"), run_folder(here))

    def test_a_file_of_the_data_that_is_removed_while_training(
        self, here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("a", "b"):
            (here / "photos" / name).mkdir(parents=True)
            for number in range(20):
                Image.new("RGB", (8, 8), (number * 12, 40, 90)).save(here / "photos" / name / f"{number}.png")
        photos = ("data=image_folder", "data.path=photos", "data.size=8", "data.in_memory=false", "data.batch_size=8")
        arguments = (*photos, "tracking=off", "hydra.run.dir=mine", "trainer.epochs=3", "model.hidden=[4]")
        away = [here / "photos" / "a" / f"{number}.png" for number in range(20)]
        with monkeypatch.context() as patch:
            patch.setattr(Bar, "end_epoch", lambda *_: [path.rename(path.with_suffix(".away")) for path in away])
            called = runner(*arguments)
        assert called.code == 1
        (error,) = called.errors
        assert re.search(r"error: data\.path: .*/photos/a/\d+\.png cannot be read \(No such file", error)
        assert read_result(here / "mine")["status"] == "FAILED"
        for path in away:
            path.with_suffix(".away").rename(path)
        assert runner("resume=mine").code == 0, "what was saved is still good"

    def test_data_that_are_known_not_to_fit_into_memory(
        self, here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Device, "free_memory", lambda self: 1000)
        called = runner("tracking=off", "data.in_memory=true")
        assert called.code == 2
        assert called.about == [("data.in_memory", "unavailable")]
        (problem,) = called.problems
        assert re.search(r"\d+\.\d GB of samples, 0\.0 GB free", problem.text)
        assert problem.suggestion.startswith("write data.in_memory=false")
        assert not (here / "outputs").exists()
        assert runner("tracking=off", "data.limit=50", "trainer.epochs=1").code == 0, "auto knows as well"

    def test_data_that_turn_out_not_to_fit_into_memory(self, here: Path) -> None:
        (here / "huge.py").write_text(HUGE)
        (here / "my_conf" / "data").mkdir(parents=True)
        (here / "my_conf" / "data" / "huge.yaml").write_text("_target_: huge.samples\n")
        huge = ("--config-dir", "my_conf", "data=huge", "data.in_memory=true", "tracking=off", "model.hidden=[1]")
        code, printed = Forked(here, *huge, prepare=little_memory).wait()
        assert code == 2, printed
        (error,) = [line for line in printed.splitlines() if line.startswith("error:")]
        turned_out = (
            r"error: data: out of memory: could not allocate \d\.\d GB; write data\.in_memory=false, or data\.l"
        )
        assert re.match(turned_out, error)
        assert not (here / "outputs").exists()


def little_memory() -> None:
    """Leave this process 300 MB more than it has."""
    inject(None)()
    limit = psutil.Process().memory_info().vms + 300_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


HUGE = """
import torch
from torch.utils.data import Dataset

from runner.data.source import Source


class Lazy(Dataset):
    targets = [0, 1] * 50

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return torch.full((1_000_000,), float(index)), index % 2


def samples():
    return Source("huge", train=Lazy(), test=None, mean=0.0, std=1.0, classes=["a", "b"])
"""


@pytest.mark.parametrize("sweep", [(), ("--multirun",)])
def test_a_disk_without_locks_is_said_before_anything_is_made(
    sweep: tuple[str, ...], here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("runner.rundir.lock.fcntl", SimpleNamespace(flock=flock, LOCK_EX=2, LOCK_NB=4))
    called = runner(*sweep, "tracking=off", "data.limit=50", "trainer.epochs=1")
    assert called.code == 2 and called.about == [("", "unavailable")]
    (problem,) = called.problems
    assert f"{here}/outputs/" in problem.text and "(No locks available)" in problem.text
    assert "RUNNER_OUTPUTS" in problem.suggestion
    assert not list((here / "outputs").glob("*/*"))
