"""What a store, a link or another user says about files is data: nothing of ours is read, changed or published."""

import json
import os
import shutil
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from conftest import run_folder
from helpers.delivered import copy_store
from helpers.problems import problem_of
from helpers.second_user import as_second_user, needs_two_users, shared, snapshot
from helpers.servers import Server
from helpers.sweeping import Forked
from runner import compare, sync
from runner.comparison.find import find_run, jobs_of
from runner.errors import ConfigError
from runner.rundir import layout
from runner.rundir.code import Code
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.journal import Journal
from runner.rundir.lock import is_locked, lock
from runner.rundir.manifest import Manifest, own_folder
from runner.runs import recovery
from runner.saved.code import StoredCode
from runner.saved.run import SavedRun, find
from runner.sweeps.results.links import newest
from runner.sweeps.results.resume import find as find_sweep
from runner.tracking.dead_runs import close_dead_runs
from runner.tracking.deliver import Delivery
from runner.tracking.pages import newest_table
from runner.tracking.store import connect
from runner.util.tags import FOLDER_TAG, KEY_TAG

__all__ = ["shared"]

SECRET = "a secret of the first user\n"
CONFIG = "seed: 0\n"


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "outputs"
    folder.mkdir()
    monkeypatch.setenv("RUNNER_OUTPUTS", str(folder))
    return folder


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    return copy_store(empty_store, tmp_path / "store")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.txt"
    path.write_text(SECRET)
    return path


def make_run(folder: Path, uri: str, status: str = "RUNNING") -> Manifest:
    folder.mkdir(parents=True)
    writer = Journal(folder / layout.JOURNAL)
    writer.write({"val/loss": 0.5}, 1)
    writer.close()
    (folder / layout.CONFIG).write_text(CONFIG)
    (folder / layout.LOG).write_text("a line\n")
    manifest = Manifest(uri, "trust", folder.name, str(folder.parents[2] / "mlartifacts"), log_model=False)
    manifest = manifest if status == "RUNNING" else manifest.ended(status)
    manifest.save(folder)
    return manifest


def plant_run(uri: str, folder: Path | str, key: str) -> tuple[MlflowClient, str]:
    """Create an MLflow run that says RUNNING and names a folder, as everyone can who may write to the store."""
    client = connect(uri)
    run = client.create_run("0", tags={KEY_TAG: key, FOLDER_TAG: str(folder)})
    return client, run.info.run_id


def assert_untouched(client: MlflowClient, run_id: str) -> None:
    """Assert that an MLflow run has nothing but what it was created with."""
    run = client.get_run(run_id)
    assert run.info.status == "RUNNING" and run.data.metrics == {} and run.data.params == {}
    assert client.list_artifacts(run_id) == []


Plant = Callable[[Path, Manifest, Path, Path], object]
"""Creates a folder for a manifest; besides, a secret file and a run's folder of the first user."""


def _plain(folder: Path, manifest: Manifest, secret: Path, own: Path) -> None:
    manifest.save(folder)
    (folder / layout.CONFIG).write_text(CONFIG)


def _with_links(folder: Path, manifest: Manifest, secret: Path, own: Path) -> None:
    manifest.save(folder)
    for name in (".lock", layout.CONFIG, layout.LOG, layout.RESULT, layout.JOURNAL, ".tracking/delivery.json"):
        (folder / name).symlink_to(secret)
    (folder / layout.ARTIFACTS).symlink_to(secret.parent)


def _link_to_own(folder: Path, manifest: Manifest, secret: Path, own: Path) -> None:
    folder.symlink_to(own)


def _notes_of_own(folder: Path, manifest: Manifest, secret: Path, own: Path) -> None:
    folder.mkdir()
    (folder / ".tracking").symlink_to(own / ".tracking")
    (folder / layout.LOG).symlink_to(secret)


