import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow import MlflowClient
from omegaconf import OmegaConf

from conftest import Called, run_folder
from helpers.faults import inject
from helpers.sweeping import Forked
from helpers.training import exact_state, same
from runner.rundir.manifest import Manifest

Runner = Callable[..., Called]

SMALL = ("tracking=off", "data.limit=100", "model.hidden=[8]", "model.dropout=0.2", "data.batch_size=32")


def only(runner: Runner, *arguments: str, folder: str) -> Path:
    """A run in a folder of this name."""
    called = runner(*arguments, f"hydra.run.dir={folder}")
    assert called.code == 0, called.err
    return Path(folder).resolve()


def last(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)


def measured(folder: Path) -> dict[tuple[str, int], float]:
    """What the journal has, but for times and rates; each (name, step) once."""
    points = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    keys = [(p["name"], p["step"]) for p in points]
    assert len(keys) == len(set(keys)), "written twice"
    return {
        (p["name"], p["step"]): p["value"]
        for p in points
        if not p["name"].startswith(("time/", "throughput/", "system/", "energy/", "test/", "best/"))
    }


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def config(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "config.yaml").read_text())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_that_goes_on_ends_as_if_it_had_never_stopped(optimizer: str, here: Path, runner: Runner) -> None:
    arguments = (*SMALL, f"optimizer={optimizer}")
    whole = only(runner, *arguments, "trainer.epochs=4", folder="whole")
    parts = only(runner, *arguments, "trainer.epochs=2", folder="parts")
    called = runner("resume=parts", "trainer.epochs=4")
    assert called.code == 0, called.err
    one, other = last(whole), last(parts)
    for key in ("model", "optimizer", "scheduler", "scaler", "ema", "rng"):
        assert same(one[key], other[key]), key
    progress = {key: value for key, value in one["progress"].items() if "seconds" not in key}
    assert progress == {key: other["progress"][key] for key in progress}
    assert measured(whole) == measured(parts)
    best = [torch.load(folder / "checkpoints" / "best.pt", weights_only=True) for folder in (whole, parts)]
    assert same(best[0]["model"], best[1]["model"])
    timed = ("time/", "throughput/", "energy/", "system/", "epoch_seconds", "samples_per_second")
    kept = [{k: v for k, v in result(folder).items() if not k.startswith(timed)} for folder in (whole, parts)]
    assert kept[0] == kept[1]
    assert result(parts)["epochs"] == len(result(parts)["epoch_seconds"]) == 4
    lines = (parts / "epoch_seconds.txt").read_text().splitlines()
    assert result(parts)["epoch_seconds"] == list(map(float, lines)) and other["progress"]["epoch_seconds"] == []
    assert config(parts) == config(whole), "the saved config is what the run has become"


def test_it_goes_on_in_its_own_folder_and_makes_no_other(here: Path, runner: Runner) -> None:
    assert runner(*SMALL, "trainer.epochs=1").code == 0
    folder = run_folder(here)
    assert runner(f"resume={folder}", "trainer.epochs=2").code == 0
    assert run_folder(here) == folder
    assert runner(f"resume={folder}", "trainer.epochs=3").code == 0, "and again"
    assert result(folder)["epochs"] == 3


def test_the_number_of_threads_is_what_it_was(here: Path, runner: Runner) -> None:
    threads = torch.get_num_threads()
    try:
        folder = only(runner, *SMALL, "trainer.epochs=1", "device.threads=1", folder="one")
        torch.set_num_threads(threads)
        assert runner("resume=one", "trainer.epochs=2").code == 0
        assert torch.get_num_threads() == 1 and result(folder)["threads"] == 1
    finally:
        torch.set_num_threads(threads)
    auto = only(runner, *SMALL, "trainer.epochs=1", folder="auto")
    assert config(auto)["device"]["threads"] == result(auto)["threads"], "auto is recorded as the number it was"
    assert config(auto)["device"]["name"] == result(auto)["device"].partition(":")[0]


