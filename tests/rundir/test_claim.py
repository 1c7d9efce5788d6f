"""One run, one folder: a copy goes on as a run of its own, a moved folder as the same one, and never two as one."""

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from conftest import Called, run_folder
from helpers.delivered import copy_store
from helpers.sweeping import sweep_folder
from runner import sync
from runner.rundir import journal, layout
from runner.rundir.claim import Relation, claim
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.journal import Journal
from runner.rundir.manifest import Manifest
from runner.tracking.deliver import Delivery
from runner.tracking.run_owner import NotOwner
from runner.tracking.store import connect
from runner.util.tags import COPY_TAG, FOLDER_TAG, SUCCESSOR_PARAM

Runner = Callable[..., Called]


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    return copy_store(empty_store, tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path, uri: str) -> Path:
    """A run that was stopped after two epochs, of which MLflow has everything."""
    folder = tmp_path / "run"
    folder.mkdir()
    measure(folder, 1, 2)
    manifest = Manifest(uri, "claims", "a run", str(tmp_path / "mlartifacts"), tags={FOLDER_TAG: str(folder)})
    manifest.log_model = False
    manifest.ended("KILLED").save(folder)
    assert Delivery(folder).step()
    return folder


def measure(folder: Path, *steps: int) -> None:
    writer = Journal(folder / layout.JOURNAL)
    for step in steps:
        writer.write({"val/loss": 1 / step}, step)
    writer.close()


def steps_of(client: MlflowClient, run: Run) -> list[int]:
    return [point.step for point in client.get_metric_history(run.info.run_id, "val/loss")]


def runs(uri: str) -> dict[str, Run]:
    """Return the runs of a store by the folder that they name."""
    client = connect(uri)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return {run.data.tags[FOLDER_TAG]: run for run in client.search_runs(ids)}


def copy_of(folder: Path, name: str) -> Path:
    return Path(shutil.copytree(folder, folder.with_name(name)))


def edit_place(folder: Path, **changes: Any) -> None:
    manifest = Manifest.load(folder)
    assert manifest.place is not None
    manifest.place |= changes
    manifest.save(folder)


class TestRelation:
    def test_in_place(self, folder: Path) -> None:
        before = (folder / ".tracking" / "manifest.json").read_bytes()
        assert claim(folder) is Relation.SAME
        assert (folder / ".tracking" / "manifest.json").read_bytes() == before

    def test_a_copy_beside_the_original(self, folder: Path) -> None:
        copy, was = copy_of(folder, "copy"), Manifest.load(folder)
        run_id = DeliveryState.load(folder).run_id
        assert claim(copy) is Relation.COPY
        assert Manifest.load(copy).key != was.key and Manifest.load(copy).tags[COPY_TAG] == run_id
        assert DeliveryState.load(copy).run_id is None
        assert Manifest.load(folder) == was
        assert claim(copy) is Relation.SAME, "it is a run of its own"
        assert claim(folder) is Relation.SAME

    def test_a_renamed_folder(self, folder: Path) -> None:
        was = Manifest.load(folder)
        moved = folder.rename(folder.with_name("moved"))
        assert claim(moved) is Relation.SAME
        now = Manifest.load(moved)
        assert (now.key, now.owner) == (was.key, "") and now.place is not None and now.place["path"] == str(moved)

    def test_a_copy_whose_original_is_gone(self, folder: Path) -> None:
        copy, key = copy_of(folder, "copy"), Manifest.load(folder).key
        shutil.rmtree(folder)
        assert claim(copy) is Relation.MOVED
        assert Manifest.load(copy).key == key and Manifest.load(copy).former_owners == [""]
        assert claim(copy) is Relation.SAME

    def test_a_folder_that_another_run_has_taken_is_gone(self, folder: Path, uri: str) -> None:
        copy = copy_of(folder, "copy")
        shutil.rmtree(folder)
        folder.mkdir()
        Manifest(uri, "claims", "another").save(folder)
        assert claim(copy) is Relation.MOVED

    def test_a_backup_at_the_same_place(self, folder: Path) -> None:
        copy = copy_of(folder, "copy")
        shutil.rmtree(folder)
        assert claim(copy.rename(folder)) is Relation.MOVED

    def test_a_folder_of_another_machine(self, folder: Path) -> None:
        edit_place(folder, host="elsewhere")
        assert claim(folder) is Relation.SAME, "a shared disk"
        assert (Manifest.load(folder).place or {})["host"] == socket.gethostname()
        edit_place(folder, host="elsewhere", inodes=[1, 2])
        assert claim(folder) is Relation.COPY, "whether it is gone there cannot be seen"

    def test_one_of_an_earlier_version(self, folder: Path) -> None:
        copy = copy_of(folder, "copy")
        for each in (folder, copy):
            manifest = Manifest.load(each)
            manifest.place = {}
            manifest.save(each)
        assert claim(copy) is Relation.COPY
        assert claim(folder) is Relation.SAME

    def test_an_untracked_one(self, tmp_path: Path) -> None:
        assert claim(tmp_path) is Relation.SAME
        assert list(tmp_path.iterdir()) == []


