"""`python -m runner.reproduce`: a logged run is run again from MLflow alone, and every changed bit is named."""

import json
import math
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from helpers.problems import about
from helpers.quick import without_plots_and_rehearsal
from helpers.repositories import committed, written
from runner.assembly import build
from runner.config.compose import Composer
from runner.config.hydra_job import without_hydra
from runner.device import Device
from runner.errors import Problem
from runner.reproduce import main
from runner.rundir.checkpoint import Checkpoints
from runner.rundir.manifest import Manifest
from runner.runs import execute, resume
from runner.runs.describe import describe_run
from runner.runs.reproduction import comparable_with_0_1_0, compare, environment_changes, same
from runner.tracking.deliver import Delivery
from runner.tracking.environment import environment
from runner.tracking.store import local_uri

SMALL = ("data=tensors", "data.path=images.npz", "debug=fast", "model.dropout=0.1",
         "trainer.log_every_steps=3", "tracking.log_model=false")  # fmt: skip


def log_run(folder: Path, *overrides: str, status: str = "FINISHED", steps: int | None = None) -> str:
    """Run in this process, resuming what is in the folder already, and deliver it to the store beside it.

    Args:
        status: what MLflow is told of how it ended.
        steps: keep of the journal what was measured at up to this epoch, as a kill would have left it.

    Returns:
        The run's MLflow id.
    """
    checkpoint = Checkpoints(folder / "checkpoints").load_last() if folder.exists() else None
    if checkpoint is None:
        cfg, problems = Composer().compose([*SMALL, *overrides])
    else:
        cfg, problems, _ = resume.compose(str(folder), overrides)
    assert cfg is not None and not problems
    experiment = build.build(without_hydra(cfg), {"model": "mlp", "data": "tensors"})
    folder.mkdir(parents=True, exist_ok=True)
    manifest = describe_run(experiment, folder, resumed=checkpoint is not None)
    assert manifest is not None
    experiment.tracking.name = "off"  # no process of its own that delivers
    assert execute.run(experiment, folder, checkpoint).exit_code == 0
    assert checkpoint is None or not checkpoint, "a second copy of the weights"
    if steps is not None:
        lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
        (folder / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] <= steps))
    (Manifest.load(folder).resumed(manifest) if checkpoint is not None else manifest).ended(status).save(folder)
    delivery = Delivery(folder)
    assert delivery.step() and delivery.run_id is not None
    return delivery.run_id


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the runs were made, with their data; it is also where they are run again."""
    here = tmp_path_factory.mktemp("place")
    made = np.random.default_rng(0)
    targets = made.integers(0, 10, 400)
    images = (made.random((400, 1, 8, 8)) / 2 + np.eye(10, 8)[targets][:, None, None]).astype(np.float32)
    np.savez(here / "images.npz", inputs=images[:300], targets=targets[:300],
             test_inputs=images[300:], test_targets=targets[300:])  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        without_plots_and_rehearsal(patch)
        patch.delenv("RUNNER_OUTPUTS", raising=False)
        patch.setenv("OMP_NUM_THREADS", "1")
        yield here


@pytest.fixture(scope="module")
def run_id(place: Path) -> str:
    """Of a finished run whose folder is gone."""
    made = log_run(place / "outputs" / "runs" / "2026-01-02_03-04-05_mlp_tensors")
    shutil.rmtree(place / "outputs" / "runs")
    return made


@pytest.fixture
def reproduce(place: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str]]]:
    def call(*arguments: str) -> tuple[int, list[str]]:
        capsys.readouterr()
        code = main([*arguments, "runner.quiet=true"])
        printed = capsys.readouterr()
        assert printed.out == ""
        return code, printed.err.splitlines()

    return call


@pytest.fixture
def again(reproduce: Callable[..., tuple[int, list[str]]], run_id: str) -> Callable[..., tuple[int, list[str]]]:
    return lambda *arguments: reproduce(f"run={run_id}", *arguments)


def reproductions(place: Path) -> set[Path]:
    return set((place / "outputs").glob("reproductions/*"))


@contextmanager
def edited(place: Path, statement: str, undo: str) -> Iterator[None]:
    """Change the store behind MLflow's back."""
    for sql in (statement, undo):
        store = sqlite3.connect(place / "outputs" / "mlflow.db")
        changed = store.execute(sql).rowcount
        store.commit()
        store.close()
        assert changed == 1
        if sql is statement:
            yield


