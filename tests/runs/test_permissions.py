"""Files with settings, which may name hosts, users and paths, are readable by their owner alone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Called, run_folder
from helpers.sweeping import sweep_folder
from runner.rundir.manifest import Manifest
from runner.util.files import replacing, write_atomically

Runner = Callable[..., Called]
FAST = ("debug=fast", "data.limit=60", "trainer.epochs=1", "tracking.log_model=false", "scheduler=constant")
OF_A_RUN = {
    "config.yaml",
    "run.log",
    *(f".tracking/{name}" for name in ("manifest.json", "delivery.json", "uploaded.jsonl")),
}


def private(folder: Path) -> set[str]:
    """Return the files below a folder that nobody else can read or write."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)) for path in files if path.stat().st_mode & 0o077 == 0}


def code_of(folder: Path) -> set[str]:
    """Return the stored files of the code, which depend on the changes in this repository."""
    return {str(path.relative_to(folder)) for path in (folder / "code").rglob("*") if path.is_file()}


@pytest.mark.usefixtures("delivery_here")
def test_those_of_a_run(here: Path, runner: Runner) -> None:
    assert runner(*FAST).code == 0
    folder = run_folder(here)
    assert private(folder) == OF_A_RUN | code_of(folder)
    for name in OF_A_RUN:
        (folder / name).chmod(0o644)  # of an earlier version
    assert runner(f"resume={folder}", "trainer.epochs=2").code == 0
    assert private(folder) == OF_A_RUN | code_of(folder)


@pytest.mark.usefixtures("delivery_here")
def test_those_of_a_sweep(here: Path, runner: Runner) -> None:
    assert runner("--multirun", *FAST, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", "seed=range(0,3)").code == 0
    folder = sweep_folder(here)
    of_sweep = {"sweep.json", "jobs.csv", "jobs.json", "study.log", *OF_A_RUN} - {"config.yaml"}
    of_job = {f"0/{name}" for name in (*OF_A_RUN, "job.json", "code/code.json")}
    assert private(folder) == of_sweep | of_job | code_of(folder)


def test_a_new_file_is_private_from_its_first_byte_and_a_link_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    with replacing(link, private=True) as temporary:
        assert temporary.stat().st_mode & 0o777 == 0o600
        temporary.write_text("new")
    assert not link.is_symlink() and link.read_text() == "new" and link.stat().st_mode & 0o777 == 0o600
    assert target.read_text() == "old"


def test_a_link_where_a_temporary_file_will_be_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    target.write_text("old")
    with replacing(tmp_path / "file") as temporary:
        name = temporary.name
    (tmp_path / "file").unlink(missing_ok=True)
    (tmp_path / name).symlink_to(target)
    write_atomically(tmp_path / "file", "new")
    assert target.read_text() == "old" and (tmp_path / "file").read_text() == "new"


def test_notes_are_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / ".tracking").mkdir()
    (tmp_path / "target").write_text("old")
    (tmp_path / ".tracking" / "manifest.json").symlink_to(tmp_path / "target")
    Manifest("sqlite:///x.db", "e", "r").save(tmp_path)
    assert (tmp_path / "target").read_text() == "old" and Manifest.load(tmp_path).run_name == "r"
