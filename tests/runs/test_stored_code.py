"""Stored code is unpacked as it was, into a temporary folder alone, and compared with the present code."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from helpers.delivered import copy_store
from helpers.repositories import committed, git, written
from runner.errors import ConfigError
from runner.rundir import layout
from runner.rundir.code import Code, CodeFolder, Module, Patch
from runner.rundir.code_snapshot import Snapshot, take, write
from runner.runs import stored_code
from runner.runs.code_changes import changes
from runner.runs.reproduction import code_notes
from runner.saved.code import StoredCode
from runner.saved.run import SavedRun
from runner.tracking.store import connect
from runner.util.git import Repositories

BINARY = bytes(range(256)) * 40


def stored_in(run: Path, snapshot: Snapshot) -> StoredCode:
    run.mkdir(exist_ok=True)
    write(run, snapshot)
    return StoredCode(SavedRun("run=x", run, None, None))


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_git(root: Path) -> dict[str, bytes]:
    return files_in(root / ".git")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A repository with a package, changed since its commit."""
    root = tmp_path / "own"
    committed(
        root,
        {
            "src/pkg/__init__.py": "", "src/pkg/net.py": "x = 1\n", "gone.py": "", "data.bin": b"\0",
            ".gitignore": "ignored.py\n", "crlf.py": "a = 1\r\nb = 2\r\n", "same.txt": "same\n",
        },
    )  # fmt: skip
    written(root / "src" / "pkg" / "net.py", "x = 2\n")
    written(root / "data.bin", BINARY)
    written(root / "crlf.py", "a = 1\r\nb = 3\r\n")
    written(root / "ignored.py", "i = 1\n")
    (root / "gone.py").unlink()
    return root


def modules_of(own: Path) -> dict[str, Path]:
    package = own / "src" / "pkg"
    return {
        "pkg": package / "__init__.py", "pkg.net": package / "net.py", "ignored": own / "ignored.py",
        "crlf": own / "crlf.py",
    }  # fmt: skip


