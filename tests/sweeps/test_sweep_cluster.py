"""The parts of a sweep on a cluster that need no cluster; tests/cluster starts a real Ray and Slurm."""

import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import Called
from helpers.forked import Forked
from helpers.problems import about
from helpers.sweeping import wait_for, write_fates
from runner.config.compose import Composer
from runner.config.credentials import without_credentials
from runner.config.settings import SweepSettings
from runner.errors import ConfigError
from runner.rundir import journal, layout
from runner.rundir.lock import lock
from runner.saved.run import read_result
from runner.sweeps.check import build_jobs, preflight
from runner.sweeps.jobs import Job, JobSpec
from runner.sweeps.launchers import supervisor
from runner.sweeps.launchers.cluster import Cluster, ClusterHandle, for_node
from runner.sweeps.launchers.launcher import ExitStatus, ResourceRequest
from runner.sweeps.plan.job_configs import JobConfigs

Runner = Callable[..., Called]


def make_spec(here: Path, *overrides: str) -> JobSpec:
    """Make the spec of a job whose model can fail."""
    write_fates(here)
    composer = Composer(extra=str(here / "my_conf"))
    of_all = ("model=fated", "tracking=off", "data.limit=200", "device.threads=1", "trainer.checkpoint_every_steps=1")
    configs, problems = preflight.compose(JobConfigs(composer), [Job(3, "job 3", {}, (*of_all, *overrides))])
    assert problems == {3: []}
    folder = here / "sweep" / "3"
    folder.mkdir(parents=True)
    cfg = configs[3]
    return JobSpec(3, folder, pickle.dumps(cfg), str(here), {"OMP_NUM_THREADS": "1"}, None, None, str(here / "my_conf"),
                cfg.trainer.epochs)  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child is a fork that has everything imported; the first test has the real one, which imports for seconds."""
    stand_in = SimpleNamespace(Popen=Forked, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(supervisor, "subprocess", stand_in)


class TestSupervise:
    def test_it_trains_in_a_child_once(self, here: Path) -> None:
        spec = for_node(make_spec(here, "trainer.epochs=1"))
        assert supervisor.supervise(spec) == 0
        assert read_result(spec.folder)["status"] == "FINISHED"
        assert (spec.folder / supervisor.NODE).is_file()
        before = (spec.folder / "result.json").stat().st_mtime_ns
        assert supervisor.supervise(spec) == 0, "like a cluster that has lost the result"
        assert (spec.folder / "result.json").stat().st_mtime_ns == before

    @pytest.mark.usefixtures("forked")
    def test_it_reports_the_signal_that_killed_the_child(self, here: Path) -> None:
        assert supervisor.supervise(for_node(make_spec(here, "model.fate=killed"))) == -9

    @pytest.mark.usefixtures("forked")
    def test_interrupted_it_writes_a_checkpoint_and_resumes_when_it_is_run_again(self, here: Path) -> None:
        spec = for_node(make_spec(here, "trainer.epochs=4", "model.seconds=0.2"))
        interrupted = threading.Event()

        def interrupt() -> None:
            wait_for(lambda: (spec.folder / "checkpoints" / "last.pt").exists())
            interrupted.set()

        threading.Thread(target=interrupt).start()
        assert supervisor.supervise(spec, interrupted) == 128 + 15
        assert read_result(spec.folder)["status"] == "KILLED"
        assert supervisor.supervise(spec) == 0
        assert read_result(spec.folder)["epochs"] == 4
        assert "resumed" in (spec.folder / "run.log").read_text()

    @pytest.mark.usefixtures("forked")
    def test_it_waits_for_the_child_of_one_that_was_killed(self, here: Path) -> None:
        spec = for_node(make_spec(here, "trainer.epochs=1"))
        held = lock(spec.folder)
        threading.Timer(1.0, held.release).start()
        assert supervisor.supervise(spec) == 0

    def test_asked_to_stop_it_does_not_start(self, here: Path) -> None:
        spec = for_node(make_spec(here))
        (spec.folder / supervisor.STOP).touch()
        assert supervisor.supervise(spec) == 128 + 15
        assert not (spec.folder / "run.log").exists()


class Followed(ClusterHandle):
    """A job on a cluster that only records what it is asked to do."""

    cancelled = False
    status: ExitStatus | None = None

    def poll(self) -> ExitStatus | None:
        return self.status

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def handle(here: Path, monkeypatch: pytest.MonkeyPatch) -> Followed:
    monkeypatch.setattr("runner.sweeps.launchers.cluster.POLL_SECONDS", 0.0)
    return Followed(make_spec(here))


class TestFollowing:
    def test_the_folder_shows_that_it_has_started_and_how_far_it_is(self, handle: Followed, here: Path) -> None:
        folder = here / "sweep" / "3"
        assert not handle.has_started() and list(handle.read_progress()) == [] and handle.exit_status() is None
        (folder / supervisor.NODE).write_text("{}")
        assert handle.has_started()
        points = [("time/epoch_seconds", 1.0, 1), ("val/loss", 0.5, 1), ("time/epoch_seconds", 1.0, 2)]
        journal.rewrite(folder / layout.JOURNAL, [journal.MetricPoint(*point, 0.0) for point in points])
        assert handle.has_started(), "the call that reads the folder"
        (progress,) = handle.read_progress()
        assert progress.done == 2 and progress.metrics["val/loss"] == 0.5 and progress.epochs > 0
        assert list(handle.read_progress()) == [], "nothing new"
        handle.status = ExitStatus(0, "exit code 0")
        assert handle.has_started()
        assert handle.exit_status() == handle.status

    def test_no_progress_precedes_the_start(self, handle: Followed, here: Path) -> None:
        assert not handle.has_started()
        (here / "sweep" / "3" / supervisor.NODE).write_text("{}")
        journal.rewrite(here / "sweep" / "3" / layout.JOURNAL, [journal.MetricPoint("val/loss", 0.5, 1, 0.0)])
        assert list(handle.read_progress()) == [], "the pool does not know yet that it has started"
        assert handle.has_started() and len(list(handle.read_progress())) == 1

    def test_asked_to_stop_before_it_has_started_it_is_cancelled(self, handle: Followed) -> None:
        handle.request_stop()
        assert handle.cancelled and handle.exit_status() == ExitStatus(None, "killed")

    def test_asked_to_stop_its_node_sees_a_file(self, handle: Followed, here: Path) -> None:
        folder = here / "sweep" / "3"
        (folder / supervisor.NODE).write_text("{}")
        assert handle.has_started()
        handle.request_stop()
        assert supervisor.is_stop_requested(folder) and not handle.cancelled and handle.exit_status() is None
        handle.kill()
        assert handle.cancelled and handle.exit_status() is not None
        handle.close()
        assert not supervisor.is_stop_requested(folder) and not (folder / supervisor.NODE).exists()


class TestBeforeItStarts:
    def test_the_devices_and_the_compiler_of_this_machine_do_not_matter(
        self, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(here))
        composer = Composer()
        others = ("device=cuda", "precision=tf32"), ("device=cpu",)
        jobs = [Job(number, "job", {}, (*other, "trainer.compile=true")) for number, other in enumerate(others)]
        configs, problems = preflight.compose(JobConfigs(composer), jobs)
        pickled = {number: pickle.dumps(cfg) for number, cfg in configs.items()}
        built, found = build_jobs.build_all(pickled, problems, is_remote=True)
        assert found == {0: [], 1: []} and built[0].monitor == "val/loss"
        _, found = build_jobs.build_all({1: pickled[1]}, problems)
        assert about(found[1]) == [("trainer.compile", "unavailable")]

    def test_slots(self) -> None:
        def slots(jobs: int | str, threads: int | str = "auto") -> list[tuple[int, int | None]]:
            places = Cluster().allocate(ResourceRequest(SweepSettings(jobs=jobs, jobs_per_gpu=1), threads, 5, {}, {}))
            return [(slot.number, slot.threads) for slot in places]

        assert slots("auto") == [(number, None) for number in range(5)]
        assert slots(2, threads=3) == [(0, 3), (1, 3)]
        with pytest.raises(ConfigError) as raised:
            Cluster().allocate(ResourceRequest(SweepSettings(jobs="auto", jobs_per_gpu=2), "auto", 5, {}, {}))
        assert about(raised) == [("sweep.jobs_per_gpu", "conflict")]

    def test_specs_have_no_credentials(self) -> None:
        uri = "http://someone:secret@127.0.0.1:1"
        cfg, problems = Composer().compose(["tracking=server", f"tracking.uri={uri}"])
        assert cfg is not None and problems == [] and "secret" in str(cfg)
        cleaned = without_credentials(cfg)
        assert "secret" not in str(cleaned) and "secret" in str(cfg)
        assert cleaned.tracking.uri == "http://127.0.0.1:1"

    def test_specs_have_no_settings_of_the_launcher(self) -> None:
        setting = "hydra.launcher.ray.init.runtime_env={env_vars:{TOKEN:secret}}"
        cfg, problems = Composer().compose(["hydra/launcher=ray", setting])
        assert cfg is not None and problems == []
        assert "secret" not in str(without_credentials(cfg))

    def test_packages_are_the_node_s_and_modules_the_user_s(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(here / "own"))
        path = for_node(make_spec(here)).environment["PYTHONPATH"].split(":")
        assert str(here / "own") in path and not any("site-packages" in place for place in path)

    @pytest.mark.parametrize(("choice", "package"), [("ray", "ray"), ("slurm", "submitit")])
    def test_without_its_package_it_says_what_to_install(
        self, runner: Runner, choice: str, package: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules, f"runner.sweeps.launchers.on_{choice}", raising=False)
        called = runner("-m", f"hydra/launcher={choice}", "seed=1,2")
        assert called.code == 2 and called.about == [("hydra/launcher", "unavailable")]
        assert f"pip install '{package}" in called.problems[0].suggestion
