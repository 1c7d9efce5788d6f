"""Secrets in sweeps on Slurm and Ray: neither output nor any file of runner or of the cluster shows them."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm import missing, slurm
from twelve import run

from helpers.sweeping import outcomes, sweep_folder
from helpers.talkative import OF_ALL, SECRETS, assert_no_secret, write_talkative

pytestmark = pytest.mark.cluster


def check(here: Path, *launcher: str) -> None:
    """Run and resume a sweep of a job that prints all secrets, and of one whose exception does."""
    write_talkative(here)
    address = "http://ada:canary-5-tr0ub4dor@127.0.0.1:9"
    typed = (f"tracking.uri={address}", "tracking=server", "tracking.wait=1", f"tracking.run_name={SECRETS['PRIVATE']}")
    environment = SECRETS | {"HYDRA_FULL_ERROR": "1"}
    code, printed = run(here, *OF_ALL, "model.when=never,trained", *typed, *launcher, environment=environment)
    assert code == 1, printed
    folder = sweep_folder(here)
    assert [outcomes(folder)[number]["status"] for number in (0, 1)] == ["FINISHED", "FAILED"]
    hidden = "the hub refuses ${oc.env:PRIVATE}${oc.env:MLFLOW_TRACKING_PASSWORD}"
    assert hidden in printed and hidden in json.dumps(outcomes(folder)[1]), printed
    assert "trained ${oc.env:PRIVATE}" in (folder / "1" / "run.log").read_text()
    code, again = run(here, f"sweep.resume={folder}", f"tracking.uri={address}", environment=environment)
    assert code == 1, again
    (here / "shown.txt").write_text(printed + again)
    assert_no_secret(here)


@pytest.mark.skipif(bool(missing()), reason=f"no {missing()} here: apt-get install slurmctld slurmd slurm-client munge")
@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed")
class TestOnSlurm:
    @pytest.fixture
    @staticmethod
    def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
        with slurm(tmp_path_factory.mktemp("slurm")) as environment:
            yield environment

    def test_a_sweep(self, tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SLURM_CONF", environment["SLURM_CONF"])
        check(tmp_path, "hydra/launcher=slurm", "hydra.launcher.partition=test", "hydra.launcher.cpus_per_task=1")
        assert list(tmp_path.rglob("*.err")) and list(tmp_path.rglob("*_submission.sh"))


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install -e '.[ray]'")
class TestOnRay:
    def test_a_sweep(self, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        session = tmp_path_factory.mktemp("r")
        check(tmp_path, "hydra/launcher=ray", f"+hydra.launcher.ray.init._temp_dir={session}")
        logs = list(session.rglob("worker-*.err"))
        assert logs
        for path in logs:
            assert "canary-" not in path.read_text(errors="replace"), path
