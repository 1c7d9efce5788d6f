"""Sweeps whose jobs are trained as one program, killed, resumed, and beside the same jobs alone."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Called
from helpers.killed import assert_ended_the_same, counts, measured
from helpers.sweeping import Forked, results, sweep_folder, table, wait_for
from runner.rundir import layout
from runner.tracking.store import connect, local_uri

Runner = Callable[..., Called]

STACKED = ("--multirun", "hydra/launcher=stacked", "sweep.jobs=1")
SMALL = ("data.limit=200", "model.hidden=[8]", "trainer.epochs=3")


@pytest.mark.usefixtures("delivery_here")
def test_jobs_that_can_are_stacked_and_the_others_run_alone(runner: Runner, here: Path) -> None:
    axes = ("optimizer.lr=0.1,0.03", "model.dropout=0,0.5", "sweep.artifacts=best")
    called = runner(*STACKED, *axes, *SMALL)
    assert called.code == 0, called.err
    assert "stacked    2 of 4 jobs run one by one, as with hydra/launcher=local: a stack does not support dropout" in (
        " ".join(called.err.split("           "))
    )
    folder = sweep_folder(here)
    ended = results(folder)
    assert {result["status"] for result in ended.values()} == {"FINISHED"} and len(ended) == 4
    environments = {number: (folder / str(number) / layout.ENVIRONMENT).read_text() for number in ended}
    assert {number for number, text in environments.items() if "stack: one program with 1 other" in text} == {0, 2}
    assert not list((folder / layout.STACKS).glob("*.pt"))
    client = connect(local_uri(here / "outputs"))
    for number, result in ended.items():
        own = folder / str(number)
        in_journal, in_store, twice = counts(client, result["run_id"], own)
        assert in_journal == in_store and twice == 0
        assert (own / "checkpoints" / "best.pt").exists()
    # The same job alone: not the same bits, but nearly. `reproduce` and `resume` say why.
    again = runner(f"resume={folder / '0'}", "trainer.epochs=4")
    assert again.code == 0 and "it was trained as one program with other models, and is trained alone" in again.err


def test_a_resumed_sweep_finishes_the_stack(runner: Runner, here: Path, tmp_path: Path) -> None:
    axes = ("optimizer.lr=0.1,0.03,0.01", "tracking=off", "data.limit=200", "model.hidden=[8]", "trainer.epochs=40")
    sweep = Forked(tmp_path, *STACKED, *axes)
    wait_for(lambda: len(list(tmp_path.glob("outputs/sweeps/*/*/metrics.jsonl"))) == 3)
    sweep.send_signal(signal.SIGTERM)
    assert sweep.wait()[0] == 128 + signal.SIGTERM
    folder = sweep_folder(tmp_path)
    if all(result["status"] == "KILLED" for result in results(folder).values()):
        assert len({torch_step(folder / str(number)) for number in range(3)}) == 1
    code, printed = Forked(tmp_path, "--multirun", f"sweep.resume={folder}").wait()
    assert code == 0, printed
    assert {result["status"] for result in results(folder).values()} == {"FINISHED"}
    assert Forked(tmp_path, *STACKED, *axes, f"hydra.sweep.dir={tmp_path / 'whole'}").wait()[0] == 0
    for number in range(3):
        assert_ended_the_same(folder / str(number), tmp_path / "whole" / str(number))


def torch_step(folder: Path) -> int:
    from runner.rundir.checkpoint import load

    return int(load(folder / "checkpoints" / "last.pt")["progress"]["step"])


@pytest.mark.soak
def test_killed_at_any_moment_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    axes = (
        "optimizer.lr=0.1,0.03,0.01", "seed=0,1", "scheduler=constant", "trainer.epochs=60", "tracking=off",
        "trainer.early_stopping.patience=8", "sweep.artifacts=best", "hydra/launcher=stacked",
    )  # fmt: skip
    whole = tmp_path / "whole"
    assert Forked(tmp_path, "--multirun", *axes, f"hydra.sweep.dir={whole}").wait(200)[0] == 0
    for seed in range(4):
        draw, folder = random.Random(seed), tmp_path / str(seed)
        sweep = Forked(tmp_path, "--multirun", *axes, f"hydra.sweep.dir={folder}")
        for _ in range(2):
            wait_for(lambda folder=folder: list(folder.glob("*/metrics.jsonl")))
            time.sleep(draw.uniform(0.5, 4))
            sweep.send_signal(signal.SIGKILL)
            sweep.wait()
            sweep = Forked(tmp_path, "--multirun", f"sweep.resume={folder}")
        code, printed = sweep.wait(200)
        assert code == 0, printed
        for number in range(6):
            assert_ended_the_same(folder / str(number), whole / str(number))


@pytest.mark.soak
def test_64_jobs_are_ranked_as_alone(tmp_path: Path) -> None:
    axes = (
        "optimizer.lr=0.001,0.005,0.01,0.02,0.03,0.05,0.1,0.3", "seed=0,1,2,3,4,5,6,7", "trainer.epochs=20",
        "sweep.artifacts=best",
    )  # fmt: skip
    ranked, losses, accuracies = {}, {}, {}
    for launcher in ("stacked", "local"):
        here = tmp_path / launcher
        here.mkdir()
        code, printed = Forked(here, "--multirun", f"hydra/launcher={launcher}", *axes).wait(500)
        assert code == 0, printed
        folder = sweep_folder(here)
        ended = results(folder)
        losses[launcher] = {n: measured(folder / str(n))["val/loss", 20] for n in ended}
        accuracies[launcher] = {n: measured(folder / str(n))["val/accuracy", 20] for n in ended}
        ranked[launcher] = [row["job"] for row in table(folder)["jobs"]]
        client = connect(local_uri(here / "outputs"))
        for number, result in ended.items():
            in_journal, in_store, twice = counts(client, result["run_id"], folder / str(number))
            assert in_journal == in_store and twice == 0
        assert len(ended) == 64
    furthest = {
        name: max(abs(values["stacked"][n] - values["local"][n]) for n in values["local"])
        for name, values in {"loss": losses, "accuracy": accuracies}.items()
    }
    print(f"largest difference of 64 jobs after 20 epochs: {furthest}")
    assert furthest["loss"] < 1e-3 and furthest["accuracy"] < 0.01
    moved = [a for a, b in zip(ranked["stacked"], ranked["local"], strict=True) if a != b]
    assert len(moved) <= 4  # ties, to the precision of the difference
