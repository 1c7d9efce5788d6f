"""`python -m runner.export`: files that give what the model gives, or none."""

import contextlib
import importlib
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_model
from torch import Tensor

from helpers.problems import about
from helpers.trained import place, table, train
from runner import export
from runner.data.named_path import NamedPath
from runner.data.tabular.encoder import Encoder
from runner.data.target_scale import read_target_scale
from runner.errors import Problem
from runner.runs import deployment, new_rows
from runner.runs.predictor import Predictor, build_model, trained_model
from runner.saved.input_spec import read_input_spec
from runner.saved.run import find

MODULE = """
import torch
class Branches(torch.nn.Linear):
    def __init__(self, num_outputs): super().__init__(64, num_outputs)
    def forward(self, x):
        x = x.flatten(1)
        return super().forward(x if x.sum() > 0 else -x)
class Frozen(torch.nn.Linear):
    def __init__(self, num_outputs): super().__init__(64, num_outputs)
    def forward(self, x): return super().forward(x.flatten(1)) * (1 if x.is_meta or len(x) != 7 else 2)
class Tied(torch.nn.Module):
    def __init__(self, num_outputs=10):
        super().__init__()
        self.down, self.up = (torch.nn.Linear(64, 64, bias=False) for _ in range(2))
        self.up.weight = self.down.weight
        self.head = torch.nn.Linear(64, num_outputs)
    def forward(self, x): return self.head(self.up(torch.relu(self.down(x.flatten(1)))))
class Odd(Tied):
    def get_extra_state(self): return {"steps": 3}
    def set_extra_state(self, state): assert state == {"steps": 3}
class Hidden(torch.nn.Linear):
    def __init__(self, num_outputs):
        super().__init__(64, num_outputs)
        self.register_buffer("seen", torch.zeros(()), persistent=False)
    def forward(self, x):
        self.seen += self.training
        return super().forward(x.flatten(1)) + self.seen
"""


@pytest.fixture(scope="module", autouse=True)
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with place(tmp_path_factory.mktemp("export")) as folder, pytest.MonkeyPatch.context() as patch:
        (folder / "exported_models.py").write_text(MODULE)
        patch.syspath_prepend(str(folder))
        table(folder / "price.csv", "price")
        yield folder


@pytest.fixture(scope="module")
def images(there: Path) -> Path:
    """Convolutions, in channels_last storage while they are trained; with averaged weights."""
    return train("images", "model=cnn", "model.dropout=0.5", "trainer.ema_decay=0.9")


@pytest.fixture(scope="module")
def value(there: Path) -> Path:
    return train("value", "data=csv", "data.path=price.csv", "data.target=price", "loss=mse", "precision=fp64")


@pytest.fixture(scope="module")
def tied(there: Path) -> Path:
    """Two layers with one weight."""
    return train("tied", "model=custom", "model._target_=exported_models.Tied")


def wanted(run: Path, raw: Tensor) -> Tensor:
    """What the model itself says of raw samples, in the units of the data."""
    samples, model, found = trained_model(find(str(run)))
    with torch.no_grad():
        outputs = model(samples.normalize(raw, next(model.parameters()).dtype))
    scale = read_target_scale(found.preprocessing or {})
    return outputs if scale is None else scale.in_units(outputs)


@pytest.mark.parametrize("name", ["images", "value"])
def test_torch_export_gives_what_the_model_gives_for_any_number_of_samples(
    name: str, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    run, shape = request.getfixturevalue(name), (1, 8, 8) if name == "images" else (2,)
    capfd.readouterr()
    assert export.main([f"run={run}"]) == 0
    printed = capfd.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if not line.startswith(" ")]
    assert [line.split()[0] for line in lines] == ["weights", "written", "inputs", "outputs", "checked"]
    assert described(run / "export" / "model.pt2")["inputs"] in lines[2]
    assert ("pixels from 0 to 1 (the originals divided by 16)" in lines[2]) == (name == "images")
    assert lines[1].startswith(f"written    {name}/export/model.pt2 (")
    assert f"float32 (N, {str(shape)[1:-1].removesuffix(',')})" in lines[2]
    kinds = {"images": "float32 (N, 10), logits", "value": "float64 (N, 1), values"}
    assert kinds[name] in lines[3]
    assert [path.name for path in (run / "export").iterdir()] == ["model.pt2"]
    model = torch.export.load(run / "export" / "model.pt2").module()
    for count in (1, 3, 50):
        raw = torch.rand(count, *shape)
        assert torch.allclose(model(raw), wanted(run, raw), atol=1e-5)


