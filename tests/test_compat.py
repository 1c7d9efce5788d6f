"""Saved runs, sweeps and stores of earlier states of runner keep working, and keep their figures.

The archives in tests/compat/ were made by the commits that make.py names. They hold, by use: the commands and their
options; every `_target_` of a config that the groups choose (`runner.model.mlp.MLP`, `runner.data.digits.digits`,
`runner.loss.CrossEntropy`, `runner.scheduler.warmup_cosine`, ...); the names of the files in a run's and a sweep's
folder; the fields of a checkpoint and of its `Progress`; the keys of config.yaml, result.json, samples.json,
manifest.json, delivery.json, job.json and sweep.json; the tags, parameters and artifacts that a store has.

An archive is unpacked where no run was made, as by a user who has moved the outputs folder. What MLflow has no command
for is done as such a user does it: the places of artifacts in the store are changed (`moved`). Nothing else is.
"""

import csv
import json
import re
import shutil
import sqlite3
import tarfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compat.make import PLACE, arithmetic
from conftest import Called
from helpers.delivered import copy_store
from helpers.training import exact_state, same
from runner import compare, evaluate, export, predict, reproduce, sync

Runner = Callable[..., Called]

ARCHIVES = Path(__file__).with_name("compat")
BOTH = pytest.mark.parametrize("earlier", ["flat", "version_0_1_0"])
FLAT = pytest.mark.parametrize("earlier", ["flat", pytest.param("version_0_1_0", marks=pytest.mark.soak)])
FIGURES = ("val/loss", "val/accuracy", "test/loss", "test/accuracy")