def test_a_repository_with_changes_comes_back_and_stays_untouched(own: Path, tmp_path: Path) -> None:
    lib = written(tmp_path / "lib" / "part.py", "p = 1\n")
    stored = stored_in(tmp_path / "run", take(modules_of(own) | {"part": lib}, Repositories()))
    then = {name: content for name, content in files_in(own).items() if not name.startswith(".git/")}
    for file in (*modules_of(own).values(), lib):
        file.write_text("raise SystemExit('the present code')\n")
    written(own / "gone.py", "")
    before = in_git(own)
    with stored_code.unpacked(stored) as folder:
        assert files_in(folder / str(own)[1:]) == then
        assert files_in(folder / str(lib.parent)[1:]) == {"part.py": b"p = 1\n"}
        assert folder.stat().st_mode & 0o077 == 0
        assert stored.record is not None
        program = "import pkg.net, part, ignored, crlf; print(pkg.net.x, part.p, ignored.i, crlf.b, pkg.net.__file__)"
        printed = subprocess.run(
            [sys.executable, "-c", program], cwd=lib.parent, env=stored_code.environment(stored.record, folder),
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        assert printed.split() == ["2", "1", "1", "3", str(folder / str(own)[1:] / "src" / "pkg" / "net.py")]
    assert not folder.exists()
    assert in_git(own) == before


def test_settings_that_convert_line_ends_do_not_matter(own: Path, tmp_path: Path) -> None:
    git(own, "config", "core.autocrlf", "true")
    stored = stored_in(tmp_path / "run", take(modules_of(own), Repositories()))
    with stored_code.unpacked(stored) as folder:
        assert (folder / str(own)[1:] / "crlf.py").read_bytes() == b"a = 1\r\nb = 3\r\n"


def test_a_clone_may_have_the_commit(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = stored_in(tmp_path / "run", take(modules_of(own), Repositories()))
    shutil.move(own, tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"commit \w{12} of .*/own is in no repository here") as raised:
        stored_code.unpacked(stored).__enter__()
    assert len(raised.value.problems) == 1
    (tmp_path / "elsewhere" / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere" / "sub")
    with stored_code.unpacked(stored) as folder:
        assert (folder / str(own)[1:] / "src" / "pkg" / "net.py").read_text() == "x = 2\n"


def test_what_was_not_stored_is_taken_from_the_present_if_it_is_the_same(own: Path, tmp_path: Path) -> None:
    snapshot = take(modules_of(own), Repositories())
    folder = snapshot.code.folders[0]
    folder.modules["ignored"] = replace(folder.modules["ignored"], stored=None)
    stored = stored_in(tmp_path / "run", snapshot)
    with stored_code.unpacked(stored) as target:
        assert (target / str(own)[1:] / "ignored.py").read_text() == "i = 1\n"
    written(own / "ignored.py", "i = 2\n")
    with pytest.raises(ConfigError, match=r"ignored\.py of .* cannot be restored, it is not stored"):
        stored_code.unpacked(stored).__enter__()


@pytest.mark.parametrize("secret", ["token = 'correct-horse-battery'\n", "x = 2\n# correct-horse-battery\n"])
def test_code_without_its_secrets_is_not_run(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("TEAM_TOKEN", "correct-horse-battery")
    written(own / "src" / "pkg" / "net.py", secret)
    stored = stored_in(tmp_path / "run", take(modules_of(own), Repositories()))
    written(own / "src" / "pkg" / "net.py", "")
    with pytest.raises(ConfigError, match=r"net\.py of .* cannot be restored, its changes are stored without secrets"):
        stored_code.unpacked(stored).__enter__()


def test_runner_itself_without_its_secrets_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_TOKEN", "correct-horse-battery")
    package = tmp_path / "own" / "src" / "runner"
    committed(tmp_path / "own", {"src/runner/__init__.py": "", "src/runner/part.py": ""})
    for part, refused in (("x = 1\n", False), ("x = 'correct-horse-battery'\n", True)):
        written(package / "part.py", part)
        snapshot = take({"runner": package / "__init__.py"}, Repositories())
        stored = stored_in(tmp_path / f"run{refused}", snapshot)
        refusal = pytest.raises(ConfigError, match=r"src/runner of .* without secrets") if refused else nullcontext()
        with refusal, stored_code.unpacked(stored) as folder:
            assert (folder / str(package)[1:] / "part.py").read_text() == part
        described = f"{tmp_path / 'own'}: commit {snapshot.code.folders[0].commit}"
        (line,) = stored_code.describe(snapshot.code)
        assert line.startswith(described[:-28]) and line.endswith(" with uncommitted changes, runner itself")


def test_changes_that_are_not_stored_are_named(own: Path) -> None:
    code = take(modules_of(own), Repositories()).code
    assert " with uncommitted changes, 4 imported files" in stored_code.describe(code)[0]
    patch = code.folders[0].patch
    assert patch is not None
    code.folders[0].patch = replace(patch, partial=True)
    assert " with uncommitted changes of imported files alone, 4 " in stored_code.describe(code)[0]
    code.folders[0].patch = None
    assert " without its uncommitted changes, which are not stored, 4 " in stored_code.describe(code)[0]


def test_a_stored_file_that_was_changed_is_not_run(own: Path, tmp_path: Path) -> None:
    stored = stored_in(tmp_path / "run", take(modules_of(own), Repositories()))
    (patch,) = (tmp_path / "run" / layout.CODE).glob("*.diff")
    content = patch.read_bytes()
    patch.write_bytes(content.replace(b"+x = 2", b"+x = 3"))
    with pytest.raises(ConfigError, match="missing or has changed"):
        stored_code.unpacked(stored).__enter__()
    patch.write_bytes(content)
    (copy,) = (tmp_path / "run" / layout.CODE / "files").iterdir()
    copy.write_text("i = 3\n")
    written(own / "ignored.py", "")
    with pytest.raises(ConfigError, match=r"ignored\.py of .* cannot be restored"):
        stored_code.unpacked(stored).__enter__()


def planted(own: Path, run: Path, patch: str, file: str) -> StoredCode:
    """Store a patch of one's own making for a repository, and a file of the given path."""
    sha256, content = hashlib.sha256(patch.encode()).hexdigest(), b"planted\n"
    module = Module(file, hashlib.sha256(content).hexdigest(), "files/planted.py")
    folder = CodeFolder(str(own), git(own, "rev-parse", "HEAD"), True, Patch("p.diff", sha256), {"m": module})
    return stored_in(run, Snapshot(Code([folder]), {"p.diff": patch.encode(), "files/planted.py": content}))


LINK = (
    "diff --git a/way b/way\nnew file mode 120000\n--- /dev/null\n+++ b/way\n@@ -0,0 +1 @@\n+{}\n"
    "\\ No newline at end of file\n"
)
FILE = "diff --git a/{0} b/{0}\nnew file mode 100644\n--- /dev/null\n+++ b/{0}\n@@ -0,0 +1 @@\n+planted\n"


@pytest.mark.parametrize("patch", [FILE.format("../out.txt"), FILE.format(".git/hooks/x"), FILE.format("/out.txt")])
def test_a_patch_that_leaves_its_folder_is_refused(own: Path, tmp_path: Path, patch: str) -> None:
    before = in_git(own)
    with pytest.raises(ConfigError, match="do not fit its commit"):
        stored_code.unpacked(planted(own, tmp_path / "run", patch, "m.py")).__enter__()
    assert in_git(own) == before and not list(tmp_path.rglob("out.txt"))


def test_a_link_in_a_patch_is_not_followed(own: Path, tmp_path: Path) -> None:
    (home := tmp_path / "home").mkdir()
    stored = planted(own, tmp_path / "run", LINK.format(home), "way/planted.py")
    with stored_code.unpacked(stored) as folder:
        assert (folder / str(own)[1:] / "way" / "planted.py").read_text() == "planted\n"
    assert list(home.iterdir()) == []


def test_a_run_without_stored_code_says_so_and_one_with_a_damaged_record(tmp_path: Path) -> None:
    for why in ("no code is stored with", r"code/code\.json cannot be used: it is damaged"):
        stored = StoredCode(SavedRun("run=x", tmp_path, None, None))
        assert re.search(why, code_notes(stored, [], {})[0]), "and it is repeated with the present code"
        with pytest.raises(ConfigError, match=why):
            stored_code.unpacked(stored).__enter__()
        written(tmp_path / layout.CODE / layout.CODE_RECORD, "[]")


def test_a_job_of_a_sweep_is_unpacked_from_mlflow_alone(own: Path, tmp_path: Path, empty_store: Path) -> None:
    uri = copy_store(empty_store, tmp_path / "store")
    job = written(tmp_path / "sweep" / layout.SWEEP_PLAN, "{}").parent / "0"
    stored_in(job, take(modules_of(own), Repositories()))
    client = connect(uri)
    parent = uploaded(client, job.parent, {})
    child = uploaded(client, job, parent)
    shutil.rmtree(job.parent)
    run = client.get_run(child)
    with stored_code.unpacked(StoredCode(SavedRun("run=x", None, child, uri, tags=dict(run.data.tags)))) as folder:
        assert (folder / str(own)[1:] / "ignored.py").read_text() == "i = 1\n"
        assert (folder / str(own)[1:] / "src" / "pkg" / "net.py").read_text() == "x = 2\n"


def uploaded(client: MlflowClient, folder: Path, tags: "dict[str, str] | str") -> str:
    """Upload the code in a folder as a run; return its id."""
    run = client.create_run("0", tags={"mlflow.parentRunId": tags} if isinstance(tags, str) else tags)
    client.log_artifacts(run.info.run_id, str(folder / layout.CODE), layout.CODE)
    return str(run.info.run_id)


def test_changes_are_named_without_an_import(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (own, own / "src"):
        monkeypatch.syspath_prepend(path)
    record = take(modules_of(own), Repositories()).code
    assert changes(record) == []
    written(own / "src" / "pkg" / "net.py", "raise SystemExit\n")
    (own / "ignored.py").unlink()
    other = written(tmp_path / "other" / "crlf.py", "")
    monkeypatch.syspath_prepend(other.parent)
    assert changes(record) == [
        f"the code has changed: crlf.py in {own} is {other} now",
        f"the code has changed: ignored.py in {own} is missing",
        f"the code has changed: src/pkg/net.py in {own}",
    ]
    assert "pkg" not in sys.modules


def test_a_child_gets_signals_and_its_code_is_returned(tmp_path: Path) -> None:
    record = Code(paths=[str(tmp_path)])
    target = tmp_path / "target"
    written(target / str(tmp_path)[1:] / "ended.py", "import sys; sys.exit(int(sys.argv[1]))")
    assert stored_code.run("ended", ["7"], record, target) == 7
    kill = f"import os, signal, time; os.kill({os.getpid()}, signal.SIGTERM); time.sleep(60)"
    written(target / str(tmp_path)[1:] / "killed.py", kill)
    assert stored_code.run("killed", [], record, target) == 128 + 15
