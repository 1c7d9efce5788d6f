"""`data.folds`: a sweep over folds, its predictions out of fold, and the ensemble that is tested once."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from sklearn.datasets import load_digits
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from conftest import Called
from helpers.sweeping import sweep_folder
from helpers.trained import place, result, train
from runner import evaluate, predict
from runner.comparison.objectives import Objective
from runner.data.normalize import Normalize
from runner.data.target_scale import TargetScale
from runner.loss import MSE, BCEWithLogits, CrossEntropy, Loss, answers, outputs_of
from runner.runs.ensemble import make_ensemble
from runner.runs.folds import Member, combine
from runner.runs.folds_predictor import FoldsPredictor
from runner.runs.new_samples import read
from runner.runs.predictor import Predictor
from runner.runs.serving import ServingModel
from runner.saved.folds import SavedFolds, find_folds
from runner.saved.run import find
from runner.sweeps.plan import plan
from runner.sweeps.plan.folds import check
from runner.sweeps.results import folds
from runner.sweeps.results import table as tables
from runner.tracking.store import connect, local_uri

Runner = Callable[..., Called]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "out_of_fold.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def column(table: list[dict[str, str]], name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in table])


def test_as_scikit_learn_predicts_out_of_fold(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    inputs = generator.normal(3, [1, 5, 0.1], (40, 3))
    targets = 50 + inputs @ np.array([2.0, -1.0, 30.0]) + generator.normal(size=40)
    splitter, model = KFold(3, shuffle=True, random_state=3), make_pipeline(StandardScaler(), LinearRegression())
    expected = cross_val_predict(model, inputs, targets, cv=splitter)
    keys = (
        "data=tensors", "data.path=d.npz", "data.mean=null", "data.std=null", "data.batch_size=64", "data.folds=3",
        "data.scale_targets=true", "loss=mse", "model.hidden=[]", "precision=fp64", "scheduler=constant", "seed=3",
        "optimizer.lr=0.5", "optimizer.momentum=0", "trainer.epochs=160", "trainer.monitor=train/loss",
        "trainer.log_every_epochs=160", "trainer.checkpoint_every_epochs=160",
    )  # fmt: skip
    with place(tmp_path):
        np.savez("d.npz", inputs=inputs, targets=targets, test_inputs=inputs[:7] + 0.1, test_targets=targets[:7])
        for fold, (trained, _) in enumerate(splitter.split(inputs)):
            run = train(f"s/{fold}", *keys, f"data.fold={fold}")
            assert not any(name.startswith("test/") for name in result(run))
            weights = torch.load(run / "checkpoints" / "best.pt", weights_only=True)["model"]
            parts = [part[trained].reshape(len(trained), -1) for part in (inputs, targets)]
            scaled, wanted = (StandardScaler().fit_transform(part) for part in parts)
            weight, bias = (value.numpy() for value in weights.values())
            error = scaled @ weight.T + bias - wanted
            assert np.linalg.norm([*(2 * error.T @ scaled / len(trained)).flatten(), 2 * error.mean()]) < 1e-10
        combined = combine(Path("s").resolve(), [Member(fold, fold) for fold in range(3)], saves_model=False)
        table = rows(Path("s"))
        assert combined.model is None and not Path("s/model").exists()
    assert column(table, "index").tolist() == list(range(40))
    np.testing.assert_allclose(column(table, "prediction"), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(column(table, "target"), targets, rtol=0, atol=1e-9)
    folds_of = {index: fold for fold, (_, members) in enumerate(splitter.split(inputs)) for index in members}
    assert [int(row["fold"]) for row in table] == [folds_of[index] for index in range(40)]
    assert combined.out_of_fold["rmse"] == pytest.approx(np.sqrt(np.mean((expected - targets) ** 2)), abs=1e-6)
    fits = [model.fit(inputs[each], targets[each]).predict(inputs[:7] + 0.1) for each, _ in splitter.split(inputs)]
    assert combined.test["mae"] == pytest.approx(np.abs(np.mean(fits, axis=0) - targets[:7]).mean(), abs=1e-6)
    assert combined.samples == (40, 7)


def test_the_folds_of_a_run_become_one_model(
    runner: Runner,
    here: Path,
    delivery_by_forks: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [
        "data.folds=2",
        "data.limit=60",
        "trainer.epochs=2",
        "model.hidden=[8]",
        "tracking.wait=20",
        "tracking.register=folded",
    ]
    called = runner(*arguments)
    assert called.code == 0, called.err
    folder = sweep_folder(here)
    together = json.loads((folder / "folds.json").read_text())
    assert together["configuration"] == {} and together["members"] == [0, 1]
    table = rows(folder)
    indices = [int(row["index"]) for row in table]
    assert len(set(indices)) == 60 and indices == sorted(indices)
    right = np.mean([row["target"] == row["prediction"] for row in table])
    assert together["out_of_fold"]["accuracy"] == pytest.approx(right)
    assert together["out_of_fold"]["loss"] == pytest.approx(column(table, "loss").mean(), rel=1e-5)

    client = connect(local_uri(here / "outputs"))
    (parent,) = [run for run in client.search_runs(["1"]) if "mlflow.parentRunId" not in run.data.tags]
    tested = {f"test/{name}": value for name, value in together["test"].items()}
    assert tested.items() <= parent.data.metrics.items() and "out_of_fold/loss" in parent.data.metrics
    assert {"out_of_fold.csv", "folds.json"} <= {file.path for file in client.list_artifacts(parent.info.run_id)}
    (model,) = client.search_logged_models(["1"], f"source_run_id = '{parent.info.run_id}'")
    assert {metric.key for metric in model.metrics} >= tested.keys()
    version = client.get_model_version_by_alias("folded", "champion")
    assert (version.run_id, version.source) == (parent.info.run_id, f"models:/{model.model_id}")
    assert "runner.test_look" in client.get_run(parent.info.run_id).data.tags
    with (folder / "artifacts" / "champion.csv").open() as file:
        right = [row["target"] == row["prediction_challenger"] for row in csv.DictReader(file)]
    assert np.mean(right) == pytest.approx(together["test"]["accuracy"])
    samples = torch.from_numpy(load_digits().images).float().unsqueeze(1)[:50] / 16
    graph = torch.export.load(folder / "model" / "data" / "model.pt2").module()
    means = torch.stack([predicted(folder / number, samples) for number in "01"]).mean(0)
    torch.testing.assert_close(graph(samples).softmax(1), means)
    evaluated(folder, together, capsys)
    assert_predicts([str(folder), parent.info.run_id], samples, means)
    folder.rename(here / "elsewhere")
    assert_predicts([parent.info.run_id], samples, means)  # MLflow has it
    (here / "elsewhere").rename(folder)

    (folder / "folds.json").unlink()  # killed before it was made
    (folder / "out_of_fold.csv").unlink()
    jobs, objectives = plan.load(folder)[0].jobs, [Objective("val/loss", "min")]
    found = tables.read(jobs, folder, objectives)
    assert not folds.combine(found, folder, True, False, lambda: True), "a signal ends it"
    assert runner("--multirun", f"sweep.resume={folder}").code == 0
    assert json.loads((folder / "folds.json").read_text()) == together and rows(folder) == table
    monkeypatch.setattr("runner.sweeps.results.folds.forkserver", None)
    assert folds.combine(found, folder, True, False, lambda: False), "the test part is read once"


def found_folds(value: str) -> SavedFolds:
    found = find_folds(value)
    assert found is not None and find_folds(found.members[0].run_id or "") is None
    return found


def assert_predicts(names: list[str], samples: torch.Tensor, means: torch.Tensor) -> None:
    for name in names:
        ensemble = FoldsPredictor(found_folds(name))
        torch.testing.assert_close(ensemble.arrays(ensemble([samples, samples]))["probabilities"], means)


def evaluated(folder: Path, together: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Check that `runner.evaluate` measures what the sweep has, and replaces none of its files."""
    for split, part in (("test", "test"), ("val", "out_of_fold")):
        capsys.readouterr()
        assert evaluate.main([f"run={folder}", f"split={split}", f"output={split}.csv"]) == 0
        printed = capsys.readouterr().err
        assert "the 2 models of" in printed and "logged     the same, bit for bit" in printed
        table = pd.read_csv(f"{split}.csv")
        assert table["loss"].mean() == pytest.approx(together[part]["loss"])
        assert (table["target"] == table["prediction"]).mean() == pytest.approx(together[part]["accuracy"])
    assert Path("val.csv").read_text() == (folder / "out_of_fold.csv").read_text()
    assert evaluate.main([f"run={folder}", "split=train"]) == 2
    assert evaluate.main([f"run={folder}", f"output={folder}/out_of_fold.csv"]) == 2
    assert predict.main([f"run={folder}", "input=" + str([[0.0] * 64])]) == 2, "not the shape of an image"


