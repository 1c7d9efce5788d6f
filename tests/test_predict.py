"""`python -m runner.predict`: new samples of every kind, checked against what the model was trained on."""

import csv
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import REPOSITORY
from helpers.problems import about, problem_of
from helpers.trained import place, table, train
from runner import evaluate, predict
from runner.data.dataset_part import DatasetPart
from runner.data.digits import digits
from runner.data.idx import read_idx
from runner.data.image_file import read_image
from runner.data.tensor_part import TensorPart
from runner.errors import Problem
from runner.runs import new_images
from runner.runs.describe import _range
from runner.runs.new_samples import read
from runner.runs.predictor import Predictor
from runner.saved.input_spec import InputSpec
from runner.saved.run import find

MNIST = Path(os.environ.get("RUNNER_DATA") or REPOSITORY.parent / "shared" / "data")


@pytest.fixture(scope="module", autouse=True)
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with place(tmp_path_factory.mktemp("predict")) as folder:
        table(folder / "price.csv", "price")
        table(folder / "kind.csv", "kind")
        yield folder


@pytest.fixture(scope="module")
def value(there: Path) -> Path:
    """A regression of a table's middle column; the table is gone."""
    return gone(train("value", "data=csv", "data.path=price.csv", "data.target=price", "loss=mse", "optimizer=adamw"))


@pytest.fixture(scope="module")
def kind(there: Path) -> Path:
    """One yes-or-no question, of classes with names."""
    return gone(train("kind", "data=csv", "data.path=kind.csv", "data.target=kind", "loss=bce_with_logits"))


@pytest.fixture(scope="module")
def images(there: Path) -> Path:
    """Classes of images; they come with a package, so they cannot be gone."""
    return train("images", "data.mean=0.25", "trainer.ema_decay=0.5")


def gone(run: Path) -> Path:
    """Take away the data that a run was trained on."""
    for path in Path.cwd().glob("*.csv"):
        path.rename(path.with_suffix(".gone"))
    return run


@pytest.fixture(autouse=True)
def _tables_are_there_for_the_next_run(there: Path) -> Iterator[None]:
    yield
    for path in there.glob("*.gone"):
        path.rename(path.with_suffix(".csv"))


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[list[dict[str, str]], str]:
    """The rows on standard output, and what is on standard error."""
    code = predict.main([f"run={arguments[0]}", *arguments[1:]])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return list(csv.DictReader(io.StringIO(captured.out))), captured.err


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], reported: list[Problem]) -> Callable[..., Problem]:
    """`refused("run=x", ...)` is the only problem of a command, which prints it in one line."""

    def call(*arguments: str) -> Problem:
        reported.clear()
        capsys.readouterr()
        assert predict.main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        *before, line = captured.err.splitlines()
        assert [text.split()[0] for text in before] in ([], ["weights"])  # images are read one by one
        (problem,) = reported
        assert line == f"error: {problem}"
        return problem

    return call


def outputs(run: Path, raw: torch.Tensor) -> torch.Tensor:
    """Of the best weights, with the normalisation and the units of the targets done by hand."""
    state = torch.load(run / "checkpoints" / "best.pt", weights_only=True)
    _, model, _ = predict_model(run)
    model.load_state_dict(state["ema"]["weights"] if state["ema"] else state["model"])
    given = model(raw).detach()
    if "preprocessing" not in state:
        return given
    scale = state["preprocessing"]["targets"]
    return given.double() * torch.tensor(scale["std"]) + torch.tensor(scale["mean"])


def predict_model(run: Path) -> tuple[InputSpec, torch.nn.Module, object]:
    from runner.runs.predictor import trained_model

    return trained_model(find(str(run)))


