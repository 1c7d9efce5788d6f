"""`runner.watch`: what it shows of runs that change, and its keys."""

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from helpers.sweeping import Forked, outcomes, results, sweep_folder, wait_for
from runner.rundir import journal, layout
from runner.rundir.lock import lock
from runner.saved.live import LiveRun, LiveRuns
from runner.watch import main

pytest.importorskip("textual")
from runner.watch_app import Watch, clone, draw, go_on, stop

SMALL = ("data.limit=200", "model.hidden=[8]", "tracking=off")


def write_run(folder: Path, epochs: int = 5, values: tuple[float, ...] = (0.5, 0.4)) -> LiveRun:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / layout.CONFIG).write_text(f"trainer: {{epochs: {epochs}, monitor: val/loss}}\n")
    own = journal.Journal(folder / layout.JOURNAL)
    for epoch, value in enumerate(values, 1):
        own.write({"val/loss": value, "train/loss": 2 * value}, epoch)
    own.close()
    return LiveRun(folder, folder.name)


class TestRuns:
    def test_it_is_read_as_it_goes(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "one")
        with lock(run.folder):
            assert run.refresh() and run.status == "RUNNING"
            assert (run.epoch, run.epochs, run.last("val/loss"), run.best) == (2, 5, 0.4, 0.4)
            assert not run.refresh()
            own = journal.Journal(run.folder / layout.JOURNAL)
            own.write({"val/loss": 0.6}, 3)
            own.close()
            assert run.refresh() and (run.epoch, run.last("val/loss"), run.best) == (3, 0.6, 0.4)
        assert run.refresh() and run.status == "KILLED", "nobody has the folder, and there is no result"
        (run.folder / layout.RESULT).write_text('{"status": "FINISHED"}')
        assert run.refresh() and run.status == "FINISHED" and not run.refresh()
        (run.folder / layout.RESULT).unlink()
        assert run.refresh() and run.status == "KILLED", "it is resumed"

    def test_runs_and_jobs_of_an_outputs_folder(self, tmp_path: Path) -> None:
        write_run(tmp_path / "runs" / "alone")
        sweep = tmp_path / "sweeps" / "many"
        write_run(sweep / "0")
        jobs = [{"number": number, "name": f"lr={number}"} for number in range(2)]
        (sweep / layout.SWEEP_PLAN).write_text(json.dumps({"jobs": jobs}))
        runs = LiveRuns(tmp_path)
        assert len(runs.refresh()) == 3
        shown = {(run.name, run.job, run.status) for run in runs.runs.values()}
        assert shown == {("alone", None, "KILLED"), ("lr=0", 0, "KILLED"), ("lr=1", 1, "WAITING")}
        assert not runs.refresh()
        assert len(LiveRuns(sweep).refresh()) == 2
        assert len(LiveRuns(tmp_path, most=2).refresh()) == 2

    def test_a_long_curve_is_thinned_out_and_infinite_values_are_left_out(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "long", values=(float("inf"), float("nan"), 0.0, *(1 / n for n in range(1, 2_000))))
        run.refresh()
        assert run.best == 0.0, "it stands where the curve is thinned out"
        assert run.epoch == 2_002 and len(run.curves["val/loss"]) <= 800
        text = draw(run, 60, 12)
        assert "val/loss" in text and "train/loss" in text and len(text.splitlines()) == 12
        assert draw(LiveRun(tmp_path / "none", "none"), 60, 12) == ""


