"""The processes that a sweep consists of, killed one at a time; test_chaos.py kills them in whole sweeps."""

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.errors import Problem
from runner.sweeps.jobs import Job, JobOutcome
from runner.sweeps.launchers import forkserver, pool
from runner.sweeps.launchers.launcher import LauncherDied
from runner.sweeps.launchers.pool import Pool
from runner.sweeps.launchers.slots import Slot
from runner.util.stopping import Stop

SERVER = """
import logging, os, signal, sys, time
from multiprocessing import forkserver as python_forkserver

from runner.errors import ConfigError
from runner.sweeps.launchers import forkserver, local

logging.basicConfig(format="%(message)s")
forkserver.PRELOAD[:] = sys.argv[1:]  # without what a job imports, which takes seconds
forkserver.start([], exports_models=False)
process = forkserver.process
forkserver.process = lambda *_: process("time:sleep", 0.5)


def kill():
    os.kill(python_forkserver._forkserver._forkserver_pid, signal.SIGKILL)


def ended(handle):
    while handle.exit_status() is None:
        time.sleep(0.02)
    return handle.exit_status()
"""


def by_itself(body: str, *preload: str, here: Path) -> subprocess.CompletedProcess[str]:
    """Run a body in a process with its own server."""
    return subprocess.run(
        [sys.executable, "-c", SERVER + body, *preload], capture_output=True, text=True, cwd=here, timeout=60
    )


def test_jobs_outlive_the_process_that_started_them_and_another_one_starts_the_next(here: Path) -> None:
    body = """
jobs = [local.ProcessHandle(None) for _ in range(2)]
kill()
while not jobs[0]._process.exitcode:
    time.sleep(0.01)
began = time.monotonic()
assert jobs[0].exit_status() is None and jobs[1].exit_status() is None, "both still run"
print([ended(job).code for job in jobs], ended(local.ProcessHandle(None)).code)
"""
    done = by_itself(body, here=here)
    assert done.stdout == "[None, None] 0\n", done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("the process that starts the jobs has died, ") and "another one is started" in line


def test_a_server_that_dies_again_and_again_is_one_error(here: Path) -> None:
    (here / "dying.py").write_text("import os; os._exit(9)")
    body = """
try:
    local.ProcessHandle(None)
except ConfigError as error:
    print(error)
"""
    done = by_itself(body, "dying", here=here)
    assert done.stdout.startswith("the process that imports torch for the jobs has died 3 times, "), done.stderr
    assert "Traceback" not in done.stderr


def test_the_server_does_not_look_for_garbage_but_what_it_starts_does(here: Path) -> None:
    (here / "seen.py").write_text("import gc; in_server = gc.isenabled()\ndef seen(): return in_server, gc.isenabled()")
    body = """
forkserver.process = process
print(forkserver.call("seen:seen"))
"""
    done = by_itself(body, "runner.sweeps.launchers.preload", "seen", here=here)
    assert done.stdout == "(False, True)\n", done.stderr


@pytest.mark.soak
def test_a_sweep_killed_while_its_server_imports_leaves_no_traceback(here: Path) -> None:
    (here / "slow.py").write_text("import time; time.sleep(1)")
    body = """
import threading
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
process("builtins:len", bytes(1_000_000)).start()  # more than a pipe holds
"""
    done = by_itself(body, "slow", "runner.sweeps.launchers.preload", here=here)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")


def test_when_none_can_be_started_those_that_run_end_and_the_rest_waits_for_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "TICK_SECONDS", 0.01)
    starts: list[list[int]] = []
    ended: dict[int, JobOutcome] = {}

    def start(specs: list[Any]) -> list[Any]:
        starts.append([spec.number for spec in specs])
        if len(starts) == 2:
            raise LauncherDied(Problem("", "it has died", topic="unavailable"))
        return [handle(spec.number) for spec in specs]

    def handle(number: int) -> Any:
        """Job 0 ends at once, job 1 after the attempt to start job 2."""
        over = SimpleNamespace(code=1, description="exit code 1")
        return SimpleNamespace(
            has_started=lambda: True,
            waitables=list,
            read_progress=lambda: iter(()),
            exit_status=lambda: over if number < len(starts) else None,
            close=lambda: None,
        )

    def prepare(job: Job, _: Slot) -> Any:
        return SimpleNamespace(number=job.number, folder=tmp_path, pause_after=None)

    listener: Any = SimpleNamespace(
        job_started=lambda *_: None,
        job_ended=lambda job, outcome: ended.update({job.number: outcome}),
        tick=lambda: None,
    )
    monkeypatch.setattr(pool, "judge", lambda *_: JobOutcome("FINISHED", "", 0.0))
    jobs = (Job(number, f"seed={number}", {}, ()) for number in range(4))
    launcher: Any = SimpleNamespace(start=start)
    with pytest.raises(LauncherDied):
        Pool(launcher, [Slot(0), Slot(1)], prepare, listener, Stop()).run(jobs)
    assert starts == [[0, 1], [2]]
    assert {number: outcome.status for number, outcome in ended.items()} == {0: "FINISHED", 1: "FINISHED", 2: "KILLED"}
    assert ended[2].by_request, "a resume starts it"