@needs_two_users
@pytest.mark.parametrize("plant", [_plain, _with_links, _link_to_own, _notes_of_own])
def test_a_folder_that_another_user_has_planted_is_left_alone(
    plant: Plant, outputs: Path, shared: Path, uri: str, secret: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = outputs / "runs" / "own"
    mine = make_run(own, "http://127.0.0.1:1", "FINISHED")  # in another store
    of_own = plant in (_link_to_own, _notes_of_own)
    manifest = mine if of_own else Manifest(uri, "trust", "planted", str(shared / "mlartifacts"))
    folder = shared / "planted"
    as_second_user(lambda: plant(folder, manifest, secret, own))
    client, run_id = plant_run(uri, folder, manifest.key)
    before, own_before = snapshot(shared), snapshot(outputs)

    assert list(close_dead_runs(client, uri)) == []
    with pytest.raises(ConfigError, match="does not have its config"):  # it is in the folder
        find(run_id, uri=uri)
    compared = find_run(run_id, uri, 1)
    assert compared.folder is None and compared.config == {}

    assert snapshot(shared) == before and snapshot(outputs) == own_before
    assert secret.read_text() == SECRET
    assert_untouched(client, run_id)


@needs_two_users
def test_folders_of_others_in_a_shared_outputs_folder_are_not_synchronised(
    shared: Path, uri: str, secret: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = shared / "outputs"
    (outputs / "runs").mkdir(parents=True)
    (outputs / "runs").chmod(0o1777)
    monkeypatch.setenv("RUNNER_OUTPUTS", str(outputs))
    foreign = Manifest(uri, "trust", "foreign", str(outputs / "mlartifacts")).ended("FINISHED")
    as_second_user(lambda: _with_links(outputs / "runs" / "foreign", foreign, secret, outputs))
    make_run(outputs / "runs" / "own", uri, "FINISHED")
    before = snapshot(outputs / "runs" / "foreign")
    assert sync.main([]) == 0
    printed = capsys.readouterr().err
    assert "own: uploaded" in printed and "1 left out" in printed and "foreign" not in printed
    assert snapshot(outputs / "runs" / "foreign") == before and secret.read_text() == SECRET
    assert len(connect(uri).search_runs(["0", "1"])) == 1


@needs_two_users
def test_commands_choose_only_folders_of_their_user(
    shared: Path, uri: str, secret: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a user names is used, as compare's `sweep=` is; what a command finds by itself must be the user's own."""
    outputs = shared / "outputs"
    for name in ("runs", "sweeps"):
        (outputs / name).mkdir(parents=True)
        (outputs / name).chmod(0o1777)
    monkeypatch.setenv("RUNNER_OUTPUTS", str(outputs))
    foreign = Manifest(uri, "trust", "foreign", str(outputs / "mlartifacts")).ended("FINISHED")

    def plant() -> None:
        for folder in (outputs / "runs" / "z", outputs / "sweeps" / "z", outputs / "sweeps" / "z" / "0"):
            folder.mkdir()
            foreign.save(folder)
            for name in (layout.JOBS, layout.SWEEP_PLAN):
                (folder / name).write_text("{}")
        for folder in (outputs / "runs" / "z", outputs / "sweeps" / "z" / "0"):
            (folder / layout.CONFIG).write_text(CONFIG)
        (outputs / "runs" / "y").symlink_to(outputs / "runs" / "own")
        (outputs / "runs" / "x").mkdir()
        (outputs / "runs" / "x" / layout.CONFIG).symlink_to(secret)

    make_run(outputs / "runs" / "own", uri, "FINISHED")
    make_run(outputs / "sweeps" / "own", uri, "FINISHED")
    for name in (layout.JOBS, layout.SWEEP_PLAN):
        (outputs / "sweeps" / "own" / name).write_text("{}")
    as_second_user(plant)
    (outputs / "sweeps" / "own" / "0").symlink_to(outputs / "sweeps" / "z" / "0")

    assert compare.main([]) == 0
    printed = capsys.readouterr()
    assert "3 left out: links, or folders of other users" in printed.err
    assert [line.split(",")[1] for line in printed.out.splitlines()] == ["run", "own"]
    assert compare.main([f"sweep={outputs}/sweeps/z"]) == 0, "it was named"
    assert f"{outputs}/sweeps/z/0" in capsys.readouterr().out
    assert jobs_of(outputs / "sweeps" / "own") == []
    assert newest(outputs, uri, 2) == [outputs / "sweeps" / "own"]
    for key, find_it in (("runs/own", lambda: find("none", uri=uri)), ("sweeps/own", lambda: find_sweep("none", uri))):
        suggestion = problem_of(find_it).suggestion
        assert key in suggestion and "/z" not in suggestion and "/y" not in suggestion


def test_a_run_that_copies_the_key_of_another_gets_nothing_of_it(outputs: Path, uri: str, tmp_path: Path) -> None:
    own = outputs / "runs" / "own"
    mine = make_run(own, "http://127.0.0.1:1", "FINISHED")
    client, run_id = plant_run(uri, own, mine.key)
    assert list(close_dead_runs(client, uri)) == []
    DeliveryState("0" * 32, "0").save(own)
    assert list(close_dead_runs(client, uri)) == []
    assert_untouched(client, run_id)
    assert not (own / ".lock").exists()


def test_a_dead_run_outside_of_the_outputs_folder_is_left_to_its_owner(outputs: Path, uri: str, tmp_path: Path) -> None:
    outside, inside = tmp_path / "downloads" / "x" / "run", outputs / "runs" / "run"
    ours = {folder: make_run(folder, uri) for folder in (outside, inside)}
    for folder in ours:
        assert not Delivery(folder).step()
    assert list(close_dead_runs(connect(uri), uri)) == [inside]
    assert Manifest.load(outside).status == "RUNNING" and Manifest.load(inside).status == "KILLED"
    assert own_folder({FOLDER_TAG: str(outside), KEY_TAG: ours[outside].key}) == outside, "by its id it is found"


@pytest.mark.parametrize("tag", ["", "relative", "/", "/proc/self/fd/0", "/nonexistent\0", "/" + "x" * 5000, "\x1b[2J"])
def test_a_tag_may_hold_anything(tag: str, outputs: Path, uri: str) -> None:
    assert own_folder({FOLDER_TAG: tag, KEY_TAG: "0" * 32}) is None
    assert own_folder({}) is None


def test_a_stored_view_may_be_anything() -> None:
    tags = {"mlflow.sharedViewState.runner-1": "{", "mlflow.sharedViewState.runner-2": '{"createdAt": 5}'}
    tags |= {"mlflow.sharedViewState.runner-3": '{"createdAt": "x"}', "mlflow.sharedViewState.runner-4": "[]"}
    assert newest_table(tags) == "runner-2"


class TestLocks:
    def test_a_link_is_not_followed(self, tmp_path: Path, secret: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / ".lock").symlink_to(secret)
        with pytest.raises(ConfigError, match="is not a lock"):
            lock(tmp_path / "run")
        (tmp_path / "run" / ".lock").unlink()
        (tmp_path / "run" / ".lock").symlink_to(tmp_path / "new")
        with pytest.raises(ConfigError, match="is not a lock"):
            lock(tmp_path / "run")
        assert not is_locked(tmp_path / "run")
        assert secret.read_text() == SECRET and not (tmp_path / "new").exists()

    def test_a_file_with_other_content_is_not_overwritten(self, tmp_path: Path, secret: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / ".lock").hardlink_to(secret)
        for _ in range(2):  # it is released
            with pytest.raises(ConfigError, match="is not a lock"):
                lock(tmp_path / "run")
        assert secret.read_text() == SECRET

    def test_a_fifo_does_not_block(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / ".lock")
        assert not is_locked(tmp_path)
        with pytest.raises(ConfigError, match="is not a lock"):
            lock(tmp_path)

    def test_a_lock_is_used_again(self, tmp_path: Path) -> None:
        for _ in range(2):
            with lock(tmp_path):
                assert is_locked(tmp_path)
            assert not is_locked(tmp_path)


def test_artifacts_do_not_follow_links(outputs: Path, uri: str, secret: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = outputs / "runs" / "own"
    make_run(folder, uri, "FINISHED")
    (folder / layout.LOG).unlink()
    for name in (layout.LOG, layout.SAMPLES, layout.RESULT):
        (folder / name).symlink_to(secret)
    for name in (layout.CODE, layout.ARTIFACTS, layout.PROFILE, layout.CHECKPOINTS):
        (folder / name).mkdir()
        (folder / name / "link.pt").symlink_to(secret)
        (folder / name / "plain.pt").write_text("plain")
        (folder / name / "linked").symlink_to(secret.parent)
    (folder / layout.PLOTS).symlink_to(secret.parent)
    manifest = Manifest.load(folder)
    manifest.log_checkpoints = manifest.log_model = True
    (folder / layout.MODEL / "data").mkdir(parents=True)
    (folder / layout.MODEL / "MLmodel").write_text("model_uuid: 1\n")
    (folder / layout.MODEL / "data" / "model.pt2").symlink_to(secret)
    manifest.save(folder)

    assert Delivery(folder).step()

    client, run_id = connect(uri), DeliveryState.load(folder).run_id
    assert run_id is not None
    root = Path(client.get_run(run_id).info.artifact_uri.removeprefix("file://"))
    uploaded = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert uploaded == {
        layout.CONFIG, layout.JOURNAL,
        "code/plain.pt", "artifacts/plain.pt", "profile/plain.pt", "checkpoints/plain.pt",
    }  # fmt: skip
    assert client.search_logged_models(["1"]) == []
    assert "run.log" in caplog.text and "plots" in caplog.text, "and it says so"
    assert secret.read_text() == SECRET


def test_an_artifact_behind_a_link_is_not_read(outputs: Path, uri: str, secret: Path) -> None:
    folder = outputs / "runs" / "own"
    make_run(folder, uri, "FINISHED")
    assert Delivery(folder).step()
    run_id = str(DeliveryState.load(folder).run_id)
    root = Path(connect(uri).get_run(run_id).info.artifact_uri.removeprefix("file://"))
    (root / layout.CONFIG).unlink()
    (root / layout.CONFIG).symlink_to(secret)
    shutil.rmtree(folder)
    with pytest.raises(ConfigError, match="is a link"):
        find(run_id, uri=uri)


@pytest.mark.parametrize("name", [f"{layout.CODE}/{layout.CODE_RECORD}", layout.CODE])
def test_a_record_of_code_behind_a_link_is_not_read(name: str, outputs: Path, uri: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / layout.CODE_RECORD).write_text(Code().to_text())
    folder = outputs / "runs" / "own"
    make_run(folder, uri, "FINISHED")
    shutil.copytree(target, folder / layout.CODE)
    assert Delivery(folder).step()
    run_id = str(DeliveryState.load(folder).run_id)
    root = Path(connect(uri).get_run(run_id).info.artifact_uri.removeprefix("file://"))
    here, there = (SavedRun("run=x", folder, None, None), SavedRun("run=x", None, run_id, uri))
    assert StoredCode(here).record == StoredCode(there).record == Code()
    for place in (root, folder):
        shutil.rmtree(place / layout.CODE)
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).symlink_to(target if name == layout.CODE else target / layout.CODE_RECORD)
    assert StoredCode(here).record is None
    with pytest.raises(ConfigError, match=r"is a link|outside the artifact directory"):
        StoredCode(there)


@pytest.mark.parametrize(
    ("was", "name", "expected"),
    [
        ("{home}/.config/new", "a run", "outputs/runs/new"),
        ("{home}/new/..", "a run", "outputs/runs/recovered"),
        ("{home}/3", "../../home/x", "outputs/runs/home-x"),
        ("{home}/3", "/etc", "outputs/runs/etc"),
        ("{home}/.ssh", "a run", "outputs/runs/ssh"),
        ("{link}/runs/x", "a run", "outputs/runs/x"),
        ("{outputs}/runs/2026_x", "a run", "outputs/runs/2026_x"),
        ("{outputs}/sweeps/s/3", "a run", "outputs/sweeps/s/3"),
        ("{outputs}/../new", "a run", "outputs/runs/new"),
        ("", "", "outputs/runs/recovered"),
    ],
)
def test_a_lost_folder_comes_back_below_the_outputs_folder_alone(
    was: str, name: str, expected: str, outputs: Path, uri: str, tmp_path: Path
) -> None:
    """As the store says where it was, and how it is called."""
    home, link, fetched = tmp_path / "home", tmp_path / "link", tmp_path / "fetched"
    for folder in (home, home / ".config", home / "new", outputs / "runs", outputs / "sweeps" / "s", fetched / ".ssh"):
        folder.mkdir(parents=True)
    link.symlink_to(outputs)
    (fetched / layout.CONFIG).write_text(CONFIG)
    (fetched / ".lock").write_text("planted")
    before = snapshot(home)
    client = connect(uri)
    tags = {KEY_TAG: "0" * 32, FOLDER_TAG: was.format(home=home, link=link, outputs=outputs)}
    run = client.create_run("0", tags=tags, run_name=name or None)
    saved = SavedRun("resume=x", None, run.info.run_id, uri, name=name, tags=tags)
    folder = recovery.recover(saved, fetched, {})
    assert folder.relative_to(tmp_path) == Path(expected)
    assert sorted(path.name for path in folder.iterdir()) == [".tracking", layout.CONFIG, layout.JOURNAL]
    assert snapshot(home) == before
    assert (Manifest.load(folder).key, DeliveryState.load(folder).run_id) == ("0" * 32, run.info.run_id)


@pytest.mark.soak
@needs_two_users
def test_the_same_with_a_server_that_both_use_and_a_run_of_ours(
    here: Path, shared: Path, empty_store: Path, secret: Path
) -> None:
    server = Server(here, empty_store)
    server.start()
    try:
        tracking = ("tracking=server", f"tracking.uri={server.uri}", "tracking.log_model=false")
        arguments = ("debug=fast", "data.limit=60", "trainer.epochs=1", *tracking)
        code, printed = Forked(here, *arguments).wait()
        assert code == 0, printed
        own = run_folder(here)
        before, client, planted = snapshot(own), connect(server.uri), []

        def plant_all() -> None:
            for plant in (_plain, _with_links, _link_to_own, _notes_of_own):
                folder = shared / plant.__name__
                manifest = Manifest(server.uri, "trust", "planted", key=f"{len(planted):032x}")
                plant(folder, manifest, secret, own)
                planted.append(create_run(server.uri, folder, manifest.key))
            (shared / "ids").write_text(" ".join(planted))

        as_second_user(plant_all)
        planted = (shared / "ids").read_text().split()
        planted.append(create_run(server.uri, own, Manifest.load(own).key))  # it copies what the store says of our run
        of_others = snapshot(shared)
        code, printed = Forked(here, *arguments).wait()
        assert code == 0 and "found " not in printed, printed
        assert snapshot(shared) == of_others and snapshot(own) == before and secret.read_text() == SECRET
        for run_id in planted:
            assert_untouched(client, run_id)
    finally:
        server.signal(signal.SIGKILL)


def create_run(uri: str, folder: Path, key: str) -> str:
    """Create an MLflow run by the server's interface, without a client."""
    tags = [{"key": KEY_TAG, "value": key}, {"key": FOLDER_TAG, "value": str(folder)}]
    body = json.dumps({"experiment_id": "0", "start_time": 0, "tags": tags}).encode()
    request = urllib.request.Request(f"{uri}/api/2.0/mlflow/runs/create", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)["run"]["info"]["run_id"])