def in_app(runs: LiveRuns, work: Callable[[Any, Any], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        app = Watch(runs, "outputs")
        async with app.run_test(size=(140, 40)) as pilot:
            await pilot.pause()
            await work(app, pilot)

    asyncio.run(run())


def test_the_table_the_curve_and_the_log(tmp_path: Path) -> None:
    first, second = write_run(tmp_path / "runs" / "2026-a"), write_run(tmp_path / "runs" / "2026-b")
    (first.folder / layout.RESULT).write_text('{"status": "FINISHED"}')
    (second.folder / layout.LOG).write_text("2026-11-29 21:54:09,123 INFO    epoch 2/5\n")

    async def look(app: Any, pilot: Any) -> None:
        from textual.widgets import DataTable, Static

        table = app.query_one(DataTable)
        rows = [[str(cell) for cell in table.get_row_at(place)] for place in range(table.row_count)]
        assert [(row[0], row[1], row[4]) for row in rows] == [
            ("KILLED", "2/5", "2026-b"),
            ("FINISHED", "2/5", "2026-a"),
        ]
        assert app.sub_title == "1 finished, 1 killed"
        assert app.chosen().name == "2026-b"
        assert str(app.query_one("#lines", Static).render()) == "21:54:09 epoch 2/5"
        assert "val/loss" in str(app.query_one("#curve", Static).render())
        with lock(first.folder):
            (first.folder / layout.RESULT).unlink()
            app.update_runs()
            assert [str(table.get_row_at(place)[0]) for place in range(2)] == ["RUNNING", "KILLED"]
            assert app.chosen().name == "2026-b", "the cursor stays on its run"
        await pilot.press("q")

    in_app(LiveRuns(tmp_path), look)


def test_a_key_stops_a_run_by_the_process_that_has_its_folder(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "one")
    hold = f"import time, pathlib; from runner.rundir.lock import lock; held = lock(pathlib.Path({str(run.folder)!r}))"
    with subprocess.Popen(
        [sys.executable, "-c", f"{hold}; print(1, flush=True); time.sleep(60)"], stdout=-1
    ) as process:
        assert process.stdout is not None and process.stdout.readline()

        async def press(app: Any, pilot: Any) -> None:
            assert app.chosen().status == "RUNNING"
            await pilot.press("s")
            await app.workers.wait_for_complete()

        in_app(LiveRuns(tmp_path), press)
        assert process.wait(30) == -signal.SIGTERM


@pytest.mark.soak
def test_keys_steer_a_running_sweep(tmp_path: Path) -> None:
    sweep = Forked(tmp_path, "--multirun", "optimizer.lr=0.1,0.03", *SMALL, "sweep.jobs=1", "trainer.epochs=100")
    wait_for(lambda: list(tmp_path.glob("outputs/sweeps/*/0/metrics.jsonl")))
    folder = sweep_folder(tmp_path)

    async def press(app: Any, pilot: Any) -> None:
        assert app.chosen().job == 0
        await pilot.press("s")
        await app.workers.wait_for_complete()
        await pilot.press("c")
        await pilot.press(*"trainer.epochs=1", "enter")
        await app.workers.wait_for_complete()

    in_app(LiveRuns(folder), press)
    code, printed = sweep.wait()
    assert code == 0, printed
    assert outcomes(folder)[0]["status"] == "KILLED" and results(folder)[2]["epochs"] == 1


def test_it_ends_with_its_terminal(tmp_path: Path) -> None:
    terminal, inside = os.openpty()
    command = [sys.executable, "-m", "runner.watch", f"outputs={tmp_path}"]
    with subprocess.Popen(command, stdin=inside, stdout=inside, stderr=inside, preexec_fn=own_terminal) as process:
        os.close(inside)
        assert os.read(terminal, 100), "it draws"
        os.close(terminal)
        assert process.wait(30) == -signal.SIGHUP


def own_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "one")
    run.refresh()
    assert "does not run" in stop(run)
    assert "only a job" in clone(run, "optimizer.lr=1")
    run.status = "FINISHED"
    assert "is FINISHED" in go_on(run)
    job = LiveRun(tmp_path / "sweep" / "0", "lr=1", 0)
    assert "does not run" in stop(job) and "nothing" in clone(job, " ")


def test_a_wrong_folder_and_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"outputs={tmp_path / 'none'}"]) == 2
    assert main([f"outputs={tmp_path}"]) == 2
    assert "needs a terminal" in capsys.readouterr().err
