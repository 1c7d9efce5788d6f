"""Sweeps whose processes are killed, stopped and interrupted at random: each ends as if nothing had happened.

`scripts/soak` has fifty; the seed, which is in the test's name, decides all of it but the speed of the machine.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch

from helpers.killed import counts, exact_state, measured, same
from helpers.sweeping import Forked, processes_below, results, table, wait_for
from runner import sync
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.lock import is_locked
from runner.tracking.store import connect, local_uri

SEEDS = range(50)
SIGNALS = (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT)
ARGUMENTS = (
    "data.limit=200", "model.hidden=[8]", "model.dropout=0.2", "device.threads=1", "sweep.jobs=2", "trainer.epochs=40",
    "trainer.checkpoint_every_steps=5", "tracking.log_model=false",
)  # fmt: skip
SECONDS = 20.0
"""Within which the disturbances come: from the first import to some time after the end on an idle machine."""

ALLOWED = {0, 1, 2, -signal.SIGKILL, 128 + signal.SIGINT, 128 + signal.SIGTERM}
SAID = ("resume     python -m runner --multirun sweep.resume=", "interrupted by SIG", "error: the process that ")


def is_server(process: psutil.Process, sweep: int) -> bool:
    return process.ppid() == sweep and "multiprocessing.forkserver" in " ".join(process.cmdline())


def is_job(process: psutil.Process, sweep: int) -> bool:
    """A job, or the process that checks them."""
    return process.ppid() != sweep and "multiprocessing.forkserver" in " ".join(process.cmdline())


def has_module(module: str) -> Callable[[psutil.Process, int], bool]:
    return lambda process, _: module in " ".join(process.cmdline())


TARGETS: dict[str, Callable[[psutil.Process, int], bool]] = {
    "sweep": lambda process, sweep: process.pid == sweep,
    "a job": is_job,
    "fork server": is_server,
    "delivery": has_module("runner.tracking.process"),
    "resource tracker": has_module("multiprocessing.resource_tracker"),
    "group": lambda process, sweep: os.getpgid(process.pid) == sweep,
    "all": lambda *_: True,
}


@dataclass(frozen=True)
class Disturbance:
    """A signal to some processes.

    Attributes:
        after: seconds since the one before.
        target: a key of `TARGETS`.
        number: the signal.
        stopped: seconds until SIGCONT follows SIGSTOP.
    """

    after: float
    target: str
    number: signal.Signals
    stopped: float = 0.0

    def do(self, here: Path, sweep: int, draw: random.Random) -> list[int]:
        """Send it, and return the processes that got it."""
        chosen = []
        for process in processes_below(here):
            try:
                if TARGETS[self.target](process, sweep):
                    chosen.append(process.pid)
            except (psutil.Error, ProcessLookupError):
                continue
        if self.target == "a job":
            chosen = draw.sample(chosen, min(1, len(chosen)))
        self.send(chosen, self.number)
        if self.number == signal.SIGSTOP:
            time.sleep(self.stopped)
            self.send(chosen, signal.SIGCONT)
        return chosen

    @staticmethod
    def send(processes: list[int], number: int) -> None:
        for process in processes:
            try:
                os.kill(process, number)
            except ProcessLookupError:
                continue


def draw_disturbances(draw: random.Random) -> list[Disturbance]:
    """Draw one to three of them."""
    times = sorted(draw.uniform(0.0, SECONDS) for _ in range(draw.randint(1, 3)))
    return [
        Disturbance(now - before, draw.choice(list(TARGETS)), draw.choice(SIGNALS), draw.uniform(0.1, 2.0))
        for before, now in zip([0.0, *times], times, strict=False)
    ]


def run(here: Path, *arguments: str, module: str = "runner") -> subprocess.Popen[str]:
    """Start a command with a folder for temporary files of its own, whose path is short enough for sockets."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("RUNNER_", "OMP_"))}
    if not (here / "tmp").exists():
        (here / "tmp").symlink_to(tempfile.mkdtemp(prefix="chaos-"))
    clean["TMPDIR"] = str((here / "tmp").readlink())
    with (here / "printed.txt").open("w") as printed:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=here, env=clean,
            stderr=printed, stdout=printed, text=True, start_new_session=True,
        )  # fmt: skip


def printed(here: Path) -> str:
    return (here / "printed.txt").read_text()


def sweep_folder(here: Path) -> Path | None:
    """The sweep's folder if it has got as far as a plan."""
    return next((path.parent for path in here.glob("outputs/sweeps/*/sweep.json")), None)


