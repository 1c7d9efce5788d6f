"""Which runs run the same code, so that one of them rehearses a resume for all."""

import os
from pathlib import Path

import pytest
from torch import nn

from helpers.composed import built
from runner.rundir.layout import REHEARSALS
from runner.runs import same_code
from runner.runs.same_code import shared_verdict


def verdict(*overrides: str) -> str:
    file = shared_verdict(built(*overrides))
    assert file is not None and file.parent == Path("outputs").resolve() / REHEARSALS
    return file.name


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ("optimizer.lr=0.3", True),
        ("data.batch_size=16", True),
        ("seed=3", True),
        ("trainer.epochs=3", True),
        ("optimizer.momentum=0.5", False),
        ("model.hidden=[8]", False),
        ("trainer.clip_norm=1", False),
        ("scheduler=constant", False),
    ],
)
def test_what_changes_the_code_that_runs_is_not_shared(changed: str, same: bool, here: Path) -> None:
    (here / "outputs").mkdir()
    assert (verdict() == verdict(changed)) == same


def test_without_outputs_and_behind_a_link_nothing_is_shared(here: Path) -> None:
    assert shared_verdict(built()) is None
    (here / "outputs").mkdir()
    (here / "elsewhere").mkdir()
    (here / "outputs" / REHEARSALS).symlink_to(here / "elsewhere")
    assert shared_verdict(built()) is None


def test_the_oldest_are_forgotten(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(same_code, "MOST", 2)
    (here / "outputs" / REHEARSALS).mkdir(parents=True)
    for age in range(4):
        file = here / "outputs" / REHEARSALS / f"{age}.json"
        file.touch()
        os.utime(file, (1e9 - age, 1e9 - age))
    shared_verdict(built())
    assert sorted(file.name for file in (here / "outputs" / REHEARSALS).iterdir()) == ["0.json", "1.json"]


def test_changed_files_are_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter([["before"], ["after"]])
    monkeypatch.setattr(same_code, "code_state", lambda model: next(states))
    assert same_code.code_of({}, nn.Linear(1, 1)) != same_code.code_of({}, nn.Linear(1, 1))
