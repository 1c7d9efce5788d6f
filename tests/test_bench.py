"""`scripts/bench`: how it measures and judges; what is measured is not a test's affair."""

import ast
import csv
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from conftest import REPOSITORY
from helpers.composed import built

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
        def measure_once() -> dict[str, list[float]]:
            done.append(name)
            return {"seconds": [taken[name].pop(0)], "megabytes": [7.0]}

        return measure_once

    budgets = [
        measuring.Budget("time", "it", "two others", 1.5, "ours.seconds", ["theirs.seconds", "more.seconds"]),
        measuring.Budget("memory", "it", "another", 0.5, "ours.megabytes", ["theirs.megabytes"], "MB"),
    ]
    group = measuring.Group(lambda: {name: contestant(name) for name in taken}, budgets)
    time, memory = measuring.measure(group, budgets, 3, lambda text: None)
    assert done == ["ours", "theirs", "more", "more", "theirs", "ours", "ours", "theirs", "more"]
    assert (time.ratio, time.low, time.high) == (1.0, 0.5, 3.0)
    assert (time.ours, time.theirs, time.met) == (4.0, 3.0, True)
    assert (memory.ratio, memory.unit, memory.met) == (1.0, "MB", False)


def test_turns_are_compared_one_by_one(measuring: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [{"ours": [1.0, 20.0, 3.0], "theirs": [1.0, 10.0, 3.0]}, {"ours": [4.0, 5.0], "theirs": [1.0, 2.0]}]
    monkeypatch.setattr(
        measuring, "in_turns", lambda wanted: {name: {"seconds": of} for name, of in taken.pop(0).items()}
    )
    budgets = [measuring.Budget("time", "it", "another", 2.0, "ours.seconds", ["theirs.seconds"])]
    group = measuring.Group(lambda: {"ours": None, "theirs": None}, budgets, turns=True)
    (time,) = measuring.measure(group, budgets, 2, lambda text: None)
    assert (time.ratio, time.low, time.high) == (2.0, 1.0, 3.25)  # of 1, 2, 1 and 4, 2.5
    assert (time.ours, time.ours_low, time.ours_high) == (4.0, 3.0, 4.5)


def test_turns_are_taken_one_at_a_time_while_the_others_rest_with_what_they_have_started(
    measuring: Any, tmp_path: Path
) -> None:
    turns = importlib.import_module("turns")
    busy = "import time\nwhile True: print(time.time(), flush=True); time.sleep(0.002)"
    code = (
        "import os, subprocess, sys, time, turns\n"
        f"child = subprocess.Popen([sys.executable, '-c', {busy!r}], stdout=open(sys.argv[1] + '.child', 'w'))\n"
        "while not os.path.getsize(sys.argv[1] + '.child'): time.sleep(0.01)\n"
        "turn, spans = turns.Turn(), []\n"
        "for number in range(4):\n"
        "    if number: turn.wait()\n"
        "    began = time.time(); time.sleep(0.05)\n"
        "    spans.append((began, time.time()))\n"
        "turn.over()\n"
        "child.kill()\n"
        "open(sys.argv[1], 'w').write(repr(spans[1:]))\n"
    )

    def contestant(name: str, environment: dict[str, str]) -> dict[str, list[float]]:
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], env=os.environ | environment, check=True)
        return {"seconds": [1.0]}

    names = ("one", "other", "third")
    told = turns.in_turns({name: partial(contestant, name) for name in names})
    assert told == {name: {"seconds": [1.0]} for name in names}
    spans = [ast.literal_eval((tmp_path / name).read_text()) for name in names]
    in_order = [span for of_all in zip(*spans, strict=True) for span in sorted(of_all)]  # round by round
    assert len(in_order) == 9
    assert all(before[1] <= after[0] for before, after in pairwise(in_order))
    orders = [sorted(range(3), key=lambda one: of_all[one]) for of_all in zip(*spans, strict=True)]
    assert orders == [[0, 1, 2], [0, 2, 1], [1, 0, 2]], "each order in turn"
    for name, own in zip(names, spans, strict=True):
        lived = [float(line) for line in (tmp_path / f"{name}.child").read_text().splitlines()]
        assert any(began < moment < ended for moment in lived for began, ended in own)
        assert not any(
            began < moment < ended for moment in lived for began, ended in in_order if (began, ended) not in own
        )