Again = Callable[..., tuple[int, list[str]]]


def test_from_the_store_alone_it_is_bit_identical(again: Again, place: Path, run_id: str) -> None:
    torch.set_num_threads(2)  # another program's; the run's own number is in its config
    before = reproductions(place)
    code, lines = again()
    assert code == 0, lines
    # train/ and val/ loss and accuracy, and lr, of 2 epochs; test/ loss and accuracy; the loss of 2 steps
    # of the 3 of each epoch.
    client = MlflowClient(local_uri(place / "outputs"))
    apart = (
        "time/",
        "throughput/",
        "system/",
        "energy/",
        "best/",
    )  # the best values are compared under their own names
    names = [n for n in client.get_run(run_id).data.metrics if not n.startswith(apart)]
    values = sum(len(client.get_metric_history(run_id, name)) for name in names)
    assert {"train/loss_step", "val/loss", "test/accuracy", "lr"} <= set(names)
    assert lines[-1] == f"bit-identical: {len(names)} metrics, {values} values"
    (folder,) = reproductions(place) - before
    assert folder.name.endswith("_mlp_tensors")
    assert not (folder / ".tracking").exists()
    assert torch.get_num_threads() == 1
    assert len(client.search_runs(["1"])) == 1


def test_the_first_metric_that_differs_is_named_with_both_values(again: Again, place: Path, run_id: str) -> None:
    client = MlflowClient(local_uri(place / "outputs"))
    value = client.get_metric_history(run_id, "val/loss")[1].value
    other = math.nextafter(value, 1)
    row = f"WHERE run_uuid = '{run_id}' AND key = 'val/loss' AND step = 2"
    change, undo = (f"UPDATE metrics SET value = {v!r} {row}" for v in (other, value))
    with edited(place, change, undo):
        code, lines = again()
    assert code == 1
    assert lines[-2] == f"differs: first val/loss at epoch 2: {other!r} in the store, {value!r} now"
    assert "1 values in 1 metrics differ" in lines[-1]


def test_a_character_of_the_config_is_found_before_training(again: Again, place: Path, run_id: str) -> None:
    (config,) = (place / "outputs" / "mlartifacts").glob(f"{run_id}/artifacts/config.yaml")
    text = config.read_text()
    before = reproductions(place)
    for old, new, words in (
        ("  lr: 0.05", "  lr: 0.06", ["optimizer.lr: ", "0.06", "0.05"]),
        (
            "  momentum:",
            "  momentun:",
            ["optimizer.momentun: ", "0.9"],
        ),
        ("seed: 0", "seed: 1", ["seed: ", " 1 ", " 0"]),
    ):
        assert text.count(old) == 1
        config.write_text(text.replace(old, new))
        code, lines = again()
        config.write_text(text)
        assert code == 1
        assert len(lines) >= 2 and all(word in lines[1] for word in words)
    row = f"WHERE run_uuid = '{run_id}' AND key = 'trainer.epochs'"
    with edited(place, f"UPDATE params SET value = '3' {row}", f"UPDATE params SET value = '2' {row}"):
        code, lines = again()
    assert code == 1 and all(word in lines[1] for word in ("trainer.epochs: ", " 2 ", " 3"))
    assert reproductions(place) == before


