"""Runs found by their folder or their MLflow id, with a real store; also those of which only MLflow is left."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from helpers.delivered import delivered_here
from helpers.problems import problem_of
from helpers.trained import place, result, train
from helpers.training import same
from runner import compare, evaluate, export, predict, reproduce, sync
from runner.cli import run_command
from runner.rundir.delivery_state import DeliveryState
from runner.runs import evaluation, predictor
from runner.runs.new_samples import read
from runner.saved.run import find
from runner.saved.weights import weights_of_run
from runner.tracking.store import connect, local_uri


@pytest.fixture(scope="module", autouse=True)
def there(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Path]:
    with place(tmp_path_factory.mktemp("saved")) as folder, delivered_here(empty_store):
        yield folder


@pytest.fixture(scope="module")
def tracked(there: Path) -> Path:
    return train("outputs/runs/tracked", "tracking=local", "tracking.run_name=a name", "precision=fp64")


@pytest.fixture(scope="module")
def run_id(tracked: Path) -> str:
    return str(DeliveryState.load(tracked).run_id)


@pytest.fixture
def gone(tracked: Path, there: Path) -> Iterator[None]:
    """The folder is on another machine."""
    tracked.rename(there / "elsewhere")
    yield
    (there / "elsewhere").rename(tracked)


def test_a_folder_and_an_id_are_the_same_run(tracked: Path, run_id: str, there: Path) -> None:
    by_folder, by_id = find("outputs/runs/tracked"), find(run_id, uri=local_uri(there / "outputs"))
    assert by_folder.config == by_id.config == yaml.safe_load((tracked / "config.yaml").read_text())
    for run in (by_folder, by_id):
        assert (run.folder, run.run_id, run.name) == (tracked, run_id, "a name")
        assert run.uri == local_uri(there / "outputs")
        assert (run.choices["model"], run.choices["data"], run.choices["debug"]) == ("mlp", "digits", "fast")
        assert run.file("samples.json") == tracked / "samples.json"
        assert run.file("checkpoints/none.pt") is None


def test_an_id_whose_folder_is_another_runs_now_is_read_from_mlflow(tracked: Path, run_id: str) -> None:
    manifest = tracked / ".tracking" / "manifest.json"
    text = manifest.read_text()
    key = connect(local_uri(Path("outputs"))).get_run(run_id).data.tags["runner.key"]
    manifest.write_text(text.replace(key, "0" * 32))
    try:
        assert find(run_id).folder is None
    finally:
        manifest.write_text(text)
    assert find(run_id).folder == tracked
    assert find(run_id, from_store=True).folder is None
    assert find(str(tracked), from_store=True).run_id == run_id


def test_what_mlflow_alone_has_is_enough(tracked: Path, run_id: str, gone: None, there: Path) -> None:
    run, here = find(run_id), find("elsewhere")
    assert (run.folder, run.name, run.config, run.choices) == (None, "a name", here.config, here.choices)
    assert run.place.startswith(f"run {run_id} in sqlite:///")
    fetched = run.file("samples.json")
    assert fetched is not None and fetched.read_text() == (there / "elsewhere" / "samples.json").read_text()
    assert run.file("checkpoints/best.pt") is None, "checkpoints were not logged"

    weights = weights_of_run(run)
    assert same(weights.tensors, weights_of_run(here).tensors), "out of the logged model, in 64 bits"
    assert weights.data == weights_of_run(here).data

    found = evaluation.evaluate(run)
    assert found.metrics == {name: result(here.folder)[name] for name in ("test/loss", "test/accuracy")}
    assert found.same_data

    ours, theirs = predictor.Predictor(run), predictor.Predictor(here)
    ((names, inputs),) = read(str([[[0.5] * 8] * 8, [[0.1] * 8] * 8]), ours.samples).batches(8)
    assert list(names) == [0, 1] and torch.equal(ours(inputs), theirs(inputs))

    assert export.main([f"run={run_id}"]) == 2, "there is no folder to write into"
    assert export.main([f"run={run_id}", "output=model.pt2"]) == 0
    loaded = torch.export.load("model.pt2").module()
    assert torch.allclose(loaded(inputs), ours(inputs), atol=1e-12)


def test_checkpoints_in_mlflow_are_taken_from_there(there: Path) -> None:
    folder = train("logged", "tracking=local", "tracking.log_checkpoints=true", "tracking.log_model=false")
    run = find(str(DeliveryState.load(folder).run_id), from_store=True)
    best = torch.load(folder / "checkpoints" / "best.pt", weights_only=True)
    found = weights_of_run(run)
    assert same(found.tensors, best["model"]) and found.epoch == best["progress"]["best_epoch"]
    assert run.folder is None


@pytest.mark.parametrize(
    ("value", "topic", "suggestion"),
    [
        ("", "missing", ""),
        ("outputs/runs/trackd", "file", "did you mean outputs/runs/tracked?"),
        ("outputs/runs", "run", "run=outputs/runs/tracked"),
        ("outputs/runs/begun", "run", "write run=outputs/runs/tracked"),
        ("outputs/runs/tracked/run.log", "run", "did you mean outputs/runs/tracked?"),
        ("outputs/runs/tracked/checkpoints", "run", "did you mean outputs/runs/tracked?"),
        ("0" * 32, "store", ""),
    ],
)
def test_what_is_not_a_run_is_reported(tracked: Path, value: str, topic: str, suggestion: str) -> None:
    Path("outputs/runs/begun/.tracking").mkdir(parents=True, exist_ok=True)  # killed before it had a config
    problem = problem_of(lambda: find(value))
    assert (problem.key, problem.topic) == ("run", topic)
    assert f"run={value}" in problem.text and suggestion in problem.suggestion


@pytest.mark.parametrize("command", [evaluate, compare], ids=lambda command: command.__name__)
def test_a_folder_without_its_option_is_told_the_option(
    command: ModuleType, tracked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option = "runs" if command is compare else "run"
    assert command.main(["outputs/runs/tracked"]) == 2
    assert f"write {option}=outputs/runs/tracked" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("jobs", "suggestion"),
    [
        ('{"best": 2}', "run=outputs/sweeps/one/2, its best job"),
        ('{"best": null, "front": [1, 2]}', "run=outputs/sweeps/one/1 or run=outputs/sweeps/one/2, jobs of its Pareto"),
        ("{}", "run=outputs/sweeps/one/2 or run=outputs/sweeps/one/10, its jobs"),
        (None, "run=outputs/sweeps/one/2 or run=outputs/sweeps/one/10, its jobs"),
    ],
)
def test_a_sweep_is_no_run_and_its_best_job_is_named(tracked: Path, jobs: str | None, suggestion: str) -> None:
    folder = Path("outputs/sweeps/one")
    shutil.rmtree(folder, ignore_errors=True)
    for number in ("10", "2"):
        shutil.copytree(tracked, folder / number)
    (folder / "sweep.json").write_text("{}")
    if jobs is not None:
        (folder / "jobs.json").write_text(jobs)
    problem = problem_of(lambda: find(str(folder)))
    assert (problem.key, problem.topic) == ("run", "run") and "is a sweep" in problem.text
    assert suggestion in problem.suggestion
    resume = problem_of(lambda: find(str(folder), "resume"))
    assert resume.suggestion == "write --multirun sweep.resume=outputs/sweeps/one"


def test_a_store_that_is_not_there_is_named_and_not_made(there: Path) -> None:
    problem = problem_of(lambda: find("0" * 32, uri=f"sqlite:///{there}/none.db"))
    assert (problem.key, problem.topic) == ("run", "store")
    assert f"{there}/none.db" in problem.text and "tracking.uri=" in problem.suggestion
    assert not (there / "none.db").exists()


def test_a_run_of_another_program_is_refused(tracked: Path) -> None:
    client = connect(local_uri(Path("outputs")))
    run = client.create_run("0")
    problem = problem_of(lambda: find(run.info.run_id))
    assert (problem.key, problem.topic) == ("run", "run") and "runner.key" in problem.text


LONG = "x" * 10_000


def in_turn(commands: Sequence[tuple[Any, str]], values: Sequence[str]) -> list[Any]:
    """Each command with each value; in the default suite each command with one of them, and each value."""
    return [
        pytest.param(*command, value, marks=[] if (row - column) % len(values) == 0 else pytest.mark.soak)
        for row, command in enumerate(commands)
        for column, value in enumerate(values)
    ]


class TestOddFiles:
    """One line names what cannot be read, whatever it is."""

    COMMANDS = (
        *((module, "run") for module in (evaluate, predict, export, sync, reproduce)),
        (compare, "sweep"),
        (compare, "runs"),
        *((None, key) for key in ("resume", "sweep.resume", "model.weights")),
    )

    @staticmethod
    def called(module: ModuleType | None, key: str, value: str) -> int:
        more = ["input=[0]"] if module is predict else ["--multirun"] if key == "sweep.resume" else []
        return run_command([f"{key}={value}", *more]) if module is None else module.main([f"{key}={value}", *more])

    @pytest.mark.parametrize(
        ("module", "key", "value"), in_turn(COMMANDS, [LONG, "~nobody-of-that-name/x", "nul\0", "line\nbreak"])
    )
    def test_a_name_that_nothing_has(
        self, module: ModuleType | None, key: str, value: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.called(module, key, value) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and len(line) < 500 and f"{key}=" in line

    @pytest.mark.parametrize(
        ("module", "key", "content"),
        in_turn(
            [pair for pair in COMMANDS if pair[1] in ("run", "resume")],
            ["no json {", "7", "[1]", "seed: 0\nmodel: 3\ntrainer: []\n", "[" * 5000],
        ),
    )
    def test_a_config_that_is_none(
        self, module: ModuleType | None, key: str, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "config.yaml").write_text(content)
        assert self.called(module, key, str(tmp_path)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert str(tmp_path) in line and ("config.yaml" in line or module is sync)

    def test_a_result_that_is_none_leaves_the_measurement(
        self, tracked: Path, there: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copytree(tracked, odd := there / "line\nbreak")
        (odd / "result.json").write_text("no json {")
        assert evaluate.main([f"run={odd}"]) == 0
        printed = capsys.readouterr().err
        assert "line\\nbreak/result.json" in printed and "Expecting value" in printed
        assert "test       loss" in printed
