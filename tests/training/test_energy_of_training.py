"""The energy of training: what is logged, what a kill leaves, and that a part is never taken for the whole."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.sweeping import wait_for
from runner.rundir import layout
from runner.rundir.energy import METRIC, save, saved, spent
from runner.rundir.journal import Journal
from runner.training import energy
from runner.training.energy import Energy, measure
from runner.util.energy import JOULES_PER_KWH, UnreadableError


class Given:
    """A counter that returns the given kilowatt-hours one after the other, and then cannot be read."""

    name = "CPU"

    def __init__(self, *kwh: float) -> None:
        self.left = list(kwh)

    def joules(self) -> float:
        if not self.left:
            raise UnreadableError("it is gone")
        return self.left.pop(0) * JOULES_PER_KWH


@pytest.fixture
def each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "LOG_SECONDS", 0.0)


@pytest.mark.usefixtures("each_epoch")
class TestMetric:
    def test_it_adds_up_over_epochs_counters_and_earlier_starts(self, tmp_path: Path) -> None:
        measured = Energy([Given(1, 2, 4), Given(0.5, 0, 0)], tmp_path, earlier=10)
        assert measured.kwh == 10
        assert measured.of_epoch(1) == {METRIC: 11.5}
        assert measured.of_epoch(2) == {METRIC: 13.5}
        assert measured.close(3) == {METRIC: 17.5}
        assert measured.kwh == saved(tmp_path) == 17.5
        assert measured.close() == measured.of_epoch(4) == {}

    def test_the_last_epoch_has_one_value(self, tmp_path: Path) -> None:
        measured = Energy([Given(1, 2)], tmp_path)
        measured.of_epoch(1)
        assert measured.close(1) == {} and measured.kwh == saved(tmp_path) == 1

    def test_a_stopped_run_has_all_that_it_used_and_logs_no_epoch_that_it_did_not_end(self, tmp_path: Path) -> None:
        measured = Energy([Given(1, 2)], tmp_path)
        measured.of_epoch(1)
        assert measured.close() == {} and measured.kwh == saved(tmp_path) == 3

    def test_a_counter_that_fails_ends_the_measurement_with_a_line(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "runner")
        measured = Energy([Given(1, 1, 1), Given(1)], tmp_path)
        assert measured.of_epoch(1) == {METRIC: 2}
        assert measured.of_epoch(2) == {} and measured.close(3) == {}
        assert measured.kwh is None and saved(tmp_path) is None and (tmp_path / layout.ENERGY).exists()
        assert [record.getMessage() for record in caplog.records] == ["energy     no longer measured: it is gone"]

    def test_a_disk_that_is_full_stops_nothing(self, tmp_path: Path) -> None:
        measured = Energy([Given(1, 1)], tmp_path / "a file" / "in the way")
        (tmp_path / "a file").touch()
        assert measured.of_epoch(1) == {METRIC: 1} and measured.close(2) == {METRIC: 2}


def test_within_a_second_nothing_is_read_again(tmp_path: Path) -> None:
    measured = Energy([Given(1)], tmp_path)
    assert measured.of_epoch(1) == measured.of_epoch(2) == {}
    assert measured.close(2) == {METRIC: 1}


def test_without_a_counter_there_is_no_metric_and_no_file(tmp_path: Path) -> None:
    assert Energy(folder=tmp_path, earlier=1.0).kwh == 1.0, "that of a finished run"
    measured = Energy(folder=tmp_path)
    assert measured.kwh is None and measured.of_epoch(1) == measured.close(1) == {}
    assert list(tmp_path.iterdir()) == []


def test_the_sum_is_saved_while_an_epoch_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "SAMPLE_SECONDS", 0.001)
    measured = Energy([Given(*[1.0] * 100_000)], tmp_path)
    wait_for(lambda: (saved(tmp_path) or 0) >= 3)  # what a kill would leave
    measured.close()
    assert saved(tmp_path) == measured.kwh


class TestResume:
    @staticmethod
    def start(folder: Path, *kwh: float, resumed: bool = True) -> Energy:
        def counters() -> list[Given]:
            if not kwh:
                raise UnreadableError("there is none")
            return [Given(*kwh)]

        device: Any = SimpleNamespace(energy_counters=counters)
        return measure(device, folder, resumed)

    def test_a_resumed_run_adds_to_its_earlier_starts(self, tmp_path: Path) -> None:
        self.start(tmp_path, 1, resumed=False).close()
        self.start(tmp_path, 2).close()
        measured = self.start(tmp_path, 4)
        assert measured.close(9) == {METRIC: 7}

    def test_a_start_that_measured_nothing_leaves_the_sum_unknown_for_good(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "runner")
        self.start(tmp_path, 1, resumed=False).close()
        assert self.start(tmp_path).kwh is None
        assert self.start(tmp_path, 1).kwh is None
        assert [record.getMessage() for record in caplog.records] == [
            "energy     measured of: CPU",
            "energy     not measured: there is none",
            "energy     not measured: an earlier start of this run did not measure it",
        ]
        assert all(record.levelno == logging.DEBUG for record in caplog.records), "in run.log, not on the terminal"

    def test_a_run_that_began_without_measuring_is_not_measured_later(self, tmp_path: Path) -> None:
        assert self.start(tmp_path, resumed=False).kwh is None
        assert self.start(tmp_path, 1).kwh is None

    def test_a_folder_recovered_from_mlflow_goes_on_from_the_logged_value(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / layout.JOURNAL)
        journal.write({METRIC: 1.5, "val/loss": 1.0}, 1)
        journal.write({METRIC: 2.5}, 2)
        journal.close()
        assert spent(tmp_path) == 2.5 and saved(tmp_path) is None
        save(tmp_path, 3.0)
        assert spent(tmp_path) == saved(tmp_path) == 3.0

    @pytest.mark.parametrize("content", ["", "[]", '{"kwh": true}', '{"kwh": -1}', '{"kwh": NaN}', '{"kwh": "1"}'])
    def test_a_damaged_file_is_not_a_sum(self, tmp_path: Path, content: str) -> None:
        (tmp_path / layout.ENERGY).write_text(content)
        assert spent(tmp_path) is None and self.start(tmp_path, 1).kwh is None
