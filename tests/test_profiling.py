import json
from collections.abc import Callable
from pathlib import Path

from conftest import Called, run_folder
from runner.loop import fit
from runner.profiling import WARM_UP_STEPS, Profiler
from training import same, training


def test_a_table_and_a_trace(runner: Callable[..., Called], here: Path) -> None:
    called = runner("debug=profile", "tracking=off", "data.limit=200", "data.batch_size=8", "trainer.profile_steps=9")
    lines = called.err.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("profile    9 steps"))
    end = next(i for i, line in enumerate(lines) if line.startswith("of which the longest operations"))
    parts = {line.split()[0]: float(line.split()[1]) for line in lines[begin + 1 : end]}
    assert set(parts) >= {"data", "forward", "loss", "backward", "step", "loop"}
    whole = float(lines[begin].split()[3])
    assert abs(sum(parts.values()) - whole) < 0.01 * whole
    folder = run_folder(here) / "profile"
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert names.count("forward") == names.count("backward") == 9
    assert "aten::addmm" in (folder / "table.txt").read_text()
    assert (
        f"trace outputs/runs/{folder.parent.name}/profile/trace.json: drop it on https://ui.perfetto.dev" in called.err
    )


def test_it_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    states = []
    for traced in (False, True):
        t = training(tmp_path / str(traced), batch_size=8, epochs=2)
        before = {**vars(t.precision)}, {**vars(t.loss)}, {**vars(t.loaders.train)}
        profiler = Profiler(t, 3, tmp_path / "profile") if traced else None
        fit(t)
        if profiler is not None:
            assert t.progress.step > WARM_UP_STEPS + 3  # it has stopped by itself
            profiler.stop()
            assert "epoch" not in vars(t.loaders.train)
            assert vars(t.loss).keys() == before[1].keys()
        states.append(t.model.state_dict())
    assert same(dict(states[0]), dict(states[1]))


def test_an_epoch_too_short_to_trace_is_said_to_be(runner: Callable[..., Called]) -> None:
    called = runner("debug=profile", "tracking=off", "data.limit=20", "trainer.epochs=1")
    assert called.code == 0
    assert "nothing to show before step 6" in called.err
