"""`python -m runner.sync`: what an outage or a kill kept from MLflow arrives after all."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.delivered import copy_store
from helpers.problems import about
from helpers.servers import Proxy
from runner import sync
from runner.errors import Problem
from runner.rundir import journal, layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.journal import Journal
from runner.rundir.lock import lock
from runner.rundir.manifest import Manifest
from runner.tracking.dead_runs import finish_dead_run
from runner.tracking.deliver import outstanding
from runner.tracking.store import connect

AWAY = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNNER_OUTPUTS", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def uri(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return copy_store(empty_store, tmp_path_factory.mktemp("store"))


def make_run(folder: Path, uri: str, status: str) -> Path:
    folder.mkdir(parents=True)
    writer = Journal(folder / layout.JOURNAL)
    for step in (1, 2, 3):
        writer.write({"val/loss": 1 / step}, step)
    writer.close()
    manifest = Manifest(uri, "sync", folder.name)
    (manifest if status == "RUNNING" else manifest.ended(status)).save(folder)
    return folder


def test_everything_undelivered_is_found_and_dead_runs_are_called_killed(
    outputs: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = make_run(outputs / "runs" / "finished", uri, "FINISHED")
    job = make_run(outputs / "sweeps" / "today" / "0", uri, "FAILED")
    dead = make_run(outputs / "runs" / "dead", uri, "RUNNING")
    alive = make_run(outputs / "runs" / "alive", uri, "RUNNING")
    (outputs / "runs" / "untracked").mkdir()
    with lock(alive):
        assert sync.main([]) == 0
        printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 4
    assert "alive: still running" in printed.err
    assert Manifest.load(alive).status == "RUNNING"
    client = connect(uri)
    for folder, status in ((finished, "FINISHED"), (job, "FAILED"), (dead, "KILLED")):
        run = client.get_run(DeliveryState.load(folder).run_id)
        assert run.info.status == status
        assert [p.step for p in client.get_metric_history(run.info.run_id, "val/loss")] == [1, 2, 3]
        assert run.data.tags.get("runner.ended") == ("killed without notice" if folder == dead else None)
        assert not outstanding(folder)
    last_sign = journal.read(dead / layout.JOURNAL)[0][-1].time
    assert client.get_run(DeliveryState.load(dead).run_id).info.end_time == round(last_sign * 1000)
    with lock(alive):
        sync.main([])
    assert "finished" not in capsys.readouterr().err


def test_a_damaged_record_keeps_no_other_from_being_delivered(
    outputs: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = make_run(outputs / "runs" / "a", uri, "FINISHED") / ".tracking" / "manifest.json"
    damaged.write_text(damaged.read_text()[:100])
    good = make_run(outputs / "runs" / "b", uri, "FINISHED")
    assert sync.main([]) == 1
    printed = capsys.readouterr().err
    assert f"not uploaded: {damaged} is damaged" in printed
    assert connect(uri).get_run(DeliveryState.load(good).run_id).info.status == "FINISHED"


def test_a_job_is_not_closed_by_others_once_a_sweep_goes_on_with_it(outputs: Path, uri: str) -> None:
    job = make_run(outputs / "sweeps" / "today" / "0", uri, "RUNNING")
    with lock(job.parent):
        assert finish_dead_run(job) is False
        assert Manifest.load(job).status == "RUNNING"
    assert finish_dead_run(job) is True
    assert Manifest.load(job).status == "KILLED"


def test_a_store_that_is_away_is_exit_1_and_another_address_helps(
    outputs: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(outputs / "runs" / "offline", AWAY, "FINISHED")
    (folder / "result.json").write_text('{"run_id": null, "status": "FINISHED"}')
    assert sync.main([]) == 1
    assert f"{folder}: not uploaded: " in capsys.readouterr().err
    assert sync.main([f"run={folder}", f"tracking.uri={uri}"]) == 0
    run_id = DeliveryState.load(folder).run_id
    assert connect(uri).get_run(run_id).info.status == "FINISHED"
    assert json.loads((folder / "result.json").read_text()) == {"run_id": run_id, "status": "FINISHED"}


def test_a_store_that_refuses_is_explained_once_for_a_sweep(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = outputs / "sweeps" / "today"
    with Proxy(1) as server:
        server.fails, server.error = True, 403
        for folder in (sweep, sweep / "0", sweep / "1"):
            make_run(folder, server.uri, "FINISHED")
        (sweep / "sweep.json").write_text("{}")
        assert sync.main([f"run={sweep}"]) == sync.main([]) == 1
        one, again = capsys.readouterr().err.splitlines()
        assert one == again and one.startswith(f"{sweep}: ") and "(403)" in one
        DeliveryState("0" * 32, "1").save(sweep)  # the store has it: its jobs might be taken
        assert sync.main([f"run={sweep}"]) == 1
        *_, first, second = capsys.readouterr().err.splitlines()
        assert f"{sweep}/0: " in first and f"{sweep}/1: " in second
        assert "403" not in first + second and first.rpartition(": ")[2] == second.rpartition(": ")[2]
        assert first.endswith(f"the same as {sweep}")


def test_a_run_killed_without_notice_is_completed(outputs: Path, uri: str) -> None:
    folder = outputs / "runs" / "victim"
    folder.mkdir(parents=True)
    code = (
        "import sys, time; from pathlib import Path\n"
        "from runner.rundir.lock import lock as lock_folder\n"
        "from runner.rundir.manifest import Manifest\n"
        "from runner.tracking.tracker import Tracker\n"
        "folder = Path(sys.argv[1]); held = lock_folder(folder)\n"
        "tracker = Tracker(folder, Manifest(sys.argv[2], 'sync', 'victim'))\n"
        "for step in range(1, 10**6):\n"
        "    tracker.log({'train/loss': 1 / step}, step); time.sleep(0.001)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(folder), uri])
    deadline = time.monotonic() + 60
    while DeliveryState.load(folder).offset == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)
    child.send_signal(signal.SIGKILL)
    child.wait()
    command = [sys.executable, "-m", "runner.sync", f"run={folder}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert len(done.stderr.splitlines()) == 1
    assert "(KILLED)" in done.stderr
    client = connect(uri)
    run = client.get_run(DeliveryState.load(folder).run_id)
    assert run.info.status == "KILLED"
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]
    written = [p.step for p in journal.read(folder / layout.JOURNAL)[0] if p.name == "train/loss"]
    assert steps == written == list(range(1, len(written) + 1))


def test_a_store_made_anew_is_filled_again(outputs: Path, uri: str, empty_store: Path, tmp_path: Path) -> None:
    folder = make_run(outputs / "runs" / "moved", uri, "FINISHED")
    assert sync.main([f"run={folder}"]) == 0
    first = DeliveryState.load(folder).run_id
    fresh = copy_store(empty_store, tmp_path / "new")
    assert sync.main([f"run={folder}", f"tracking.uri={fresh}"]) == 0
    second = DeliveryState.load(folder).run_id
    assert first != second
    assert [p.step for p in connect(fresh).get_metric_history(second, "val/loss")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["rum=x"], ("rum", "unknown")),
        (["run"], ("run", "missing")),
        (["run=nowhere"], ("run", "file")),
        (["run=."], ("run", "run")),
    ],
)
def test_wrong_arguments_are_exit_2(
    arguments: list[str], problem: tuple[str, str], reported: list[Problem], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sync.main(arguments) == 2
    assert about(reported) == [problem]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {reported[0]}" and arguments[0] in line.replace("rum is", "rum=x")


def test_all_wrong_arguments_are_named_at_once(reported: list[Problem], capsys: pytest.CaptureFixture[str]) -> None:
    assert sync.main(["rum=x", "tracking.url=y"]) == 2
    assert about(reported) == [("rum", "unknown"), ("tracking.url", "unknown")]
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_help_and_config_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, shown in ((["--help"], "tracking.uri"), (["run=x", "--cfg", "job"], "run: x")):
        with pytest.raises(SystemExit) as ended:
            sync.main(arguments)
        assert ended.value.code == 0
        assert shown in capsys.readouterr().out


def test_nothing_to_do_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert sync.main([]) == 0
    assert len(capsys.readouterr().err.splitlines()) == 1
