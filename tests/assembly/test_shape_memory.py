"""A model that has passed the check of shapes is not checked again, as long as nothing has changed that matters."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from conftest import Called
from helpers.problems import about
from runner.assembly import shape_memory
from runner.assembly.shape_memory import MOST, remembered
from runner.errors import ConfigError, Problem
from runner.model.probe import Cost
from runner.rundir.layout import SHAPE_CHECKS

COST = Cost(34_048, 128, "relu")
ASKED = {"hidden": [8], "num_outputs": 3}


class Check:
    """A check that counts how often it is made."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> Cost:
        self.made += 1
        return COST


def made(folder: Path | None, model: nn.Module | None = None, asked: dict[str, Any] | None = None) -> int:
    """How many checks it takes to learn the cost of a model."""
    check = Check()
    assert remembered(folder, model or nn.Linear(2, 3), asked or ASKED, check) == COST
    return check.made


def test_the_second_time_it_is_known(tmp_path: Path) -> None:
    assert [made(tmp_path), made(tmp_path)] == [1, 0]
    assert (tmp_path / SHAPE_CHECKS).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("folder", [None, "missing"])
def test_without_a_folder_nothing_is_remembered(tmp_path: Path, folder: str | None) -> None:
    where = None if folder is None else tmp_path / folder
    assert [made(where), made(where)] == [1, 1] and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        (nn.Linear(2, 4), ASKED),
        (nn.Linear(2, 3, bias=False), ASKED),
        (nn.Linear(2, 3).double(), ASKED),
        (nn.Sequential(nn.Linear(2, 3)), ASKED),
        (None, ASKED | {"hidden": [9]}),
        (None, ASKED | {"input_shape": (1, 2)}),
    ],
)
def test_another_model_or_other_arguments_are_checked(
    tmp_path: Path, model: nn.Module | None, asked: dict[str, Any]
) -> None:
    assert [made(tmp_path), made(tmp_path, model, asked), made(tmp_path)] == [1, 1, 0]


@pytest.mark.parametrize("where", [torch, shape_memory])
def test_another_version_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any) -> None:
    assert made(tmp_path) == 1
    monkeypatch.setattr(where, "__version__", "9.9")
    assert made(tmp_path) == 1


def test_another_version_of_the_library_of_a_layer_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Layer(nn.Linear): ...

    Layer.__module__ = "some_library.layers"
    for version in ("1.0", "1.1"):
        monkeypatch.setitem(sys.modules, "some_library", SimpleNamespace(__version__=version))
        assert made(tmp_path, nn.Sequential(Layer(2, 3))) == 1


def test_a_changed_file_of_the_user_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "my_own_model.py"
    file.write_text("WIDTH = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_own_model", raising=False)
    monkeypatch.setitem(sys.modules, "my_own_model", importlib.import_module("my_own_model"))
    assert [made(tmp_path), made(tmp_path)] == [1, 0]
    file.write_text("WIDTH = 2\n")  # as long as before
    assert [made(tmp_path), made(tmp_path)] == [1, 0]


def test_a_changed_file_of_runner_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = shape_memory.imported_files()
    assert "runner.model.probe" in files, "runner's own files count where it was not installed"
    assert made(tmp_path) == 1
    (tmp_path / "probe.py").write_text("")
    monkeypatch.setattr(shape_memory, "imported_files", lambda: files | {"runner.model.probe": tmp_path / "probe.py"})
    assert made(tmp_path) == 1


def test_what_fails_is_not_remembered(tmp_path: Path) -> None:
    def fail() -> Cost:
        raise ConfigError(Problem("model", "it does not fit", topic="shape"))

    for _ in range(2):
        with pytest.raises(ConfigError) as raised:
            remembered(tmp_path, nn.Linear(2, 3), ASKED, fail)
        assert about(raised) == [("model", "shape")]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"KEY": 3}', '{"KEY": {"flops": 1}}', '{"KEY": {"a": 1}}'])
def test_a_damaged_memory_is_not_believed(tmp_path: Path, content: str) -> None:
    key = shape_memory.fingerprint(nn.Linear(2, 3), ASKED)
    (tmp_path / SHAPE_CHECKS).write_text(content.replace("KEY", key))
    assert made(tmp_path) == 1


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / SHAPE_CHECKS).rename(tmp_path / "elsewhere.json")
    (tmp_path / SHAPE_CHECKS).symlink_to("elsewhere.json")
    assert made(tmp_path) == 1


def test_the_oldest_are_forgotten(tmp_path: Path) -> None:
    (tmp_path / SHAPE_CHECKS).write_text(json.dumps({str(number): vars(COST) for number in range(MOST)}))
    assert made(tmp_path) == 1
    known = json.loads((tmp_path / SHAPE_CHECKS).read_text())
    assert len(known) == MOST and "0" not in known and "1" in known


def test_a_model_that_cannot_be_shown_is_checked(tmp_path: Path) -> None:
    class Shy(nn.Linear):
        def __repr__(self) -> str:
            raise RuntimeError

    assert [made(tmp_path, Shy(2, 3)), made(tmp_path, Shy(2, 3))] == [1, 1]


def test_runs_sweeps_and_evaluations_share_it(here: Path, runner: Callable[..., Called]) -> None:
    (here / "outputs").mkdir()
    for arguments in ((), ("seed=3", "optimizer.lr=0.02")):
        assert runner("trainer.epochs=1", "data.limit=64", "tracking=off", *arguments).code == 0
    assert len(json.loads((here / "outputs" / SHAPE_CHECKS).read_text())) == 1


def test_a_known_model_is_trained_without_the_compiler(here: Path) -> None:
    """It costs half a second: optimizers, and all that runs on the meta device, import it."""
    script = (
        "import os, sys\n"
        "from runner.cli import run_command\n"
        "import runner.runs.start\n"
        "for _ in range(2):\n"
        "    if not os.fork():\n"
        "        code = run_command(sys.argv[1:])\n"
        "        os._exit(code or 10 + ('torch._dynamo' in sys.modules))\n"
        "    print(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    (here / "outputs").mkdir()
    quick = ("trainer.epochs=1", "data.limit=64", "tracking=off", "tracking.log_model=false", "runner.quiet=true")
    found = subprocess.check_output([sys.executable, "-c", script, *quick], text=True)
    assert found.split() == ["11", "10"]