BUSY = """
import os, signal, sys
import table
with table.every_core_busy() as started:
    print(*started, flush=True)
    print(*(list(os.sched_getaffinity(pid)) for pid in started), flush=True)
    os.kill(os.getpid(), int(sys.argv[1])) if int(sys.argv[1]) else None
"""


@pytest.mark.parametrize("number", [0, pytest.param(9, marks=pytest.mark.soak)])
def test_every_core_is_busy_until_the_measurement_is_over_or_killed(number: int) -> None:
    done = subprocess.run([sys.executable, "-c", BUSY, str(number)], cwd=BENCHMARKS, stdout=subprocess.PIPE, text=True)
    assert done.returncode == -number
    started, cores = done.stdout.splitlines()
    assert cores == " ".join(f"[{core}]" for core in os.sched_getaffinity(0))
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(int(pid)) for pid in started.split()):
        assert time.monotonic() < deadline, "they are left behind"
        time.sleep(0.05)


def test_one_that_dies_between_its_turns_is_told_of(measuring: Any) -> None:
    turns = importlib.import_module("turns")

    def contestant(code: str, environment: dict[str, str]) -> dict[str, list[float]]:
        processes = importlib.import_module("processes")
        processes.run([sys.executable, "-c", code], Path.cwd(), environment)
        return {}

    patient = "import turns; turn = turns.Turn(); turn.wait(); turn.wait(); turn.over()"
    mortal = "import turns; turn = turns.Turn(); turn.wait(); 1 / 0"
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        turns.in_turns({"one": partial(contestant, patient), "other": partial(contestant, mortal)})
    with pytest.raises(RuntimeError, match="SyntaxError"):
        turns.in_turns({"one": partial(contestant, patient), "other": partial(contestant, "never at all")})


def run(*arguments: str, into: Path, more: str = "") -> subprocess.CompletedProcess[str]:
    """What `scripts/bench` runs once everything is installed, its figures written somewhere else."""
    code = (
        f"import sys, runpy, pathlib; sys.path.insert(0, {str(BENCHMARKS)!r}); sys.argv = ['bench', *sys.argv[1:]];"
        f"{more}main = runpy.run_path(sys.path[0] + '/__main__.py', run_name='bench')['main'];"
        f"main.__globals__['FOLDER'] = pathlib.Path({str(into)!r});"
        "sys.exit(main())"
    )
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=into)


WITHOUT_A_STORE = "import table; table._make_store = lambda folder: None;"  # this line's commands have no use for it


