from pathlib import Path

import pytest

from helpers.problems import about, problem_of
from runner.rundir.folders import RUN, SWEEP, FolderKind, check_folder, make_run_folder, outputs


def test_of_two_starts_in_one_second_the_second_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    wanted = str(tmp_path / "runs" / "2026-01-01_00-00-00_mlp_digits")
    names = [make_run_folder(wanted, exact=False).name for _ in range(3)]
    assert names == [f"2026-01-01_00-00-00_mlp_digits{suffix}" for suffix in ("", "_2", "_3")]


def test_a_name_keeps_to_letters_that_every_file_system_takes(tmp_path: Path) -> None:
    assert make_run_folder(str(tmp_path / "my model (é)_x"), exact=False).name == "my-model-_x"


def test_a_folder_the_user_names_is_taken_as_it_is_unless_it_holds_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    assert make_run_folder(str(folder), exact=True) == make_run_folder(str(folder), exact=True) == folder
    (folder / "config.yaml").touch()
    problem = problem_of(lambda: make_run_folder(str(folder), exact=True))
    assert (problem.key, problem.topic) == ("hydra.run.dir", "conflict")
    assert f"resume={folder}" in problem.suggestion
    assert check_folder(str(folder), exact=True) == [problem], "it is found before anything is made"


@pytest.mark.parametrize(("kind", "key"), [(RUN, "hydra.run.dir"), (SWEEP, "hydra.sweep.dir")])
def test_a_folder_with_other_files_is_refused_with_a_new_one_to_write(
    kind: FolderKind, key: str, tmp_path: Path
) -> None:
    (tmp_path / "log.txt").touch()  # as the shell opens it for `> log.txt`
    (tmp_path / ".tracking").mkdir()  # left by a start that was killed
    assert check_folder(str(tmp_path), True, kind) == []
    (tmp_path / "notes").mkdir()
    (tmp_path / f"{kind.what}_1").mkdir()
    (problem,) = check_folder(str(tmp_path), True, kind)
    assert about([problem]) == [(key, "file")] and "notes" in problem.text
    assert problem.suggestion == f"write {key}={tmp_path}/{kind.what}_2, or another"
    assert check_folder(f"{tmp_path}/{kind.what}_2", True, kind) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    problem = problem_of(lambda: make_run_folder(str(tmp_path / "file" / "runs" / "x"), exact=False))
    assert (problem.key, problem.topic) == ("hydra.run.dir", "file") and "RUNNER_OUTPUTS" in problem.suggestion


def test_outputs_are_below_the_current_directory_unless_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNNER_OUTPUTS", raising=False)
    assert outputs() == tmp_path / "outputs"
    monkeypatch.setenv("RUNNER_OUTPUTS", "~/elsewhere")
    assert outputs() == Path.home() / "elsewhere"
