"""The model of a table as MLflow serves it: by column names, with numbers of any type, as `runner.predict` says."""

import ast
import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from helpers.trained import place, train
from runner import predict
from runner.tracking import model as saving


@pytest.fixture(scope="module", autouse=True)
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with place(tmp_path_factory.mktemp("served_table")) as folder:
        made = np.random.RandomState(0)
        table = pd.DataFrame(
            {"width": made.randint(1, 9, 80), "the height, cm": made.uniform(1, 9, 80), "depth": made.uniform(0, 1, 80)}
        )
        table["price"] = 500 + 30.5 * table["width"] - 4 * table["the height, cm"]
        table.to_csv("price.csv", index=False)
        table["price"] = np.where(table["width"] > 6, "large", np.where(table["depth"] > 0.5, "deep", "other"))
        table.to_csv("kind.csv", index=False)
        table["price"] = np.where(table["width"] > 4, "yes", "no")
        table.to_csv("question.csv", index=False)
        yield folder


RUNS = {
    "price": ("data.path=price.csv", "loss=mse"),
    "plain": ("data.path=price.csv", "loss=mse", "data.scale_targets=false", "optimizer.lr=1e-6", "precision=fp64"),
    "kind": ("data.path=kind.csv", "trainer.ema_decay=0.5"),
    "question": ("data.path=question.csv", "loss=bce_with_logits"),
}


SOAK = ("plain", "kind")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.soak) if name in SOAK else name for name in RUNS],
)
def run(request: pytest.FixtureRequest, there: Path) -> str:
    train(request.param, "data=csv", "tracking.log_model=true", *RUNS[request.param])
    return str(request.param)


@pytest.fixture(scope="module")
def model(run: str) -> Any:
    return mlflow.pyfunc.load_model(f"{run}/model")


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.read_csv("price.csv").drop(columns="price").head(9)


def predicted(run: str, table: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> pd.DataFrame:
    table.to_csv("new.csv", index=False)
    capsys.readouterr()
    assert predict.main([f"run={run}", "input=new.csv"]) == 0
    return pd.DataFrame(csv.DictReader(io.StringIO(capsys.readouterr().out))).drop(columns="sample")


def test_it_says_what_predict_says_in_any_order_of_columns_and_type_of_number(
    run: str, model: Any, table: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    assert str(table["width"].dtype) == "int64" and str(table["depth"].dtype) == "float64"
    wanted = predicted(run, table, capsys)
    for given in (
        table,
        table[["depth", "width", "the height, cm"]],
        table.assign(id=["a"] * 9, price=1.0)[["price", "depth", "id", "the height, cm", "width"]],
        table.astype("float64"),
        table.astype({"width": "int8"}),
        table.astype({"width": "Int64"}),
        table.astype({"width": object}),
    ):
        found = model.predict(given)
        assert list(found.columns) == [name for name in wanted.columns if name != "class"]
        np.testing.assert_allclose(found.to_numpy(float), wanted[found.columns].astype(float).to_numpy(), rtol=2e-5)
    if "class" in wanted:
        assert found.idxmax(axis=1).str.removeprefix("p_").tolist() == wanted["class"].tolist()
    assert model.predict(table.iloc[[3]]).index.tolist() == [3]


def test_its_signature_names_the_columns(run: str, model: Any) -> None:
    assert model.metadata.signature.inputs.input_names() == ["width", "the height, cm", "depth"]
    assert model.metadata.signature.outputs.input_names()[0] in ("price", "p_deep", "p_no")
    assert list(model.input_example.columns) == ["width", "the height, cm", "depth"]


def test_what_it_cannot_use_is_named(model: Any, table: pd.DataFrame) -> None:
    with pytest.raises(mlflow.exceptions.MlflowException, match=r"missing inputs \['width'\]"):
        model.predict(table.drop(columns="width"))
    with pytest.raises(ValueError, match="column 'depth' must hold numbers"):
        model.predict(table.assign(depth="deep"))
    with pytest.raises(ValueError, match="column 'depth' has missing values"):
        model.predict(table.assign(depth=[None, *[0.5] * 8]))


def test_whole_numbers_are_not_rounded_on_the_way(model: Any, table: pd.DataFrame) -> None:
    # Only float64 tells them apart.
    graph = model._model_impl._graph
    seen: list[torch.Tensor] = []
    model._model_impl._graph = lambda inputs: seen.append(inputs) or graph(inputs)
    try:
        model.predict(table.assign(width=16_777_217))
    finally:
        model._model_impl._graph = graph
    assert seen[0].dtype == torch.float64 and seen[0][0, 0] == 16_777_217


def test_the_graph_is_there_for_torch_too(run: str, model: Any, table: pd.DataFrame) -> None:
    graph = mlflow.pytorch.load_model(f"{run}/model")
    given = graph(torch.tensor(table.to_numpy(float)))
    np.testing.assert_allclose(given.detach().numpy(), model.predict(table).to_numpy(), rtol=1e-6)


def test_the_code_that_goes_along_needs_nothing_of_runner() -> None:
    tree = ast.parse(saving.SERVED_TABLE.read_text())
    names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
             for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)}  # fmt: skip
    assert {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) == {"pandas", "torch"}