def assert_like(folder: Path, twin: Path) -> None:
    """Assert that a job has the metrics and the last checkpoint of its twin, bit for bit."""
    assert measured(folder) == measured(twin)
    one, other = (torch.load(path / "checkpoints" / "last.pt", weights_only=True) for path in (folder, twin))
    assert same(exact_state(one), exact_state(other))


def assert_nothing_is_left(here: Path, sockets: bool) -> None:
    """Assert that no process, lock or temporary file is left; of a server that was killed, its socket may be."""
    wait_for(lambda: not processes_below(here), 30)
    assert not [path for path in here.glob("outputs/sweeps/**/.lock") if is_locked(path.parent)]
    assert not list(here.glob("outputs/sweeps/**/checkpoints/.*"))
    expected = ("torchinductor_", *(["pymp-"] if sockets else []))  # a cache of torch's
    assert not [path.name for path in (here / "tmp").iterdir() if not path.name.startswith(expected)]
    shutil.rmtree((here / "tmp").readlink())


def finish(here: Path, axes: str, sweep: subprocess.Popen[str], hit: list[tuple[Disturbance, int]]) -> Path:
    """Wait for a disturbed sweep, assert that it ended as it should, and resume it if it is not complete.

    Returns:
        Its folder.
    """
    code = sweep.wait(180)
    said, folder = printed(here), sweep_folder(here)
    case = (hit, code, said)
    assert "Traceback" not in said, case
    assert code in ALLOWED, case
    if code == 0:
        assert folder is not None and {row["status"] for row in table(folder)["jobs"]} == {"FINISHED"}, case
        return folder
    assert code < 0 or any(text in said for text in SAID), case
    assert code != 1 or folder is not None, case
    wait_for(lambda: not processes_below(here), 30)
    again = run(here, "--multirun", *([axes, *ARGUMENTS] if folder is None else [f"sweep.resume={folder}"]))
    assert again.wait(180) == 0, (*case, printed(here))
    folder = sweep_folder(here)
    assert folder is not None and {result["status"] for result in results(folder).values()} == {"FINISHED"}, case
    return folder


def assert_delivered(here: Path, folder: Path) -> None:
    """Assert that MLflow has each point of each journal once, after the command that the sweep may have printed."""
    assert sync.main([f"run={folder}"]) == 0
    client = connect(local_uri(here / "outputs"))
    for job in (folder / str(number) for number in results(folder)):
        sent, delivered, twice = counts(client, str(DeliveryState.load(job).run_id), job)
        assert (delivered, twice) == (sent, 0), job


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sweep without a disturbance."""
    here = tmp_path_factory.mktemp("twin")
    code, said = Forked(here, "--multirun", "seed=0,1,2,3", *ARGUMENTS, "tracking=off").wait(180)
    folder = sweep_folder(here)
    assert code == 0 and folder is not None, said
    return folder


@pytest.mark.soak
@pytest.mark.parametrize("seed", SEEDS)
def test_a_sweep_ends_as_its_twin(seed: int, twin: Path, tmp_path: Path) -> None:
    draw, hit = random.Random(seed), []
    disturbances = draw_disturbances(draw)
    sweep = run(tmp_path, "--multirun", "seed=0,1,2,3", *ARGUMENTS)
    for each in disturbances:
        time.sleep(each.after)
        hit.append((each, len(each.do(tmp_path, sweep.pid, draw))))
    folder = finish(tmp_path, "seed=0,1,2,3", sweep, hit)
    for number in results(folder):
        assert_like(folder / str(number), twin / str(number))
    assert_delivered(tmp_path, folder)
    assert_nothing_is_left(tmp_path, sockets=any(each.number == signal.SIGKILL for each in disturbances))


def test_a_sweep_that_loses_its_fork_server_and_its_delivery_goes_on(tmp_path: Path) -> None:
    sweep = run(tmp_path, "--multirun", "seed=0,1,2", *ARGUMENTS)
    wait_for(lambda: list(tmp_path.glob("outputs/sweeps/*/*/checkpoints/last.pt")))
    lost = [Disturbance(0.0, target, signal.SIGKILL) for target in ("fork server", "delivery")]
    assert [len(each.do(tmp_path, sweep.pid, random.Random(0))) for each in lost] == [1, 1]
    folder = finish(tmp_path, "seed=0,1,2", sweep, [(each, 1) for each in lost])
    assert sweep.returncode == 0 and len(results(folder)) == 3
    lines = (folder / "run.log").read_text()
    assert lines.count("the process that starts the jobs has died") == 1
    assert lines.count("the process that uploads to MLflow has died; another one is started") == 1
    assert_delivered(tmp_path, folder)
    assert_nothing_is_left(tmp_path, sockets=True)
