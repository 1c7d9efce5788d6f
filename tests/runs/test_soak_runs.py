"""What test_faults.py and test_tracking.py show once, again and again, and at moments that nobody has chosen."""

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from conftest import run_folder
from helpers.killed import assert_ended_the_same, counts, starts_at_once
from helpers.servers import Proxy, Server
from helpers.sweeping import processes_below, wait_for
from runner.sync import main as sync
from runner.tracking.store import connect, local_uri

pytestmark = pytest.mark.soak

KILLS = 9  # of each configuration

CONFIGURATIONS = {
    "dropout, step, sgd": ("trainer.epochs=400", "model.dropout=0.3", "scheduler=step", "optimizer.momentum=0.9"),
    "augmentation, averaged weights, accumulation, warm-up, cnn": (
        "trainer.epochs=16", "model=cnn", "data.augment.rotation=10", "data.augment.crop=1", "optimizer=adamw",
        "scheduler=warmup_cosine", "trainer.ema_decay=0.9", "trainer.grad_accumulation=2",
        "trainer.checkpoint_every_steps=5", "data.limit=800",
    ),
    "float16 with its scaler, one cycle, clipping": (
        "trainer.epochs=60", "precision=fp16", "scheduler=onecycle", "trainer.clip_norm=0.5", "model.hidden=[16]",
        "trainer.checkpoint_every_steps=10",
    ),
    "workers, plateau, rmsprop": (
        "trainer.epochs=150", "data.in_memory=false", "data.num_workers=2", "optimizer=rmsprop", "optimizer.lr=0.001",
        "scheduler=plateau", "model.dropout=0.2", "data.limit=500", "trainer.checkpoint_every_steps=4",
    ),
    "muon, bfloat16, cosine, everything by step": (
        "trainer.epochs=60", "optimizer=muon", "precision=amp", "scheduler=cosine", "trainer.validate_every_steps=3",
        "trainer.log_every_steps=1", "trainer.checkpoint_every_seconds=0.3", "model.hidden=[32,16]",
    ),
    "regression of two samples, logged every 100th epoch": (
        "experiment=tiny_sigmoid", "trainer.epochs=40000", "trainer.checkpoint_every_epochs=500",
    ),
    "frozen until an epoch, groups, decay by layer": (
        "trainer.epochs=30", "model=cnn", "model.batch_norm=true", "model.channels=[8,8,8]", "data.limit=800",
        "model.freeze=[features.0,features.1]", "model.unfreeze_at_epoch=12", "optimizer=adamw",
        "optimizer.groups.head.params=head.*", "optimizer.groups.head.lr=0.01", "optimizer.no_decay=true",
        "optimizer.layer_decay=0.7", "scheduler=warmup_cosine", "trainer.checkpoint_every_steps=5",
    ),
    "restarts, early stopping, steps that are skipped": (
        "trainer.epochs=200", "scheduler=cosine_restarts", "trainer.early_stopping.patience=150",
        "trainer.on_nonfinite=skip", "model=simple_nn", "trainer.keep_checkpoints=3",
    ),
}  # fmt: skip