class TestOwner:
    def test_the_owner_of_a_run_is_the_one_that_was_moved(self, folder: Path, uri: str) -> None:
        original = copy_of(folder, "kept")  # as on a disk that is not mounted for a while
        copy = copy_of(folder, "copy")
        shutil.rmtree(folder)
        claim(copy)
        measure(copy, 3)
        assert Delivery(copy).step()
        client, run_id = connect(uri), DeliveryState.load(copy).run_id
        assert steps_of(client, client.get_run(str(run_id))) == [1, 2, 3]

        original.rename(folder)
        measure(folder, 3, 4)
        with pytest.raises(NotOwner):
            Delivery(folder).step()
        assert steps_of(client, client.get_run(str(run_id))) == [1, 2, 3]
        assert Delivery(copy).step() and Delivery(copy).step(), "in its place it goes on"

    def test_two_copies_at_once(self, folder: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        one, other = copy_of(folder, "one"), copy_of(folder, "other")
        run_id = str(DeliveryState.load(folder).run_id)
        shutil.rmtree(folder)
        for copy in (one, other):
            assert claim(copy) is Relation.MOVED
            measure(copy, 3)
        log_param = MlflowClient.log_param

        def after_the_other(self: MlflowClient, *arguments: Any) -> Any:
            monkeypatch.setattr(MlflowClient, "log_param", log_param)
            assert Delivery(other).step()  # between the first look at the run and the claim
            return log_param(self, *arguments)

        monkeypatch.setattr(MlflowClient, "log_param", after_the_other)
        with pytest.raises(NotOwner):
            Delivery(one).step()
        state = DeliveryState.load(one)
        assert (state.run_id, state.lost_run_id) == (None, run_id), "nothing shows the run of the other as its own"
        client = connect(uri)
        assert steps_of(client, client.get_run(run_id)) == [1, 2, 3]
        assert len([key for key in client.get_run(run_id).data.params if key.startswith(SUCCESSOR_PARAM)]) == 1

        assert sync.main([f"run={one}"]) == 0
        found = runs(uri)
        assert len(found) == 2 and found[str(one)].info.run_id != run_id
        assert found[str(one)].data.tags[COPY_TAG] == run_id
        assert steps_of(client, found[str(one)]) == [1, 2, 3]

    def test_a_kill_between_the_claim_and_the_tag_costs_nothing(
        self, folder: Path, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copy = copy_of(folder, "copy")
        shutil.rmtree(folder)
        claim(copy)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(MlflowClient, "set_tag", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            Delivery(copy).step()
        measure(copy, 3)
        assert Delivery(copy).step()


def test_sync_of_a_copy_makes_a_run_that_names_the_old_one(folder: Path, uri: str) -> None:
    copy, run_id = copy_of(folder, "copy"), DeliveryState.load(folder).run_id
    (copy / layout.RESULT).write_text(f'{{"run_id": "{run_id}", "status": "KILLED"}}')
    measure(copy, 3)
    assert sync.main([f"run={copy}"]) == 0
    found, client = runs(uri), connect(uri)
    assert found[str(copy)].data.tags[COPY_TAG] == run_id == found[str(folder)].info.run_id
    assert steps_of(client, found[str(folder)]) == [1, 2]
    assert steps_of(client, found[str(copy)]) == [1, 2, 3]
    assert found[str(copy)].info.run_id in (copy / layout.RESULT).read_text()


@pytest.mark.usefixtures("delivery_here")
def test_a_resumed_copy_is_another_run_and_a_moved_folder_the_same(here: Path, runner: Runner) -> None:
    arguments = ("debug=fast", "data.limit=60", "trainer.epochs=1", "tracking.log_model=false", "scheduler=constant")
    assert runner(*arguments).code == 0
    folder = run_folder(here)
    uri, run_id = Manifest.load(folder).uri, DeliveryState.load(folder).run_id
    copy = copy_of(folder, "copy")
    called = runner(f"resume={copy}", "trainer.epochs=2")
    assert called.code == 0, called.err
    assert f"a copy of {folder.relative_to(here)}" in called.err
    found, client = runs(uri), connect(uri)
    assert found.keys() == {str(folder), str(copy)}
    assert found[str(copy)].data.tags[COPY_TAG] == run_id == found[str(folder)].info.run_id
    assert steps_of(client, found[str(folder)]) == [1] and steps_of(client, found[str(copy)]) == [1, 2]
    assert found[str(copy)].data.params == found[str(folder)].data.params
    points = journal.read(copy / layout.JOURNAL)[0]
    assert [point.step for point in points if point.name == "val/loss"] == [1, 2]

    moved = Path(shutil.copytree(folder, here / "outputs" / "runs" / "moved"))
    shutil.rmtree(folder)
    assert runner(f"resume={moved}", "trainer.epochs=2").code == 0
    found = runs(uri)
    assert found.keys() == {str(moved), str(copy)} and found[str(moved)].info.run_id == run_id
    assert steps_of(client, found[str(moved)]) == [1, 2]


@pytest.mark.usefixtures("delivery_here")
def test_a_copied_sweep_is_another_sweep(here: Path, runner: Runner) -> None:
    arguments = ("debug=fast", "data.limit=60", "tracking.log_model=false", "sweep.jobs=1")
    assert runner("--multirun", *arguments, "seed=0,1").code == 0
    folder = sweep_folder(here)
    uri = Manifest.load(folder).uri
    before = runs(uri)
    copy = copy_of(folder, "copy")
    called = runner("--multirun", f"sweep.resume={copy}", "seed=0,1,2", "sweep.extend=true")
    assert called.code == 0, called.err
    found = runs(uri)
    assert found.keys() == before.keys() | {str(copy), *(str(copy / str(job)) for job in range(3))}
    parents = {path: run.data.tags.get("mlflow.parentRunId") for path, run in found.items()}
    for job in range(3):
        assert parents[str(copy / str(job))] == found[str(copy)].info.run_id
    for path, run in before.items():
        assert found[path].to_dictionary() == run.to_dictionary()
    assert found[str(copy)].data.tags[COPY_TAG] == before[str(folder)].info.run_id
