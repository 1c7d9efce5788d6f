"""A graph that was exported once is not exported again, as long as nothing has changed that it depends on."""

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from runner.rundir.layout import GRAPHS
from runner.sweeps.launchers import forkserver
from runner.tracking import model as saving
from runner.tracking import model_memory, model_template
from runner.tracking.model import TableNames, save_model
from runner.tracking.model_memory import ModelMemory
from runner.tracking.model_template import GRAPH
from runner.util import code_state

EXAMPLE = torch.arange(12.0).reshape(4, 3) / 7


class Two(nn.Module):
    """Takes two inputs by name, and returns two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"sum": self.one(left) + self.other(right), "left": self.one(left)}


class Scaled(nn.Module):
    """Has a number that no tensor holds."""

    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.layer, self.factor = nn.Linear(3, 2), factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.layer(x)


class Tied(nn.Module):
    """Uses one weight twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.other(torch.relu(self.one(x)))


class Outside(nn.Module):
    """Holds a tensor that is not in its state."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.offset = nn.Linear(3, 2), torch.rand(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.offset


class Exports:
    """Counts the graphs that are exported."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = 0
        export = saving._save_any

        def count(*arguments: Any) -> None:
            self.made += 1
            export(*arguments)

        monkeypatch.setattr(saving, "_save_any", count)


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> Exports:
    return Exports(monkeypatch)


def save(outputs: Path, model: nn.Module, name: str = "run", example: Any = EXAMPLE, **more: Any) -> Path:
    save_model(model, example, outputs / name / "model", outputs=outputs, **more)
    return outputs / name / "model"


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a model's folder; its description without name and time."""
    return {str(path.relative_to(folder)): model_template.comparable(path) for path in model_template.files_in(folder)}