@pytest.mark.parametrize("more", [WITHOUT_A_STORE, pytest.param("", marks=pytest.mark.soak)], ids=["quick", "whole"])
def test_a_line_of_the_table_is_measured_judged_written_and_drawn(more: str, tmp_path: Path) -> None:
    done = run("config", into=tmp_path, more=more)
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
    assert (done.returncode == 0) == ("met" in rest) == (float(row["ratio"]) <= 4)
    assert (tmp_path / "bench_look.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_is_measured_draws_its_bar(measuring: Any) -> None:
    """On a terminal without a size, as it is made, none would be drawn, and logging with the bar on not be measured."""
    processes = importlib.import_module("processes")
    # A short epoch draws none: 0.2 s on a fast core is too short.
    long = ("data.batch_size=1", "model.hidden=[512,512]", "optimizer.lr=1e-3", "trainer.epochs=2")
    run = processes.runner(*long, "tracking=off")
    assert "\N{FULL BLOCK}" in run.done.shown and "samples/s" in run.done.shown
    assert len(run.metrics["time/epoch_seconds"]) == len(run.times["time/epoch_seconds"]) == 2


def test_the_memory_of_all_processes_counts(measuring: Any, tmp_path: Path) -> None:
    processes = importlib.import_module("processes")
    half = "held = bytearray(b'1') * (100 << 20); import time; time.sleep(1.0)"
    code = f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', \"{half}\"]); {half}; child.wait()"
    assert 200 < processes.run([sys.executable, "-c", code], tmp_path, weigh=True).megabytes < 300
    assert processes.run([sys.executable, "-c", "pass"], tmp_path).megabytes == 0.0, "nobody looked"


def test_an_unknown_line_is_refused_with_those_there_are(tmp_path: Path) -> None:
    done = run("mlpp", into=tmp_path)
    assert done.returncode == 2
    assert "mlpp: choose from mlp, mlp_every_core, tracking" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def loops(measuring: Any) -> Any:
    return importlib.import_module("loops")


@pytest.fixture(scope="module")
def root(measuring: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What takes MNIST's place where that is not on disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNNER_DATA", "")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        return str(importlib.import_module("samples").mnist_root(tmp_path_factory.mktemp("noise")))


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_models_of_both_sides_are_the_same(loops: Any, root: str, name: str) -> None:
    experiment = built(
        f"model={name}", "data=mnist", f"data.root={root}", "data.limit=16", "data.batch_size=8", "tracking=off"
    )
    theirs = loops.MODELS[name]()
    inputs, _ = loops.images(root, 16)
    with torch.no_grad():
        for our_parameter, their_parameter in zip(experiment.model.parameters(), theirs.parameters(), strict=True):
            assert our_parameter.shape == their_parameter.shape
            their_parameter.copy_(our_parameter)
    torch.testing.assert_close(theirs(inputs), experiment.model(inputs))


def test_the_bare_loop_learns(loops: Any, root: str) -> None:
    torch.manual_seed(0)
    inputs, targets = loops.images(root, 256)
    net, loss = loops.mlp(), torch.nn.CrossEntropyLoss()
    before = loss(net(inputs), targets).item()
    seconds = loops.train(net, inputs, targets, epochs=20)
    assert len(seconds) == 20 and min(seconds) > 0
    assert loss(net(inputs), targets).item() < before / 2


NEW = ("char_gpt", "char_gpt_lightning")


@pytest.mark.parametrize("loop", ["tensors", "notebook", "lightning", "tiny", "forward", "decoding", "resnet", *NEW])
def test_each_loop_tells_the_seconds_of_an_epoch(loops: Any, root: str, loop: str, tmp_path: Path) -> None:
    if "lightning" in loop:
        pytest.importorskip("lightning", reason="the extra 'bench' is not installed")
    importlib.import_module("samples").photographs(tmp_path, 70)
    options: dict[str, dict[str, Any]] = {
        "tensors": {"root": root, "model": "cnn", "samples": 128, "epochs": 3, "channels_last": True},
        "notebook": {"root": root, "model": "mlp", "samples": 128, "epochs": 2},
        "lightning": {"root": root, "model": "mlp", "samples": 128, "epochs": 2},
        "tiny": {"epochs": 3},
        "forward": {"root": root, "samples": 128, "held_out": 64, "epochs": 3},
        "decoding": {"path": str(tmp_path), "size": 64, "workers": 1},
        "char_gpt": {"samples": 24, "epochs": 3},
        "char_gpt_lightning": {"samples": 24, "epochs": 3},
        "resnet": {"samples": 8, "size": 64, "epochs": 1},
    }
    told = tmp_path / "told.json"
    loops.main(loop, str(told), *(f"{key}={value}" for key, value in options[loop].items()))
    assert json.loads(told.read_text()).keys() == {"seconds"}
    warm = 2 if loop in ("tensors", "forward", *NEW) else 1
    seconds = json.loads(told.read_text())["seconds"]
    assert len(seconds) == warm and all(0 < one < 60 for one in seconds)