def test_one_changed_value_of_the_data_is_found_before_training(again: Again, place: Path, tmp_path: Path) -> None:
    before = reproductions(place)
    data = dict(np.load(place / "images.npz"))
    np.savez(tmp_path / "moved.npz", **data)
    data["test_inputs"][50, 0, 3, 3] += 1 / 16
    np.savez(tmp_path / "changed.npz", **data)
    code, lines = again(f"data.path={tmp_path / 'changed.npz'}")
    assert code == 1
    assert lines[-1].startswith("differs: the data have changed: fingerprint ")
    assert reproductions(place) == before
    code, lines = again(f"data.path={tmp_path / 'moved.npz'}")
    assert code == 0, lines


def test_a_resumed_run_is_compared_as_one_piece(reproduce: Again, place: Path) -> None:
    folder = place / "resumed"
    first = log_run(folder, "trainer.epochs=1")
    run_id = log_run(folder, "trainer.epochs=3")
    assert run_id == first
    code, lines = reproduce(f"run={folder}")  # of which the id alone is read
    assert code == 0, lines
    # The test at the end of the first epoch has no counterpart: uninterrupted, the run is tested once.
    assert lines[-1].endswith("; 2 values have no counterpart")
    assert lines[-1].startswith("bit-identical: 9 metrics, ")


def test_a_killed_run_is_compared_as_far_as_it_came(reproduce: Again, place: Path) -> None:
    run_id = log_run(place / "killed", "trainer.epochs=6", "trainer.log_every_steps=null", status="KILLED", steps=2)
    code, lines = reproduce(f"run={run_id}")
    assert code == 0, lines
    assert any(line.startswith("note ") and " KILLED" in line for line in lines)
    assert lines[-1].startswith("bit-identical: 5 metrics, 10 values")
    (again,) = (place / "outputs").glob("reproductions/*_killed")
    assert json.loads((again / "result.json").read_text())["epochs"] == 2  # and no further


def test_a_run_that_the_clock_stopped_stops_at_the_same_step(
    reproduce: Again, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = log_run(place / "timed", "trainer.max_time=1e-9")
    monkeypatch.setattr("runner.training.progress.Stopwatch.read", lambda _: 0.0)  # a machine that is faster
    code, lines = reproduce(f"run={run_id}")
    assert code == 0, lines
    assert lines[-1] == "bit-identical: 7 metrics, 7 values"


def test_a_reproduction_that_is_stopped_gives_no_verdict(again: Again, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "run", lambda *_: execute.Outcome("KILLED", 130, {}))
    code, lines = again()
    assert code == 130
    assert not any("identical" in line or "differs" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "problem", "words"),
    [
        (["run=nowhere"], ("run", "file"), "run=nowhere"),
        ([], ("run", "missing"), "run="),
        (["run={id}", "trainer.epochs=3"], ("trainer.epochs", "conflict"), "trainer.epochs=3"),
        (["run={id}", "data.root=x"], ("data.root", "unknown"), "data.root"),
        (["run={id}", "data.path=x.npz"], ("data.path", "file"), "data.path=x.npz"),
        (["run={id}", "tracking.uri=sqlite:////nowhere/m.db"], ("run", "store"), "/nowhere/m.db"),
        (["run={id}", "code=other"], ("code", "choice"), "code=other is not a choice; choose from stored"),
    ],
)
def test_mistakes_are_exit_2_in_one_line(
    reproduce: Again,
    run_id: str,
    place: Path,
    arguments: list[str],
    problem: tuple[str, str],
    words: str,
    reported: list[Problem],
) -> None:
    before = reproductions(place)
    code, lines = reproduce(*(argument.replace("{id}", run_id) for argument in arguments))
    assert code == 2
    assert about(reported) == [problem] and words in lines[-1]
    assert len([line for line in lines if line.startswith("error:")]) == 1
    assert reproductions(place) == before


