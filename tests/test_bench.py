"""`scripts/bench`: how it measures and judges; what is measured is not a test's affair."""

import ast
import csv
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from conftest import REPOSITORY

BENCHMARKS = REPOSITORY / "scripts" / "benchmarks"


@pytest.fixture(scope="module")
def measuring() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("measuring")


def test_rounds_alternate_and_ratios_are_taken_within_each(measuring: Any) -> None:
    done: list[str] = []
    taken = {"ours": [2.0, 9.0, 4.0], "theirs": [1.0, 3.0, 4.0], "more": [1.0, 0.0, 4.0], "unwanted": []}

    def contestant(name: str) -> Any:
        def measure_once() -> dict[str, float]:
            done.append(name)
            return {"seconds": taken[name].pop(0), "megabytes": 7.0}

        return measure_once

    budgets = [
        measuring.Budget("time", "it", "two others", 1.5, "ours.seconds", ["theirs.seconds", "more.seconds"]),
        measuring.Budget("memory", "it", "another", 0.5, "ours.megabytes", ["theirs.megabytes"], "MB"),
    ]
    group = measuring.Group(lambda: {name: contestant(name) for name in taken}, budgets)
    time, memory = measuring.measure(group, budgets, 3, lambda text: None)
    assert done == ["ours", "theirs", "more", "more", "theirs", "ours", "ours", "theirs", "more"]
    assert (time.ratio, time.low, time.high) == (1.0, 0.5, 3.0)
    assert (time.ours, time.theirs, time.kept) == (4.0, 3.0, True)
    assert (memory.ratio, memory.unit, memory.kept) == (1.0, "MB", False)


def test_turns_are_taken_one_at_a_time(measuring: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = importlib.import_module("turns")
    monkeypatch.setattr(turns, "PAUSE", 0.0)
    code = (
        "import sys, time, turns\n"
        "turn, spans = turns.Turn(), []\n"
        "for number in range(4):\n"
        "    if number: turn.wait()\n"
        "    began = time.time(); time.sleep(0.05)\n"
        "    spans.append((began, time.time()))\n"
        "turn.over()\n"
        "open(sys.argv[1], 'w').write(repr(spans[1:]))\n"
    )

    def contestant(name: str, environment: dict[str, str]) -> dict[str, float]:
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], env=os.environ | environment, check=True)
        return {"seconds": 1.0}

    names = ("one", "other", "third")
    told = turns.in_turns({name: partial(contestant, name) for name in names})
    assert told == {name: {"seconds": 1.0} for name in names}
    spans = [ast.literal_eval((tmp_path / name).read_text()) for name in names]
    in_order = [span for of_all in zip(*spans, strict=True) for span in of_all]  # round by round
    assert len(in_order) == 9
    assert all(before[1] <= after[0] for before, after in pairwise(in_order))


def run(*arguments: str, into: Path) -> subprocess.CompletedProcess[str]:
    """What `scripts/bench` runs once everything is installed, its figures written somewhere else."""
    code = (
        f"import sys, runpy, pathlib; sys.path.insert(0, {str(BENCHMARKS)!r}); sys.argv = ['bench', *sys.argv[1:]];"
        "main = runpy.run_path(sys.path[0] + '/__main__.py', run_name='bench')['main'];"
        f"main.__globals__['FOLDER'] = pathlib.Path({str(into)!r});"
        "sys.exit(main())"
    )
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=into)


def test_a_line_of_the_table_is_measured_judged_written_and_drawn(tmp_path: Path) -> None:
    done = run("config", into=tmp_path)
    assert done.returncode in (0, 1), done.stderr  # how fast it is today is another matter
    name, ratio, *rest = done.stdout.split()
    assert name == "config"
    assert rest[1:4] == ["at", "most", "4.000"]
    (row,) = csv.DictReader((tmp_path / "bench_look.csv").open())
    assert (
        float(row["ratio"])
        == pytest.approx(float(row["ours"]) / float(row["theirs"]))
        == pytest.approx(float(ratio), abs=1e-3)
    )
    assert (done.returncode == 0) == ("kept" in rest) == (float(row["ratio"]) <= 4)
    assert (tmp_path / "bench_look.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_is_measured_draws_its_bar(measuring: Any) -> None:
    """On a terminal without a size, as it is made, none would be drawn, and logging with the bar on not be measured."""
    processes = importlib.import_module("processes")
    run = processes.runner("data.batch_size=1", "trainer.epochs=2", "tracking=off")
    assert "\N{FULL BLOCK}" in run.done.shown and "samples/s" in run.done.shown
    assert len(run.metrics["time/epoch_seconds"]) == len(run.times["time/epoch_seconds"]) == 2
    assert run.typical("time/epoch_seconds") == run.metrics["time/epoch_seconds"][1]


def test_the_memory_of_all_processes_counts(measuring: Any, tmp_path: Path) -> None:
    processes = importlib.import_module("processes")
    half = "held = bytearray(b'1') * (100 << 20); import time; time.sleep(1.0)"
    code = f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', \"{half}\"]); {half}; child.wait()"
    assert 200 < processes.run([sys.executable, "-c", code], tmp_path, weigh=True).megabytes < 300
    assert processes.run([sys.executable, "-c", "pass"], tmp_path).megabytes == 0.0, "nobody looked"


def test_an_unknown_line_is_refused_with_those_there_are(tmp_path: Path) -> None:
    done = run("mlpp", into=tmp_path)
    assert done.returncode == 2
    assert "mlpp: choose from mlp, tracking" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("loop", ["tensors", "tiny"])
def test_the_loops_it_is_measured_against_train(loop: str, tmp_path: Path) -> None:
    """On what takes MNIST's place where that is not on disk."""
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import loops, samples; from pathlib import Path;"
    if loop == "tensors":
        code += "root = samples.mnist_root(Path(sys.argv[1]));"
        code += "print(loops.tensors(root, 'mlp', samples=640, epochs=3)['seconds'] > 0)"
    else:
        code += "print(loops.tiny(epochs=3)['seconds'] > 0)"
    environment = os.environ | {"HOME": str(tmp_path), "RUNNER_DATA": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "True"