def test_after_its_time_a_sweep_starts_no_job_and_takes_waiting_ones_from_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, ended, stopped = [0.0], dict[int, JobOutcome](), set[int]()
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def tick() -> None:
        clock[0] += 4.0

    def handle(number: int) -> Any:
        """Job 0 runs for 12 s; job 1 waits in the queue of a cluster until it is asked to stop."""
        over = SimpleNamespace(code=0, description="exit code 0")
        return SimpleNamespace(
            has_started=lambda: number == 0,
            waitables=list,
            read_progress=lambda: iter(()),
            exit_status=lambda: over if number in stopped or (number == 0 and clock[0] >= 12) else None,
            request_stop=lambda: stopped.add(number),
            grace=60.0,
            close=lambda: None,
        )

    listener: Any = SimpleNamespace(
        job_started=lambda *_: None, job_ended=lambda job, outcome: ended.update({job.number: outcome}), tick=tick
    )
    outcomes = {"0": JobOutcome("FINISHED", "", 12.0), "1": JobOutcome("KILLED", "", 0.0)}
    monkeypatch.setattr(pool, "judge", lambda folder, *_: outcomes[folder.name])
    launcher: Any = SimpleNamespace(start=lambda specs: [handle(spec.number) for spec in specs])

    def prepare(job: Job, _: Slot) -> Any:
        return SimpleNamespace(number=job.number, folder=tmp_path / str(job.number), pause_after=None)

    jobs = (Job(number, f"seed={number}", {}, ()) for number in range(3))
    running = Pool(launcher, [Slot(0), Slot(1)], prepare, listener, Stop(), max_time=6.0)
    running.run(jobs)
    assert {number: outcome.status for number, outcome in ended.items()} == {0: "FINISHED", 1: "KILLED"}
    assert stopped == {1} and ended[1].by_request and ended[1].reason == pool.NOT_STARTED
    assert running.is_late and next(jobs).number == 2


@pytest.mark.parametrize("status", ["PAUSED", "FINISHED", "KILLED"])
def test_a_job_that_pauses_as_the_sweep_is_stopped_has_paused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    stop, asked, ended = Stop(), list[bool](), list[JobOutcome]()
    over = SimpleNamespace(code=0, description="exit code 0")
    handle = SimpleNamespace(
        has_started=lambda: True,
        waitables=list,
        read_progress=lambda: iter(()),
        exit_status=lambda: over if asked else None,
        request_stop=lambda: asked.append(True),
        grace=60.0,
        close=lambda: None,
    )
    listener: Any = SimpleNamespace(
        job_started=lambda *_: None,
        job_ended=lambda _, outcome: ended.append(outcome),
        tick=lambda: setattr(stop, "requested", True),
    )
    monkeypatch.setattr(pool, "judge", lambda *_: JobOutcome(status, "", 1.0))
    launcher: Any = SimpleNamespace(start=lambda _: [handle])
    prepare: Any = lambda job, _: SimpleNamespace(number=job.number, folder=tmp_path, pause_after=None)  # noqa: E731
    Pool(launcher, [Slot(0)], prepare, listener, stop).run(iter([Job(0, "", {}, ())]))
    assert [(outcome.status, outcome.by_request) for outcome in ended] == [(status, status == "KILLED")]


def left_behind() -> None:
    """End a process as a job does, with a thread that would hold it for a minute."""
    import threading
    import time

    from runner.sweeps.launchers import worker

    worker.LEFTOVER_SECONDS = 0.2
    threading.Thread(target=time.sleep, args=(60,), name="of the user").start()
    threading.Thread(target=worker._end_later, args=(3,), daemon=True).start()


def test_a_thread_of_a_job_does_not_hold_its_slot() -> None:
    forkserver.start([], exports_models=False)
    process = forkserver.process(f"{__name__}:left_behind")
    process.start()
    process.join(20)
    assert process.exitcode == 3
