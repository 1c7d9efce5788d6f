"""Searches and runs on a team's PostgreSQL, which is stopped hard and started again: `scripts/soak`."""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import CalledProcessError

import optuna
import pytest

from helpers import postgres
from helpers.bowl import SEARCH, SPACE, write_bowl
from helpers.sweeping import start, sweep_folder, table, wait_for

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing())),
]

SMALL = ("hydra.sweeper.n_trials=6", "trainer.epochs=20", "model.seconds=0.05", "sweep.jobs=2")


@pytest.fixture
def database() -> Iterator[postgres.Postgres]:
    folder = Path(tempfile.mkdtemp())
    server = postgres.Postgres(folder)
    server.start()
    yield server
    with suppress(CalledProcessError):  # it may be stopped already
        server.stop()
    shutil.rmtree(folder)


def states_in(address: str, name: str) -> list[str]:
    return sorted(trial.state.name for trial in optuna.load_study(study_name=name, storage=address).trials)


def test_a_search_survives_a_database_that_is_stopped_hard(database: postgres.Postgres, tmp_path: Path) -> None:
    write_bowl(tmp_path)
    stored = f"hydra.sweeper.storage={database.with_password}"
    sweep = start(tmp_path, *SEARCH[1:], *SPACE, *SMALL, "hydra.sweeper.study_name=s", stored)
    wait_for(lambda: list(tmp_path.glob("outputs/sweeps/*/*/job.json")))
    database.stop()
    wait_for(lambda: "storage is away" in (sweep_folder(tmp_path) / "run.log").read_text())
    database.start()
    _, printed = sweep.communicate(timeout=200)
    assert sweep.returncode == 0, printed
    assert "the study's storage is away" in printed and "the study's storage is back" in printed
    assert {row["status"] for row in table(sweep_folder(tmp_path))["jobs"]} == {"FINISHED"}
    assert len(table(sweep_folder(tmp_path))["jobs"]) == 6
    assert set(states_in(database.with_password, "s")) <= {"COMPLETE", "PRUNED"}
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"lovelace-1815" not in path.read_bytes(), path


def test_after_its_timeout_there_is_a_table_and_a_resume_reports_what_waited(
    database: postgres.Postgres, tmp_path: Path
) -> None:
    write_bowl(tmp_path)
    stored = f"hydra.sweeper.storage={database.with_password}"
    more = ("hydra.sweeper.study_name=s", "hydra.sweeper.storage_timeout=1", "hydra/sweeper/pruner=none", stored)
    sweep = start(tmp_path, *SEARCH[1:], *SPACE, *SMALL, *more)
    wait_for(lambda: list(tmp_path.glob("outputs/sweeps/*/*/job.json")))
    database.stop()
    _, printed = sweep.communicate(timeout=200)
    folder = sweep_folder(tmp_path)
    assert sweep.returncode == 1 and "Traceback" not in printed
    assert f" python -m runner --multirun sweep.resume={folder.relative_to(tmp_path)}" in printed
    rows = table(folder)["jobs"]
    assert 0 < len(rows) < 6 and {row["status"] for row in rows} == {"FINISHED"}
    assert (folder / "jobs.csv").is_file()
    again = start(tmp_path, f"sweep.resume={folder}", stored)
    _, printed = again.communicate(timeout=60)
    assert again.returncode == 2 and "hydra.sweeper.storage" in printed and "refused" in printed
    database.start()
    again = start(tmp_path, f"sweep.resume={folder}")  # the user name is saved, the password is not
    _, printed = again.communicate(timeout=60)
    assert again.returncode == 2 and "hydra.sweeper.storage=<dialect>://<user>:<password>@" in printed
    database.stop()
    again = start(tmp_path, f"sweep.resume={folder}", stored, "hydra.sweeper.storage_timeout=100")
    assert again.stderr is not None
    assert any("waiting for it" in line for line in again.stderr)
    database.start()
    _, printed = again.communicate(timeout=200)
    assert again.returncode == 0, printed
    assert states_in(database.with_password, "s") == ["COMPLETE"] * 6


def test_a_new_search_does_not_wait_for_an_address_that_may_be_wrong(
    database: postgres.Postgres, tmp_path: Path
) -> None:
    write_bowl(tmp_path)
    database.stop()
    stored = f"hydra.sweeper.storage={database.with_password}"
    sweep = start(tmp_path, *SEARCH[1:], *SPACE, *SMALL, "hydra.sweeper.study_name=s", stored)
    _, printed = sweep.communicate(timeout=60)
    assert sweep.returncode == 2 and "refused" in printed and not (tmp_path / "outputs" / "sweeps").exists()


def test_a_search_over_a_database_that_is_frozen_ends_by_ctrl_c(database: postgres.Postgres, tmp_path: Path) -> None:
    write_bowl(tmp_path)
    stored = f"hydra.sweeper.storage={database.with_password}"
    sweep = start(tmp_path, *SEARCH[1:], *SPACE, *SMALL, "hydra.sweeper.study_name=s", stored)
    wait_for(lambda: list(tmp_path.glob("outputs/sweeps/*/*/job.json")))
    with database.frozen():
        wait_for(lambda: "storage is away" in (sweep_folder(tmp_path) / "run.log").read_text())
        sweep.send_signal(signal.SIGINT)
        _, printed = sweep.communicate(timeout=60)
        assert sweep.returncode == 130, printed
    folder = sweep_folder(tmp_path)
    assert f"resume     python -m runner --multirun sweep.resume={folder.relative_to(tmp_path)}" in printed
    assert (folder / "jobs.csv").is_file() and (folder / "jobs.json").is_file()
    again = start(tmp_path, f"sweep.resume={folder}", stored)
    _, printed = again.communicate(timeout=200)
    assert again.returncode == 0, printed
    assert set(states_in(database.with_password, "s")) <= {"COMPLETE", "PRUNED"}
    assert len(states_in(database.with_password, "s")) == 6