def predicted(folder: Path, samples: torch.Tensor) -> torch.Tensor:
    predictor = Predictor(find(str(folder)))
    outputs = predictor(samples)
    assert isinstance(outputs, torch.Tensor)
    return outputs.softmax(1)


def test_each_fold_reads_a_table_by_its_own_transformers(tmp_path: Path) -> None:
    with place(tmp_path):
        lines = [f"{n % 7},{'uvw'[n % 3]},{100 + n % 5}" for n in range(40)]
        Path("t.csv").write_text("\n".join(["a,b,y", *lines]))
        keys = (
            "data=table",
            "data.path=t.csv",
            "loss=mse",
            "data.folds=2",
            "data.split=sequential",
            "trainer.epochs=2",
        )
        runs = [train(f"s/{fold}", *keys, f"data.fold={fold}") for fold in range(2)]
        combined = combine(Path("s").resolve(), [Member(0, 0), Member(1, 1)], saves_model=True)
        assert combined.model and not combined.notes and combined.test.keys() == {"loss", "mae", "rmse", "r2"}
        table = pd.read_csv("t.csv")
        each = []
        for predictor in [Predictor(find(str(run))) for run in runs]:
            ((_, raw),) = read("t.csv", predictor.samples).batches(64)
            each.append(predictor(raw))
        served = mlflow.pyfunc.load_model("s/model").predict(table[["b", "a"]])
        np.testing.assert_allclose(served["y"], torch.stack(each).mean(0).flatten(), rtol=1e-6)
        Path("s/sweep.json").write_text("{}")
        Path("s/folds.json").write_text('{"members": [0, 1]}')
        table[["b", "a"]].to_csv("new.csv", index=False)
        assert predict.main(["run=s", "input=new.csv", "output=predicted.csv"]) == 0
        np.testing.assert_allclose(pd.read_csv("predicted.csv")["y"], served["y"], rtol=1e-4)


