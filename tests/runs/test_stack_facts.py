"""A run that was trained in a stack is told from one that was not, by its environment.txt."""

from pathlib import Path

from runner.device import resolve
from runner.runs.reproduction import STACK, environment_changes, was_in_stack
from runner.tracking.environment import environment


def test_the_note_about_a_stack(tmp_path: Path) -> None:
    device, stacked, alone = resolve("cpu"), tmp_path / "stacked.txt", tmp_path / "alone.txt"
    stacked.write_text(environment({STACK: "one program with 3 other models"}))
    alone.write_text(environment({}))
    assert [was_in_stack(path) for path in (stacked, alone, tmp_path / "none.txt", None)] == [True, False, False, False]
    together = "as one program with other models"
    assert environment_changes(stacked, device, False) == [f"it was trained {together}, and is trained alone"]
    assert environment_changes(alone, device, False, in_stack=True) == [
        f"it was trained alone, and is trained {together}"
    ]
    assert environment_changes(stacked, device, False, in_stack=True) == environment_changes(alone, device, False) == []