class TestValues:
    def test_a_sample_on_the_command_line(self, value: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rows, err = printed(capsys, "value", "input=[4,5]")
        several, _ = printed(capsys, "value", "input=[[1, 2], [4, 5.0]]", "runner.quiet=true")
        assert list(rows[0]) == ["sample", "price"] and rows[0]["sample"] == "0"
        assert [row["sample"] for row in several] == ["0", "1"]
        assert float(several[1]["price"]) == pytest.approx(float(rows[0]["price"]), rel=1e-5)
        assert err.splitlines() == ["weights    value (epoch 2)"]

    def test_it_is_the_model_on_normalised_inputs(self, value: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with Path("price.csv").open() as file:
            table = [[float(row["width"]), float(row["height"])] for row in csv.DictReader(file)]
        samples, _, _ = predict_model(value)
        mean, std = np.array(samples.mean), np.array(samples.std)
        assert mean.shape == (2,) and abs(mean - np.mean(table, axis=0)).max() < 1, "of the training rows"
        wanted = outputs(value, torch.tensor((np.array([[4.0, 5.0]]) - mean) / std).float())
        rows, _ = printed(capsys, "value", "input=[4,5]")
        assert float(rows[0]["price"]) == pytest.approx(wanted.item(), rel=1e-5)

    def test_tables_are_read_by_the_names_of_their_columns(
        self, value: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        (wanted,), _ = printed(capsys, "value", "input=[4,5]")
        for text in (
            "width,price,height\n4,77,5\n",  # as trained on, the target too
            "height;id;width\n5;abc;4\n",  # another order, a column of no concern
            "4,5\n",  # no names: the features
            "4,77,5\n",  # no names: all columns
        ):
            (tmp_path / "new.csv").write_text(text)
            (row,), _ = printed(capsys, "value", f"input={tmp_path}/new.csv")
            assert row == wanted, text

    def test_yes_and_no_beside_numbers(self, capsys: pytest.CaptureFixture[str]) -> None:
        rows = "".join(f"{number % 7},{number % 2 == 0},{number % 7 + number % 2}\n" for number in range(60))
        Path("heated.csv").write_text(f"width,heated,price\n{rows}")
        train("heated", "data=csv", "data.path=heated.csv", "data.target=price", "loss=mse")
        wanted, _ = printed(capsys, "heated", "input=[[4,1],[5,0]]")
        Path("new.csv").write_text("width,heated\n4,True\n5,False\n")
        assert printed(capsys, "heated", "input=new.csv")[0] == wanted

    def test_into_a_file(self, value: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["run=value", "input=[[1,2],[4,5]]", "output=new predictions.csv"]
        assert predict.main(arguments) == 0
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.splitlines()[-1] == "written    new predictions.csv: 2 predictions"
        rows, _ = printed(capsys, "value", "input=[[1,2],[4,5]]")
        with Path("new predictions.csv").open() as file:
            assert list(csv.DictReader(file)) == rows

    @pytest.mark.parametrize(
        ("text", "topic", "shown"),
        [
            ("width,depth\n1,2\n", "missing", "columns height, "),
            ("1,2,3,4\n", "shape", "4 columns, the model was trained on 2: width, height"),
            ("width,height\n1,x\n2,3\n", "data", "in height ('x')"),
            ("width,height\n1,\n2,3\n", "data", "in height"),
            ("width,height\n", "data", "no samples"),
            ("", "file", "empty"),
        ],
    )
    def test_a_table_that_does_not_fit(
        self, text: str, topic: str, shown: str, value: Path, refused: Callable[..., Problem]
    ) -> None:
        Path("new.csv").write_text(text)
        problem = refused("run=value", "input=new.csv")
        assert about([problem]) == [("input", topic)]
        assert problem.text.startswith("input=new.csv") and shown in problem.text


class TestClasses:
    def test_the_class_and_the_probability_of_each(self, kind: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tall, wide), _ = printed(capsys, "kind", "input=[[2, 8], [8, 2]]")
        assert list(tall) == ["sample", "class", "p_tall", "p_wide"]
        for row in (tall, wide):
            p = {name: float(row[f"p_{name}"]) for name in ("tall", "wide")}
            assert sum(p.values()) == pytest.approx(1, abs=1e-6) and row["class"] == max(p, key=p.__getitem__)
        samples, _, _ = predict_model(kind)
        raw = torch.tensor([[2.0, 8.0], [8.0, 2.0]])
        logits = outputs(kind, ((raw - torch.tensor(samples.mean)) / torch.tensor(samples.std)).float())
        assert [float(row["p_wide"]) for row in (tall, wide)] == pytest.approx(logits.sigmoid().flatten().tolist())

    def test_files_of_arrays(self, images: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        raw = digits().test[0][:4]
        np.save(tmp_path / "a.npy", raw.numpy())
        np.savez(tmp_path / "b.npz", inputs=raw.squeeze(1).numpy(), targets=np.zeros(4))  # grey: no channel
        torch.save(raw.double(), tmp_path / "c.pt")
        torch.save({"inputs": raw}, tmp_path / "d.pt")
        (tmp_path / "e.csv").write_text("\n".join(",".join(map(str, row)) for row in raw.flatten(1).tolist()))
        logits = outputs(images, (raw - 0.25) / 0.3764)
        for name in ("a.npy", "b.npz", "c.pt", "d.pt", "e.csv"):
            rows, _ = printed(capsys, "images", f"input={tmp_path}/{name}")
            given = torch.tensor([[float(row[f"p_{digit}"]) for digit in range(10)] for row in rows])
            assert torch.allclose(given, logits.softmax(1), atol=1e-6), name
            assert [int(row["class"]) for row in rows] == logits.argmax(1).tolist()
        np.save(tmp_path / "one.npy", raw[0].numpy())
        one, _ = printed(capsys, "images", f"input={tmp_path}/one.npy")
        assert len(one) == 1 and one[0]["class"] == rows[0]["class"]

    def test_images(self, images: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        raw = (digits().test[0][:3, 0] * 255).round().byte()
        (tmp_path / "more").mkdir()
        for name, pixels in zip(("b.png", "a.png", "more/c.png"), raw, strict=True):
            Image.fromarray(pixels.numpy()).save(tmp_path / name)
        (tmp_path / "notes.txt").write_text("no image")
        rows, err = printed(capsys, "images", f"input={tmp_path}")
        assert [row["sample"] for row in rows] == ["a.png", "b.png", "more/c.png"]
        np.save("pixels.npy", raw.numpy()[[1, 0, 2]] / np.float32(255))
        same, _ = printed(capsys, "images", "input=pixels.npy")
        assert [list(row.values())[1:] for row in rows] == [list(row.values())[1:] for row in same]
        assert "resized" not in err
        Image.fromarray(raw[0].numpy()).resize((24, 16), Image.Resampling.NEAREST).convert("RGBA").save("large.png")
        (row,), err = printed(capsys, "images", "input=large.png")
        assert row["sample"] == "large.png"
        assert "resized    to 8x8 pixels: large.png" in err

    @pytest.mark.parametrize(
        ("value", "topic", "shown"),
        [
            ("[4,5]", "shape", "(2), the model takes (1, 8, 8), or (N, 1, 8, 8)"),
            ("[[1,2],[3]]", "type", "lengths"),
            ("[a,b]", "type", "not a list of numbers"),
            ("['a']", "type", "<U1"),
            ("[]", "shape", "(0)"),
            ("none.npy", "file", "none.npy"),
            ("bad.npy", "file", "damaged"),
            ("objects.npy", "file", "could run code"),
            ("two.npz", "data", "a, b"),
            ("nan.npy", "data", "in sample 1"),
            ("bad.png", "file", "bad.png"),
            ("empty.png", "file", "empty"),
            ("empty", "file", ".png"),
            ("what.doc", "choice", "what.doc"),
        ],
    )
    def test_what_does_not_fit_is_one_sentence(
        self, value: str, topic: str, shown: str, images: Path, refused: Callable[..., Problem]
    ) -> None:
        Path("bad.npy").write_bytes(b"x")
        Path("bad.png").write_bytes(b"x")
        Path("what.doc").write_bytes(b"x")
        Path("empty.png").touch()
        Path("empty").mkdir(exist_ok=True)
        np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
        np.savez("two.npz", a=np.zeros(1), b=np.zeros(1))
        np.save("nan.npy", np.array([np.zeros((1, 8, 8)), np.full((1, 8, 8), np.nan)]))
        problem = refused("run=images", f"input={value}")
        assert about([problem]) == [("input", topic)] and shown in problem.text


class TestOptions:
    @pytest.mark.parametrize(
        ("arguments", "key", "shown"),
        [
            (["input=[4,5]"], "run", "run="),
            (["run=value"], "input", "input="),
            (["run=value", "input=[4,5]", "output=."], "output", "output=."),
            (["run=value", "input=[4,5]", "output=no/x.csv"], "output", "output=no/x.csv"),
            (["run=value", "input=[4,5]", "device=cuda"], "device", "device=cuda"),
            (["run=value", "input=x.png"], "input", "shape (2)"),
        ],
    )
    def test_wrong_ones(
        self, arguments: list[str], key: str, shown: str, value: Path, refused: Callable[..., Problem]
    ) -> None:
        if "device=cuda" in arguments and torch.cuda.is_available():
            pytest.skip("there is one")
        Image.new("L", (2, 2)).save("x.png")
        problem = refused(*arguments)
        assert problem.key == key and shown in problem.text

    def test_a_run_without_its_samples_file_says_so(self, value: Path, refused: Callable[..., Problem]) -> None:
        hidden = (value / "samples.json").rename(value / "hidden")
        try:
            assert "samples.json" in refused("run=value", "input=[4,5]").text
        finally:
            hidden.rename(value / "samples.json")


PIXELS = InputSpec("mnist", [1, 2, 2], "uint8", 0.0, 1.0, 10)


def raw(value: str) -> torch.Tensor:
    ((_, values),) = read(value, PIXELS).batches(9)
    return PIXELS.normalize(values, torch.float32)


def test_pixels_are_integers_to_255_or_floats_to_1() -> None:
    assert raw("[[0,255],[51,102]]").flatten().tolist() == pytest.approx([0, 1, 0.2, 0.4])
    assert raw("[[0.0,1.0],[0.2,0.4]]").flatten().tolist() == pytest.approx([0, 1, 0.2, 0.4])
    for value in ("[[0,256],[0,0]]", "[[0,-1],[0,0]]", "[[0.0,1.5],[0,0]]"):
        problem = problem_of(lambda value=value: read(value, PIXELS))
        assert about([problem]) == [("input", "range")] and "0 to 255" in problem.suggestion


def test_yes_and_no_are_black_and_white() -> None:
    assert raw("[[True,False],[False,True]]").flatten().tolist() == [1, 0, 0, 1]


TO_1 = InputSpec("digits", [1, 2, 2], "float32", 0.0, 1.0, 10, value_range=[0.0, 1.0])
"""Of a run whose images were floats from 0 to 1."""


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint16, np.float32])
@pytest.mark.parametrize("kind", ["npy", "csv", "list"])
def test_pixels_in_other_units_than_the_runs_are_refused(dtype: type, kind: str, tmp_path: Path) -> None:
    values = np.array([[[[0, 16], [3, 4]]]], dtype)
    value = str(tmp_path / f"new.{kind}")
    if kind == "npy":
        np.save(value, values)
    elif kind == "csv":
        Path(value).write_text(",".join(map(str, values.flatten())))
    else:
        value = str(values.tolist())
    problem = problem_of(lambda: read(value, TO_1))
    assert about([problem]) == [("input", "range")] and problem.suggestion == "divide them"
    assert problem.text.startswith("input=") and "0 to 16" in problem.text and "0 to 1" in problem.text
    known = replace(TO_1, divided_by=16.0)
    assert problem_of(lambda: read(value, known)).suggestion == "divide them by 16"


def test_integers_for_a_run_of_floats_are_the_values_themselves(tmp_path: Path) -> None:
    wanted = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])
    for dtype in (np.uint8, np.int32, np.bool_, np.float64):
        np.save(tmp_path / "new.npy", wanted.numpy().astype(dtype))
        ((_, values),) = read(str(tmp_path / "new.npy"), TO_1).batches(9)
        assert values.dtype == torch.float32 and torch.equal(TO_1.normalize(values, torch.float32), wanted), dtype


def test_normalised_images_may_go_a_little_further_and_features_anywhere(tmp_path: Path) -> None:
    normalised = InputSpec("mine", [1, 2, 2], "float32", 0.0, 1.0, 10, value_range=[-1.0, 2.0])
    read("[[-3.5,4.5],[0,0]]", normalised)
    for value in ("[[-4.5,0],[0,0]]", "[[0,255],[0,0]]"):
        problem = problem_of(lambda value=value: read(value, normalised))
        assert about([problem]) == [("input", "range")] and "-1 to 2" in problem.text
        assert problem.suggestion != "divide them"
    Image.new("L", (2, 2)).save(tmp_path / "black.png")
    problem = problem_of(lambda: read(str(tmp_path / "black.png"), normalised))
    assert about([problem]) == [("input", "range")] and "-1 to 2" in problem.text and ".npy" in problem.suggestion
    read("[1000,-1000]", InputSpec("table", [2], "float32", 0.0, 1.0, 1))
    read("[[0,300],[0,0]]", InputSpec("of a run of before", [1, 2, 2], "float32", 0.0, 1.0, 10))


class Ramp(torch.utils.data.Dataset):
    """1000 images loaded one by one, of values from -2 to 2; one of them cannot be."""

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == 15:
            raise ValueError("lost")
        return torch.full((1, 2, 2), index / 250 - 2), 0


def test_a_run_keeps_the_range_of_its_float_images(images: Path, value: Path) -> None:
    samples, _, _ = predict_model(images)
    assert samples.value_range == [0.0, 1.0]
    assert predict_model(value)[0].value_range is None
    assert _range(TensorPart(torch.tensor([[1.0, -3.0], [2.0, 7.5]]), torch.zeros(2))) == [-3.0, 7.5]
    low, high = _range(DatasetPart(Ramp())) or (0, 0)
    assert low == -2.0 and high == pytest.approx(2, abs=0.1)


def test_images_that_are_not_square_are_cropped_and_those_of_16_bits_keep_the_upper_8(tmp_path: Path) -> None:
    wide = InputSpec("mine", [1, 2, 4], "uint8", 0.0, 1.0, 10)
    stripes = np.repeat(np.array([[0, 10, 20, 30, 40, 50, 60, 70]]), 2, axis=0)  # twice as wide as wanted
    Image.fromarray((stripes * 256 + 99).astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(stripes.astype(np.uint8)).save(tmp_path / "plain.png")
    for name in ("deep.png", "plain.png"):
        ((_, values),) = read(str(tmp_path / name), wide).batches(1)
        assert values.dtype == torch.uint8
        assert values[0, 0].tolist() == [[20, 30, 40, 50]] * 2, name
    turned = Image.fromarray(stripes.T.astype(np.uint8))
    turned.getexif()[0x0112] = 8  # a camera held on its side
    turned.save(tmp_path / "turned.png", exif=turned.getexif())
    ((_, values),) = read(str(tmp_path / "turned.png"), wide).batches(1)
    assert sorted(values[0, 0, 0].tolist()) == [20, 30, 40, 50]
    Image.fromarray(stripes.astype(np.uint8).repeat(3, 0).repeat(3, 1)).save(tmp_path / "large.png")
    ((_, values),) = read(str(tmp_path / "large.png"), wide).batches(1)
    assert values[0, 0, 1].tolist() == pytest.approx([20, 30, 40, 50], abs=2)
    Image.fromarray(np.zeros((2, 4), np.float32)).save(tmp_path / "floats.tiff")
    for spec in (wide, replace(wide, input_shape=[1, 2, 2])):  # also a square one, as training reads it
        problem = problem_of(lambda spec=spec: next(read(str(tmp_path / "floats.tiff"), spec).batches(1)))
        assert about([problem]) == [("input", "data")] and "floating-point" in problem.text
        assert "8 bits" in problem.suggestion and "data." not in str(problem)
    clear = InputSpec("mine", [4, 2, 2], "uint8", 0.0, 1.0, 10)
    Image.new("RGBA", (4, 2), (1, 2, 3, 4)).save(tmp_path / "clear.png")
    ((_, values),) = read(str(tmp_path / "clear.png"), clear).batches(1)
    assert values[0, :, 0, 0].tolist() == [1, 2, 3, 4]


def test_it_computes_in_the_precision_of_the_run(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train("half", "precision=bf16")
    predictor = Predictor(find("half"))
    pixels = digits().test[0]
    normalised = predictor.samples.normalize(pixels, torch.float32)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        wanted = predictor.model(normalised).float()
    given = predictor(pixels)
    assert given.dtype == torch.float32 and torch.equal(given, wanted)
    assert not torch.equal(given, outputs(run, normalised))
    np.save("half.npy", pixels[:1].numpy())
    _, err = printed(capsys, "half", "input=half.npy")
    assert err.splitlines() == ["weights    half (epoch 2) · precision bf16 -> bfloat16 autocast"]


def test_tf32_elsewhere_is_fp32_and_that_is_said(value: Path) -> None:
    run = find(str(value))
    run.config["precision"]["name"] = "tf32"
    predictor = Predictor(run, "cpu")
    assert predictor.arithmetic == " · precision fp32, the run's was tf32"
    assert torch.equal(predictor(torch.ones(2, 2)), Predictor(find(str(value)))(torch.ones(2, 2)))


def test_several_outputs_are_columns_of_their_own(value: Path) -> None:
    predictor = Predictor(find(str(value)))
    header, rows = predictor.table(torch.tensor([[1.5, -2.0]]))
    assert header == ["value_0", "value_1"] and list(rows) == [["1.5", "-2.0"]]
    predictor.samples = replace(predictor.samples, target=["price", "size"])
    assert predictor.table(torch.tensor([[1.5, -2.0]]))[0] == ["price", "size"]
    predictor.samples = replace(predictor.samples, target=["price", "sample"])
    assert predictor.table(torch.tensor([[1.5, -2.0]]))[0] == ["value_0", "value_1"]


@pytest.mark.parametrize(
    ("module", "name"),
    [(predict, "new.xlsx"), (predict, "new.csv.gz"), (evaluate, "rows.xlsx"), (evaluate, "rows.npz")],
)
def test_a_file_of_another_format_is_refused(
    module: Any, name: str, value: Path, there: Path, reported: list[Problem]
) -> None:
    given = ["input=[4,5]"] if module is predict else []
    assert module.main([f"run={value}", *given, f"output={name}"]) == 2
    assert about(reported) == [("output", "choice")]
    assert f"write output={name.partition('.')[0]}.csv" == reported[0].suggestion
    assert not Path(name).exists()


def test_images_are_read_batch_by_batch(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = there / "many"
    folder.mkdir()
    for number in range(5):
        Image.new("L", (2, 2), number).save(folder / f"{number}.png")
    opened: list[str] = []
    decode = new_images.decode
    monkeypatch.setattr(new_images, "decode", lambda path, *rest: opened.append(path.name) or decode(path, *rest))
    batches = read(str(folder), PIXELS).batches(2)
    names, values = next(batches)
    assert opened == list(names) == ["0.png", "1.png"] and values[:, 0, 0, 0].tolist() == [0, 1]
    assert [list(names) for names, _ in batches] == [["2.png", "3.png"], ["4.png"]]


@pytest.mark.mnist
@pytest.mark.skipif(not (MNIST / "MNIST" / "raw" / "t10k-images-idx3-ubyte").is_file(), reason="no MNIST files here")
def test_ten_mnist_images_are_what_the_model_says(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train("mnist", "data=mnist", f"data.root={MNIST}", "data.limit=2000")
    pixels = read_idx(MNIST / "MNIST" / "raw" / "t10k-images-idx3-ubyte", 3)[:10]
    folder = there / "ten"
    folder.mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number}.png")
    rows, _ = printed(capsys, "mnist", f"input={folder}")
    normalised = (torch.tensor(pixels).float() / 255 - 0.1307) / 0.3081
    wanted = outputs(run, normalised.unsqueeze(1)).softmax(1)
    given = torch.tensor([[float(row[f"p_{digit}"]) for digit in range(10)] for row in rows])
    assert torch.allclose(given, wanted, atol=1e-5)
    assert [int(row["class"]) for row in rows] == wanted.argmax(1).tolist()


def test_images_of_a_folder_are_read_as_training_read_them(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = np.random.RandomState(0)
    for label, level in (("dark", 40), ("light", 200)):
        (there / "photos" / label).mkdir(parents=True)
        for number in range(8):
            pixels = (level + made.randint(-30, 30, (20 + number, 30, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(there / "photos" / label / f"{number}.png")
    train("photos_run", "data=image_folder", "data.path=photos", "data.size=12")
    predictor = Predictor(find("photos_run"))
    image = read_image(there / "photos" / "dark" / "3.png", 12)
    _, (wanted,) = predictor.table(predictor(image.unsqueeze(0)))
    rows, err = printed(capsys, "photos_run", "input=photos/dark")
    assert list(rows[3].values())[1] == wanted[0] in ("dark", "light")
    assert [float(p) for p in list(rows[3].values())[2:]] == pytest.approx(
        [float(str(p)) for p in wanted[1:]], rel=1e-5
    )
    assert "resized" not in err, "that is how it was trained"


def test_a_reader_that_has_seen_enough_is_no_error(value: Path) -> None:
    np.save("large.npy", np.ones((50_000, 2)))
    command = [sys.executable, "-m", "runner.predict", "run=value", "input=large.npy"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "sample,price\n"
    process.stdout.close()
    assert "rror" not in process.stderr.read()
    assert process.wait() == 0


def test_output_goes_through_a_link_and_into_a_fifo(images: Path, there: Path) -> None:
    (there / "target.csv").write_text("old\n")
    (there / "link.csv").symlink_to("target.csv")
    os.mkfifo(there / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((there / "pipe").read_text()))
    reader.start()
    for output in ("link.csv", "pipe"):
        assert predict.main([f"run={images}", f"input={[[[0.5] * 8] * 8]}", f"output={output}"]) == 0
    reader.join()
    assert (there / "link.csv").is_symlink()
    assert read == [(there / "target.csv").read_text()]
    assert read[0].startswith("sample,class,p_0")


def test_an_image_whose_name_is_no_utf_8(images: Path, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (there / "odd").mkdir()
    try:
        (there / "odd" / os.fsdecode(b"\xe9t\xe9.png")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes no such name")
    Image.new("L", (8, 8), 90).save(there / "odd" / os.fsdecode(b"\xe9t\xe9.png"), format="PNG")
    assert predict.main([f"run={images}", "input=odd", "output=odd.csv"]) == 0
    assert (there / "odd.csv").read_text().splitlines()[1].startswith("\\xe9t\\xe9.png,")
    capsys.readouterr()
    assert predict.main([f"run={images}", "input=odd"]) == 0
    assert capsys.readouterr().out == (there / "odd.csv").read_text()


def test_the_output_is_no_file_that_is_still_needed(value: Path, there: Path, reported: list[Problem]) -> None:
    np.save(there / "n.npy", np.ones((2, 2)))
    (there / "sub").mkdir()
    (there / "soft.csv").symlink_to("n.npy")
    os.link(there / "n.npy", there / "hard.csv")
    (there / "best.csv").symlink_to(value.absolute() / "checkpoints" / "best.pt")
    files = {path: path.read_bytes() for path in there.rglob("*") if path.is_file()}
    for output, what in {
        "n.npy": "the input",
        "sub/../n.npy": "the input",
        "soft.csv": "the input",
        "hard.csv": "the input",
        "best.csv": "the run's value/checkpoints/best.pt",
        "value/config.yaml": "the run's value/config.yaml",
    }.items():
        reported.clear()
        assert predict.main(["run=value", "input=n.npy", f"output={output}"]) == 2
        (problem,) = reported
        assert (problem.key, problem.topic) == ("output", "conflict")
        assert f"output={output} " in problem.text and what in problem.text
    assert {path: path.read_bytes() for path in files} == files
    assert predict.main(["run=value", "input=n.npy", "output=value/new.csv"]) == 0  # beside the run's own


def test_of_a_link_that_leads_nowhere_the_missing_folder_is_named(
    value: Path, there: Path, reported: list[Problem]
) -> None:
    (there / "far.csv").symlink_to("gone/away/x.csv")
    assert predict.main([f"run={value}", "input=[4,5]", "output=far.csv"]) == 2
    (problem,) = reported
    assert (problem.key, problem.topic) == ("output", "file")
    assert f"{there}/gone/away," in problem.text and f"mkdir -p {there}/gone/away" in problem.suggestion


def test_a_key_that_a_shell_has_made_two_of_is_named_with_the_quotes(reported: list[Problem]) -> None:
    assert predict.main(["run=value", "input={a:[[1,2]]}", "input={b:[[3]]}"]) == 2
    assert about(reported) == [("input", "conflict")] and "quote" in reported[0].suggestion


def test_numbers_of_hugging_face_are_read_by_the_names_of_their_columns(
    capsys: pytest.CaptureFixture[str], refused: Callable[..., Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path("cache").resolve())
    random = np.random.RandomState(0).uniform(0, 1, (60, 2)).round(3).tolist()
    Path("num.csv").write_text("a,b,target\n" + "".join(f"{a},{b},{int(a > b)}\n" for a, b in random))
    Path("turned.csv").write_text("b,a\n" + "".join(f"{b},{a}\n" for a, b in random))
    Path("plain.csv").write_text("".join(f"{a},{b}\n" for a, b in random))
    Path("lacking.csv").write_text("a,c\n1,2\n3,4\n")
    train("num", "data=huggingface", "data.name=num.csv", "data.test_split=train")
    own, _ = printed(capsys, "num", "input=num.csv")
    for name in ("turned.csv", "plain.csv"):
        assert printed(capsys, "num", f"input={name}")[0] == own, name
    assert evaluate.main(["run=num", "output=measured.csv"]) == 0
    with Path("measured.csv").open() as file:
        assert [row["prediction"] for row in csv.DictReader(file)] == [row["class"] for row in own]
    capsys.readouterr()
    problem = refused("run=num", "input=lacking.csv")
    assert about([problem]) == [("input", "missing")] and "columns b, " in problem.text
