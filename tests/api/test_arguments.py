"""From Python to the arguments of a command line, and objects to files."""

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from runner import objects
from runner.api.arguments import make_arguments
from runner.data.source import Source
from runner.data.table import table
from runner.data.tensors import tensors
from runner.errors import ConfigError
from runner.util import code_state

CELL = """
from torch import nn
FACTOR = 3
class Tripled(nn.Module):
    def forward(self, x):
        return FACTOR * x
"""


@pytest.fixture
def main() -> Any:
    """The names of a notebook's cell, whose module is `__main__`."""
    there = sys.modules["__main__"].__dict__
    before = set(there)
    exec(CELL, there)
    yield there
    for name in set(there) - before:
        del there[name]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"model": "cnn", "seed": 1}, ["model=cnn", "seed=1"]),
        (
            {"optimizer": {"lr": 1e-5, "groups": {"head": {"lr": 0.1}}}},
            ["optimizer.lr=1e-05", "optimizer.groups={head:{lr:0.1}}"],
        ),
        ({"data.augment": {"flip": True}, "data.limit": None}, ["data.augment.flip=true", "data.limit=null"]),
        ({"model.hidden": [128, np.int64(64)]}, ["model.hidden=[128,64]"]),
        ({"metrics": ["f1", "a b", "it's"]}, [r"metrics=[f1,'a b','it\'s']"]),
        ({"data.root": Path("/a b")}, ["data.root='/a b'"]),
    ],
)
def test_values_become_arguments(settings: dict[str, Any], expected: list[str]) -> None:
    assert make_arguments((), settings) == expected
    assert make_arguments((settings, "device=cpu"), {}) == ["device=cpu", *expected]


def test_a_list_is_an_axis_of_a_sweep_and_a_tuple_one_value() -> None:
    settings = {"model.hidden": [(8,), (8, 4)], "optimizer": {"lr": [0.1, 0.03]}, "seed": "0,1"}
    assert make_arguments((), settings, sweeping=True) == [
        "model.hidden=[8],[8,4]",
        "optimizer.lr=0.1,0.03",
        "seed=0,1",
    ]


@pytest.mark.parametrize(
    ("group", "value", "said"),
    [
        ("seed", object(), "an object of type object is not a value"),
        ("optimizer", torch.optim.SGD([nn.Parameter(torch.zeros(1))]), "give a class, or a function"),
        ("model", lambda: (yield), "pickled"),
    ],
)
def test_what_cannot_be_given_is_said(here: Path, group: str, value: Any, said: str) -> None:
    if group == "model":
        value = (value() for _ in range(1))
    with pytest.raises(ConfigError, match=said) as error:
        make_arguments((), {group: value})
    assert error.value.problems[0].key == group


def target(arguments: list[str]) -> tuple[str, Any]:
    """The name of an object in these arguments, and what a config calls."""
    assert arguments[0].endswith("=custom")
    path = arguments[1].partition("._target_=")[2]
    return path.rpartition(".")[2], getattr(objects, path.rpartition(".")[2])


def test_a_module_of_a_cell_comes_back_with_its_code_and_weights(here: Path, main: dict[str, Any]) -> None:
    given = nn.Sequential(nn.Linear(3, 2), main["Tripled"]())
    name, make = target(make_arguments((), {"model": given}))
    x = torch.ones(1, 3)
    assert name.startswith("Sequential_") and torch.equal(make()(x), given(x))
    assert make() is not make(), "a run must not begin with what an earlier one has trained"
    assert name in str(code_state.code_state(given)), "another class of the same name is other code"
    again, _ = target(make_arguments((), {"model": given}))
    assert again == name and len(list((here / "outputs" / "objects").iterdir())) == 1


def test_a_class_keeps_its_signature_and_gets_its_keys(here: Path, main: dict[str, Any]) -> None:
    arguments = make_arguments((), {"model": main["Tripled"], "model.width": 3, "model.weights": "w.pt"})
    assert target(arguments)[1].__name__ == "Tripled" and arguments[2:] == ["+model.width=3", "model.weights=w.pt"]
    made = functools.partial(torch.optim.SGD, lr=0.1)
    assert target(make_arguments((), {"optimizer": made}))[1].keywords == {"lr": 0.1}
    several = make_arguments((), {"model": [nn.Linear, nn.Identity], "model.bias": [True, False]}, sweeping=True)
    assert several[1].count(",") == 1 and several[2] == "+model.bias=true,false"


def test_callbacks_and_metrics_may_be_objects(here: Path, main: dict[str, Any]) -> None:
    made = main["Tripled"]
    settings = {"trainer": {"callbacks": {"mine": made}}, "metrics": ["f1", {"own": {"_target_": made, "k": 2}}]}
    callbacks, metrics = make_arguments((), settings)
    (name,) = objects.names_in([callbacks])
    assert callbacks == f"trainer.callbacks={{mine:{{_target_:runner.objects.{name}}}}}"
    assert metrics == f"metrics=[f1,{{own:{{_target_:runner.objects.{name},k:2}}}}]"


