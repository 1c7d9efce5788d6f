"""`tracking.register`: the best model becomes a version, and the champion if it is surely better on the test part."""

import contextlib
import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from scipy import stats

from helpers.delivered import delivered_here
from helpers.servers import Server
from helpers.sweeping import sweep_folder
from helpers.trained import place, result, table, train
from runner import sync
from runner.cli import run_command
from runner.loss import L1
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.looks import Look, ordinal
from runner.rundir.manifest import Manifest
from runner.rundir.registration import NAME, due
from runner.runs import champion
from runner.runs.champion import register_due
from runner.runs.evaluation import rebuild
from runner.runs.judged import Incomparable, Judged, compare, judge
from runner.saved.run import SavedRun, find
from runner.tracking.deliver import Delivery
from runner.tracking.registry import Registry, Version
from runner.tracking.store import connect, local_uri
from runner.util import terminal
from runner.util.tags import LOOK_TAG

SMALL = ("model.hidden=[16]", "trainer.checkpoint_every_epochs=50", "tracking.wait=5")


@pytest.fixture(scope="module", autouse=True)
def there(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Path]:
    with place(tmp_path_factory.mktemp("champion")) as folder, delivered_here(empty_store):
        yield folder


def command(*arguments: str) -> str:
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        assert run_command(arguments) == 0, printed.getvalue()
    return printed.getvalue()


@dataclass
class Runs:
    """Runs of one and of several epochs, one that repeats the first, and one of fewer test samples."""

    weak: Path
    strong: Path
    again: Path
    other: Path
    printed: dict[str, list[str]]


@pytest.fixture(scope="module")
def runs(there: Path) -> Runs:
    printed = {}
    for name, own in {
        "weak": ("trainer.epochs=1", "tracking.register=digits"),
        "strong": ("trainer.epochs=8", "tracking.register=digits"),
        "again": ("trainer.epochs=1",),
        "other": ("trainer.epochs=1", "data.limit=200"),
    }.items():
        printed[name] = command(*SMALL, f"hydra.run.dir={name}", *own).splitlines()
    return Runs(*(there / name for name in printed), printed)


@pytest.fixture(scope="module")
def client(there: Path) -> MlflowClient:
    return connect(local_uri(there / "outputs"))


@pytest.fixture(autouse=True)
def _judged_once(monkeypatch: pytest.MonkeyPatch, judged: dict[tuple[bytes, str | None], Judged]) -> None:
    """Evaluate the same weights once; the runs of `runs` are evaluated each time."""

    def judge_or_remember(run: SavedRun, device: str) -> Judged:
        file = run.file("checkpoints/best.pt")
        key = (file.read_bytes() if file is not None else b"", run.model_id)
        if key not in judged:
            judged[key] = judge(run, device)
        return judged[key]

    monkeypatch.setattr(champion, "judge", judge_or_remember)


@pytest.fixture(scope="module")
def judged() -> dict[tuple[bytes, str | None], Judged]:
    return {}


def register(folder: Path, name: str, capsys: pytest.CaptureFixture[str], done: bool = True) -> list[str]:
    """Register a run as another model; return the lines."""
    replace(Manifest.load(folder), register=name).save(folder)
    terminal.configure_logging()
    capsys.readouterr()
    assert register_due(folder) is done
    return [line.strip() for line in capsys.readouterr().err.splitlines()]


def versions(client: MlflowClient, name: str) -> list[str]:
    return sorted(str(version.version) for version in client.search_model_versions(f"name = '{name}'"))


def looks(client: MlflowClient, name: str) -> list[str]:
    tags = client.get_registered_model(name).tags
    return [value for tag, value in tags.items() if tag.startswith("runner.looks.")]


