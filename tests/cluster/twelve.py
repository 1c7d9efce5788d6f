"""A test that both launchers share: twelve jobs, of which one raises and one is killed, and their resume."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from helpers.sweeping import content, outcomes, results, start, sweep_folder, table, write_fates
from runner.tracking.store import connect, local_uri

FATES = ("raises", "killed", *(f"good{number}" for number in range(10)))
OF_ALL = ("--config-dir", "my_conf", "model=fated", "data.limit=200", "trainer.epochs=2", "tracking.log_model=false")


def run(here: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run `python -m runner --multirun ...`; return its exit code and its output."""
    before = dict(os.environ)
    os.environ.update(environment or {})
    try:
        sweep = start(here, *arguments)
        _, printed = sweep.communicate(timeout=400)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return sweep.returncode, printed


class TwelveJobs:
    """Ten finish, two rows have a reason, and a resume completes the sweep.

    Attributes:
        launcher: the arguments that choose the launcher.
    """

    launcher: tuple[str, ...]

    @pytest.fixture(scope="class")
    @staticmethod
    def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("twelve")

    def test_ten_finish_and_two_rows_have_a_reason(self, here: Path, environment: dict[str, str]) -> None:
        write_fates(here)
        code, printed = run(here, *OF_ALL, f"model.fate={','.join(FATES)}", *self.launcher, environment=environment)
        assert code == 1, printed
        folder = sweep_folder(here)
        assert [outcomes(folder)[number]["status"] for number in range(12)] == ["FAILED", "KILLED", *["FINISHED"] * 10]
        rows = {row["job"]: row for row in table(folder)["jobs"]}
        assert rows[0]["why"].startswith("ValueError: a mistake of the user's (fates.py, line ") and rows[1][
            "why"
        ].startswith("SIGKILL")
        assert all(rows[number]["val/loss"] > 0 for number in range(2, 12))
        assert "Traceback" not in printed and f"sweep.resume=outputs/sweeps/{folder.name}" in printed
        client = connect(local_uri(here / "outputs"))
        runs = client.search_runs([client.get_experiment_by_name("runner").experiment_id])
        status = {run.data.tags.get("runner.job", "parent"): run.info.status for run in runs}
        finished = {str(number): "FINISHED" for number in range(2, 12)}
        assert status == {"parent": "FAILED", "0": "FAILED", "1": "KILLED", **finished}
        (good,) = [run for run in runs if run.data.tags.get("runner.job") == "5"]
        assert [p.step for p in client.get_metric_history(good.info.run_id, "val/loss")] == [1, 2]

    def test_resume_completes_it_and_touches_nothing_else(self, here: Path, environment: dict[str, str]) -> None:
        folder = sweep_folder(here)
        (here / "fixed").touch()
        before = {number: content(folder / str(number)) for number in range(2, 12)}
        code, printed = run(here, f"sweep.resume={folder}", environment=environment)  # with the same launcher
        assert code == 0, printed
        assert {number: content(folder / str(number)) for number in range(2, 12)} == before
        assert {result["status"] for result in results(folder).values()} == {"FINISHED"}
        assert json.loads((folder / "failed_attempts" / "0_1" / "result.json").read_text())["status"] == "FAILED"