def test_a_run_that_goes_on_elsewhere_says_that_it_may_differ(here: Path, runner: Runner) -> None:
    folder = only(runner, *SMALL, "trainer.epochs=1", folder="run")
    called = runner("resume=run", "trainer.epochs=2")
    assert called.code == 0 and "note       " not in called.err, "it is where it was"
    made = folder / "environment.txt"
    made.write_text(made.read_text().replace(f"torch: {version('torch')}", "torch: 1.0").replace("cpu: ", "cpu: Z80 "))
    called = runner("resume=run", "trainer.epochs=3")
    assert called.code == 0
    (line,) = [line for line in called.err.splitlines() if line.startswith("note ")]
    assert line.startswith("note       cpu was Z80 ") and f"torch was 1.0, is {version('torch')}" in line
    assert line in (folder / "run.log").read_text(), "where it stays"


def test_a_finished_run_says_so_and_is_left_as_it_is(here: Path, runner: Runner) -> None:
    folder = only(runner, *SMALL, "trainer.epochs=1", folder="run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    called = runner("resume=run")
    assert called.code == 0
    assert re.search(r"^finished   run .* 1 epochs", called.err, re.MULTILINE) and "test/accuracy" in called.err
    assert "python -m runner resume=run trainer.epochs=" in called.err
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_killed_before_it_had_a_result_goes_on(here: Path, runner: Runner) -> None:
    whole = only(runner, *SMALL, "trainer.epochs=2", folder="whole")
    killed = only(runner, *SMALL, "trainer.epochs=2", "trainer.keep_checkpoints=2", folder="killed")
    (killed / "result.json").unlink()
    (killed / "checkpoints" / "last-1.pt").replace(killed / "checkpoints" / "last.pt")
    assert runner("resume=killed").code == 0
    assert same(last(whole)["model"], last(killed)["model"])
    assert result(killed)["status"] == "FINISHED"


REFUSED = [
    (["model=cnn"], [("model", "conflict", "model.hidden")]),
    (["optimizer=adamw", "data=mnist"], [("data", "conflict", ""), ("optimizer", "conflict", "optimizer.lr")]),
    (["debug=fast"], [("debug", "conflict", "")]),
    (["seed=1"], [("seed", "conflict", "resume_mode=warm_start")]),
    (["optimizer.lr=0.1", "data.batch_size=8"], [
        ("data.batch_size", "conflict", "warm_start"), ("optimizer.lr", "conflict", "warm_start"),
    ]),
    (["data.limit=50"], [("data.limit", "conflict", "resume_mode=warm_start")]),
    (["~optimizer.momentum"], [("optimizer.momentum", "conflict", "resume_mode=warm_start")]),
    (["precision.name=bf16", "device.threads=7"], [
        ("device.threads", "conflict", "warm_start"), ("precision.name", "conflict", "warm_start"),
    ]),
    (["trainer.epochs=1"], [("trainer.epochs", "range", "trainer.epochs=2")]),
    (["tracking.experiment=other"], [("tracking.experiment", "conflict", "leave it out")]),
    (["hydra.run.dir=elsewhere"], [("hydra.run.dir", "conflict", "leave it out")]),
    (["trainer.epohcs=3", "seed=x", "model=mpl"], [
        ("model", "conflict", "model.hidden"), ("seed", "type", ""), ("trainer.epohcs", "unknown", "trainer.epochs"),
    ]),
    (["trainer.epochs=0"], [("trainer.epochs", "range", "")]),
    (["resume_mode=warm_start", "model.hidden=[9]"], [("resume", "shape", "")]),
    (["resume_mode=warm_start", "optimizer=addam"], [("optimizer", "choice", "adam")]),
]  # fmt: skip
"""Arguments, and the problems that they have: key, topic, and a part of the suggestion."""


def test_what_cannot_be_exact_is_refused_and_the_way_out_named(here: Path, runner: Runner) -> None:
    folder = only(runner, *SMALL, "trainer.epochs=2", folder="run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for arguments, expected in REFUSED:
        called = runner("resume=run", *arguments)
        assert called.code == 2, (arguments, called.err)
        assert called.err.splitlines() == called.errors
        assert sorted(called.about) == [(key, topic) for key, topic, _ in expected]
        for problem, (_, _, suggestion) in zip(sorted(called.problems, key=lambda p: p.key), expected, strict=True):
            assert suggestion in problem.suggestion, problem
        assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}, arguments
        assert not (here / "outputs").exists()


NET = """from torch import nn
class Net(nn.Module):
    def __init__(self, input_shape, num_outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, num_outputs))

    def forward(self, inputs):
        return self.layers(inputs)
"""


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (("nn.ReLU()", "nn.PReLU()"), "weights"),
        (("num_outputs))", "num_outputs).requires_grad_(False))"), "optimizer"),
    ],
)
def test_a_model_that_was_edited_leaves_a_finished_run_as_it_is(
    edit: tuple[str, str], part: str, here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(here))
    (here / "edited.py").write_text(NET)
    arguments = ("model=custom", "model._target_=edited.Net", "tracking=off", "data.limit=100", "trainer.epochs=1")
    folder = only(runner, *arguments, folder="run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.delitem(sys.modules, "edited")
    shutil.rmtree(here / "__pycache__", ignore_errors=True)  # it tells a change by the second
    (here / "edited.py").write_text(NET.replace(*edit))
    called = runner("resume=run", "trainer.epochs=2")
    monkeypatch.delitem(sys.modules, "edited")
    assert called.code == 2 and called.about == [("resume", "shape")]
    assert "resume=run: " in called.problems[0].text and part in called.problems[0].text
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_cosine_cannot_be_made_longer(here: Path, runner: Runner) -> None:
    only(runner, *SMALL, "scheduler=cosine", "trainer.epochs=1", folder="run")
    called = runner("resume=run", "trainer.epochs=2")
    assert called.code == 2
    assert called.about == [("trainer.epochs", "conflict")]
    assert "trainer.epochs=2" in called.problems[0].text
    assert "resume_mode=warm_start" in called.problems[0].suggestion
    assert runner("resume=run", "trainer.epochs=2", "resume_mode=warm_start").code == 0


@pytest.mark.usefixtures("delivery_here")
def test_other_samples_are_not_what_the_run_was_trained_on(here: Path, runner: Runner) -> None:
    def table(last: str) -> None:
        rows = "".join(f"{i},{i % 3},{'xy'[i % 2]}\n" for i in range(20))
        (here / "table.csv").write_text(f"a,b,kind\n{rows}21,{last},x\n")

    table("1")
    # The fingerprint is kept with what MLflow is told.
    arguments = ("data=csv", "data.path=table.csv", "trainer.epochs=1", "tracking.log_model=false")
    folder = only(runner, *arguments, folder="run")
    table("2")
    called = runner("resume=run", "trainer.epochs=2")
    assert called.code == 2 and called.about == [("data", "data")]
    assert "resume_mode=warm_start" in called.problems[0].suggestion
    table("1")
    (here / "table.csv").rename(here / "moved.csv")
    called = runner("resume=run", "data.path=moved.csv", "trainer.epochs=2")
    assert called.code == 0, "the same samples in another place: " + called.err
    assert result(folder)["epochs"] == 2


def test_a_warm_start_is_a_new_run_from_the_weights_of_another(here: Path, runner: Runner) -> None:
    parent = only(runner, *SMALL, "trainer.epochs=2", folder="parent")
    before = {path: path.read_bytes() for path in parent.rglob("*") if path.is_file()}
    called = runner(
        "resume=parent", "resume_mode=warm_start", "optimizer=adamw", "optimizer.lr=1e-12", "trainer.epochs=1",
        "optimizer.weight_decay=0", "seed=3",
    )  # fmt: skip
    assert called.code == 0, called.err
    child = run_folder(here)
    weights, start = last(child)["model"], last(parent)["model"]
    assert all(torch.allclose(weights[name], start[name], atol=1e-9) for name in start), "it starts from them"
    assert result(child)["epochs"] == 1
    saved = config(child)
    assert saved["resume"] == str(parent) and saved["resume_mode"] == "warm_start"
    assert "momentum" not in saved["optimizer"] and saved["data"]["batch_size"] == 32
    assert before == {path: path.read_bytes() for path in parent.rglob("*") if path.is_file()}
    assert runner(f"resume={child}", "trainer.epochs=2").code == 0, "and can be resumed itself"
    assert result(child)["epochs"] == 2 and run_folder(here) == child
    assert config(child)["resume"] == str(parent), "which it still names"


@pytest.mark.usefixtures("delivery_here")
def test_a_run_is_found_by_its_mlflow_id(here: Path, runner: Runner) -> None:
    arguments = (*SMALL[1:], "trainer.epochs=1", "tracking.log_model=false")
    assert runner(*arguments).code == 0
    folder = run_folder(here)
    run_id = result(folder)["run_id"]
    called = runner(f"resume={run_id}", "trainer.epochs=2")
    assert called.code == 0, called.err
    assert run_folder(here) == folder
    assert result(folder)["epochs"] == 2 and result(folder)["run_id"] == run_id
    assert Manifest.load(folder).tags["resumed.trainer.epochs"] == "2"
    called = runner(f"resume={'0' * 32}")
    assert called.code == 2 and called.about == [("resume", "store")] and "sqlite:///" in called.err


@pytest.mark.usefixtures("delivery_here")
def test_a_database_in_the_current_folder_is_the_same_one_from_another(
    here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = ("tracking.uri=sqlite:///my.db", "tracking.log_model=false", "trainer.epochs=1")
    folder = only(runner, *SMALL[1:], *stored, folder="run")
    assert config(folder)["tracking"]["uri"] == Manifest.load(folder).uri == f"sqlite:///{here}/my.db"
    run_id = result(folder)["run_id"]
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert runner(f"resume={folder}", "trainer.epochs=2").code == 0
    assert result(folder)["run_id"] == run_id and not Path("my.db").exists()
    assert MlflowClient(f"sqlite:///{here}/my.db").get_run(run_id).data.metrics["val/loss"]


def test_a_run_in_use_is_left_alone(here: Path, runner: Runner) -> None:
    from runner.rundir.lock import lock

    folder = only(runner, *SMALL, "trainer.epochs=1", folder="run")
    with lock(folder):
        called = runner("resume=run", "trainer.epochs=2")
    assert called.code == 2 and called.about == [("", "run")]
    assert str(folder) in called.err and f"process {os.getpid()}" in called.err


def damage_all(checkpoints: Path) -> None:
    for path in checkpoints.iterdir():
        path.write_bytes(b"x")


def add_unknown_key(folder: Path) -> None:
    with (folder / "config.yaml").open("a") as file:
        file.write("a0: 1\n")


@pytest.mark.parametrize(
    ("damage", "topic", "words"),
    [
        (lambda folder: shutil.rmtree(folder / "checkpoints"), "run", ["run/checkpoints"]),
        (lambda folder: damage_all(folder / "checkpoints"), "run", ["last.pt is damaged", "best.pt is damaged"]),
        (lambda folder: (folder / "config.yaml").write_text("a: ["), "file", ["config.yaml"]),
        (lambda folder: (folder / "config.yaml").write_text("defaults: []\nseed: 0\n"), "run", ["config.yaml"]),
        (add_unknown_key, "unknown", ["resume=run: its config.yaml", "unknown key a0"]),
    ],
)
def test_a_run_that_cannot_go_on_says_why(
    damage: Callable[[Path], object], topic: str, words: list[str], here: Path, runner: Runner
) -> None:
    folder = only(runner, *SMALL, "trainer.epochs=1", folder="run")
    damage(folder)
    called = runner("resume=run", "trainer.epochs=2")
    assert called.code == 2 and called.about == [("a0" if topic == "unknown" else "resume", topic)]
    for word in words:
        assert word in called.err


def test_the_name_of_a_run_is_guessed_from_those_there_are(here: Path, runner: Runner) -> None:
    assert runner(*SMALL, "trainer.epochs=1").code == 0
    folder = run_folder(here)
    called = runner(f"resume=outputs/runs/{folder.name[:-1]}")
    assert called.code == 2 and f"did you mean outputs/runs/{folder.name}?" in called.err
    called = runner(f"resume={folder}/checkpoints/last.pt")
    assert called.code == 2 and f"did you mean outputs/runs/{folder.name}?" in called.err


def test_a_finished_run_that_is_resumed_and_killed_can_be_resumed_again(here: Path, runner: Runner) -> None:
    assert runner("tracking=off", "trainer.epochs=2", "hydra.run.dir=k").code == 0
    assert runner("resume=k", "tracking=off", "trainer.epochs=2").code == 0, "the same choice"
    process = Forked(here, "resume=k", "trainer.epochs=100000", "trainer.log_every_epochs=100", prepare=inject(None))
    deadline = time.monotonic() + 60
    while torch.load(here / "k" / "checkpoints" / "last.pt", weights_only=True)["progress"]["epoch"] < 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (here / "k" / "result.json").exists()
    called = runner("resume=k", "trainer.epochs=2")
    assert called.code == 2
    assert called.about == [("trainer.epochs", "range")]
    (epochs,) = re.findall(r"trainer\.epochs=(\d+)", called.problems[0].suggestion)
    assert int(epochs) >= 4


@pytest.mark.parametrize(
    ("first", "then", "why"),
    [
        (["trainer.max_steps=7"], "trainer.max_steps=10", "cut short"),
        (["trainer.validate_every_epochs=2", "trainer.epochs=3"], "trainer.epochs=6", "trainer.validate_every_epochs"),
    ],
)
def test_training_that_cannot_be_prolonged_exactly_is_not(
    runner: Runner, first: list[str], then: str, why: str
) -> None:
    small = ["tracking=off", "trainer.epochs=3", "data.limit=320", "hydra.run.dir=cut"]
    assert runner(*[s for s in small if s.split("=")[0] not in " ".join(first)], *first).code == 0
    called = runner("resume=cut", then)
    assert called.code == 2
    assert called.about == [(then.partition("=")[0], "conflict")]
    assert why in called.problems[0].text and "resume_mode=warm_start" in called.problems[0].suggestion


EARLY = ("tracking=off", "data.limit=100", "model.hidden=[8]", "optimizer.lr=1e-9", "trainer.epochs=6",
         "trainer.early_stopping.min_delta=0.1")  # fmt: skip


@pytest.mark.soak
def test_another_patience_is_exact_or_refused(here: Path, runner: Runner) -> None:
    only(runner, *EARLY, "trainer.early_stopping.patience=2", folder="two")  # never better: ends after epoch 3
    whole = only(runner, *EARLY, "trainer.early_stopping.patience=4", folder="four")
    assert (result(Path("two"))["epochs"], result(whole)["epochs"]) == (3, 5)
    for changed, words in (
        (["trainer.early_stopping.patience=1"], "patience=3"),
        (["trainer.early_stopping.patience=2", "trainer.early_stopping.min_delta=0.2"], ""),
    ):
        called = runner("resume=two", *changed)
        assert called.code == 2 and called.about == [(changed[-1].partition("=")[0], "conflict")]
        assert words in called.problems[0].suggestion and "warm_start" in called.problems[0].suggestion
    called = runner("resume=two", "trainer.early_stopping.patience=4")
    assert called.code == 0, called.err
    assert measured(Path("two")) == measured(whole) and result(Path("two"))["epochs"] == 5
    one, other = last(Path("two")), last(whole)
    assert all(same(one[key], other[key]) for key in ("model", "optimizer", "rng"))
    assert runner("resume=two", "trainer.early_stopping.patience=null").code == 0
    assert result(Path("two"))["epochs"] == 6


def test_what_a_checkpoint_of_0_1_0_did_not_count_is_not_guessed(here: Path, runner: Runner) -> None:
    old = only(runner, *EARLY, "trainer.early_stopping.patience=2", folder="old")
    for path in (old / "checkpoints").iterdir():
        state = torch.load(path, weights_only=True)
        del state["progress"]["longest_stale"]
        path.unlink()
        torch.save({**state, "format": 1}, path)
    assert runner("resume=old", "trainer.early_stopping.patience=1").code == 2
    assert runner("resume=old", "trainer.early_stopping.patience=3").code == 0, "it ended by 2: it never was 3"
    assert result(old)["epochs"] == 4


MOVING = """import torch
from torch import nn
from torch.utils.data import Dataset
from runner.data.source import Source


class Noisy(Dataset):
    targets = [i % 2 for i in range(40)]

    def __init__(self, own):
        self.drawn = torch.Generator().manual_seed(1) if own else None

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return torch.rand(4, generator=self.drawn) + index % 2, index % 2


class Counted(Noisy):
    def __init__(self, own):
        super().__init__(own)
        self.reads = 0

    def __getitem__(self, index):
        self.reads += 1
        return torch.full((4,), index % 2 + self.reads / 1000), index % 2

    def state_dict(self):
        return {"reads": self.reads}

    def load_state_dict(self, state):
        self.reads = state["reads"]


def noisy(own=False):
    return Source("noisy", train=Noisy(own))


def counted():
    return Source("counted", train=Counted(False))


class Net(nn.Module):
    def __init__(self, input_shape, num_outputs):
        super().__init__()
        self.layer, self.drawn = nn.Linear(4, num_outputs), torch.Generator().manual_seed(2)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, inputs):
        if self.training:
            self.seen += 0.01
            inputs = inputs + torch.rand(inputs.shape, generator=self.drawn)
        return self.layer(inputs * (1 + self.seen))
"""

READ = ("tracking=off", "data=moving", "data.in_memory=false", "model=custom", "model._target_=moving.Net",
        "data.val_fraction=0.25", "data.batch_size=8")  # fmt: skip


@pytest.mark.parametrize("target", ["moving.noisy", pytest.param("moving.counted", marks=pytest.mark.soak)])
def test_what_model_and_data_set_have_of_their_own_goes_on_too(
    target: str, here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(here))
    (here / "moving.py").write_text(MOVING)
    (here / "conf" / "data").mkdir(parents=True)
    more = ["+data.own=true"] if target == "moving.noisy" else []
    (here / "conf" / "data" / "moving.yaml").write_text(f"_target_: {target}\n")
    arguments = (*READ, *more, f"--config-dir={here / 'conf'}")
    whole = only(runner, *arguments, "trainer.epochs=3", folder="whole")
    parts = only(runner, *arguments, "trainer.epochs=1", folder="parts")
    for changed in ("data.in_memory=true", "data.num_workers=2"):
        called = runner("resume=parts", "trainer.epochs=3", changed)
        assert called.code == 2 and called.about == [(changed.partition("=")[0], "conflict")], called.err
        assert changed in called.problems[0].text
    called = runner("resume=parts", "trainer.epochs=3")
    assert called.code == 0, called.err
    for name in ("last.pt", "best.pt"):
        one, other = (exact_state(torch.load(f / "checkpoints" / name, weights_only=True)) for f in (whole, parts))
        assert same(one, other), [key for key in one if not same(one[key], other[key])]
    assert set(one["buffers"]["model"]) == {"seen"} and "model.drawn" in one["rng"]["held"]
    assert ("data" in one) == (target == "moving.counted")
    assert measured(whole) == measured(parts)
    monkeypatch.delitem(sys.modules, "moving")


def test_samples_drawn_at_random_are_not_held_in_memory_by_a_resume(
    here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(here))
    (here / "moving.py").write_text(MOVING)
    (here / "conf" / "data").mkdir(parents=True)
    (here / "conf" / "data" / "moving.yaml").write_text("_target_: moving.noisy\n")
    only(runner, *READ, f"--config-dir={here / 'conf'}", "trainer.epochs=1", folder="run")
    called = runner("resume=run", "trainer.epochs=2", "data.in_memory=true")
    assert called.code == 2 and called.about == [("data.in_memory", "conflict")]
    assert "warm_start" in called.problems[0].suggestion
    assert runner("resume=run", "trainer.epochs=2", "data.in_memory=auto").code == 0, "which leaves them where they are"
    monkeypatch.delitem(sys.modules, "moving")


def test_augmentations_can_be_turned_on_from_the_weights_of_a_run_that_did_not_know_them(
    here: Path, runner: Runner
) -> None:
    only(runner, "tracking=off", "data.limit=60", "trainer.epochs=1", folder="run")
    saved = OmegaConf.load(here / "run" / "config.yaml")
    for name in ("randaugment", "mixup", "cutmix"):
        del saved.data.augment[name]
    OmegaConf.save(saved, here / "run" / "config.yaml")
    for typed in ("data.augment=[mixup]", "data.augment.mixup.alpha=0.2"):
        called = runner("resume=run", typed, "trainer.epochs=2")
        assert called.code == 2 and called.about == [("data.augment.mixup.alpha", "conflict")], called.err
    called = runner("resume=run", "resume_mode=warm_start", "data.augment=[mixup]", "hydra.run.dir=warm")
    assert called.code == 0, called.err
    assert OmegaConf.load(here / "warm" / "config.yaml").data.augment.mixup.alpha == 0.2
