import math
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.training import exact_state, same, training
from runner.rundir import layout
from runner.rundir.checkpoint_file import load
from runner.rundir.epoch_seconds import METRIC, EpochSeconds
from runner.rundir.journal import Journal
from runner.training.loop import fit
from runner.training.saving import restore
from runner.training.state import Training


def lines(folder: Path) -> list[float]:
    return [float(line) for line in (folder / layout.EPOCH_SECONDS).read_text().splitlines()]


class TestFile:
    def test_it_has_a_line_for_each_epoch(self, tmp_path: Path) -> None:
        seconds = EpochSeconds(tmp_path)
        seconds.append(0, [0.5, 1 / 3])
        seconds.append(2, [])
        seconds.append(2, [2e-05])
        assert lines(tmp_path) == seconds.read(3) == [0.5, 1 / 3, 2e-05]
        assert seconds.read(2) == [0.5, 1 / 3] and seconds.read(0) == []

    @pytest.mark.parametrize("done", [0, 1, 3])
    def test_a_resume_cuts_it_to_the_epochs_of_its_checkpoint(self, tmp_path: Path, done: int) -> None:
        EpochSeconds(tmp_path).append(0, [1.0, 2.0, 3.0])
        with (tmp_path / layout.EPOCH_SECONDS).open("a") as file:
            file.write("4.0\n5.")  # killed while it was written
        resumed = EpochSeconds(tmp_path)
        assert resumed.read(done) == [1.0, 2.0, 3.0][:done], "before anything is written"
        resumed.append(done, [8.0])
        resumed.append(done + 1, [9.0])
        assert lines(tmp_path) == [*[1.0, 2.0, 3.0][:done], 8.0, 9.0]

    @pytest.mark.parametrize("left", [None, b"", b"1.0\n", b"1.0\n2.", b"1.0\n\0\0\0\0\n3.0\n", b"1.0\n\0\0\0\0"])
    def test_lines_that_are_lost_come_from_the_journal(self, tmp_path: Path, left: bytes | None) -> None:
        journal = Journal(tmp_path / layout.JOURNAL)
        journal.write({METRIC: 1.0, "val/loss": 7.0}, 1)
        journal.write({METRIC: 3.0}, 3)
        if left is not None:
            (tmp_path / layout.EPOCH_SECONDS).write_bytes(left)
        resumed = EpochSeconds(tmp_path)
        assert [resumed.read(3)[0], resumed.read(3)[2]] == [1.0, 3.0]
        resumed.append(3, [4.0])
        assert [lines(tmp_path)[epoch] for epoch in (0, 2, 3)] == [1.0, 3.0, 4.0]
        assert math.isnan(lines(tmp_path)[1]), "the second epoch was not logged"
        assert len(lines(tmp_path)) == 4

    def test_an_error_names_the_file(self, tmp_path: Path) -> None:
        (tmp_path / layout.EPOCH_SECONDS).mkdir()
        with pytest.raises(OSError, match=layout.EPOCH_SECONDS):
            EpochSeconds(tmp_path).append(0, [1.0])

    @pytest.mark.parametrize("done", [0, 2, 3])
    def test_a_link_is_not_followed(self, tmp_path: Path, done: int) -> None:
        target = tmp_path / "another.txt"
        target.write_text("1.0\n2.0\n")
        (tmp_path / layout.EPOCH_SECONDS).symlink_to(target)
        with pytest.raises(OSError, match=layout.EPOCH_SECONDS):
            EpochSeconds(tmp_path).append(done, [3.0])
        assert target.read_text() == "1.0\n2.0\n"


def logged(*parts: Training) -> list[float]:
    """Return the seconds of epochs that one or more parts of a training have logged; a later part's count."""
    seconds: dict[int, float] = {}
    for part in parts:
        seconds |= part.log.of(METRIC)  # type: ignore[attr-defined]
    return [seconds[epoch] for epoch in sorted(seconds)]


def all_seconds(state: Training) -> list[float]:
    unsaved = state.progress.epoch_seconds
    return [*state.epoch_seconds.read(state.progress.finished_epochs - len(unsaved)), *unsaved]


