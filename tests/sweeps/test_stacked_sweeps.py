"""Sweeps whose jobs are trained as one program, killed, resumed, and beside the same jobs alone."""

import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
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
    assert not (folder / layout.STACKS).exists()
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


def test_a_promoted_job_is_one_that_never_paused(runner: Runner, here: Path) -> None:
    """Alone on its last rung, it is still trained as in a stack."""
    small = ("tracking=off", "data.limit=200", "model.hidden=[8]", "optimizer.lr=0.1,0.01", "hydra/launcher=stacked")
    halving = ("hydra/sweeper=halving", "hydra.sweeper.max_epochs=2", "hydra.sweeper.eta=2", "sweep.jobs=1")
    assert runner("--multirun", *halving, *small, "hydra.sweep.dir=halved").code == 0
    assert results(here / "halved")[0]["epochs"] == 2
    assert runner("--multirun", *small, "trainer.epochs=2", "sweep.jobs=1", "hydra.sweep.dir=whole").code == 0
    assert_ended_the_same(here / "halved" / "0", here / "whole" / "0")


def torch_step(folder: Path) -> int:
    from runner.rundir.checkpoint_file import load

    return int(load(folder / "checkpoints" / "last.pt")["progress"]["step"])


@pytest.mark.soak
def test_killed_at_any_moment_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    axes = (
        "optimizer.lr=0.1,0.03,0.01", "seed=0,1", "scheduler=constant", "trainer.epochs=60", "tracking=off",
        "trainer.early_stopping.patience=8", "hydra/launcher=stacked",
    )  # fmt: skip
    whole = tmp_path / "whole"
    assert Forked(tmp_path, "--multirun", *axes, f"hydra.sweep.dir={whole}").wait(200)[0] == 0
    for seed in range(4):
        draw, folder = random.Random(seed), tmp_path / str(seed)
        sweep = Forked(tmp_path, "--multirun", *axes, f"hydra.sweep.dir={folder}")
        for _ in range(2):
            wait_for(lambda folder=folder: list(folder.glob("*/metrics.jsonl")))
            time.sleep(draw.uniform(0.5, 4))
            with suppress(ProcessLookupError):  # it has ended before
                sweep.send_signal(signal.SIGKILL)
            sweep.wait()
            sweep = Forked(tmp_path, "--multirun", f"sweep.resume={folder}")
        code, printed = sweep.wait(200)
        assert code == 0, printed
        for number in range(6):
            assert_ended_the_same(folder / str(number), whole / str(number))


@pytest.mark.soak
@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-3), ("fp64", 1e-9)])
def test_64_jobs_are_ranked_as_alone(tmp_path: Path, precision: str, most: float) -> None:
    """The difference is that of rounding: double precision has nearly none."""
    axes = (
        "optimizer.lr=0.001,0.002,0.005,0.007,0.01,0.015,0.02,0.03", "seed=0,1,2,3,4,5,6,7", "trainer.epochs=20",
        "sweep.artifacts=best", f"precision={precision}",
    )  # fmt: skip
    ranked: dict[str, list[int]] = {}
    values: dict[str, dict[int, tuple[float, float, float]]] = {}
    for launcher in ("stacked", "local"):
        here = tmp_path / launcher
        here.mkdir()
        code, printed = Forked(here, "--multirun", f"hydra/launcher={launcher}", *axes).wait(500)
        assert code == 0, printed
        folder = sweep_folder(here)
        ended, rows = results(folder), table(folder)["jobs"]
        assert len(ended) == len(rows) == 64
        ranked[launcher], values[launcher] = [row["job"] for row in rows], {}
        client = connect(local_uri(here / "outputs"))
        for number, result in ended.items():
            in_journal, in_store, twice = counts(client, result["run_id"], folder / str(number))
            assert in_journal == in_store and twice == 0
            last = measured(folder / str(number))
            values[launcher][number] = last["val/loss", 20], last["val/accuracy", 20], result["val/loss"]
    loss, accuracy, best = (
        max(abs(values["stacked"][n][place] - values["local"][n][place]) for n in range(64)) for place in range(3)
    )
    print(f"{precision}: largest difference after 20 epochs: loss {loss:.2g}, accuracy {accuracy:.2g}")
    assert loss < most and accuracy < 0.01
    for one, other in zip(*ranked.values(), strict=True):
        assert abs(values["local"][one][2] - values["local"][other][2]) <= 2 * best  # the same job, or a tie