pytestmark = pytest.mark.usefixtures("delivery_here")


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an archive, which no test may change."""

    @cache
    def unpack(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        with tarfile.open(ARCHIVES / f"{name}.tar.xz") as tar:
            tar.extractall(folder, filter="data")
        return folder

    return unpack


def files(folder: Path) -> dict[Path, float]:
    """When each file was written last; none where there is no folder."""
    return {path: path.stat().st_mtime for path in folder.rglob("*")}


@pytest.fixture
def moved(earlier: str, unpacked: Callable[[str], Path], here: Path) -> Iterator[Path]:
    """The outputs folder of an archive, in the current folder."""
    shutil.copytree(unpacked(earlier), here, dirs_exist_ok=True)
    outputs = here / "outputs"
    with sqlite3.connect(outputs / "mlflow.db") as store:
        for table, column in (
            ("runs", "artifact_uri"),
            ("experiments", "artifact_location"),
            ("logged_models", "artifact_location"),
        ):
            store.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(PLACE), str(here)))
    store.close()
    before = files(PLACE)
    yield outputs
    assert files(PLACE) == before, "nothing is written to where they were"


@pytest.fixture
def exact(moved: Path) -> bool:
    """Whether this machine computes the very bits of the one that the archive was made on."""
    return arithmetic() == (moved.parent / "expected" / "arithmetic.txt").read_text()


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def figures(result: dict[str, Any]) -> dict[str, float]:
    return {name: result[name] for name in FIGURES}


def query(store: Path, statement: str) -> list[tuple[Any, ...]]:
    """What a store answers."""
    with sqlite3.connect(store) as opened:
        rows = opened.execute(statement).fetchall()
    opened.close()
    return rows


def statuses(store: Path) -> dict[str, str]:
    """The status of every run in a store, by its id."""
    return dict(query(store, "SELECT run_uuid, status FROM runs"))


@BOTH
def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(
    earlier: str, moved: Path, exact: bool, runner: Runner
) -> None:
    folder, run_id = moved / "runs" / "stopped", read(moved / "runs/stopped/result.json")["run_id"]
    assert read(folder / "result.json")["status"] == statuses(moved / "mlflow.db")[run_id] == "KILLED"
    before = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["progress"]["epoch_seconds"]
    called = runner(f"resume={folder}")
    assert called.code == 0, called.err

    now, twin = (
        exact_state(torch.load(path, weights_only=True))
        for path in (folder / "checkpoints" / "last.pt", moved.parent / "expected" / "last.pt")
    )
    assert now["progress"]["step"] == twin["progress"]["step"] == 200
    wanted = dict(twin["progress"])
    if earlier == "version_0_1_0":
        del wanted["lr"]  # of the epoch's first step; today it is the mean over its steps
    assert wanted.keys() <= now["progress"].keys()
    if exact:
        assert {name: now["progress"][name] for name in wanted} == wanted
        for part in ("model", "optimizer", "scheduler", "ema", "rng"):
            assert same(now[part], twin[part]), part
    else:
        assert now["progress"]["best"] == pytest.approx(twin["progress"]["best"], rel=0.1)

    result, lines = read(folder / "result.json"), (folder / "epoch_seconds.txt").read_text().splitlines()
    assert (result["status"], result["run_id"]) == ("FINISHED", run_id)
    assert result["epoch_seconds"][: len(before)] == before
    assert result["epoch_seconds"] == list(map(float, lines)) and len(lines) == result["epochs"] == 40
    assert now["progress"]["epoch"] == 41
    assert statuses(moved / "mlflow.db")[run_id] == "FINISHED"
    history = query(moved / "mlflow.db", f"SELECT step FROM metrics WHERE run_uuid='{run_id}' AND key='val/loss'")
    assert sorted(step for (step,) in history) == list(range(4, 41, 4))


@FLAT
def test_a_stopped_sweep_goes_on(moved: Path, exact: bool, runner: Runner) -> None:
    folder = moved / "sweeps" / "stopped"
    manifest, delivery = (folder / "0" / ".tracking" / name for name in ("manifest.json", "delivery.json"))
    noted, uploaded, place = read(manifest), read(delivery), (manifest, delivery)
    before = {path: path.read_bytes() for path in (folder / "0").rglob("*") if path.is_file() and path not in place}
    runs = statuses(moved / "mlflow.db")
    called = runner("--multirun", f"sweep.resume={folder}", "sweep.jobs=2")
    assert called.code == 0, called.err
    assert {path: path.read_bytes() for path in before} == before, "the finished job"
    moved_to = read(manifest)  # it notes where its folder and its store are now, and nothing else
    assert moved_to["place"]["path"] == moved_to["tags"].pop("runner.folder") == str(folder / "0")
    store = {"uri": f"sqlite:///{moved}/mlflow.db", "artifact_root": f"{moved}/mlartifacts"}
    assert {name: moved_to[name] for name in noted} == noted | {"tags": moved_to["tags"]} | store
    assert moved_to["tags"].items() == {k: v for k, v in noted["tags"].items() if k != "runner.folder"}.items()
    told = read(delivery)  # MLflow is told the same
    assert told["tags"] == uploaded["tags"] | {"runner.folder": str(folder / "0")}
    assert {name: told[name] for name in uploaded if name != "tags"} == {
        k: v for k, v in uploaded.items() if k != "tags"
    }
    wanted = read(moved.parent / "expected" / "jobs.json")
    for number, twin in enumerate(wanted):
        result = read(folder / str(number) / "result.json")
        assert (result["status"], result["steps"]) == ("FINISHED", twin["steps"])
        assert figures(result) == (figures(twin) if exact else pytest.approx(figures(twin), rel=0.1))
    table = read(folder / "jobs.json")["jobs"]
    assert {row["job"]: row["val/loss"] for row in table} == {
        number: read(folder / str(number) / "result.json")["val/loss"] for number in range(3)
    }
    now = statuses(moved / "mlflow.db")
    assert set(now) > set(runs) and len(now) == len(runs) + 1, "the same runs go on, and the third job has one"
    parents = query(moved / "mlflow.db", "SELECT value FROM tags WHERE key='mlflow.parentRunId'")
    assert len(parents) == 3 and len(set(parents)) == 1
    stopped = read(moved / "runs/stopped/result.json")["run_id"]
    assert {run_id for run_id, status in now.items() if status != "FINISHED"} == {stopped}


@FLAT
def test_a_stopped_sweep_takes_more_points(moved: Path, runner: Runner) -> None:
    folder = moved / "sweeps" / "stopped"
    called = runner("--multirun", f"sweep.resume={folder}", "optimizer.lr=0.1,0.05,0.01,0.2", "sweep.extend=true",
                    "sweep.dry_run=true")  # fmt: skip
    assert called.code == 0, called.err


def by_folder_and_id(moved: Path) -> tuple[str, str]:
    folder = moved / "runs" / "finished"
    return str(folder), read(folder / "result.json")["run_id"]


@BOTH
def test_evaluate_gives_the_figures_of_the_run(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = read(moved / "runs/finished/result.json")
    for run in by_folder_and_id(moved):
        assert evaluate.main([f"run={run}"]) == 0
        printed = capsys.readouterr().err
        losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", printed)]
        assert losses == [pytest.approx(result["test/loss"], abs=1e-4)] * 2, "measured, and logged"
        assert f"{100 * result['test/accuracy']:.2f} %" in printed


@BOTH
def test_predict_gives_what_it_gave(moved: Path, exact: bool) -> None:
    expected = moved.parent / "expected"
    for number, run in enumerate(by_folder_and_id(moved)):
        output = moved.parent / f"{number}.csv"
        assert predict.main([f"run={run}", f"input={expected / 'digits.npy'}", f"output={output}"]) == 0
        assert_same_table(output, expected / "predictions.csv")


def assert_same_table(path: Path, expected: Path) -> None:
    (head, *rows), (wanted_head, *wanted) = (list(csv.reader(file.open())) for file in (path, expected))
    assert head == wanted_head and len(rows) == len(wanted) == 20
    for row, other in zip(rows, wanted, strict=True):
        assert list(map(float, row)) == pytest.approx(list(map(float, other)), abs=1e-5)


@FLAT
def test_compare_has_all_runs(moved: Path) -> None:
    runs = ",".join([*by_folder_and_id(moved)[1:], str(moved / "runs/stopped")])
    output = moved.parent / "comparison"
    assert compare.main([f"runs=[{runs}]", f"sweep={moved / 'sweeps/stopped'}", f"output={output}"]) == 0
    with (output / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["FINISHED", "KILLED", "FINISHED", "KILLED"]
    finished = read(moved / "runs/finished/result.json")
    assert float(rows[0]["test/loss"]) == finished["test/loss"]


@BOTH
def test_export_gives_what_the_model_predicted(moved: Path) -> None:
    output = moved.parent / "exported.pt2"
    assert export.main([f"run={moved / 'runs/finished'}", f"output={output}"]) == 0
    given = torch.from_numpy(np.load(moved.parent / "expected" / "digits.npy"))
    outputs = torch.export.load(output).module()(given)
    with (moved.parent / "expected" / "predictions.csv").open() as file:
        classes = [int(row["class"]) for row in csv.DictReader(file)]
    assert outputs.argmax(1).tolist() == classes


@BOTH
def test_reproduce_is_bit_identical(moved: Path, exact: bool) -> None:
    code = reproduce.main([f"run={by_folder_and_id(moved)[1]}"])
    assert code == 0 if exact else code in (0, 1)


@FLAT
def test_sync_has_nothing_to_do_and_fills_another_store(moved: Path, empty_store: Path) -> None:
    state = moved / "runs/finished/.tracking/delivery.json"
    before = state.read_bytes()
    assert sync.main([]) == 0
    assert state.read_bytes() == before, "all of it is in the store"
    other = copy_store(empty_store, moved.parent / "other")
    for folder in ("runs/finished", "sweeps/stopped", "sweeps/stopped/0", "sweeps/stopped/1"):
        assert sync.main([f"run={moved / folder}", f"tracking.uri={other}"]) == 0
    store = moved.parent / "other" / "mlflow.db"
    assert sorted(statuses(store).values()) == ["FINISHED", "FINISHED", "KILLED", "KILLED"]
