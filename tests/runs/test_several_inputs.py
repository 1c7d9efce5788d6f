"""Runs with several inputs, and with tasks of a user's: `samples.json` and `runner.predict`."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.problems import about, problem_of
from helpers.serving import asked
from helpers.several_inputs import MODULE, RUNS
from helpers.trained import place, train
from runner import predict
from runner.errors import Problem
from runner.runs.new_samples import read
from runner.runs.predictor import Predictor, trained_model
from runner.saved.input_spec import InputSpec, Leaf
from runner.saved.run import find


@pytest.fixture(scope="module", autouse=True)
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with place(tmp_path_factory.mktemp("several")) as folder, pytest.MonkeyPatch.context() as patch:
        (folder / "several.py").write_text(MODULE)
        patch.syspath_prepend(str(folder))
        for name, arguments in RUNS.items():
            train(name, *arguments)
        yield folder


Predict = Callable[..., tuple[list[str], list[list[str]]]]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Predict:
    """`printed("two", "input=...")` is the header and the rows on standard output."""

    def call(run: str, *arguments: str) -> tuple[list[str], list[list[str]]]:
        capsys.readouterr()
        code = predict.main([f"run={run}", "runner.quiet=true", *arguments])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        header, *rows = csv.reader(io.StringIO(captured.out))
        return header, rows

    return call


def numbers(rows: list[list[str]], first: int = 1) -> np.ndarray:
    return np.array([[float(cell) for cell in row[first:]] for row in rows])


A, B = np.random.RandomState(0).randn(3, 4), np.array([[1, 2, 3], [0, 0, 8], [1, 1, 1]])


def probabilities(run: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    _, model, _ = trained_model(find(run))
    with torch.no_grad():
        return model(torch.tensor(a).float(), torch.tensor(b)).softmax(1).numpy()


def test_a_dict_of_inputs_from_files_and_from_the_command_line(printed: Predict) -> None:
    wanted = probabilities("two", A, B)
    np.savez("two.npz", b=B, a=A, labels=np.zeros(3))  # in another order, with the targets
    torch.save({"a": torch.tensor(A), "b": torch.tensor(B).int()}, "two.pt")
    Path("two.json").write_text(json.dumps({"a": A.tolist(), "b": B.tolist()}))
    items = [{"a": a, "b": b} for a, b in zip(A.tolist(), B.tolist(), strict=True)]
    Path("two.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    typed = f"{{a:{A.tolist()},b:{B.tolist()}}}".replace(" ", "")
    for value in ("two.npz", "two.pt", "two.json", "two.jsonl", typed, json.dumps(items)):
        header, rows = printed("two", f"input={value}")
        assert header == ["sample", "class", "p_0", "p_1"]
        assert np.allclose(numbers(rows, 2), wanted, atol=1e-5), value
        assert [int(row[1]) for row in rows] == wanted.argmax(1).tolist()
    _, (row,) = printed("two", 'input={"a":[1,2,3,4],"b":[1,2,3]}')  # a single sample
    assert np.allclose(numbers([row], 2), probabilities("two", np.array([[1, 2, 3, 4]]), B[:1]), atol=1e-5)


def test_a_tuple_of_inputs_by_number_or_in_order(printed: Predict) -> None:
    samples, model, _ = trained_model(find("ordered"))
    with torch.no_grad():
        wanted = model(torch.tensor(A).float(), torch.tensor(B)).numpy()
    np.savez("by_number.npz", **{"1": B, "0": A})
    np.savez("in_order.npz", A, B)
    torch.save((torch.tensor(A), torch.tensor(B)), "ordered.pt")
    items = [[a, b] for a, b in zip(A.tolist(), B.tolist(), strict=True)]
    for value in (
        "by_number.npz",
        "in_order.npz",
        "ordered.pt",
        json.dumps([A.tolist(), B.tolist()]),
        json.dumps(items),
    ):
        header, rows = printed("ordered", f"input={value}")
        assert header == ["sample", "value"]
        assert np.allclose(numbers(rows), wanted, atol=1e-5), value
    assert samples.shapes == ((4,), (3,))


def test_items_of_different_lengths_are_predicted_one_by_one(printed: Predict) -> None:
    items = [
        {"ids": [3, 4, 5], "mask": [1, 1, 1]},
        {"ids": [6, 7], "mask": [1, 1]},
        {"ids": [3, 4, 5], "mask": [1, 1, 1]},
    ]
    Path("texts.json").write_text(json.dumps(items))
    _, rows = printed("texts", "input=texts.json")
    padded = {"ids": [[3, 4, 5], [6, 7, 0]], "mask": [[1, 1, 1], [1, 1, 0]]}
    _, same = printed("texts", f"input={json.dumps(padded)}")
    assert rows[0][1:] == rows[2][1:] and rows[0][1:] != rows[1][1:]
    assert np.allclose(numbers(rows[:2]), numbers(same), atol=1e-6)


def test_what_a_task_predicts_becomes_columns_or_arrays(printed: Predict) -> None:
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    np.save("images.npy", images.numpy())
    predictor = Predictor(find("vae"))
    code = predictor.model.encode(predictor.samples.normalize(images, torch.float32))[0].detach()
    shift = torch.load("vae/checkpoints/best.pt", weights_only=True)["task"]["shift"]
    assert shift > 0, "the state of the task is that of the checkpoint"
    header, rows = printed("vae", "input=images.npy")
    assert header == ["sample", "code_0", "code_1", *(f"image_{number}" for number in range(64))]
    assert np.allclose(numbers(rows)[:, :2], code + shift, atol=1e-5)
    for name in ("vae.npz", "vae.pt"):
        assert predict.main(["run=vae", "input=images.npy", f"output={name}"]) == 0
    saved, tensors = dict(np.load("vae.npz")), torch.load("vae.pt", weights_only=True)
    assert {name: array.shape for name, array in saved.items()} == {"code": (3, 2), "image": (3, 1, 8, 8)}
    assert np.allclose(saved["image"].reshape(3, -1), numbers(rows)[:, 2:], atol=1e-5)
    assert all(np.array_equal(saved[name], tensor) for name, tensor in tensors.items())


def test_a_large_prediction_needs_a_file_of_arrays_and_no_target(printed: Predict) -> None:
    images = np.random.RandomState(1).randn(2, 1, 40, 40).astype(np.float32)
    np.savez("masks.npz", image=images)
    assert predict.main(["run=masks", "input=masks.npz", "output=masks.npy"]) == 0
    _, model, _ = trained_model(find("masks"))
    with torch.no_grad():
        assert np.allclose(np.load("masks.npy"), model(torch.tensor(images)), atol=1e-5)
    assert json.loads(Path("masks/samples.json").read_text())["ignored"] == ["mask"], "predict does not read it"


def test_dataclasses_and_named_tuples_are_made_again(printed: Predict) -> None:
    x, left, right = torch.randn(3, 2, 3)
    torch.save({"x": x, "pair": {"left": left, "right": right}}, "items.pt")
    header, rows = printed("items", "input=items.pt")
    _, model, _ = trained_model(find("items"))
    with torch.no_grad():
        wanted = model(torch.cat([x, left, right], 1))
    assert header == ["sample", "value"] and np.allclose(numbers(rows), wanted, atol=1e-5)


def test_supervised_writes_arrays_too(printed: Predict) -> None:
    np.savez("new.npz", a=A, b=B)
    for run, name in (("two", "probabilities"),):
        assert predict.main([f"run={run}", "input=new.npz", "output=new-out.npz"]) == 0
        assert np.allclose(np.load("new-out.npz")[name], probabilities("two", A, B), atol=1e-5)


@pytest.mark.parametrize(
    ("run", "value", "topic", "shown"),
    [
        ("two", "{a:[[1,2,3,4]]}", "missing", "b is missing"),
        ("two", "{a:[[1,2,3,4]],b:[[1,2,3]],c:[1]}", "unknown", "does not take c"),
        ("two", "{a:[[1,2,3]],b:[[1,2,3]]}", "shape", "a: the shape is (1, 3), the model takes (N, 4)"),
        ("two", "{a:[[1,2,3,4]],b:[[1,2,3],[1,2,3]]}", "shape", "a has 1 samples, b has 2"),
        ("two", "{a:[[1,2,3,4]],b:[[1,2,0.5]]}", "type", "b: needs whole numbers"),
        ("two", "{a:[[1,2,3,4]],b:[[1,2,]]", "syntax", "cannot be read"),
        ("two", "{a:[[1,2,3,x]],b:[[1,2,3]]}", "type", "a: needs numbers only"),
        ("two", "{a:[[1,2,3,nan]],b:[[1,2,3]]}", "data", "a: values are NaN"),
        ("two", "[]", "shape", "0 arrays"),
        ("two", "one.npy", "shape", "a single array"),
        ("two", "several.py", "choice", "takes a, b"),
        ("two", "broken.json", "file", "JSON"),
        ("two", "empty.json", "shape", "0 arrays"),
        ("ordered", "[[[1,2,3,4]]]", "shape", "1 arrays, the model takes 2"),
        ("texts", "{ids:[[1,2],[3]],mask:[[1,1],[1]]}", "shape", "different lengths"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(
    run: str, value: str, topic: str, shown: str, reported: list[Problem], capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("one.npy", A)
    Path("broken.json").write_text("{")
    Path("empty.json").write_text("[]")
    capsys.readouterr()
    assert predict.main([f"run={run}", f"input={value}"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    assert about(reported) == [("input", topic)] and shown in reported[0].text


@pytest.mark.parametrize("value", ["texts.csv", "a text", "missing.txt"])
def test_texts_for_a_model_of_tokens_are_refused_with_what_it_takes(value: str) -> None:
    leaves = [Leaf(name, [7], "int64", None, 0, 9) for name in ("input_ids", "attention_mask")]
    spec = InputSpec("d", {"input_ids": [7]}, "int64", 0, 1, 2, inputs=leaves)
    problem = problem_of(lambda: read(value, spec))
    assert (problem.key, problem.topic) == ("input", "choice") and "input_ids, attention_mask" in problem.text
    assert "tokenize" in problem.suggestion and ".npz" in problem.suggestion


@pytest.mark.parametrize(
    ("arguments", "key", "topic"),
    [
        (["run=masks", "input=masks.npz"], "output", "conflict"),  # 3,200 columns
        (["run=vae", "input=images.npy", "output=vae.npy"], "output", "choice"),  # two arrays
        (["run=two", "input={a:[[1,2,3,4]],b:[[1,2,99]]}"], "task", "code"),  # outside of the embedding
    ],
)
def test_what_cannot_be_predicted_or_written_is_one_sentence(
    arguments: list[str], key: str, topic: str, reported: list[Problem], capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("images.npy", np.zeros((2, 1, 8, 8)))
    np.savez("masks.npz", image=np.zeros((2, 1, 40, 40)))
    assert predict.main([*arguments, "runner.quiet=true"]) == 2
    assert capsys.readouterr().out == "" and about(reported) == [(key, topic)]


def test_a_prediction_that_is_no_tensor_per_sample_is_one_sentence(reported: list[Problem]) -> None:
    train("odd", *RUNS["items"][:-1], "task._target_=several.Odd")
    torch.save({"x": torch.zeros(2, 3), "pair": (torch.zeros(2, 3), torch.zeros(2, 3))}, "items.pt")
    assert predict.main(["run=odd", "input={x:[[1,2,3]],pair:{left:[[1,2,3]],right:[[1,2,3]]}}"]) == 2
    assert about(reported) == [("task", "code")] and "shape ()" in reported[0].text


def test_a_server_takes_several_inputs_by_name() -> None:
    wanted = probabilities("two", A, B)
    items = [{"a": a, "b": b} for a, b in zip(A.tolist(), B.tolist(), strict=True)]
    for body in (
        {"inputs": {"a": A.tolist(), "b": B.tolist()}},
        {"a": A.tolist(), "b": B.tolist()},
        {"instances": items},
        {"dataframe_records": items},
        {"dataframe_split": {"columns": ["a", "b"], "data": [list(item.values()) for item in items]}},
    ):
        answer = asked("two", body)
        assert answer.status == 200, answer
        given = [[one["p_0"], one["p_1"]] for one in answer.content["predictions"]]
        np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-6)
    for body, said in (
        ({"inputs": {"a": A.tolist()}}, "b is missing"),
        ({"inputs": {"a": A.tolist(), "b": B.tolist(), "c": [1]}}, "the model does not take c"),
        ({"inputs": {"a": A.tolist(), "b": B[:2].tolist()}}, "a has 3 samples, b has 2"),
        ({"inputs": {"a": A.tolist(), "b": (B + 0.5).tolist()}}, "needs whole numbers"),
        ({"inputs": {"a": A.tolist(), "b": (B + 20).tolist()}}, "predict fails for these samples"),
    ):
        refused = asked("two", body)
        assert (refused.status, said in refused.content["message"]) == (422, True), refused
    assert asked("two", b"a,b\n1,2\n", "text/csv").status == 415


def test_a_server_predicts_items_of_different_lengths_one_by_one() -> None:
    items = [{"ids": [1, 2, 3], "mask": [1, 1, 1]}, {"ids": [15, 3], "mask": [1, 1]}]
    both = asked("texts", {"instances": items}).content["predictions"]
    alone = [asked("texts", {"instances": [item]}).content["predictions"][0] for item in items]
    assert both == alone and len(both) == 2


def test_a_server_returns_arrays_of_a_task_by_name() -> None:
    image = [[[0.5] * 8] * 8]
    (one,) = asked("vae", {"inputs": [image]}).content["predictions"]
    assert set(one) == {"code", "image"} and np.array(one["image"]).shape == (1, 8, 8)
    assert asked("vae", {"inputs": [image]}, accept="text/csv").content.startswith("sample,code_0,code_1,image_0,")