def no_best(state: Training) -> Training:
    """Let no epoch be the best, as such an epoch has a checkpoint."""
    state.monitor.update = lambda *_, **__: False  # type: ignore[method-assign]
    return state


class TestTraining:
    def test_a_checkpoint_does_not_grow_with_the_epochs_done(self, tmp_path: Path) -> None:
        state = training(tmp_path, epochs=100)
        sizes: dict[int, int] = {}
        state.after_save = lambda: sizes.update({state.progress.epoch: state.checkpoints.last.stat().st_size})
        fit(state)
        assert abs(sizes[101] - sizes[6]) <= 128  # alignment in the container; a list of 95 numbers takes 855 bytes
        saved = load(state.checkpoints.last)["progress"]
        assert saved["epoch_seconds"] == [] and saved["trained_seconds"] == pytest.approx(sum(logged(state)))
        assert lines(tmp_path) == all_seconds(state) == logged(state)

    def test_epochs_without_a_checkpoint_are_written_with_the_next_one(self, tmp_path: Path) -> None:
        state = no_best(training(tmp_path, epochs=7, checkpoint_every_epochs=3))
        counts: list[int] = []
        state.after_save = lambda: counts.append(len(lines(tmp_path)))
        fit(state)
        assert counts == [3, 6, 7] and lines(tmp_path) == logged(state)

    def test_a_run_that_fails_before_its_first_checkpoint_has_them_too(self, tmp_path: Path) -> None:
        state = no_best(training(tmp_path, epochs=3, checkpoint_every_epochs=9))
        log = state.log
        state.log = lambda metrics, epoch: log(metrics, epoch) if epoch < 3 else {}["no third epoch"]
        with pytest.raises(KeyError):
            fit(state)
        assert all_seconds(state) == list(log.of(METRIC).values()) and len(all_seconds(state)) == 2  # type: ignore[attr-defined]
        assert not (tmp_path / layout.EPOCH_SECONDS).exists()

    def test_a_kill_between_the_seconds_and_the_checkpoint_is_exact(self, tmp_path: Path) -> None:
        whole = training(tmp_path / "whole", epochs=5)
        fit(whole)
        folder = tmp_path / "killed"
        killed = training(folder, epochs=5)
        save = killed.checkpoints.save

        def save_two(state: dict[str, Any], best: bool, wait: bool) -> None:
            if killed.progress.epoch == 4:
                raise KeyboardInterrupt
            save(state, best, wait)

        killed.checkpoints.save = save_two  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            fit(killed)
        assert len(lines(folder)) == 3 and load(killed.checkpoints.last)["progress"]["epoch"] == 3
        resumed = training(folder, epochs=5)
        restore(resumed, resumed.checkpoints.load_last())
        assert resumed.progress.finished_epochs == 2
        fit(resumed)
        first = {epoch: seconds for epoch, seconds in killed.log.of(METRIC).items() if epoch < 3}  # type: ignore[attr-defined]
        assert lines(folder) == all_seconds(resumed) == [*first.values(), *logged(resumed)]
        one, other = (exact_state(load(state.checkpoints.last)) for state in (whole, resumed))
        assert same(one, other)

    def test_a_checkpoint_of_an_earlier_version_has_the_seconds_itself(self, tmp_path: Path) -> None:
        first = training(tmp_path, epochs=3)
        fit(first)
        earlier = load(first.checkpoints.last)
        del earlier["progress"]["trained_seconds"]
        earlier["progress"]["epoch_seconds"] = logged(first)
        (tmp_path / layout.EPOCH_SECONDS).unlink()
        torch.save(earlier, first.checkpoints.last)
        resumed = training(tmp_path, epochs=5)
        restore(resumed, resumed.checkpoints.load_last())
        assert resumed.progress.trained_seconds == pytest.approx(sum(logged(first)))
        assert all_seconds(resumed) == logged(first), "before a checkpoint is written"
        fit(resumed)
        assert lines(tmp_path) == all_seconds(resumed) == logged(first, resumed)
        saved = load(resumed.checkpoints.last)["progress"]
        assert saved["epoch_seconds"] == []
        assert saved["trained_seconds"] == pytest.approx(sum(logged(first, resumed)))
