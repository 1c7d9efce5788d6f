"""`runner.evaluate ... output=<csv>`: target, prediction and loss of each sample, which average to the run's."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from helpers.problems import about
from helpers.several_inputs import MODULE, RUNS
from helpers.tasks import PAIR
from helpers.trained import place, result, table, train
from runner import evaluate
from runner.errors import Problem

CSV = ("data=csv", "data.path=price.csv", "data.target=price", "loss=mse")


@pytest.fixture(scope="module", autouse=True)
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with place(tmp_path_factory.mktemp("per_sample")) as folder, pytest.MonkeyPatch.context() as patch:
        (folder / "several.py").write_text(MODULE)
        patch.syspath_prepend(str(folder))
        table(folder / "price.csv", "price")
        yield folder


def evaluated(run: str, split: str) -> list[dict[str, str]]:
    assert evaluate.main([f"run={run}", f"split={split}", "output=rows.csv", "runner.quiet=true"]) == 0
    with Path("rows.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def mean(rows: list[dict[str, str]], name: str) -> float:
    weights = [float(row.get("weight", 1)) for row in rows]
    return sum(float(row[name]) * weight for row, weight in zip(rows, weights, strict=True)) / sum(weights)


def test_classes_with_class_weights() -> None:
    folder = train("classes", "loss=cross_entropy", "loss.class_weight=balanced")
    rows = evaluated("classes", "test")
    assert list(rows[0]) == ["index", "target", "prediction", "probability", "loss", "weight"]
    assert [int(row["index"]) for row in rows] == list(range(len(rows)))
    assert mean(rows, "loss") == pytest.approx(result(folder)["test/loss"], rel=1e-5)
    right = sum(row["target"] == row["prediction"] for row in rows) / len(rows)
    assert right == pytest.approx(result(folder)["test/accuracy"])


def test_values_are_in_the_units_of_the_data() -> None:
    folder = train("values", *CSV)
    rows = evaluated("values", "val")
    assert list(rows[0]) == ["index", "target", "prediction", "loss"]
    assert mean(rows, "loss") == pytest.approx(result(folder)["val/loss"], rel=1e-5)
    errors = [abs(float(row["target"]) - float(row["prediction"])) for row in rows]
    assert sum(errors) / len(errors) == pytest.approx(result(folder)["val/mae"], rel=1e-4)
    with Path("price.csv").open() as file:
        prices = {float(row["price"]) for row in csv.DictReader(file)}
    assert {float(row["target"]) for row in rows} <= prices, "no digits beyond those of the table"


@pytest.mark.parametrize("data", ["csv", "table"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_index_of_a_table_is_the_row_of_its_file(data: str, split: str) -> None:
    lines = Path("price.csv").read_text().splitlines()
    if data == "table":  # which leaves out rows without a target
        lines[3:3] = ["5,,5"]
    Path("gaps.csv").write_text("\n".join(lines) + "\n")
    name = f"rows_{data}"
    if not Path(name).exists():
        train(name, f"data={data}", "data.path=gaps.csv", "data.target=price", "data.limit=30", "loss=mse")
    rows, frame = evaluated(name, split), pd.read_csv("gaps.csv")
    assert [float(row["target"]) for row in rows] == [frame["price"][int(row["index"])] for row in rows]
    assert len({row["index"] for row in rows}) == len(rows) > 5


@pytest.mark.parametrize(("run", "columns"), [("two", 5), ("vae", 71), ("masks", 2), ("items", 3)])
def test_any_task_has_a_loss_and_the_figures_are_those_of_the_run(
    run: str, columns: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(run, *RUNS[run])
    capsys.readouterr()
    assert evaluate.main([f"run={run}", "split=val"]) == 0
    assert "the same, bit for bit" in capsys.readouterr().err
    rows = evaluated(run, "val")
    assert len(rows[0]) == columns, list(rows[0])
    for name in {"loss", "likeness", "kl"} & {*rows[0]}:
        assert mean(rows, name) == pytest.approx(result(folder)[f"val/{name}"], rel=1e-4)


def test_pixels_are_measured_for_each_image() -> None:
    words = ("data=shapes", "model=unet", "task=segmentation", "data.samples=40", "data.size=16")
    folder = train("shapes", *words, "model.channels=[4,8]")
    rows = evaluated("shapes", "val")
    assert mean(rows, "accuracy") == pytest.approx(result(folder)["val/accuracy"], rel=1e-5)
    assert {"iou", "loss"} < {*rows[0]} and all(0 <= float(row["iou"]) <= 1 for row in rows)


@pytest.mark.parametrize(
    ("task", "more", "why"),
    [
        ("Contrastive", (), "not a mean over samples: they average to 0 one by one"),
        ("Normed", (), "the step fails for a single sample"),
        ("Adversarial", PAIR, "the task measures none"),
    ],
)
def test_a_loss_that_a_sample_alone_does_not_have_is_left_out(
    task: str, more: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train(task, "task=custom", f"task._target_=helpers.tasks.{task}", *more)
    assert evaluate.main([f"run={task}", "output=rows.csv"]) == 0
    printed = capsys.readouterr().err
    assert printed.count("without loss: ") == 1 and why in printed
    with Path("rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 1 and not {"loss", "weight"} & {*rows[0]}
    assert "nan" not in {value for row in rows for value in row.values()}


def test_image_folders_name_their_files() -> None:
    for number in range(24):
        path = Path("pictures") / "xy"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 10 * number).save(path)
    train("pictures-run", "data=image_folder", "data.path=pictures", "data.size=8", "data.channels=1")
    for row in evaluated("pictures-run", "test"):
        assert row["file"].startswith(f"{row['target']}/") and (Path("pictures") / row["file"]).is_file()


def test_a_file_that_cannot_be_written_is_one_sentence(reported: list[Problem]) -> None:
    train("again", *CSV)
    assert evaluate.main(["run=again", "output=no/rows.csv"]) == 2
    assert evaluate.main(["run=again", "output=price.csv"]) == 2, "the data of the run"
    assert about(reported) == [("output", "file"), ("output", "conflict")]