TWO_INPUTS = {"left": torch.rand(4, 3), "right": torch.rand(4, 2)}
KINDS: dict[str, tuple[Callable[[], nn.Module], Any, dict[str, Any]]] = {
    "layers": (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)), EXAMPLE, {}),
    "tied": (Tied, EXAMPLE, {}),
    "named": (Two, TWO_INPUTS, {}),
    "table": (lambda: nn.Linear(3, 1), EXAMPLE, {"table": TableNames(["a", "b", "c"], ["price"])}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_known_graph_gets_the_weights_of_the_model(kind: str, tmp_path: Path, exports: Exports) -> None:
    make, example, more = KINDS[kind]
    model = make()
    places = ((tmp_path, make(), "first"), (tmp_path, model, "known"), (tmp_path / "missing", model, "exported"))
    _, known, exported = [save(*place, example, **more) for place in places]  # the graph has the line of this call
    assert exports.made == 2
    assert contents(known).keys() == contents(exported).keys()
    for name, content in contents(known).items():
        assert content == contents(exported)[name], name
    names = {yaml.safe_load((folder / "MLmodel").read_text())["model_uuid"] for folder in (known, exported)}
    assert len(names) == 2, "each model has a name of its own"


def test_it_predicts_as_the_model(tmp_path: Path, exports: Exports) -> None:
    save(tmp_path, nn.Linear(3, 2), "first")
    model = nn.Linear(3, 2)
    served = mlflow.pyfunc.load_model(str(save(tmp_path, model)))
    assert exports.made == 1
    for rows in (1, 5):
        inputs = torch.rand(rows, 3)
        np.testing.assert_allclose(served.predict(inputs.numpy()), model(inputs).detach(), rtol=1e-6)


def test_another_example_is_written(tmp_path: Path, exports: Exports) -> None:
    model = nn.Linear(3, 2)
    save(tmp_path, model, "first")
    known = save(tmp_path, model, "known", 3 * EXAMPLE)
    save_model(model, 3 * EXAMPLE, tmp_path / "exported" / "model")
    assert exports.made == 2 and contents(known) == contents(tmp_path / "exported" / "model")


def test_an_example_that_only_mlflow_can_write_makes_another_graph(tmp_path: Path, exports: Exports) -> None:
    names = TableNames(["a", "b", "c"], ["price"])
    for example in (EXAMPLE, 3 * EXAMPLE, EXAMPLE):
        save(tmp_path, nn.Linear(3, 1), example=example, table=names)
    assert exports.made == 3, "the last one kept is that of the second example"


def test_two_values_of_an_attribute_are_two_graphs(tmp_path: Path, exports: Exports) -> None:
    for model in (Scaled(2.0), Scaled(2.0), Scaled(3.0)):
        save(tmp_path, model)
    assert exports.made == 2


@pytest.mark.parametrize(
    "other",
    [
        nn.Linear(3, 4),
        nn.Linear(3, 2, bias=False),
        nn.Sequential(nn.Linear(3, 2)),
        Scaled(1.0),
        nn.Linear(3, 2).requires_grad_(False),
    ],
)
def test_another_model_is_exported(other: nn.Module, tmp_path: Path, exports: Exports) -> None:
    for model in (nn.Linear(3, 2), other, nn.Linear(3, 2)):
        save(tmp_path, model)
    assert exports.made == 2


def test_weights_that_are_shared_no_more_are_another_graph(tmp_path: Path, exports: Exports) -> None:
    untied = Tied()
    untied.other.weight = nn.Parameter(torch.rand(3, 3))
    for model in (Tied(), untied, Tied()):
        save(tmp_path, model)
    assert exports.made == 2


def test_other_arguments_of_the_folder_are_another_graph(tmp_path: Path, exports: Exports) -> None:
    for names in (["a", "b", "c"], ["a", "b", "d"]):
        save(tmp_path, nn.Linear(3, 1), table=TableNames(names, ["price"]))
    assert exports.made == 2


class Smallest(nn.Module):
    """Divides by the number of samples, up to a limit that only more samples than five reach."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.layer, self.limit = nn.Linear(3, 2), limit

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) / min(x.shape[0], self.limit)


class Limited(Smallest):
    """Refuses more samples than its limit."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > self.limit:
            raise ValueError
        return self.layer(x)


@pytest.mark.parametrize("kind", [Smallest, Limited])
def test_a_graph_that_depends_on_the_number_of_samples_is_not_shared(
    kind: type[Smallest], tmp_path: Path, exports: Exports
) -> None:
    for limit in (6, 1000):
        model = kind(limit)
        served = mlflow.pyfunc.load_model(str(save(tmp_path, model)))
        if kind is Smallest:
            inputs = torch.rand(20, 3)
            np.testing.assert_allclose(served.predict(inputs.numpy()), model(inputs).detach(), rtol=1e-5)
    assert exports.made == 2 and not list((tmp_path / GRAPHS).glob("*.zip"))


class Twin(nn.Linear):
    """Another class that computes the same."""


def test_another_class_is_another_graph(tmp_path: Path, exports: Exports) -> None:
    for model in (nn.Linear(3, 2), Twin(3, 2), Twin(3, 2)):
        save(tmp_path, model)
    assert exports.made == 2


@pytest.mark.parametrize("where", [torch, code_state])
def test_another_version_is_exported(
    where: Any, tmp_path: Path, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, nn.Linear(3, 2))
    monkeypatch.setattr(where, "__version__", "2.99.0")
    save(tmp_path, nn.Linear(3, 2))
    assert exports.made == 2


def test_another_version_of_mlflow_is_exported(
    tmp_path: Path, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, nn.Linear(3, 2))
    version_of = model_memory.version_of
    monkeypatch.setattr(model_memory, "version_of", lambda name: "9.9" if name == "mlflow" else version_of(name))
    save(tmp_path, nn.Linear(3, 2))
    assert exports.made == 2


def test_another_version_of_the_library_of_a_layer_is_another_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Layer(nn.Linear): ...

    Layer.__module__ = "some_library.layers"
    keys = set()
    for version in ("1.0", "1.1"):
        monkeypatch.setitem(sys.modules, "some_library", SimpleNamespace(__version__=version))
        keys.add(ModelMemory(tmp_path).key(Layer(3, 2), EXAMPLE, []))
    assert len(keys) == 2 and None not in keys


def test_a_changed_file_of_the_user_is_exported(
    tmp_path: Path, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "my_own_model.py"
    file.write_text("WIDTH = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_own_model", raising=False)
    monkeypatch.setitem(sys.modules, "my_own_model", importlib.import_module("my_own_model"))
    for _ in range(2):
        save(tmp_path, nn.Linear(3, 2))
    assert exports.made == 1
    file.write_text("WIDTH = 2\n")  # as long as before
    code_state._state.cache_clear()  # as in another process
    save(tmp_path, nn.Linear(3, 2))
    assert exports.made == 2


def test_values_outside_of_the_state_are_not_shared(tmp_path: Path, exports: Exports) -> None:
    for model in (Outside(), Outside()):
        served = mlflow.pyfunc.load_model(str(save(tmp_path, model)))
        np.testing.assert_allclose(served.predict(EXAMPLE.numpy()), model(EXAMPLE).detach(), rtol=1e-6)
    assert exports.made == 2 and not list((tmp_path / GRAPHS).glob("*.zip"))


def test_a_large_model_is_not_remembered(tmp_path: Path, exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_memory, "LARGEST", 10)
    for _ in range(2):
        save(tmp_path, nn.Linear(3, 2))
    assert exports.made == 2 and not (tmp_path / GRAPHS).exists()


@pytest.mark.parametrize("folder", [None, "missing"])
def test_without_outputs_nothing_is_remembered(tmp_path: Path, exports: Exports, folder: str | None) -> None:
    for name in ("first", "second"):
        outputs = None if folder is None else tmp_path / folder
        save_model(nn.Linear(3, 2), EXAMPLE, tmp_path / name / "model", outputs=outputs)
    assert exports.made == 2


@pytest.mark.parametrize("damage", ["empty", "cut", "other", "link"])
def test_a_damaged_memory_is_not_believed(damage: str, tmp_path: Path, exports: Exports) -> None:
    model = nn.Linear(3, 2)
    wanted = contents(save(tmp_path, model))
    [file] = (tmp_path / GRAPHS).glob("*.zip")
    content = file.read_bytes()
    if damage == "link":
        file.rename(tmp_path / "elsewhere.zip")
        file.symlink_to(tmp_path / "elsewhere.zip")
    elif damage == "other":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("index.json", '{"example": null}')
    else:
        file.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    assert contents(save(tmp_path, model)) == wanted
    assert exports.made == 2
    assert contents(save(tmp_path, model)) == wanted
    assert exports.made == 2, "it was replaced"
    if damage == "link":
        assert (tmp_path / "elsewhere.zip").read_bytes() == content


def test_the_one_that_was_not_used_for_the_longest_time_is_forgotten(
    tmp_path: Path, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_memory, "MOST", 2)
    for outputs in (1, 2, 1, 3, 1):
        save(tmp_path, nn.Linear(3, outputs))
    assert exports.made == 3
    save(tmp_path, nn.Linear(3, 2))
    assert exports.made == 4


def test_a_folder_that_would_not_be_the_same_is_not_remembered(
    tmp_path: Path, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later version of torch or MLflow may write more, which may depend on the weights."""
    export = saving._save_any

    def with_more(model: nn.Module, example: Any, folder: Path, *more: Any) -> None:
        export(model, example, folder, *more)
        shutil.copyfile(folder / GRAPH, folder / "copy.pt2")

    monkeypatch.setattr(saving, "_save_any", with_more)
    for _ in range(2):
        save(tmp_path, nn.Linear(3, 2))
    assert exports.made == 2


def test_a_run_of_a_known_model_needs_neither_the_compiler_nor_mlflow(here: Path) -> None:
    """The first one, a fork that has imported them, exports the graph; the process that uploads is another one."""
    needless = ("torch._dynamo", "mlflow", "pandas")
    assert all(map(importlib.util.find_spec, needless))
    script = (
        "import sys\n"
        "from runner.cli import run_command\n"
        "print(run_command(sys.argv[2:]), *sorted(set(sys.argv[1].split()) & set(sys.modules)))\n"
    )
    (here / "outputs").mkdir()
    quick = ["trainer.epochs=1", "data.limit=64", "tracking=off", "tracking.log_model=true", "runner.quiet=true"]
    forkserver.start(["runner.data.digits."], exports_models=True)
    assert forkserver.call("runner.cli:run_command", quick) == 0
    (graph,) = (here / "outputs" / GRAPHS).glob("*.zip")
    command = [sys.executable, "-c", script, " ".join(needless), *quick, "seed=1"]
    assert subprocess.check_output(command, text=True).split() == ["0"]
    assert list((here / "outputs" / GRAPHS).glob("*.zip")) == [graph]