def test_weights_of_another_run_must_be_here(reproduce: Again, place: Path, reported: list[Problem]) -> None:
    parent = place / "parent"
    log_run(parent)
    cfg, problems, resumed = resume.compose(str(parent), [f"resume={parent}", "resume_mode=warm_start"])
    assert cfg is not None and not problems
    experiment = build.build(without_hydra(cfg), resumed.choices)
    resume.load_checkpoint(resumed, experiment)
    folder = place / "child"
    folder.mkdir()
    manifest = describe_run(experiment, folder)
    assert manifest is not None
    experiment.tracking.name = "off"
    assert execute.run(experiment, folder).exit_code == 0
    manifest.ended("FINISHED").save(folder)
    assert Delivery(folder).step()
    code, lines = reproduce(f"run={folder}")
    assert code == 0, lines
    log_run(parent, "trainer.epochs=3")  # it goes on, and its last weights are others
    code, lines = reproduce(f"run={folder}")
    assert code == 1
    assert re.search(r"^differs: .*, those of run .*: hash \w{32}, was \w{32}$", lines[-1])
    shutil.rmtree(parent)
    code, lines = reproduce(f"run={folder}")
    assert code == 2
    assert len(reported) == 1 and str(parent) in reported[0].text
    assert reported[0].text.startswith(f"run={folder}: "), "it names the run that is repeated"


def test_given_weights_that_have_changed_are_found_before_training(reproduce: Again, place: Path) -> None:
    teacher = log_run(place / "teacher")
    best = place / "teacher" / "checkpoints" / "best.pt"
    weights = place / "given.pt"
    torch.save(torch.load(best, weights_only=True)["model"], weights)
    run_id = log_run(place / "pupil", "model.weights=given.pt")
    assert log_run(place / "pupil", "trainer.epochs=3") == run_id  # resumed, it has still begun with these
    client = MlflowClient(local_uri(place / "outputs"))
    assert len(client.get_run(run_id).data.tags["runner.initial_weights"]) == 32
    assert "runner.initial_weights" not in client.get_run(teacher).data.tags, "only the seed has made those"
    code, lines = reproduce(f"run={run_id}")
    assert code == 0, lines
    before = reproductions(place)
    tensors = torch.load(weights, weights_only=True)
    next(iter(tensors.values()))[0, 0] += 1e-3
    torch.save(tensors, weights)
    code, lines = reproduce(f"run={run_id}")
    assert code == 1
    assert re.search(rf"^differs: .*, those of {re.escape(str(weights))}: hash \w{{32}}, was \w{{32}}$", lines[-1])
    assert reproductions(place) == before
    client.delete_tag(run_id, "runner.initial_weights")  # of a run of before
    code, lines = reproduce(f"run={run_id}")
    assert code == 1 and lines[-2].startswith("differs: first ")
    assert any(line.startswith("note ") and str(weights) in line for line in lines)


NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, input_shape, num_outputs, dropout=0.0, **_):
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, num_outputs))
"""


def test_changed_code_is_named_and_the_stored_code_is_run_on_request(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The code was uncommitted, has changed since, and is in the store alone."""
    project = place / "project"
    committed(project, {"net_of_mine.py": "raise SystemExit('the commit')\n"})
    written(project / "net_of_mine.py", NET)
    monkeypatch.syspath_prepend(project)
    run_id = log_run(place / "mine", "model._target_=net_of_mine.Net", "trainer.epochs=1")
    shutil.rmtree(place / "mine")
    written(project / "net_of_mine.py", NET.replace("Tanh", "ReLU"))
    monkeypatch.delitem(sys.modules, "net_of_mine")  # another process imports it again
    capfd.readouterr()
    assert main([f"run={run_id}", "runner.quiet=true"]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == f"note       the code has changed: net_of_mine.py in {project}"
    assert lines[-3].startswith("differs: first ") and "code=stored" in lines[-1]
    before, present = reproductions(place), (project / "net_of_mine.py").read_text()
    assert main([f"run={run_id}", "code=stored"]) == 0
    lines = capfd.readouterr().err.splitlines()
    assert any(line.startswith(f"code       {project}: commit ") for line in lines)
    assert lines[-1].startswith("bit-identical: ") and not any(line.startswith("note ") for line in lines)
    assert len(reproductions(place) - before) == 1 and (project / "net_of_mine.py").read_text() == present


@pytest.mark.parametrize("stored", [True, False])
def test_of_a_run_without_stored_code_that_is_said(reproduce: Again, place: Path, stored: bool) -> None:
    run_id = log_run(place / f"of_before_{stored}", "trainer.epochs=1")
    (record,) = (place / "outputs" / "mlartifacts").glob(f"{run_id}/artifacts/code/code.json")
    record.unlink()
    code, lines = reproduce(f"run={run_id}", *(["code=stored"] if stored else []))
    assert any("no code is stored with" in line for line in lines)
    assert code == (2 if stored else 0), lines


def test_what_is_printed_is_of_a_reproduction(run_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main([f"run={run_id}"]) == 0
    lines = capsys.readouterr().err.splitlines()
    begins = [line.split(" ")[0] for line in lines]
    assert begins[0] == "reproduce" and begins.count("epoch") == 2 and lines[-1].startswith("bit-identical: ")
    assert not {"tracking", "resume", "compare"} & set(begins)
    assert main([f"run={run_id}", "runner.quiet=true"]) == 0
    quiet = capsys.readouterr().err.splitlines()
    assert quiet == [line for line in lines if line.startswith("note ")] + lines[-1:]


class TestCompare:
    def test_values_on_one_side_only_are_differences_of_a_whole_run(self) -> None:
        then = {("val/loss", 1): (0.5,), ("val/loss", 2): (0.4,)}
        now = {("val/loss", 1): 0.5, ("val/loss", 3): 0.3}
        verdict = compare(then, now, whole=True)
        assert [str(d) for d in verdict.differences] == [
            "val/loss at epoch 3: nothing in the store, 0.3 now",
            "val/loss at epoch 2: 0.4 in the store, nothing now",
        ]
        assert not verdict.identical
        part = compare(then, now, whole=False)
        assert part.identical and part.alone == 2

    def test_nothing_to_compare_is_not_identical(self) -> None:
        verdict = compare({}, {("val/loss", 1): 0.5}, whole=False)
        assert not verdict.identical
        assert verdict.lines()[0].startswith("nothing to compare")

    def test_of_a_run_of_version_0_1_0_what_it_logged_is_compared(self) -> None:
        then = {("lr", 1): (0.05,), ("val/r2", 1): (0.5,), ("val/loss", 1): (0.3,)}
        now = {("lr", 1): 0.03, ("val/rmse", 1): 2.0, ("val/r2", 1): 0.5, ("val/loss", 1): 0.3}
        assert compare(*comparable_with_0_1_0(then, now), whole=True).identical
        assert not compare(*comparable_with_0_1_0(then, now | {("val/r2", 1): 0.6}), whole=True).identical

    def test_two_values_at_one_step_of_the_store_differ(self) -> None:
        (difference,) = compare({("train/loss_step", 7): (0.5, 0.6)}, {("train/loss_step", 7): 0.5}, True).differences
        assert str(difference) == "train/loss_step at step 7: 0.5 and 0.6 in the store, 0.5 now"

    def test_bits_decide_as_far_as_a_store_keeps_them(self) -> None:
        nan, inf = float("nan"), float("inf")
        assert same(nan, nan) and same(inf, 1.7976931348623157e308) and same(-0.0, 0.0)
        assert not same(nan, 0.0) and not same(1.0, math.nextafter(1, 2)) and not same(inf, -inf)


@pytest.mark.parametrize(("deterministic", "notes"), [(True, 1), (False, 2)])
def test_another_gpu_and_operations_that_are_not_deterministic_are_noted(
    deterministic: bool, notes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
    device = Device(requested="cuda", torch=torch.device("cuda", 0), threads=1)
    (tmp_path / "environment.txt").write_text(environment(device.gpu() | {"gpu": "NVIDIA A100"}))
    found = environment_changes(tmp_path / "environment.txt", device, deterministic)
    assert len(found) == notes and found[0] == "gpu was NVIDIA A100, is NVIDIA H100"
    assert deterministic or "without trainer.deterministic=true" in found[1]