def test_a_run_registers_its_model_and_the_better_one_is_the_champion(runs: Runs, client: MlflowClient) -> None:
    assert runs.printed["weak"][-1] == "champion   digits: version 1 is the champion, the first"
    first, second = runs.printed["strong"][-2:]
    new, old = (f"{100 * result(folder)['test/accuracy']:.2f} %" for folder in (runs.strong, runs.weak))
    assert first.startswith(f"champion   digits: version 2 replaces version 1: accuracy {new}, was {old}, of 360 test")
    assert "the 2nd champion chosen on this test set, with the 2nd look at it" in second
    assert not any(line.startswith("champion") for line in runs.printed["again"])
    assert client.get_registered_model("digits").aliases == {"champion": 2}
    assert looks(client, "digits") == ["1 champion, 2 champion"]
    state = DeliveryState.load(runs.strong)
    version = client.get_model_version_by_alias("digits", "champion")
    assert (version.run_id, version.source) == (state.run_id, f"models:/{state.model_id}")
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED" and run.data.tags["runner.registered"] == "digits version 2"
    assert Look.read(run.data.tags) == Look("digits", "2", 2, 2, chosen=True)
    linked = json.loads(client.get_logged_model(state.model_id).tags["mlflow.modelVersions"])
    assert linked == [{"name": "digits", "version": 2}]
    assert [file.path for file in client.list_artifacts(version.run_id, "artifacts")] == ["artifacts/champion.csv"]
    assert "champion   digits: version 2 replaces" in (runs.strong / "run.log").read_text()


