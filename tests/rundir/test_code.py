"""The code of a run: what is recorded and stored of it, and who may say what in a record."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from helpers.repositories import committed, git, written
from runner.rundir import code, code_snapshot, layout
from runner.rundir.code import Code, CodeFolder, Module, content_hash
from runner.rundir.code_snapshot import MAX_FILE, Snapshot, import_root, take, write
from runner.runs.code import RunCode
from runner.util.git import Repositories
from runner.util.tags import CODE_TAG, RESUMED_CODE_TAG

BINARY = bytes(range(256)) * 40


def taken(**files: Path) -> Snapshot:
    """Take files as the modules that their keywords name, with two underscores for a dot."""
    return take({name.replace("__", "."): file for name, file in files.items()}, Repositories())


def hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class TestSnapshot:
    def test_of_a_clean_repository_nothing_is_stored(self, tmp_path: Path) -> None:
        commit = committed(tmp_path / "own", {"src/pkg/__init__.py": "", "src/pkg/net.py": "x = 1\n"})
        package = tmp_path / "own" / "src" / "pkg"
        snapshot = taken(pkg=package / "__init__.py", pkg__net=package / "net.py")
        modules = {
            "pkg": Module("src/pkg/__init__.py", hash_of(b"")),
            "pkg.net": Module("src/pkg/net.py", hash_of(b"x = 1\n")),
        }
        assert snapshot.contents == {}
        assert snapshot.code == Code(
            [CodeFolder(str(tmp_path / "own"), commit, modules=modules)], [str(package.parent)]
        )

    def test_changes_are_a_patch_and_what_git_ignores_or_does_not_know_is_copied(self, tmp_path: Path) -> None:
        own = tmp_path / "own"
        committed(own, {"net.py": "x = 1\n", "data.bin": b"\0", ".gitignore": "ignored.py\n"})
        written(own / "net.py", "x = 2\n")
        written(own / "data.bin", BINARY)
        new, ignored = written(own / "new.py", "n = 1\n"), written(own / "ignored.py", "i = 1\n")
        written(own / "not_imported.py", "")
        snapshot = taken(net=own / "net.py", new=new, ignored=ignored)
        (folder,) = snapshot.code.folders
        assert folder.patch is not None and folder.dirty
        patch = snapshot.contents[folder.patch.stored]
        assert b"-x = 1\n+x = 2\n" in patch and b"GIT binary patch" in patch
        assert folder.patch.sha256 == hash_of(patch) and not (folder.patch.redacted or folder.patch.partial)
        copies = {name: module.stored for name, module in folder.modules.items()}
        assert copies.pop("net") is None
        assert {name: snapshot.contents[str(stored)] for name, stored in copies.items()} == {
            "new": b"n = 1\n", "ignored": b"i = 1\n"
        }  # fmt: skip
        assert len(snapshot.contents) == 3

    def test_a_patch_does_not_depend_on_the_user_s_settings(self, tmp_path: Path) -> None:
        committed(tmp_path, {"net.py": "x = 1\n", "other.py": "y = 1\n" * 20})
        written(tmp_path / "net.py", "x = 2\n")
        git(tmp_path, "mv", "other.py", "moved.py")
        (plain,) = taken(net=tmp_path / "net.py").contents.values()
        for key, value in (
            ("diff.noprefix", "true"), ("color.ui", "always"), ("diff.external", "false"), ("diff.context", "0"),
            ("diff.renames", "copies"),
        ):  # fmt: skip
            git(tmp_path, "config", key, value)
        assert list(taken(net=tmp_path / "net.py").contents.values()) == [plain]

    def test_a_repository_without_a_commit_and_a_plain_folder_are_copied(self, tmp_path: Path) -> None:
        git(written(tmp_path / "own" / "net.py", "x = 1\n").parent, "init", "-q")
        snapshot = taken(net=tmp_path / "own" / "net.py", lib=written(tmp_path / "lib" / "lib.py", "y = 1\n"))
        assert [(folder.name, folder.commit) for folder in snapshot.code.folders] == [("lib", None), ("own", None)]
        assert sorted(snapshot.contents.values()) == [b"x = 1\n", b"y = 1\n"]

    def test_of_a_link_git_has_only_the_name(self, tmp_path: Path) -> None:
        target = written(tmp_path / "elsewhere.py", "x = 1\n")
        own = tmp_path / "own"
        own.mkdir()
        (own / "net.py").symlink_to(target)
        committed(own, {})
        assert list(taken(net=own / "net.py").contents.values()) == [b"x = 1\n"]

    def test_a_checkout_of_runner_is_one_module(self, tmp_path: Path) -> None:
        package = tmp_path / "own" / "src" / "runner"
        files = {
            "runner": written(package / "__init__.py", ""),
            "runner__part": written(package / "part.py", "x = 1\n"),
        }
        (folder,) = taken(**files).code.folders
        assert list(folder.modules) == ["runner"] and folder.modules["runner"].stored is None, "a release is not stored"
        committed(tmp_path / "own", {})
        snapshot = taken(**files, runner__new=written(package / "new.py", "y = 1\n"))
        (folder,) = snapshot.code.folders
        assert folder.modules["runner"] == Module("src/runner", str(content_hash(package)))
        assert list(snapshot.contents.values()) == [b"y = 1\n"]
        assert snapshot.code.paths == [str(package.parent)]
        before = content_hash(package)
        written(package / "part.py", "x = 2\n")
        assert content_hash(package) != before

    def test_what_is_too_large_is_noted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        large = written(tmp_path / "a" / "large.py", b"#" * (MAX_FILE + 1))
        snapshot = taken(large=large)
        assert snapshot.contents == {} and str(large) in snapshot.code.left_out[0]
        own = tmp_path / "own"
        committed(own, {"net.py": "x = 1\n", "table.csv": ""})
        written(own / "net.py", "x = 2\n")
        written(own / "table.csv", "1,2\n" * 200)
        monkeypatch.setattr(code_snapshot, "MAX_PATCH", 400)
        snapshot = taken(net=own / "net.py")
        (folder,), (patch,) = snapshot.code.folders, snapshot.contents.values()
        assert folder.patch is not None and folder.patch.partial
        assert b"+x = 2" in patch and b"table.csv" not in patch
        assert str(own) in snapshot.code.left_out[0]
        monkeypatch.setattr(code_snapshot, "MAX_PATCH", 40)
        snapshot = taken(net=own / "net.py")
        assert snapshot.contents == {} and len(snapshot.code.left_out) == 2 and snapshot.code.folders[0].patch is None
        monkeypatch.setattr(code_snapshot, "MAX_COUNT", 1)
        one, two = written(tmp_path / "b" / "one.py", "1"), written(tmp_path / "b" / "two.py", "2")
        assert list(taken(one=one, two=two).contents.values()) == [b"1"]

    def test_secrets_are_masked_and_that_is_noted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TEAM_TOKEN", "correct-horse-battery")
        own = tmp_path / "own"
        committed(own, {"net.py": "x = 1\n", "data.bin": b"\0"})
        written(own / "net.py", "token = 'correct-horse-battery'\n")
        written(own / "data.bin", BINARY)
        new = written(own / "new.py", b"a = 'postgresql://ada:s3cret@host/db'  # \xe9\n")
        snapshot = taken(net=own / "net.py", new=new)
        assert snapshot.code.folders[0].patch is not None and snapshot.code.folders[0].patch.redacted
        text = b"".join(snapshot.contents.values())
        assert b"correct-horse" not in text and b"s3cret" not in text and b"\xe9" in text
        assert len(snapshot.code.left_out) == 2 and str(new) in snapshot.code.left_out[0]

    @pytest.mark.parametrize(
        ("module", "file", "root"),
        [
            ("net", "/a/net.py", "/a"),
            ("p.q.net", "/a/p/q/net.py", "/a"),
            ("p.q", "/a/p/q/__init__.py", "/a"),
            ("other.name", "/a/p/net.py", "/a/p"),
        ],
    )
    def test_where_a_module_was_imported_from(self, module: str, file: str, root: str) -> None:
        assert import_root(module, Path(file)) == Path(root)


class TestRecord:
    def test_it_is_read_as_it_was_written_by_its_owner_alone(self, tmp_path: Path) -> None:
        snapshot = taken(net=written(tmp_path / "lib" / "net \xe9.py", "x = 1\n"))
        (run := tmp_path / "run").mkdir()
        write(run, snapshot)
        assert code.read_in(run) == snapshot.code
        (stored,) = snapshot.code.stored()
        assert (run / layout.CODE / stored).read_text() == "x = 1\n"
        assert all(path.stat().st_mode & 0o077 == 0 for path in run.rglob("*") if path.is_file())

    def test_the_jobs_of_a_sweep_store_a_file_once(self, tmp_path: Path) -> None:
        snapshot = taken(net=written(tmp_path / "lib" / "net.py", "x = 1\n"))
        sweep = written(tmp_path / "sweep" / layout.SWEEP_PLAN, "{}").parent
        for job in ("0", "1"):
            (sweep / job).mkdir()
            write(sweep / job, snapshot)
        files = sorted(path.relative_to(sweep).parts[:2] for path in sweep.rglob("*.*") if layout.CODE in path.parts)
        assert files == [("0", "code"), ("1", "code"), ("code", "files")]

    def test_a_link_is_neither_read_nor_written_through(self, tmp_path: Path) -> None:
        snapshot = taken(net=written(tmp_path / "lib" / "net.py", "x = 1\n"))
        run, target = tmp_path / "run", tmp_path / "target"
        (run / layout.CODE).mkdir(parents=True)
        written(target / "secret", snapshot.code.to_text())
        record = run / layout.CODE / layout.CODE_RECORD
        record.symlink_to(target / "secret")
        (run / layout.CODE / "files").symlink_to(target)
        assert code.read_in(run) is None and code.real_path(run, "files/secret") is None
        with pytest.raises(OSError, match="is a link"):
            write(run, snapshot)
        (run / layout.CODE / "files").unlink()
        write(run, snapshot)
        assert not record.is_symlink() and [path.name for path in target.iterdir()] == ["secret"]
        assert code.read_in(run) == snapshot.code

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"format": 2}, "format 2"),
            ({"paths": ["relative"]}, "relative"),
            ({"paths": ["/a/../b"]}, r"/a/\.\./b"),
            ({"paths": [5]}, "damaged"),
            ({"left_out": None}, "damaged"),
            ({"folders": [{}]}, "damaged"),
            ({"folders": {"root": "etc"}}, "etc"),
            ({"folders": {"root": "/a/.."}}, r"/a/\.\."),
            ({"folders": {"commit": "--output=/etc/passwd"}}, "--output"),
            ({"folders": {"patch": {"stored": "../p", "sha256": "0" * 64, "redacted": 0, "partial": 0}}}, r"\.\./p"),
            ({"module": {"file": "/etc/passwd"}}, "/etc/passwd"),
            ({"module": {"file": "a/../../b"}}, "not in its folder"),
            ({"module": {"file": ".git/hooks/x"}}, "not in its folder"),
            ({"module": {"file": "a\0b"}}, "damaged"),
            ({"module": {"sha256": "0"}}, "'0'"),
            ({"module": {"stored": "files/../../x"}}, "files/"),
            ({"module": {"stored": "/x"}}, "/x"),
        ],
    )
    def test_a_record_names_nothing_outside_of_its_folders(
        self, tmp_path: Path, change: dict[str, Any], why: str
    ) -> None:
        module: dict[str, Any] = {"file": "net.py", "sha256": "0" * 64, "stored": None}
        folder = {"root": "/a", "commit": None, "dirty": False, "patch": None, "modules": {"net": module}}
        content: dict[str, Any] = {"format": 1, "folders": [folder], "paths": ["/a"], "left_out": []}
        path = written(tmp_path / "code.json", json.dumps(content))
        assert code.read(path).hashes() == {"net": "0" * 64}
        module.update(change.pop("module", {}))
        if isinstance(change.get("folders"), dict):
            folder.update(change.pop("folders"))
        written(path, json.dumps(content | change))
        with pytest.raises(ValueError, match=why):
            code.read(path)

    @pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "{", "\xff", "null"])
    def test_a_record_may_be_anything(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(ValueError):
            code.read(written(tmp_path / "code.json", text.encode("latin-1")))


class TestOfARun:
    @pytest.fixture
    def imported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
        """The files of imported modules, to be changed."""
        files = {"net": written(tmp_path / "lib" / "net.py", "x = 1\n")}
        monkeypatch.setattr("runner.runs.code.imported_files", lambda: dict(files))
        return files

    def test_what_it_imports_later_is_added_at_the_end(self, tmp_path: Path, imported: dict[str, Path]) -> None:
        (run := tmp_path / "run").mkdir()
        started = RunCode(run)
        assert list(started.write()) == [CODE_TAG] and started.changes == []
        imported["late"] = written(tmp_path / "other" / "late.py", "y = 1\n")
        imported["part"] = written(tmp_path / "lib" / "part.py", "z = 1\n")
        started.complete()
        record = code.read_in(run)
        assert record is not None and set(record.hashes()) == {"net", "late", "part"}
        assert record.paths == [str(tmp_path / "lib"), str(tmp_path / "other")]
        stored = {path.read_text() for path in (run / layout.CODE / "files").iterdir()}
        assert stored == {"x = 1\n", "y = 1\n", "z = 1\n"}

    def test_a_resume_with_other_code_says_so_and_keeps_both(self, tmp_path: Path, imported: dict[str, Path]) -> None:
        (run := tmp_path / "run").mkdir()
        RunCode(run).write()
        before = code.read_in(run)
        imported["unrelated"] = written(tmp_path / "lib" / "unrelated.py", "")
        again = RunCode(run)
        assert again.changes == [] and again.write() == {}
        written(imported["net"], "x = 22\n")
        changed = RunCode(run)
        assert changed.changes == ["net.py changed"] and changed.write() == {RESUMED_CODE_TAG: "net.py"}
        changed.complete()
        assert code.read_in(run) == before
        (resumed,) = (run / layout.CODE).glob("resumed-*.json")
        assert code.read(resumed).hashes()["net"] == hash_of(b"x = 22\n")