def start(here: Path, *arguments: str) -> subprocess.Popen[str]:
    """`python -m runner ...` in a folder, as a user starts it."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("RUNNER_", "OMP_"))}
    command = [sys.executable, "-m", "runner", "device.threads=1", *arguments]
    with (here / "printed.txt").open("a") as printed:
        return subprocess.Popen(command, cwd=here, env=clean, stderr=printed, text=True)


def kill(process: subprocess.Popen[str], here: Path, everything: bool) -> bool:
    """SIGKILL, to all that belongs to the run or to its own process; whether that was still there."""
    alive = process.poll() is None
    if everything:
        for other in processes_below(here):
            other.kill()
    process.kill()
    process.wait()
    return alive


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_killed_at_random_moments(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (*CONFIGURATIONS[name], "tracking.log_model=false")
    whole = tmp_path / "whole"
    whole.mkdir()
    began = time.monotonic()
    assert start(whole, *arguments, "tracking=off").wait(200) == 0
    seconds = time.monotonic() - began
    moments, kills, runs, points = random.Random(name), 0, 0, 0
    while kills < KILLS:  # one that comes to its end before it has been killed often is followed by another
        here = tmp_path / str(runs)
        here.mkdir()
        runs += 1
        kills += until_it_ends(here, arguments, moments, seconds, KILLS - kills)
        folder = run_folder(here)
        assert_ended_the_same(folder, run_folder(whole))
        os.environ["RUNNER_OUTPUTS"] = str(here / "outputs")
        assert sync([]) == 0
        client = connect(local_uri(here / "outputs"))
        run_id = json.loads((folder / "result.json").read_text())["run_id"]
        assert client.get_run(run_id).info.status == "FINISHED"
        sent, delivered, duplicated = counts(client, run_id, folder)
        assert (delivered, duplicated) == (sent, 0)
        points += sent
    with capsys.disabled():
        print(f"\n{name}: {kills} kills of {runs} runs, bit-identical; {points} points, all delivered, none twice")


def until_it_ends(here: Path, arguments: Sequence[str], moments: random.Random, seconds: float, most: int) -> int:
    """Kill and resume a run until it has come to its end, which it may from the `most`-th kill on; how often it was."""
    kills = 0
    while True:
        folders = list(here.glob("outputs/runs/*"))
        resumable = [path for path in folders if list(path.glob("checkpoints/*.pt"))]
        for path in folders:
            if path not in resumable:  # killed before its first checkpoint: another run is begun
                shutil.rmtree(path)
        process = start(here, f"resume={resumable[0]}") if resumable else start(here, *arguments)
        if kills == most:
            assert process.wait(200) == 0, (here / "printed.txt").read_text()
            return kills
        time.sleep(moments.uniform(2.0, 2.0 + seconds / 2))
        if not kill(process, here, everything=moments.random() < 0.5):
            assert process.returncode == 0, (here / "printed.txt").read_text()
            return kills
        kills += 1


@pytest.mark.parametrize("time_", range(20))
def test_eight_starts_at_once(time_: int, tmp_path: Path) -> None:
    starts_at_once(tmp_path, 8)


LONG = ("trainer.epochs=400", "tracking.log_model=false")


@pytest.fixture(scope="module")
def server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Server:
    return Server(tmp_path_factory.mktemp("server"), empty_store)


def killed_and_back(server: Server, proxy: Proxy) -> Callable[[], None]:
    server.signal(signal.SIGKILL)
    return server.start


def stopped_and_back(server: Server, proxy: Proxy) -> Callable[[], None]:
    server.signal(signal.SIGSTOP)
    return lambda: server.signal(signal.SIGCONT)


def errors(server: Server, proxy: Proxy) -> Callable[[], None]:
    proxy.fails = True
    return lambda: setattr(proxy, "fails", False)


def slow(server: Server, proxy: Proxy) -> Callable[[], None]:
    proxy.delay = 5.0
    return lambda: setattr(proxy, "delay", 0.0)


OUTAGES = {"killed": killed_and_back, "stopped": stopped_and_back, "errors 500": errors, "5 s a request": slow}


@pytest.mark.parametrize("until", ["before the end", "after the end", "after runner is killed too"])
@pytest.mark.parametrize("outage", OUTAGES)
def test_an_outage(outage: str, until: str, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.start()
    try:
        with Proxy(server.port) as proxy:
            tracked = ("tracking=server", f"tracking.uri={proxy.uri}", f"tracking.experiment={tmp_path.name}")
            process = start(tmp_path, *LONG, *tracked)
            wait_for(lambda: epochs(tmp_path) > 50)
            back = OUTAGES[outage](server, proxy)
            if until == "before the end":
                wait_for(lambda: epochs(tmp_path) > 250)
                back()
                assert process.wait(200) == 0
            elif until == "after the end":
                assert process.wait(200) == 0
                back()
            else:
                wait_for(lambda: epochs(tmp_path) > 250)
                kill(process, tmp_path, everything=False)
                back()
            printed = (tmp_path / "printed.txt").read_text()
            folder = run_folder(tmp_path)
            if until != "before the end" or "runner.sync" in printed.splitlines()[-1]:
                wait_for(lambda: not processes_below(tmp_path))
                os.environ["RUNNER_OUTPUTS"] = str(tmp_path / "outputs")
                assert sync([]) == 0
            client = connect(proxy.uri)
            experiment = client.get_experiment_by_name(tmp_path.name)
            (run,) = client.search_runs([experiment.experiment_id])
            assert run.info.status == ("KILLED" if "killed" in until else "FINISHED")
            sent, delivered, duplicated = counts(client, run.info.run_id, folder)
            assert (delivered, duplicated) == (sent, 0)
            names = {file.path for file in client.list_artifacts(run.info.run_id)}
            assert {"config.yaml", "run.log", "metrics.jsonl"} <= names
            assert ("plots" in names) == ("killed" not in until)
            assert printed.count("can't be reached") <= 1
    finally:
        server.signal(signal.SIGKILL)
    with capsys.disabled():
        print(f"\n{outage}, back {until}: {sent} points, {delivered} delivered, {duplicated} twice")


@pytest.mark.parametrize("outage", OUTAGES)
def test_training_keeps_its_speed(
    outage: str, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In pairs, one after the other: a machine's own speed changes more in a minute than this is about."""
    ratios = []
    server.start()
    back = None
    try:
        with Proxy(server.port) as proxy:
            for number in range(5):
                folders = []
                for name in ("off", "on"):
                    here = tmp_path / f"{number}_{name}"
                    here.mkdir()
                    uri = f"tracking.uri={proxy.uri}"
                    tracking = ("tracking=server", uri, "tracking.wait=0") if name == "on" else ("tracking=off",)
                    process = start(here, "trainer.epochs=400", "tracking.log_model=false", *tracking)
                    if name == "on":
                        wait_for(partial(more_epochs, here, 10))
                        back = OUTAGES[outage](server, proxy)
                    assert process.wait(200) == 0
                    if back is not None:
                        back()
                        back = None
                    folders.append(run_folder(here))
                off, on = map(seconds_an_epoch, folders)
                ratios.append(on / off)
    finally:
        if back is not None:
            back()
        server.signal(signal.SIGKILL)
    median = statistics.median(ratios)
    with capsys.disabled():
        spread = f"({min(ratios):.3f}-{max(ratios):.3f})"
        print(f"\n{outage}: an epoch takes {median:.3f} times that with tracking off {spread}")
    assert median <= 1.05


def epochs(here: Path) -> int:
    """How many epochs a run has logged."""
    paths = list(here.glob("outputs/runs/*/metrics.jsonl"))
    return paths[0].read_text().count('"val/loss"') if paths else 0


def more_epochs(here: Path, count: int) -> bool:
    """Whether it has logged more than so many."""
    return epochs(here) > count


def seconds_an_epoch(folder: Path) -> float:
    """From one epoch's metrics to the next's, with everything that lies between: the median."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    times = [line["time"] for line in lines if line["name"] == "val/loss"][20:]
    return statistics.median(later - earlier for earlier, later in pairwise(times))
