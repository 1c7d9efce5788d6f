"""Runs with several inputs, and with tasks of a user's: the served model of MLflow, exported files, evaluation."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.problems import about
from helpers.several_inputs import MODULE, RUNS
from helpers.trained import place, result, train
from runner import export
from runner.errors import Problem
from runner.runs.predictor import Predictor
from runner.saved.run import find

DELIVERED = "tracking=local"


@pytest.fixture(scope="module", autouse=True)
def there(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Path]:
    from helpers.delivered import delivered_here

    with (
        place(tmp_path_factory.mktemp("served")) as folder,
        pytest.MonkeyPatch.context() as patch,
        delivered_here(empty_store),
    ):
        (folder / "several.py").write_text(MODULE)
        patch.syspath_prepend(str(folder))
        for name in ("two", "texts", "vae", "items"):
            train(name, *RUNS[name], DELIVERED)
        yield folder


INPUTS = {
    "two": {"a": np.ones((3, 4), np.float32), "b": np.array([[1, 2, 3], [0, 0, 8], [1, 1, 1]])},
    "texts": {"ids": np.array([[3, 4], [5, 6], [7, 8]]), "mask": np.ones((3, 2), np.int64)},
    "vae": {"": np.linspace(0, 1, 192, dtype=np.float32).reshape(3, 1, 8, 8)},
    "items": {name: np.ones((3, 3), np.float32) * at for at, name in enumerate(("x", "pair_left", "pair_right"))},
}
"""Raw samples of each run, by the names that the served model has for them."""


def wanted(run: str) -> dict[str, np.ndarray]:
    """What the predictor says of the same samples; logits for `task=supervised`."""
    predictor = Predictor(find(run))
    tensors = {name.replace("pair_", "pair."): torch.from_numpy(array) for name, array in INPUTS[run].items()}
    outputs = predictor(predictor.samples.build(tensors))
    return {"": outputs.numpy()} if isinstance(outputs, torch.Tensor) else {k: v.numpy() for k, v in outputs.items()}


def assert_equal(given: object, run: str) -> None:
    expected = wanted(run)
    named = given if isinstance(given, dict) else {next(iter(expected)): given}
    assert given is not None and named.keys() == expected.keys()
    for name, array in expected.items():
        assert np.allclose(np.asarray(named[name]), array, atol=1e-5), name


@pytest.mark.parametrize("run", list(INPUTS))
def test_mlflow_serves_what_the_task_predicts(run: str) -> None:
    from mlflow import pyfunc

    model = pyfunc.load_model(str(Path(run) / "model"))
    inputs = INPUTS[run]
    assert_equal(model.predict(inputs.get("", inputs)), run)


@pytest.mark.soak
def test_a_fresh_process_serves_without_the_code_of_the_user(there: Path) -> None:
    code = (
        "import numpy as np, sys; from mlflow import pyfunc;"
        f"m = pyfunc.load_model({str(there / 'two' / 'model')!r});"
        "o = m.predict({'a': np.ones((3, 4), np.float32), 'b': np.array([[1, 2, 3], [0, 0, 8], [1, 1, 1]])});"
        "assert 'runner' not in sys.modules and 'several' not in sys.modules; print(o.tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd="/", check=True
    )
    assert np.allclose(np.array(eval(done.stdout)), wanted("two")[""], atol=1e-5)


@pytest.mark.parametrize("run", list(INPUTS))
def test_an_exported_file_takes_inputs_by_name(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert export.main([f"run={run}"]) == 0, capsys.readouterr().err
    graph = torch.export.load(Path(run) / "export" / "model.pt2").module()
    tensors = {name: torch.from_numpy(array) for name, array in INPUTS[run].items()}
    with torch.no_grad():
        given = graph(tensors[""]) if "" in tensors else graph(**tensors)
    assert_equal({k: v.numpy() for k, v in given.items()} if isinstance(given, dict) else given.numpy(), run)


@pytest.mark.soak
def test_onnx_takes_inputs_by_name_too() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    assert export.main(["run=two", "format=onnx", "output=two.onnx"]) == 0
    session = onnxruntime.InferenceSession("two.onnx", providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == ["a", "b"]
    (outputs,) = session.run(None, INPUTS["two"])
    assert_equal(outputs, "two")


def test_what_cannot_be_traced_is_one_line_and_the_run_stands(
    reported: list[Problem], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train("depends", *RUNS["items"][:-1], "task._target_=several.Depends", DELIVERED)
    assert result(folder)["status"] == "FINISHED" and not (folder / "model").exists()
    assert "the model is not logged to MLflow" in (folder / "run.log").read_text()
    capsys.readouterr()
    assert export.main(["run=depends"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and about(reported) == [("format", "code")]
