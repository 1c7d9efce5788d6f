"""`python -m runner.evaluate`: a finished run's figures again, bit for bit."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.problems import about
from helpers.trained import place, result, table, train
from runner import evaluate
from runner.errors import Problem
from runner.runs import evaluation
from runner.saved.run import find

RUNS = {
    "digits": ("trainer.ema_decay=0.9", "precision=bf16", "trainer.validate_every_steps=2", "model=cnn"),
    "value": ("data=csv", "data.path=price.csv", "data.target=price", "loss=mse", "data.in_memory=false"),
    "yes_or_no": ("data=csv", "data.path=kind.csv", "data.target=kind", "loss=bce_with_logits", "optimizer=adamw"),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with place(tmp_path_factory.mktemp("evaluate")) as folder:
        table(folder / "price.csv", "price")
        table(folder / "kind.csv", "kind")
        yield folder


@pytest.fixture(scope="module")
def runs(there: Path) -> dict[str, Path]:
    return {name: train(name, *arguments) for name, arguments in RUNS.items()}


@pytest.fixture(params=list(RUNS))
def run(request: pytest.FixtureRequest, runs: dict[str, Path]) -> Path:
    return runs[request.param]


def test_validation_and_test_are_what_the_run_has_logged_bit_for_bit(run: Path) -> None:
    saved = find(str(run))
    for split, measured in (("test", 2), ("val", 2)):
        found = evaluation.evaluate(saved, split)
        logged = {name: value for name, value in result(run).items() if name.startswith(f"{split}/")}
        assert found.metrics == {name: logged[name] for name in found.metrics}
        assert len(found.metrics) >= measured and f"{split}/loss" in found.metrics
        assert found.same_data and found.experiment.device.threads == result(run)["threads"]


def test_the_training_samples_are_measured_in_order_with_the_weights_at_rest(runs: dict[str, Path]) -> None:
    saved = find(str(runs["value"]))
    first, again = evaluation.evaluate(saved, "train"), evaluation.evaluate(saved, "train", ["data.in_memory=true"])
    assert first.metrics == again.metrics and set(first.metrics) == {
        f"train/{name}" for name in ("loss", "mae", "rmse", "r2")
    }
    assert first.samples == 38, "60 rows, less a fifth for the test, and of the rest a fifth for validation"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    code = evaluate.main(arguments)
    captured = capsys.readouterr()
    assert captured.out == "", "standard output is for results that are read by programs"
    return code, captured.err.splitlines()


def test_what_is_printed(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = printed(capsys, "run=yes_or_no")
    epoch = result(runs["yes_or_no"])["best_epoch"]
    loss, accuracy = (result(runs["yes_or_no"])[f"test/{name}"] for name in ("loss", "accuracy"))
    assert code == 0
    assert lines == [
        f"weights    yes_or_no (epoch {epoch})",
        "data       csv: 12 test samples",
        "device     device cpu (1 thread) · precision fp32",
        f"test       loss {loss:.4f}   accuracy {100 * accuracy:6.2f} %",
        "logged     the same, bit for bit",
    ]
    assert printed(capsys, "run=yes_or_no", "runner.quiet=true") == (0, [])
    code, lines = printed(capsys, "run=yes_or_no", "split=train")
    assert code == 0
    assert [line[:10].strip() for line in lines] == ["weights", "data", "device", "train", ""]


def test_other_places_and_formats_are_taken_and_what_differs_is_said(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str], there: Path, reported: list[Problem]
) -> None:
    moved = (there / "price.csv").rename(there / "moved.csv")
    try:
        code, lines = printed(capsys, "run=value")
        assert code == 2 and [problem.key for problem in reported] == ["data.path"]
        assert str(there / "price.csv") in lines[0]
        code, lines = printed(
            capsys, "run=value", "data.path=moved.csv", "precision=fp64", "device=cpu", "data.batch_size=5",
            "data.in_memory=true", "device.threads=2",
        )  # fmt: skip
    finally:
        moved.rename(there / "price.csv")
    assert code == 0
    assert lines[2] == "device     device cpu (2 threads) · precision fp64"
    assert lines[4].startswith("logged     loss ")
    assert lines[5].strip().startswith("test/loss differs by ")


def test_other_samples_are_noticed(runs: dict[str, Path], capsys: pytest.CaptureFixture[str], there: Path) -> None:
    text = (there / "price.csv").read_text()
    (there / "changed.csv").write_text(text.replace("1", "2", 1))
    code, lines = printed(capsys, "run=value", "data.path=changed.csv")
    assert code == 0
    assert [line[:10].strip() for line in lines[:6]] == ["weights", "data", "device", "", "test", "logged"]


def test_a_run_that_did_not_end_has_no_figures_to_compare_with(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = runs["value"] / "result.json"
    kept = path.read_text()
    path.write_text(json.dumps({k: v for k, v in json.loads(kept).items() if not k.startswith("test/")}))
    try:
        code, lines = printed(capsys, "run=value")
    finally:
        path.write_text(kept)
    assert code == 0 and lines[-1].startswith("logged     no test metrics")


@pytest.mark.parametrize(
    ("arguments", "problem", "suggestion"),
    [
        ([], ("run", "missing"), "run=<"),
        (["run=none"], ("run", "file"), ""),
        (["run=value", "split=tests"], ("split", "choice"), "did you mean test?"),
        (["run=value", "device=gpu"], ("device", "choice"), "device=cuda"),
        (["run=value", "model.hidden=[9]"], ("model.hidden", "conflict"), ""),
        (["run=value", "data.val_fraction=0.5"], ("data.val_fraction", "conflict"), ""),
        (["run=value", "seed=1"], ("seed", "conflict"), ""),
        (["run=value", "splt=val"], ("splt", "unknown"), "did you mean split?"),
        (["run=value", "data.batch_size=x"], ("data.batch_size", "type"), ""),
        (["run=value", "runner.verbose=maybe"], ("runner.verbose", "type"), "write true or false"),
        (["value"], ("value", "syntax"), "write run=value"),
        (["valu"], ("valu", "syntax"), "choose from"),
    ],
)
def test_wrong_options_are_exit_2_and_a_line(
    runs: dict[str, Path],
    arguments: list[str],
    problem: tuple[str, str],
    suggestion: str,
    reported: list[Problem],
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, lines = printed(capsys, *arguments)
    assert code == 2 and lines == [f"error: {reported[0]}"]
    assert about(reported) == [problem] and suggestion in reported[0].suggestion


def test_a_split_that_there_is_not_is_refused(
    there: Path, reported: list[Problem], capsys: pytest.CaptureFixture[str]
) -> None:
    train("whole", "data.val_fraction=0")
    code, lines = printed(capsys, "run=whole", "split=val")
    assert code == 2 and len(lines) == 1
    assert about(reported) == [("split", "data")]
    assert reported[0].suggestion == "write split=train or split=test"


def test_tracebacks_on_request(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, lines = printed(capsys, "run=none", "runner.verbose=true")
    assert lines[0].startswith("Traceback") and lines[-1].startswith("error: run=none")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    _, lines = printed(capsys, "run=none")
    assert lines[0].startswith("Traceback")


def test_help_and_the_options_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["run=~/x", "--cfg", "job"]):
        with pytest.raises(SystemExit) as ended:
            evaluate.main(arguments)
        assert ended.value.code == 0
        out = capsys.readouterr().out
        assert all(f"\n{'' if '--cfg' in arguments else '  '}{key}" in f"\n{out}" for key in evaluate.OPTIONS)
    assert f"\nrun: {Path.home()}/x\n" in f"\n{out}" and "split: null\n" in out