def test_the_samples_are_kept_with_what_both_models_made_of_them(runs: Runs) -> None:
    with (runs.strong / "artifacts" / "champion.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["index"] for row in rows] == [str(number) for number in range(360)]
    for folder, who in ((runs.strong, "challenger"), (runs.weak, "champion")):
        right = np.mean([row["target"] == row[f"prediction_{who}"] for row in rows])
        losses = np.mean([float(row[f"loss_{who}"]) for row in rows])
        assert (right, losses) == (result(folder)["test/accuracy"], pytest.approx(result(folder)["test/loss"]))


def test_the_alias_stays_unless_the_new_model_is_surely_better(
    runs: Runs, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    register(runs.weak, "stays", capsys)
    same, warning = register(runs.again, "stays", capsys)
    assert "version 1 stays: version 2 is not surely better" in same and "right for the same samples, p = 1)" in same
    assert warning.startswith("the 2nd look at this test set: ")
    register(runs.strong, "stays", capsys)
    assert client.get_registered_model("stays").aliases == {"champion": 3}
    replace(Manifest.load(runs.again), register=None).save(runs.again)
    assert register_due(runs.again) and due(runs.strong) is None
    assert looks(client, "stays") == ["1 champion, 2, 3 champion"]
    client.delete_model_version("stays", "2")  # the count outlives it, and another is not called 2
    (runs.again / ".tracking" / NAME).unlink(missing_ok=True)
    worse, warning = register(runs.again, "stays", capsys)
    assert "version 3 stays: version 4 is not surely better" in worse and warning.startswith("the 4th look")
    assert looks(client, "stays") == ["1 champion, 2, 3 champion, 4"]


@pytest.mark.parametrize("default", [None, "sqlite:///elsewhere.db"])
def test_mlflows_own_default_store_is_neither_asked_nor_changed(
    default: str | None, runs: Runs, client: MlflowClient, capsys: pytest.CaptureFixture[str], there: Path
) -> None:
    """MLflow would look the logged model up there; the user's own code may have set it."""
    mlflow.set_tracking_uri(default)
    try:
        register(runs.weak, f"default {default is None}", capsys)
        assert os.environ.get("MLFLOW_TRACKING_URI") == default
        assert mlflow.is_tracking_uri_set() is (default is not None)
    finally:
        mlflow.set_tracking_uri(None)
    assert not list(there.glob("*.db"))


def test_a_model_is_registered_and_judged_once(
    runs: Runs, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    (first,) = register(runs.weak, "once", capsys)
    (runs.weak / ".tracking" / NAME).unlink()
    assert register(runs.weak, "once", capsys) == [first]
    assert register(runs.weak, "once", capsys) == []
    assert versions(client, "once") == ["1"] and looks(client, "once") == ["1 champion"]


class Killed(BaseException):
    """Ends the process here."""


SOAK = [pytest.param(point, marks=pytest.mark.soak) for point in ("judge", "tag")]


@pytest.mark.parametrize("point", ["promote", "look", "delivery", *SOAK])
def test_a_kill_at_any_point_makes_no_second_version_and_loses_no_alias(
    point: str, runs: Runs, client: MlflowClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object) -> None:
        raise Killed

    where = {"judge": (champion, "judge"), "delivery": (champion.Delivery, "step")}.get(point, (Registry, point))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(*where, kill)
        register(runs.weak, point, capsys)
    assert due(runs.weak) == point
    lines = register(runs.weak, point, capsys)
    assert len(lines) == 1 and "version 1 is the champion" in lines[0]
    assert versions(client, point) == ["1"] and looks(client, point) == ["1 champion"]
    assert client.get_registered_model(point).aliases == {"champion": 1}
    tags = client.get_run(DeliveryState.load(runs.weak).run_id).data.tags
    assert tags["runner.registered"] == f"{point} version 1" and Look.read(tags) == Look(point, "1", 1, 1, chosen=True)


def test_a_model_is_compared_with_one_that_becomes_the_champion_meanwhile(
    runs: Runs, client: MlflowClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(runs.weak, "race", capsys)

    def promote(self: Registry, version: Version, former: Version | None) -> None:
        if former is not None and former.number == "1":  # another process is faster
            run_id, model_id = DeliveryState.load(runs.strong).run_id, DeliveryState.load(runs.strong).model_id
            client.set_registered_model_alias("race", "champion", self.add(run_id, model_id, {}).number)
        original(self, version, former)

    original = Registry.promote
    monkeypatch.setattr(Registry, "promote", promote)
    real = champion.judge
    better = {runs.again: find(str(runs.strong))}  # it is as good as the one that is faster
    monkeypatch.setattr(champion, "judge", lambda run, device: real(better.get(run.folder, run), device))
    line, _ = register(runs.again, "race", capsys)
    assert "version 3 stays: version 2 is not surely better" in line
    assert client.get_registered_model("race").aliases == {"champion": 3}


def test_without_a_holder_the_next_model_is_the_champion(
    runs: Runs, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    register(runs.strong, "deleted", capsys)
    client.delete_model_version("deleted", "1")
    lines = register(runs.weak, "deleted", capsys)
    assert lines[0] == "champion   deleted: version 2 is the champion, the first"
    assert "the 2nd champion chosen on this test set" in lines[1]


def test_a_champion_that_was_resumed_is_judged_by_the_weights_that_were_registered(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    register(runs.weak, "resumed", capsys)
    best, manifest = runs.weak / "checkpoints" / "best.pt", Manifest.load(runs.weak)
    kept = best.read_bytes()
    shutil.copy(runs.strong / "checkpoints" / "best.pt", best)
    replace(manifest, status="KILLED").save(runs.weak)
    try:
        line, _ = register(runs.strong, "resumed", capsys)
    finally:
        best.write_bytes(kept)
        manifest.save(runs.weak)
    assert f"was {100 * result(runs.weak)['test/accuracy']:.2f} %" in line and "version 2 replaces version 1" in line


def test_a_champion_that_cannot_be_compared_stays_and_one_line_says_why(
    runs: Runs, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    register(runs.other, "hard", capsys)
    (line,) = register(runs.weak, "hard", capsys)
    assert line == "champion   hard: version 1 stays: it cannot be compared: its test samples are others"
    client.delete_run(DeliveryState.load(runs.other).run_id)
    runs.other.rename(runs.other.with_name("moved"))
    (line,) = register(runs.strong, "hard", capsys)
    assert line.startswith("champion   hard: version 1 stays: it cannot be ")
    client.set_registered_model_alias("hard", "champion", client.create_model_version("hard", "s3://b/m").version)
    (line,) = register(runs.again, "hard", capsys)
    assert line.endswith("version 4 stays: it cannot be compared: it was registered without its run")
    assert looks(client, "hard") == ["1 champion"]


def test_what_could_not_be_uploaded_is_registered_by_sync(
    runs: Runs, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs.weak / ".tracking" / "delivery.json").unlink()
    (line,) = register(runs.weak, "late", capsys, done=False)
    assert "late: not decided yet: MLflow does not have all of the run; finish with: python -m runner.sync" in line
    assert sync.main([f"run={runs.weak}"]) == 0
    assert "champion   late: version 1 is the champion, the first" in capsys.readouterr().err
    assert client.get_registered_model("late").aliases == {"champion": 1}


def test_a_registry_that_refuses_is_one_line_and_the_run_stays_finished(
    runs: Runs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Registry) -> None:
        raise RuntimeError("model registry functionality is unavailable")

    monkeypatch.setattr(Registry, "create", refuse)
    (line,) = register(runs.weak, "none", capsys, done=False)
    assert "none: not decided yet: model registry functionality is unavailable; finish with: " in line
    assert Manifest.load(runs.weak).status == "FINISHED" and sync.main([f"run={runs.weak}"]) == 1
    shutil.move(runs.weak / "model", runs.weak / "elsewhere")  # as if torch.export had failed
    (line,) = register(runs.weak, "none", capsys)
    shutil.move(runs.weak / "elsewhere", runs.weak / "model")
    assert "nothing is registered as none: the run has no saved model" in line and due(runs.weak) is None


def test_of_a_sweep_the_best_job_is_registered(
    runs: Runs, client: MlflowClient, capsys: pytest.CaptureFixture[str], there: Path
) -> None:
    sweep = there / "sweep"
    shutil.copytree(runs.weak, sweep / "1", symlinks=True)
    (sweep / "sweep.json").write_text("{}")
    Manifest("", "runner", "sweep", tags={"runner.best_job": "1"}).ended("FAILED").save(sweep)
    (sweep / "1" / ".tracking" / NAME).unlink(missing_ok=True)
    line, *_ = register(sweep, "best", capsys)
    assert line == "champion   best: version 1 is the champion, the first"
    assert due(sweep) is None
    Manifest("", "runner", "sweep", register="best").ended("KILLED").save(sweep)
    assert due(sweep) is None, "it will be resumed"


def test_losses_of_regressions_are_compared_in_the_same_units(there: Path) -> None:
    table(there / "price.csv", "price")
    regression = ("data=csv", "data.path=price.csv", "data.target=price", "loss=mse")
    folders = [train(f"price{seed}", *regression, f"seed={seed}") for seed in (0, 1)]
    one, two = (judge(find(str(folder)), "cpu") for folder in folders)
    scales = [judged.scale for judged in (one, two)]
    assert scales[0] and scales[1]
    assert scales[0].std != scales[1].std, "another seed holds out other samples"
    found = compare(one, two)
    errors = [
        (np.array(judged.cells["prediction"], float) - np.array(judged.cells["target"], float)) ** 2
        for judged in (one, two)
    ]
    assert found.p == pytest.approx(stats.ttest_rel(*errors).pvalue, rel=1e-3)
    assert found.new == pytest.approx(errors[0].mean() / float(scales[0].std) ** 2, rel=1e-3)
    other = replace(two, measure=[two.measure[0], {"_target_": "runner.loss.L1"}], loss=L1())
    with pytest.raises(Incomparable, match="its loss is another one: l1, not mse"):
        compare(one, other)


def test_a_run_whose_inputs_are_prepared_otherwise_by_now_is_not_compared(there: Path) -> None:
    parts = [table(there / f"{part}.csv", "price") for part in ("grown", "fixed")]
    data = ("data=csv", f"data.path={parts[0]}", f"data.test_path={parts[1]}", "data.target=price", "loss=mse")
    run = find(str(train("grown", *data)))
    before = judge(run, "cpu")
    with parts[0].open("a", newline="") as file:
        file.writelines(f"{9 + row},100,{row}\r\n" for row in range(9))
    with pytest.raises(Incomparable, match="its training data have changed since"):
        judge(run, "cpu")
    assert rebuild(run).splits.test_digest == before.digest, "the test part is the same"


def test_losses_of_reconstructions_are_compared_if_inputs_are_normalised_alike(there: Path) -> None:
    data = ("data=csv", f"data.path={table(there / 'kind.csv', 'kind')}", "data.target=kind")
    task = ("task=autoencoder", "model=mlp", "model.hidden=[1]", *data)
    one, two = (judge(find(str(train(f"reconstruct{seed}", *task, f"seed={seed}"))), "cpu") for seed in (0, 1))
    with pytest.raises(Incomparable, match=r"set data\.mean and data\.std"):
        compare(one, two)
    alike = replace(two, normalize=one.normalize)
    losses = [np.array(judged.cells["loss"], float) for judged in (one, two)]
    assert compare(one, alike).p == pytest.approx(stats.ttest_rel(*losses).pvalue)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("tracking=off",), "tracking=off has no registry"),
        (("tracking.log_model=false",), "there is no model to register"),
        (("tracking.register=a/b",), "write a name such as a-b"),
        (("data=tensors", "data.inputs=[[0],[1],[2],[3]]", "data.targets=[0,1,0,1]"), "has no test samples"),
        (("--multirun", "seed=0,1", "sweep.metric=[val/loss,val/accuracy]"), "of two objectives there is no best job"),
    ],
)
def test_what_cannot_be_registered_is_refused_before_the_start(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str], there: Path
) -> None:
    named = [] if any("register" in text for text in arguments) else ["tracking.register=x"]
    before = set(there.glob("outputs/*/*"))
    assert run_command([*arguments, *named]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: tracking.register=") and says in line
    assert set(there.glob("outputs/*/*")) == before


def test_how_often_a_test_set_has_decided_is_said_in_words() -> None:
    assert Look("m", "1", 1, 1, chosen=True).warn() == ""
    assert Look("m", "7", 5, 3, chosen=True).warn().startswith("the 3rd champion chosen on this test set, with the 5th")
    for tag in ("", "{}", "[1]", '{"looks": "many"}'):
        assert Look.read({LOOK_TAG: tag}) is None
    assert [ordinal(number) for number in (1, 2, 3, 4, 11, 12, 13, 21, 102, 111)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th",
    ]  # fmt: skip


@pytest.mark.soak
def test_a_sweep_registers_its_best_job_alone(there: Path, client: MlflowClient) -> None:
    axes = ("trainer.epochs=1,5", "seed=0,1")
    printed = command("--multirun", *axes, *SMALL, "tracking.register=swept", "sweep.jobs=2")
    assert "champion   swept: version 1 is the champion, the first" in printed
    folder = sweep_folder(there)
    best = json.loads((folder / "jobs.json").read_text())["best"]
    parent = DeliveryState.load(folder).run_id
    verdict = json.loads(Path(client.download_artifacts(parent, "verdict.json")).read_text())
    assert [(look["model"], look["looks"]) for look in verdict["test_looks"]] == [("swept", 1)]
    assert client.get_model_version("swept", "1").run_id == DeliveryState.load(folder / str(best)).run_id
    configs = [(folder / number / "config.yaml").read_text() for number in ("0", "1")]
    assert all("register: null" in text and "tracking.register=" not in text for text in configs)


@pytest.mark.soak
def test_on_a_server(tmp_path: Path, empty_store: Path) -> None:
    server = Server(tmp_path, empty_store)
    server.start()
    try:
        to = ("tracking=server", f"tracking.uri={server.uri}", "tracking.register=served", *SMALL)
        command(*to, "trainer.epochs=1", f"hydra.run.dir={tmp_path}/weak")
        printed = command(*to, "trainer.epochs=8", f"hydra.run.dir={tmp_path}/strong")
        assert "served: version 2 replaces version 1: accuracy" in printed
        client = connect(server.uri)
        version = client.get_model_version_by_alias("served", "champion")
        assert version.run_id == DeliveryState.load(tmp_path / "strong").run_id
        model = client.get_logged_model(version.source.removeprefix("models:/"))
        assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "served", "version": 2}]
        shutil.rmtree(tmp_path / "strong")  # the champion is then evaluated from what the server has
        printed = command(*to, "trainer.epochs=2", f"hydra.run.dir={tmp_path}/between")
        assert "version 2 stays: version 3 is not surely better: accuracy" in printed
    finally:
        server.signal(9)


@pytest.mark.soak
def test_two_processes_that_register_at_the_same_moment_leave_the_better_one(runs: Runs, client: MlflowClient) -> None:
    for attempt in range(3):
        for folder in (runs.weak, runs.strong):
            replace(Manifest.load(folder), register=f"pair {attempt}").save(folder)
        commands = [[sys.executable, "-m", "runner.sync", f"run={folder}"] for folder in (runs.weak, runs.strong)]
        processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
        printed = [process.communicate()[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], printed
        assert versions(client, f"pair {attempt}") == ["1", "2"]
        holder = client.get_model_version_by_alias(f"pair {attempt}", "champion")
        assert holder.run_id == DeliveryState.load(runs.strong).run_id, printed


def test_a_delivery_afterwards_sends_nothing_again(runs: Runs) -> None:
    assert Delivery(runs.strong).step() is True