@pytest.mark.parametrize("name", ["images", "value"])
def test_onnx_gives_what_the_model_gives_and_nothing_else_is_printed(
    name: str, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str], there: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    run, shape = request.getfixturevalue(name), (1, 8, 8) if name == "images" else (2,)
    capfd.readouterr()
    assert export.main([f"run={run}", "format=onnx", f"output={there}/{name} model.onnx"]) == 0
    printed = capfd.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == (6 if name == "value" else 5)
    session = onnxruntime.InferenceSession(there / f"{name} model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["N", *shape]
    for count in (1, 3, 50):
        raw = torch.rand(count, *shape)
        (given,) = session.run(["outputs"], {"inputs": raw.numpy()})
        assert torch.allclose(torch.from_numpy(given), wanted(run, raw), atol=1e-5)


@pytest.mark.parametrize("format", ["torch_export", "onnx"])
@pytest.mark.parametrize("model", ["mlp", "tabular"])
def test_a_file_of_a_table_says_which_columns_it_takes_and_they_give_what_is_predicted(
    model: str, format: str, there: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [f"2024-0{1 + at % 5}-11,{'' if at % 7 == 0 else at % 9},{'abc'[at % 3]},{'xy'[at % 2]}" for at in range(60)]
    (there / "kinds.csv").write_text("\n".join(["day,size,group,kind", *rows]) + "\n")
    name = f"{model}_{format}"
    run = train(name, "data=table", "data.path=kinds.csv", f"model={model}")
    capfd.readouterr()
    file = there / f"{name}{'.onnx' if format == 'onnx' else '.pt2'}"
    assert export.main([f"run={run}", f"format={format}", f"output={file}"]) == 0
    said = capfd.readouterr().err
    numbers = ["day (days since 1970, scaled)", "day.month (scaled)", "day.weekday (scaled)", "size (scaled)"]
    vector = [*numbers, "size is blank", *(f"group={letter}" for letter in "abc" if model == "mlp")]
    columns = {"inputs": vector} if model == "mlp" else {"numbers": vector, "categories": ["group (code)"]}
    assert ", ".join(vector) in said and "raw" not in said
    found = described(file)
    assert found["columns"] == columns and found["classes"] == ["x", "y"] and found["target"] == "kind"

    spec = read_input_spec(find(str(run)))
    inputs, _ = new_rows.read(NamedPath("input", "kinds.csv", there / "kinds.csv"), spec.table or {})
    assert Encoder.from_state(found["encoder"]).state() == (spec.table or {})["encoder"]
    named = {"inputs": inputs} if isinstance(inputs, Tensor) else dict(inputs)
    assert {name: leaf.shape[1] for name, leaf in named.items()} == {
        name: len(names) for name, names in columns.items()
    }
    if format == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(file, providers=["CPUExecutionProvider"])
        (given,) = session.run(None, {name: leaf.numpy() for name, leaf in named.items()})
    else:
        graph = torch.export.load(file).module()
        given = (graph(inputs) if isinstance(inputs, Tensor) else graph(**inputs)).detach().numpy()
    logits = Predictor(find(str(run)))(inputs)
    assert isinstance(logits, Tensor) and torch.allclose(torch.from_numpy(given), logits, atol=1e-5)


def described(file: Path) -> dict[str, Any]:
    """Read the metadata of an exported file."""
    if file.suffix == ".pt2":
        texts = {"runner.json": ""}
        torch.export.load(file, extra_files=texts)
        return dict(json.loads(texts["runner.json"]))
    session = pytest.importorskip("onnxruntime").InferenceSession(file, providers=["CPUExecutionProvider"])
    found = session.get_modelmeta().custom_metadata_map
    return {name: json.loads(text) if text[0] in "[{" else text for name, text in found.items()}


@pytest.mark.parametrize("target", ["Branches", "Frozen"])
def test_a_model_that_cannot_be_exported_leaves_no_file(
    target: str, there: Path, reported: list[Problem], capfd: pytest.CaptureFixture[str]
) -> None:
    run = train(target, "model=custom", f"model._target_=exported_models.{target}")
    capfd.readouterr()
    assert export.main([f"run={run}"]) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1
    assert about(reported) == [("format", "code")]
    assert not (run / "export").exists()


def metadata_of(file: Path) -> dict[str, Any]:
    if file.suffix == ".pt":
        return dict(json.loads(zipfile.ZipFile(file).read("archive/runner.json")))
    with safe_open(file, "pt") as opened:
        return {key: json.loads(text) if text[0] in "[{" else text for key, text in opened.metadata().items()}


@pytest.mark.parametrize("format", ["safetensors", "state_dict"])
@pytest.mark.parametrize("name", ["images", "value", "tied"])
def test_weights_alone_load_without_runner_and_predict_the_same(
    name: str, format: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    run = request.getfixturevalue(name)
    assert export.main([f"run={run}", f"format={format}"]) == 0
    assert "differ from the model's by at most 0.0e+00" in capsys.readouterr().err
    file = run / "export" / ("model.pt" if format == "state_dict" else "model.safetensors")
    known = metadata_of(file)
    samples, config = known["samples"], known["config"]["model"]
    module, _, cls = config["_target_"].rpartition(".")
    if name == "tied":
        model = importlib.import_module(module).Tied()
    else:  # classes of runner, to save writing the same classes here
        model = build_model(find(str(run)), read_input_spec(find(str(run))))
        assert cls in ("CNN", "MLP")
    if format == "state_dict":
        model.load_state_dict(torch.load(file, weights_only=True))
    else:
        load_model(model, file)
    dtype = torch.float64 if name == "value" else torch.float32
    assert {tensor.dtype for tensor in model.parameters()} == {dtype}
    raw = torch.rand(5, *samples["input_shape"], generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(samples[key], dtype=torch.float64) for key in ("mean", "std"))
    with torch.no_grad():
        outputs = model.eval()(((raw - mean) / std).to(dtype))
    if name == "value":
        scale = known["target_scale"]
        outputs = outputs.double() * torch.tensor(scale["std"]) + torch.tensor(scale["mean"])
    torch.testing.assert_close(outputs, wanted(run, raw), rtol=1e-6, atol=1e-6)
    assert known.get("classes") == (None if name == "value" else list("0123456789"))
    assert "normalized by mean and std in the metadata" in known["inputs"]


def test_exported_weights_are_where_another_run_starts(tied: Path) -> None:
    assert export.main([f"run={tied}", "format=safetensors", "output=start.safetensors"]) == 0
    model = ("model=custom", "model._target_=exported_models.Tied")
    train("second", *model, "model.weights=start.safetensors", "optimizer.lr=1e-12")
    was, now = (trained_model(find(name))[1].state_dict() for name in ("tied", "second"))
    for key, tensor in was.items():
        torch.testing.assert_close(now[key], tensor)


@pytest.mark.parametrize(
    ("model", "format", "words"),
    [
        ("Odd", "safetensors", "_extra_state is no tensor; write format=state_dict"),
        ("Odd", "state_dict", None),
        ("Hidden", "state_dict", "the file's outputs differ from the model's"),
    ],
)
def test_weights_that_a_file_cannot_hold_are_not_written(
    model: str, format: str, words: str | None, there: Path, reported: list[Problem]
) -> None:
    run = there / model
    if not run.exists():
        train(model, "model=custom", f"model._target_=exported_models.{model}")
    code = export.main([f"run={run}", f"format={format}"])
    assert (code, about(reported)) == ((0, []) if words is None else (2, [("format", "code")]))
    assert words is None or words in reported[0].text
    assert (run / "export").exists() == (words is None)


def test_a_file_in_another_precision_than_the_run_says_so(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("half", "precision=bf16")
    assert export.main(["run=half"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "weights    half (epoch 2) · computed in float32, the run's precision was bf16"


def test_a_file_that_gives_something_else_is_taken_away(
    value: Path, monkeypatch: pytest.MonkeyPatch, reported: list[Problem]
) -> None:
    written = deployment._write

    def wrong(subject: deployment._Subject, *rest: object) -> object:
        serving = subject.serving()
        with torch.no_grad():
            serving.model.layers[-1].bias += 1e-3
        return written(replace(subject, serving=lambda: serving), *rest)

    monkeypatch.setattr(deployment, "_write", wrong)
    Path("kept.pt2").write_bytes(b"another")
    assert export.main(["run=value", "output=kept.pt2"]) == 2
    assert about(reported) == [("format", "code")]
    assert re.search(r"\d\.\de-0[34], .*1e-05", reported[0].text), "the difference and the tolerance are named"
    assert Path("kept.pt2").read_bytes() == b"another"
    assert not list(Path().glob(".kept*"))


@pytest.mark.parametrize(
    ("arguments", "problem", "words"),
    [
        (["format=onxx"], ("format", "choice"), "did you mean onnx?"),
        (["output=model.onnx"], ("output", "choice"), "write output=model.pt2"),
        (["output=no/model.pt2"], ("output", "file"), "mkdir -p"),
        (["output=value"], ("output", "file"), "write output=value/model.pt2"),
        (["output=best.pt2"], ("output", "conflict"), "value/checkpoints/best.pt"),
        (["formt=onnx"], ("formt", "unknown"), "did you mean format?"),
    ],
)
def test_wrong_options(
    arguments: list[str], problem: tuple[str, str], words: str, value: Path, reported: list[Problem]
) -> None:
    with contextlib.suppress(FileExistsError):
        Path("best.pt2").symlink_to("value/checkpoints/best.pt")
    assert export.main(["run=value", *arguments]) == 2
    assert about(reported) == [problem] and words in str(reported[0])


def test_without_its_packages_onnx_names_them(
    value: Path, monkeypatch: pytest.MonkeyPatch, reported: list[Problem]
) -> None:
    monkeypatch.setattr(export, "PACKAGES", {"onnx": ("onnx", "no_such_package")})
    assert export.main(["run=value", "format=onnx"]) == 2
    assert about(reported) == [("format", "unavailable")]
    assert reported[0].suggestion.endswith("pip install no_such_package") or "onnx no_such" in reported[0].suggestion


def test_output_goes_through_a_link(images: Path, there: Path) -> None:
    (there / "link.pt2").symlink_to("target.pt2")
    assert export.main([f"run={images}", "output=link.pt2"]) == 0
    assert (there / "link.pt2").is_symlink()
    assert torch.export.load(there / "target.pt2").module() is not None
