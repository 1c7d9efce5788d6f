"""Runs whose machine loses its power: all files are cut back to what was flushed, and no point is lost or twice."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from conftest import Called, run_folder
from helpers import power
from helpers.delivered import copy_store
from helpers.faults import inject, lose_power_at
from helpers.killed import EVERYTHING, assert_delivered, assert_ended_the_same
from helpers.sweeping import Forked
from runner.rundir import layout
from runner.rundir.delivery_state import DeliveryState
from runner.sync import main as sync

Runner = Callable[..., Called]

LONGER = (*(argument for argument in EVERYTHING if "trainer.epochs=" not in argument), "trainer.epochs=6")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that is never interrupted."""
    here = tmp_path_factory.mktemp("whole")
    assert Forked(here, *LONGER, "tracking=off", prepare=inject(None)).wait()[0] == 0
    return run_folder(here)


def loses_power_and_is_resumed(number: int, here: Path, runner: Runner, empty_store: Path, whole: Path) -> None:
    """Run, lose the power at a point that the number chooses, resume, and compare."""
    draw = random.Random(number)
    uri = copy_store(empty_store, here / "outputs")
    records = here / "records"
    prepare = partial(lose_power_at, draw.randint(4, 44), records)
    code, printed = Forked(here, *LONGER, prepare=prepare).wait(120)
    assert code == -9, printed
    folder = run_folder(here)
    power.lose(here / "outputs", records, renames=draw.random() < 0.5, older=draw.random() < 0.5,
               zeros=draw.random() < 0.5)  # fmt: skip
    size = (folder / layout.JOURNAL).stat().st_size
    assert DeliveryState.load(folder).offset <= size, "noted, and not on the disk"
    called = runner(f"resume={folder}")
    assert called.code == 0, called.err
    assert_ended_the_same(folder, whole)
    assert sync([]) == 0
    assert_delivered(uri, folder)


@pytest.mark.usefixtures("delivery_here")
@pytest.mark.parametrize("number", [0, *(pytest.param(number, marks=pytest.mark.soak) for number in range(1, 20))])
def test_a_power_loss_loses_no_point_and_doubles_none(
    number: int, here: Path, runner: Runner, empty_store: Path, whole: Path
) -> None:
    loses_power_and_is_resumed(number, here, runner, empty_store, whole)
