"""Which jobs of a sweep run the same code, so that one of them rehearses a resume for all."""

from pathlib import Path

import pytest
from torch import nn

from helpers.composed import built
from helpers.sweeping import Forked
from runner.rundir.layout import REHEARSALS, SWEEP_PLAN
from runner.runs import same_code
from runner.runs.same_code import shared_verdict


def verdict(folder: Path, *overrides: str) -> str:
    file = shared_verdict(built(*overrides), folder / "0")
    assert file is not None and file.parent == folder / REHEARSALS
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
def test_what_changes_the_code_that_runs_is_not_shared(changed: str, same: bool, tmp_path: Path) -> None:
    (tmp_path / SWEEP_PLAN).write_text("{}")
    assert (verdict(tmp_path) == verdict(tmp_path, changed)) == same


def test_outside_of_a_sweep_and_behind_a_link_nothing_is_shared(tmp_path: Path) -> None:
    assert shared_verdict(built(), tmp_path / "0") is None
    (tmp_path / SWEEP_PLAN).write_text("{}")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / REHEARSALS).symlink_to(tmp_path / "elsewhere")
    assert shared_verdict(built(), tmp_path / "0") is None


def test_changed_files_are_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter([["before"], ["after"]])
    monkeypatch.setattr(same_code, "code_state", lambda model: next(states))
    assert same_code.code_of({}, nn.Linear(1, 1)) != same_code.code_of({}, nn.Linear(1, 1))


def test_the_jobs_of_a_sweep_share_it(here: Path) -> None:
    arguments = ("--multirun", "optimizer.lr=0.1,0.2", "seed=0,1", "sweep.jobs=1", "hydra.sweep.dir=sweep")
    sweep = Forked(here, *arguments, "trainer.epochs=1", "data.limit=64", "tracking=off")
    assert sweep.wait()[0] == 0
    assert len(list((here / "sweep" / REHEARSALS).iterdir())) == 1
