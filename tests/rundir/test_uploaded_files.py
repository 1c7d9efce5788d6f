"""Which files MLflow has, and which folders have new ones: no step reads or writes more because many were sent."""

import os
import time
from pathlib import Path

from runner.rundir.delivery_state import DeliveryState
from runner.rundir.uploaded_files import UploadedFiles
from runner.tracking.changed_folders import ChangedFolders


def test_an_upload_is_noted_by_one_line_and_half_a_line_costs_one_upload(tmp_path: Path) -> None:
    (tmp_path / ".tracking").mkdir()
    notes = tmp_path / ".tracking" / "uploaded.jsonl"
    state = DeliveryState("run", artifacts={"old.png": [1, 1]})
    for number in range(3):
        before = notes.stat().st_size if number else 0
        UploadedFiles(tmp_path, state).note(f"{number}.png", [number, 7])
        assert notes.stat().st_size - before == len('\n["run", "0.png", [0, 7]]')
    with notes.open("a") as file:
        file.write('\n["run", "half')
    uploaded = UploadedFiles(tmp_path, state)
    uploaded.note("last.png", [3, 7])
    for files in (uploaded, UploadedFiles(tmp_path, state)):
        names = ("old.png", "0.png", "1.png", "2.png", "last.png")
        assert [name in files for name in names] == [True] * 5 and "half" not in files
        assert files.has("2.png", [2, 7]) and not files.has("2.png", [2, 8])
    assert notes.stat().st_mode & 0o077 == 0
    assert "0.png" not in UploadedFiles(tmp_path, DeliveryState("its copy"))


def test_only_folders_that_have_changed_are_read(tmp_path: Path) -> None:
    root, old = tmp_path / "artifacts", time.time() - 60
    changed = ChangedFolders(root)
    assert list(changed.new_files()) == []
    (root / "a" / "b").mkdir(parents=True)
    for name in ("a/1.png", "a/b/1.png", "a/.part"):
        (root / name).touch()
    (root / "link").symlink_to(root / "a")
    for folder in (root / "a" / "b", root / "a", root):
        os.utime(folder, (old, old))
    for _ in range(2):  # until they were handled
        assert [str(path.relative_to(root)) for path in changed.new_files()] == ["a/1.png", "a/b/1.png"]
    changed.done()
    assert list(changed.new_files()) == []
    (root / "a" / "b" / "2.png").touch()
    for _ in range(2):  # a file may come within the same tick of the clock
        assert [path.name for path in changed.new_files()] == ["1.png", "2.png"]
        changed.done()
    linked = ChangedFolders(root / "link")
    assert list(linked.new_files()) == []
