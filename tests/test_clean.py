"""`python -m runner.clean`: what nothing needs goes, whole; everything else stays."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from conftest import Called
from helpers.delivered import delivered_here
from helpers.problems import about
from helpers.trained import place
from runner import clean, evaluate, predict
from runner.cleaning import files
from runner.cleaning.clean import Cleaner
from runner.cleaning.files import measure
from runner.cli import run_command
from runner.errors import Problem
from runner.rundir import cleaned, layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.folders import outputs
from runner.rundir.lock import lock
from runner.rundir.manifest import Manifest
from runner.rundir.requests import STEERED
from runner.tracking.store import connect, local_uri

LONG_AGO = time.time() - 100 * 86400

Runner = Callable[..., Called]


def a_run(folder: Path, status: str = "FINISHED", ended_at: float = LONG_AGO, **config: Any) -> Path:
    """Make the folder of a run by hand, without tracking."""
    (folder / layout.CHECKPOINTS).mkdir(parents=True)
    (folder / layout.MODEL / "data").mkdir(parents=True)
    (folder / layout.CHECKPOINTS / layout.LAST).write_bytes(b"x" * 10_000)
    os.link(folder / layout.CHECKPOINTS / layout.LAST, folder / layout.CHECKPOINTS / layout.BEST)
    (folder / layout.MODEL / "data" / "model.pt2").write_bytes(b"x" * 5_000)
    base = {"seed": 0, "resume": None, "model": {"weights": None}}
    (folder / layout.CONFIG).write_text(yaml.safe_dump(base | config))
    if status:
        (folder / layout.RESULT).write_text(json.dumps({"status": status}))
        os.utime(folder / layout.RESULT, (ended_at, ended_at))
    return folder


def a_sweep(folder: Path, *statuses: str, best: int | None = 0, **results: Any) -> Path:
    """Make the folder of a sweep whose jobs ended so."""
    for number, status in enumerate(statuses):
        a_run(folder / str(number), status)
    (folder / layout.SWEEP_PLAN).write_text(json.dumps({"jobs": []}))
    jobs = [{"job": number, "run_id": None} for number in range(len(statuses))]
    (folder / layout.JOBS).write_text(json.dumps({"best": best, "jobs": jobs, **results}))
    return folder


@pytest.fixture(autouse=True)
def _no_images_of_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("runner.data.image_cache.USERS", tmp_path / "images_of_the_user")


def large(root: Path) -> list[str]:
    """Return the folders below that have checkpoints or a model."""
    found = {path.parent for name in files.LARGE for path in root.rglob(name)}
    return sorted(str(path.relative_to(root)) for path in found)


def clean_all(*arguments: str) -> int:
    return clean.main([*arguments, "yes=true"])


def reasons(folder: Path, before: float | None = None) -> dict[str, list[str]]:
    kept = Cleaner(folder, before or time.time() - 86400).find().kept
    return {reason: [str(run.folder.relative_to(folder)) for run in runs] for reason, runs in kept.items()}


def test_losers_go_and_the_rest_stays_each_for_its_reason(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = here / "outputs"
    whole = a_sweep(root / "sweeps" / "whole", "FINISHED", "FINISHED", "PAUSED", "KILLED", "KILLED", best=1)
    (whole / "3" / layout.JOB).write_text(json.dumps({"status": "FINISHED", "why": "pruned after epoch 3"}))
    (whole / "4" / layout.JOB).write_text(json.dumps({"status": "KILLED", "why": STEERED}))
    a_sweep(root / "sweeps" / "front", "FINISHED", "FINISHED", "FINISHED", best=None, front=[0, 2])
    a_sweep(root / "sweeps" / "half", "FINISHED", "FAILED")
    a_sweep(root / "sweeps" / "running", "FINISHED", "FINISHED")
    a_sweep(root / "sweeps" / "unranked", "FINISHED", best=None)
    a_sweep(root / "sweeps" / "folds", "FINISHED", "FINISHED", "FINISHED", best=None)
    (root / "sweeps" / "folds" / layout.FOLDS).write_text(json.dumps({"members": [0, 1]}))
    a_sweep(root / "sweeps" / "killed", "FINISHED", "FINISHED")
    (root / "sweeps" / "killed" / layout.JOBS).unlink()
    a_run(root / "sweeps" / "whole" / "failed_attempts" / "0_1", "FAILED")
    a_run(root / "runs" / "single")
    a_run(root / "runs" / "killed", "")
    a_run(root / "reproductions" / "same")
    started_from = str(root / "sweeps" / "front" / "1" / "checkpoints" / "best.pt")
    a_run(root / "runs" / "child", model={"weights": started_from})
    with lock(root / "sweeps" / "running"):
        assert reasons(root) == {
            "of no sweep": ["runs/child", "runs/single"],
            "unfinished": ["runs/killed", "sweeps/half/1", "sweeps/whole/4"],
            "best of its sweep": ["sweeps/folds/0", "sweeps/folds/1", "sweeps/front/0", "sweeps/front/2",
                                  "sweeps/whole/1"],
            "start of another run": ["sweeps/front/1"],
            "of an unfinished sweep": ["sweeps/half/0", "sweeps/killed/0", "sweeps/killed/1"],
            "paused": ["sweeps/whole/2"],
            "running": ["sweeps/running/0", "sweeps/running/1"],
            "of a sweep without a best job": ["sweeps/unranked/0"],
        }  # fmt: skip
        before = large(root)
        assert clean.main([]) == 0
        printed = capsys.readouterr()
        assert large(root) == before and printed.out == ""
        assert "checkpoints  " in printed.err and printed.err.splitlines()[-1].endswith("older=30d yes=true")
        assert clean_all() == 0
    losers = (f"sweeps/whole/{name}" for name in ("0", "3", "failed_attempts/0_1"))
    gone = {"reproductions/same", "sweeps/folds/2", *losers}
    assert set(before) - set(large(root)) == gone
    for name in gone:
        assert (root / name / layout.CONFIG).exists() and (root / name / layout.RESULT).exists()
        assert "runner.clean removed its checkpoints on 2" in str(cleaned.describe(root / name))
        assert not list((root / name).glob(f"{files.REMOVED}*"))


def test_age_counts_from_the_end_and_a_single_run_must_be_named(here: Path) -> None:
    root = here / "outputs"
    old, new = a_run(root / "runs" / "old"), a_run(root / "runs" / "new", ended_at=time.time() - 20 * 86400)
    sweep = a_sweep(root / "sweeps" / "s", "FINISHED", "FINISHED")
    assert clean_all("folder=outputs/runs") == 0
    assert large(root) == ["runs/new", "runs/old", "sweeps/s/0", "sweeps/s/1"]
    for folder in (old, new, sweep):
        assert clean_all(f"folder={folder}") == 0
    assert large(root) == ["runs/new", "sweeps/s/0"]
    assert clean_all(f"folder={sweep / '0'}", "older=0s") == 0, "the best of a sweep is, even if it is named"
    assert clean_all(f"folder={new}", "older=2w") == 0
    assert large(root) == ["sweeps/s/0"]


def test_sizes_count_a_file_with_several_names_once(here: Path) -> None:
    run = a_run(here / "run")
    blocks = [(run / layout.CHECKPOINTS / layout.LAST).stat().st_blocks * 512]
    items = files.large_items(run)
    assert {item.kind for item in items} == {files.CHECKPOINTS, files.MODELS}
    size = measure(items)[files.CHECKPOINTS]
    assert (size.files, size.bytes) == (2, blocks[0])
    os.link(run / layout.CHECKPOINTS / layout.LAST, here / "kept.pt")
    assert measure(items)[files.CHECKPOINTS].bytes == 0, "it keeps its room by its other name"


def test_caches_that_are_not_used_go(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, images = here / "outputs", here / "photos"
    a_run(root / "runs" / "r", data={"_target_": "runner.data.image_folder.image_folder", "path": str(images)})
    places = [images / ".runner" / "images-a-b", images / ".runner" / "images-c-d"]
    for path in places:
        path.mkdir(parents=True)
        (path / "pixels").write_bytes(b"0" * 4096)
    for name in (layout.GRAPHS, layout.REHEARSALS):
        (root / name).mkdir()
        for file in ("old", "new"):
            (root / name / file).write_text("x")
    old = [places[0], root / layout.GRAPHS / "old", root / layout.REHEARSALS / "old"]
    for path in old:
        os.utime(path, (LONG_AGO, LONG_AGO))
    found = Cleaner(root, time.time() - 86400).find()
    assert sorted(item.path for item in found.caches) == sorted(old)
    assert clean_all() == 0
    assert [path.exists() for path in old] == [False] * 3
    assert places[1].exists() and (root / layout.GRAPHS / "new").exists()


@pytest.mark.parametrize("at", ["note", "first", "second", "end"])
def test_a_kill_leaves_nothing_half_and_the_next_clean_goes_on(at: str, here: Path) -> None:
    sweep = a_sweep(here / "outputs" / "sweeps" / "s", "FINISHED", "FINISHED")
    child = os.fork()
    if child == 0:
        calls = iter({"note": "", "first": "", "second": "x", "end": "xx"}[at])
        removed, noted = files.shutil.rmtree, cleaned.note

        def rmtree(path: Path) -> None:
            if next(calls, None) is None:
                (path / layout.LAST).unlink(missing_ok=True)
                os.kill(os.getpid(), signal.SIGKILL)
            removed(path)

        def note(*arguments: Any) -> None:
            noted(*arguments)
            if at == "note":
                os.kill(os.getpid(), signal.SIGKILL)

        files.shutil.rmtree, cleaned.note = rmtree, note  # type: ignore[assignment]
        os._exit(clean_all())
    _, status = os.waitpid(child, 0)
    assert (status == signal.SIGKILL) == (at != "end")
    job = sweep / "1"
    for name in files.LARGE:
        whole = {"note": True, "first": name == layout.MODEL, "second": False, "end": False}[at]
        assert (job / name).exists() == whole, "whole, or not there"
    assert (cleaned.describe(job) is None) == (at == "note")
    assert clean_all() == 0
    assert large(sweep) == ["0"] and not list(job.glob(".removed*"))


def test_a_run_that_starts_meanwhile_keeps_everything(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = a_sweep(here / "outputs" / "sweeps" / "s", "FINISHED", "FINISHED", "FINISHED")
    cleaner = Cleaner(outputs(), time.time())
    found = cleaner.find()
    assert [loser.run.folder.name for loser in found.losers] == ["1", "2"]
    (sweep / "2" / layout.RESULT).unlink()  # it is resumed, and killed
    with lock(sweep / "1"):
        problems = cleaner.remove(found)
    assert len(problems) == 2 and "in use" in problems[0] and problems[1].endswith(": unfinished")
    assert large(sweep) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("arguments", "problem", "words"),
    [
        (["older=soon"], ("older", "type"), "write older=30d"),
        (["yes=perhaps"], ("yes", "choice"), ""),
        (["folder=nowhere"], ("folder", "file"), ""),
        (["age=3d"], ("age", "unknown"), ""),
    ],
)
def test_wrong_options(
    arguments: list[str], problem: tuple[str, str], words: str, here: Path, reported: list[Problem]
) -> None:
    assert clean.main(arguments) == 2
    assert about(reported) == [problem] and words in str(reported[0])


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Path]:
    """Three runs as the jobs of a sweep that a store on this machine has."""
    with place(tmp_path_factory.mktemp("swept")) as folder, delivered_here(empty_store):
        small = ("debug=fast", "model.hidden=[4]", "tracking.log_model=false", "tracking.log_checkpoints=true")
        sweep = folder / "outputs" / "sweeps" / "three"
        for number in range(3):
            assert run_command([*small, f"seed={number}", f"hydra.run.dir={sweep / str(number)}"]) == 0
        a_sweep(sweep)
        (sweep / layout.JOBS).write_text(json.dumps({"best": 0, "jobs": [{"job": number} for number in range(3)]}))
        yield folder


def test_a_sweep_in_mlflow_keeps_what_is_registered_and_commands_say_what_is_gone(
    swept: Path, reported: list[Problem], runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(swept)
    sweep, client = swept / "outputs" / "sweeps" / "three", connect(local_uri(outputs()))
    register(client, sweep / "1")
    artifacts = Path(client.get_run(str(run_id(sweep / "2"))).info.artifact_uri.removeprefix("file://"))
    assert (artifacts / layout.CHECKPOINTS / layout.BEST).is_file()
    assert reasons(sweep, time.time() + 1) == {"best of its sweep": ["0"], "registered": ["1"]}
    assert clean_all("older=0s") == 0
    assert large(sweep) == ["0", "1"] and not (artifacts / layout.CHECKPOINTS).exists()
    assert (artifacts / layout.CONFIG).is_file()
    job = "outputs/sweeps/three/2"
    assert evaluate.main([f"run={job}"]) == predict.main([f"run={job}", "input=[1]"]) == 2
    called = runner(f"resume={swept}/{job}", "trainer.epochs=4")
    assert called.code == 2
    assert len(reported) >= 1 and all("runner.clean removed its checkpoints on" in str(each) for each in reported)
    assert evaluate.main(["run=outputs/sweeps/three/0"]) == 0


def run_id(folder: Path) -> str | None:
    return DeliveryState.load(folder).run_id


def register(client: MlflowClient, folder: Path) -> None:
    """Make a run a version of a registered model."""
    client.create_registered_model("digits")
    source = client.get_run(str(run_id(folder))).info.artifact_uri
    client.create_model_version("digits", source, run_id(folder))


def test_what_a_store_names_elsewhere_is_not_touched(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(swept)
    sweep = swept / "outputs" / "sweeps" / "three"
    cleaner = Cleaner(sweep, time.time() + 1)
    manifest = Manifest.load(sweep / "0")
    monkeypatch.setattr("runner.cleaning.store.manifest_of", lambda _: manifest)
    manifest.artifact_root = str(swept / "elsewhere")
    assert cleaner._stores.copies(sweep / "0") == []
    manifest.artifact_root = str(swept / "outputs" / "mlartifacts")
    assert [each.name for each in cleaner._stores.copies(sweep / "0")] == [layout.CHECKPOINTS]


@pytest.mark.soak
def test_models_of_a_real_sweep_go_from_mlflow_too(here: Path, runner: Runner) -> None:
    """With the real process that uploads; a model of a loser is a hard link in three places."""
    axes = ("optimizer.lr=0.1,0.001", "sweep.jobs=1", "hydra.sweep.dir=outputs/sweeps/two")
    assert runner("--multirun", "debug=fast", "model.hidden=[4]", *axes).code == 0
    sweep, client = here / "outputs" / "sweeps" / "two", connect(local_uri(outputs()))
    best = json.loads((sweep / layout.JOBS).read_text())["best"]
    graph = sweep / str(1 - best) / layout.MODEL / "data" / "model.pt2"
    with graph.open("rb") as opened:
        assert os.fstat(opened.fileno()).st_nlink == 3
        assert clean_all("older=0s") == 0
        assert os.fstat(opened.fileno()).st_nlink == 0, "its room is free"
    (model,) = client.get_run(str(run_id(sweep / str(best)))).outputs.model_outputs
    assert client.get_logged_model(model.model_id).status == "READY"
    (model,) = client.get_run(str(run_id(sweep / str(1 - best)))).outputs.model_outputs
    with pytest.raises(MlflowException):
        client.get_logged_model(model.model_id)
    assert runner("--multirun", "sweep.resume=outputs/sweeps/two").code == 0
