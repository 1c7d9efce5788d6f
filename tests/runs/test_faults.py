"""Runs that are killed at named points, in real processes and by real signals; their long form is in test_soak.py."""

from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Called, run_folder
from helpers.delivered import copy_store
from helpers.faults import FAULTS, HIT, inject
from helpers.killed import EVERYTHING, TUNED, assert_delivered, assert_ended_the_same, counts, only_run, starts_at_once
from helpers.sweeping import Forked, wait_for
from runner.rundir.lock import lock
from runner.rundir.manifest import Manifest
from runner.sync import main as sync
from runner.tracking.deliver import Delivery
from runner.tracking.store import connect

Runner = Callable[..., Called]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that is never killed."""
    here = tmp_path_factory.mktemp("whole")
    assert Forked(here, *EVERYTHING, "tracking=off", prepare=inject(None)).wait()[0] == 0
    return run_folder(here)


def killed_at(point: str, here: Path, empty_store: Path) -> tuple[Path, str]:
    """The folder of a run that is killed at a point, and the store that knows it."""
    uri = copy_store(empty_store, here / "outputs")
    code, printed = Forked(here, *EVERYTHING, prepare=inject(point)).wait()
    assert code == -9, printed
    assert (here / HIT).read_text() == point
    return run_folder(here), uri


OFTEN = ("half of a checkpoint is written", "half of a checkpoint is written beside the training",
         "the best checkpoint is linked, the last not replaced",
         "after the journal and before delivery", "after the test, before the result",
         "after the result, before its end is recorded")  # fmt: skip
"""Points at which the default suite kills; it resumes from most of the others elsewhere, and the soak from all."""


@pytest.mark.usefixtures("delivery_here")
@pytest.mark.parametrize(
    "point", [point if point in OFTEN else pytest.param(point, marks=pytest.mark.soak) for point in FAULTS]
)
def test_a_run_killed_there_ends_as_if_nothing_had_happened(
    point: str, here: Path, runner: Runner, empty_store: Path, whole: Path
) -> None:
    folder, uri = killed_at(point, here, empty_store)
    called = runner(f"resume={folder}")
    assert called.code == 0, called.err
    assert_ended_the_same(folder, whole)
    assert sync([]) == 0
    assert_delivered(uri, folder)


def test_a_run_killed_while_a_part_of_it_is_frozen_ends_as_if_it_had_not_been(here: Path, runner: Runner) -> None:
    arguments = (*TUNED, "tracking=off", "trainer.checkpoint_every_steps=1")
    point = "between the temporary write and the rename"
    whole, killed = here / "whole", here / "killed"
    assert runner(*arguments, f"hydra.run.dir={whole}").code == 0
    code, printed = Forked(here, *arguments, f"hydra.run.dir={killed}", prepare=inject(point)).wait()
    assert code == -9, printed
    assert runner(f"resume={killed}").code == 0
    assert_ended_the_same(killed, whole)


class TestTheTruthAboutTheDead:
    """What says RUNNING and is not, the next start of runner on that store finds."""

    def test_the_next_start_marks_a_run_killed_that_nobody_has_any_more(self, here: Path, empty_store: Path) -> None:
        dead, uri = killed_at("after the journal and before delivery", here, empty_store)
        dead_run = only_run(uri)[1].info.run_id
        assert only_run(uri)[1].info.status == "RUNNING"
        alive = here / "alive"
        alive.mkdir()
        Manifest(uri, "another experiment", "alive", str(here / "mlartifacts")).save(alive)
        living = Delivery(alive)
        living.step()
        announced = here / "sweep" / "0"
        announced.mkdir(parents=True)
        Manifest(uri, "another experiment", "about to start", str(here / "mlartifacts")).save(announced)
        waiting = Delivery(announced)
        waiting.step()
        with lock(alive), lock(announced.parent):
            code, printed = Forked(here, *EVERYTHING, prepare=inject(None)).wait()
        assert code == 0, printed
        (line,) = [line for line in printed.splitlines() if line.startswith("found ")]
        assert line.endswith(f"python -m runner resume={dead.relative_to(here)}")
        client = connect(uri)
        killed = client.get_run(dead_run)
        assert killed.info.status == "KILLED"
        assert killed.data.tags["runner.ended"] == "killed without notice"
        sent, delivered, duplicated = counts(client, dead_run, dead)
        assert (delivered, duplicated) == (sent, 0), "and the rest of it is delivered"
        assert client.get_run(living.run_id).info.status == "RUNNING", "whose folder somebody has"
        assert client.get_run(waiting.run_id).info.status == "RUNNING", "which a living sweep has announced"

    @pytest.mark.usefixtures("delivery_here")
    def test_a_run_that_is_finished_later_no_longer_says_that_it_was_killed(
        self, here: Path, runner: Runner, empty_store: Path
    ) -> None:
        folder, uri = killed_at("during validation", here, empty_store)
        wait_for(lambda: only_run(uri)[1].info.status == "KILLED")
        assert "runner.ended" in only_run(uri)[1].data.tags
        assert runner(f"resume={folder}").code == 0
        assert only_run(uri)[1].info.status == "FINISHED"
        assert "runner.ended" not in only_run(uri)[1].data.tags


class TestSeveralPeople:
    def test_starts_at_once_on_a_store_that_does_not_exist(self, here: Path) -> None:
        starts_at_once(here, 4)

    def test_of_two_resumes_at_once_the_second_is_refused_and_the_owner_named(
        self, here: Path, runner: Runner, whole: Path
    ) -> None:
        assert Forked(here, *EVERYTHING, "tracking=off", prepare=inject("mid-accumulation")).wait()[0] == -9
        folder = run_folder(here)
        first = Forked(here, f"resume={folder}", prepare=inject("before the second checkpoint, it waits"))
        wait_for(lambda: (here / HIT).read_text() == "before the second checkpoint, it waits")
        called = runner(f"resume={folder}")
        assert called.code == 2 and called.about == [("", "run")]
        assert f"{folder} is in use by process {first.pid} on " in called.err
        (here / HIT).unlink()
        assert first.wait()[0] == 0
        assert_ended_the_same(folder, whole)
