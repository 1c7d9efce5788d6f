import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Called, run_folder
from helpers.training import same, training
from runner.training.loop import fit
from runner.training.profiling import WARM_UP_STEPS, Profiler


def test_a_table_and_a_trace(runner: Callable[..., Called], here: Path) -> None:
    called = runner("debug=profile", "tracking=off", "data.limit=200", "data.batch_size=8", "trainer.profile_steps=9")
    lines = called.err.splitlines()
    (profile,) = [line for line in lines if line.startswith("profile    9 steps")]
    parts = rows(lines, "profile    ")
    assert set(parts) >= {"data", "forward", "backward", "step", "loop"}
    whole = float(profile.split()[3])
    assert abs(sum(parts.values()) - whole) < 0.01 * whole
    folder = run_folder(here) / "profile"
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert names.count("forward") == names.count("backward") == 9
    assert "aten::addmm" in (folder / "table.txt").read_text()
    (trace,) = [line for line in lines if "https://ui.perfetto.dev" in line]
    assert f" outputs/runs/{folder.parent.name}/profile/trace.json" in trace


def rows(lines: list[str], first: str) -> dict[str, float]:
    """Return the milliseconds of the lines below the first line with this start, by name."""
    begin = next(number for number, line in enumerate(lines) if line.startswith(first))
    below = itertools.takewhile(lambda line: re.match(r" *\w+ +[\d.]+ ms +[\d.]+%", line), lines[begin + 1 :])
    return {line.split()[0]: float(line.split()[1]) for line in below}


def test_an_epoch_that_is_not_traced_is_timed_with_all_its_parts(runner: Callable[..., Called]) -> None:
    called = runner("debug=profile", "tracking=off", "data.limit=200", "data.batch_size=8", "trainer.profile_steps=9")
    lines = called.err.splitlines()
    (epoch,) = [line for line in lines if line.startswith("epoch      ")]
    assert " ms, " in epoch and " 2 epochs " in epoch
    parts = rows(lines, "epoch      ")
    assert list(parts) == ["training", "validation", "checkpoint", "logging", "rest"]
    assert min(parts.values()) > 0
    assert sum(parts.values()) == pytest.approx(float(epoch.split()[1]), rel=0.01)


def test_what_is_validated_and_written_after_the_last_step_is_no_part_of_one(
    runner: Callable[..., Called], here: Path
) -> None:
    called = runner(
        "debug=profile", "tracking=off", "data.limit=200", "data.batch_size=8", "trainer.profile_steps=99",
        "trainer.epochs=1",
    )  # fmt: skip
    lines = called.err.splitlines()
    assert any(line.startswith("profile    15 steps") for line in lines), "20 steps without five warm-up steps"
    assert not rows(lines, "profile    ").keys() & {"validation", "checkpoint", "logging"}
    assert not any(line.startswith("epoch      ") for line in lines), "all epochs are traced"


def test_a_training_that_ends_with_the_warm_up_is_no_failure(runner: Callable[..., Called]) -> None:
    called = runner("debug=profile", "tracking=off", f"trainer.max_steps={WARM_UP_STEPS}")
    assert called.code == 0
    assert re.search(r"profile .*\bstep 6\b", called.err)


def test_it_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    states = []
    for traced in (False, True):
        state = training(tmp_path / str(traced), batch_size=8, epochs=2)
        owners = (
            state.precision,
            state.task.loss,
            state.loaders.train,
            state.loaders.val,
            state.checkpoints,
            state.display,
            state,
        )
        before = [vars(owner).copy() for owner in owners]
        profiler = Profiler(state, 3, tmp_path / "profile") if traced else None
        fit(state)
        if profiler is not None:
            assert state.progress.step > WARM_UP_STEPS + 3  # tracing has ended
            profiler.stop()
            for owner, had in zip(owners, before, strict=True):
                assert vars(owner).keys() == had.keys()
                assert all(vars(owner)[name] is had[name] for name in had if callable(had[name]))
        states.append(state.model.state_dict())
    assert same(dict(states[0]), dict(states[1]))


def test_an_epoch_too_short_to_trace_is_said_to_be(runner: Callable[..., Called]) -> None:
    called = runner("debug=profile", "tracking=off", "data.limit=20", "trainer.epochs=1")
    assert called.code == 0
    assert re.search(r"profile .*\bstep 6\b", called.err)