@pytest.mark.parametrize("loss", [CrossEntropy(), BCEWithLogits(), MSE()])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_outputs_of_predictions(loss: Loss, width: int) -> None:
    outputs = torch.linspace(-4, 5, 4 * width, dtype=torch.float64).reshape(4, width)
    again = outputs_of(loss, answers(loss, outputs), width)
    assert again.shape == outputs.shape
    torch.testing.assert_close(answers(loss, again), answers(loss, outputs))


def test_members_of_an_ensemble_have_their_own_units() -> None:
    scales = [TargetScale(*torch.tensor([[mean], [std], [0.0]], dtype=torch.float64)) for mean, std in ((9, 2), (7, 4))]
    layers = [torch.nn.Linear(3, 1) for _ in scales]
    normal = Normalize(torch.tensor(1.0), torch.tensor(2.0))
    members = [ServingModel(each, normal, torch.float32, scale) for each, scale in zip(layers, scales, strict=True)]
    ensemble, inputs = make_ensemble(members, MSE(), answered=False), torch.randn(5, 3)
    first, second = (layer((inputs - 1) / 2).double() for layer in layers)
    torch.testing.assert_close(ensemble(inputs), (9 + 2 * first + 7 + 4 * second) / 2)
    assert ensemble.target_std is not None and float(ensemble.target_std) == 4


def test_what_folds_do_not_go_with(runner: Runner, here: Path) -> None:
    def keys(choices: dict[str, str], **others: dict[str, Any]) -> list[str]:
        config = {"hydra": {"runtime": {"choices": choices}}, "data": {"folds": 3, "fold": None}, **others}
        return [problem.key for problem in check(OmegaConf.create(config))]

    assert keys({"hydra/sweeper": "grid", "hydra/launcher": "slurm"}, sweep={"seeds": 3}) == []
    assert keys({"hydra/sweeper": "halving", "hydra/launcher": "stacked"}) == ["hydra/sweeper", "hydra/launcher"]
    assert keys({}, sweep={"seeds": "auto"}, tracking={"register": "a"}) == ["sweep.seeds"]
    assert "the ensemble of all folds is registered" in runner("data.folds=3", "data.fold=0", "tracking.register=a").err
    zipped = "pair=zip(data.fold=[0,1],optimizer.lr=[0.1,0.2])"
    cases = [("data.folds", "data.folds=3,4"), ("data.fold", "data.fold=0,1"), ("data.fold", zipped)]
    for key, *arguments in [(key, "data.folds=3", text) for key, text in cases]:
        assert [name for name, _ in runner("--multirun", *arguments).about] == [key]
    assert "write hydra.sweep.dir=x" in runner("data.folds=3", "hydra.run.dir=x").err
    assert not (here / "outputs").exists()