def test_a_changed_file_and_a_missing_one_are_said(here: Path, main: dict[str, Any]) -> None:
    name, _ = target(make_arguments((), {"model": main["Tripled"]}))
    file = objects.find(name)
    assert file is not None
    objects._load.cache_clear()
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ConfigError, match="has changed since its run was started"):
        getattr(objects, name)
    file.unlink()
    with pytest.raises(ConfigError, match="there is no objects/"):
        getattr(objects, name)
    assert not hasattr(objects, "Net") and not hasattr(objects, "Net_123")


def test_a_run_keeps_its_objects_and_offers_them(here: Path, main: dict[str, Any]) -> None:
    arguments = make_arguments((), {"model": main["Tripled"]})
    (here / "run").mkdir()
    config = {"model": {"_target_": arguments[1].partition("=")[2]}}
    objects.keep(config, here / "run")
    (name,) = objects.names_in(config)
    (here / "outputs" / "objects" / f"{name}.pkl").unlink()
    assert objects.find(name) is None
    objects.offer(config, lambda file: here / "run" / file)
    assert objects.find(name) == here / "run" / "objects" / f"{name}.pkl"
    objects.share(here / "run")
    assert (here / "outputs" / "objects" / f"{name}.pkl").is_file()


def test_outputs_that_cannot_be_written_are_said(here: Path) -> None:
    (here / "outputs").write_text("a file")
    with pytest.raises(ConfigError, match="set RUNNER_OUTPUTS"):
        make_arguments((), {"model": nn.Identity()})


def arrays(arguments: list[str]) -> Source:
    """The data set of arguments for `data=tensors`."""
    values = dict(word.removeprefix("data.").split("=", 1) for word in arguments)
    classes = values.get("classes")
    return tensors(path=values["path"], classes=classes[1:-1].split(",") if classes else None)


def test_arrays_become_a_file_of_tensors(here: Path) -> None:
    x, y = np.random.RandomState(0).rand(6, 2).astype("float32"), torch.tensor([0, 1, 2, 0, 1, 2])
    arguments = make_arguments((), {"data": (x, y, x[:2], y[:2])})
    assert arguments[0] == "data=tensors" and arguments == make_arguments((), {"data": (x, y, x[:2], y[:2])})
    source = arrays(arguments)
    assert torch.equal(source.train[0], torch.as_tensor(x)) and torch.equal(source.train[1], y)
    assert torch.equal(source.test[1], y[:2])
    named = arrays(make_arguments((), {"data": {"train": (x, ["b", "a"] * 3), "val": (x, ["a"] * 6)}}))
    assert named.classes == ["a", "b"] and named.train[1].tolist() == [1, 0] * 3 and named.val[1].tolist() == [0] * 6


def test_tables_become_parquet_files(here: Path) -> None:
    frame = pd.DataFrame({"size": [1.5, 2.0, 3.0], "kind": ["a", None, "NA"]}, index=[7, 8, 9])
    ((head, path),) = [make_arguments((), {"data": (frame, pd.Series([0, 1, 0], name="ill"))})]
    assert head == "data=table"
    stored = pd.read_parquet(path.partition("=")[2])
    assert list(stored) == ["size", "kind", "ill"] and stored["kind"].tolist()[2] == "NA"
    assert table(path.partition("=")[2], test_fraction=0).target == "ill"
    parts = make_arguments((), {"data": {"train": frame, "test": frame.head(1)}})
    assert [word.partition("=")[0] for word in parts] == ["data", "data.path", "data.test_path"]


def test_data_sets_become_sources(here: Path) -> None:
    given = TensorDataset(torch.ones(4, 2), torch.tensor([0, 1, 0, 1]))
    name, make = target(make_arguments((), {"data": {"train": given, "test": given}}))
    assert name.startswith("TensorDataset_") and len(make().train) == len(make().test) == 4
    assert target(make_arguments((), {"data": Source("mine", given)}))[1]().name == "mine"


@pytest.mark.parametrize("kind", ["tensor", "array", "list"])
@pytest.mark.parametrize(
    "targets",
    [torch.arange(12), torch.tensor([False, True] * 6), torch.rand(12), torch.rand(12, 3)],
    ids=["classes", "bools", "numbers", "several numbers"],
)
def test_targets_are_what_they_were(here: Path, targets: torch.Tensor, kind: str) -> None:
    """Numbers are no texts, whose classes would be sorted by their letters."""
    given = {"tensor": targets, "array": targets.numpy(), "list": targets.tolist()}[kind]
    inputs = torch.rand(12, 2)
    arguments = make_arguments((), {"data": (inputs if kind != "list" else inputs.tolist(), given)})
    assert arguments[0] == "data=tensors" and not any(word.startswith("data.classes") for word in arguments)
    found = torch.load(arguments[1].removeprefix("data.path="), weights_only=True)["targets"]
    torch.testing.assert_close(found.to(targets.dtype), targets)
