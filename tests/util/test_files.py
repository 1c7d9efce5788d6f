"""Writing files: which are replaced, and which are written to in place."""

import errno
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from runner.util.files import (
    load_json,
    load_json_or_empty,
    open_to_append,
    remove_leftovers,
    replacing,
    write_atomically,
    write_json,
)

OLD, NEW = "old\n", "new\n"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "far" / "target.csv"
    path.parent.mkdir()
    path.write_text(OLD)
    return path


class TestLinks:
    def test_the_target_is_replaced_and_the_link_stays(self, target: Path, tmp_path: Path) -> None:
        (link := tmp_path / "link.csv").symlink_to(target)
        write_atomically(link, NEW)
        assert (link.is_symlink(), target.read_text()) == (True, NEW)

    def test_a_chain_of_relative_links(self, target: Path, tmp_path: Path) -> None:
        (tmp_path / "first").symlink_to("second")
        (tmp_path / "second").symlink_to("far/third")
        (tmp_path / "far" / "third").symlink_to("target.csv")
        write_atomically(tmp_path / "first", NEW)
        assert target.read_text() == NEW
        assert all((tmp_path / name).is_symlink() for name in ("first", "second", "far/third"))

    def test_a_broken_link_creates_its_target(self, tmp_path: Path) -> None:
        (link := tmp_path / "link.csv").symlink_to("target.csv")
        write_atomically(link, NEW)
        assert link.is_symlink() and (tmp_path / "target.csv").read_text() == NEW

    def test_a_circle_of_links_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "one").symlink_to("two")
        (tmp_path / "two").symlink_to("one")
        with pytest.raises(OSError) as raised:
            write_atomically(tmp_path / "one", NEW)
        assert (raised.value.errno, raised.value.filename) == (errno.ELOOP, str(tmp_path / "one"))
        assert (tmp_path / "one").is_symlink()

    def test_a_linked_folder(self, target: Path, tmp_path: Path) -> None:
        (tmp_path / "near").symlink_to("far")
        write_atomically(tmp_path / "near" / "target.csv", NEW)
        assert target.read_text() == NEW


class TestSpecialFiles:
    def test_a_fifo_is_written_into(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        read: list[str] = []
        reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
        reader.start()
        with replacing(tmp_path / "pipe") as fresh:
            fresh.write_text(NEW)
        reader.join()
        assert read == [NEW] and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
        assert [path.name for path in tmp_path.iterdir()] == ["pipe"]

    def test_a_file_of_a_run_replaces_the_fifo_of_another_user(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="not a regular file"):
            load_json(tmp_path / "pipe")
        with pytest.raises(OSError):
            open_to_append(tmp_path / "pipe")
        write_atomically(tmp_path / "pipe", NEW)
        assert (tmp_path / "pipe").is_file() and (tmp_path / "pipe").read_text() == NEW

    def test_a_device_stays_one(self, tmp_path: Path) -> None:
        (link := tmp_path / "null").symlink_to(os.devnull)
        write_atomically(link, NEW)
        assert stat.S_ISCHR(Path(os.devnull).stat().st_mode) and link.is_symlink()

    def test_a_full_device_is_an_error_with_its_name(self) -> None:
        with pytest.raises(OSError, match="No space left") as raised:
            write_atomically(Path("/dev/full"), NEW)
        assert raised.value.filename == "/dev/full"

    def test_a_folder_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        with pytest.raises(IsADirectoryError):
            write_atomically(tmp_path / "folder", NEW)

    def test_a_descriptor_is_written_to_at_its_position(self, tmp_path: Path) -> None:
        """`output=/dev/stdout >> all.csv`, and `output=>(gzip > all.csv.gz)`."""
        (tmp_path / "all.csv").write_text(OLD)
        with (tmp_path / "all.csv").open("a") as file:
            (link := tmp_path / "link").symlink_to(f"/dev/fd/{file.fileno()}")
            for path in (Path(f"/dev/fd/{file.fileno()}"), Path(f"/proc/self/fd/{file.fileno()}"), link):
                write_atomically(path, NEW)
        assert (tmp_path / "all.csv").read_text() == OLD + 3 * NEW


class TestFiles:
    def test_permissions_are_preserved(self, target: Path) -> None:
        target.chmod(0o640)
        write_atomically(target, NEW)
        assert (stat.S_IMODE(target.stat().st_mode), target.read_text()) == (0o640, NEW)

    def test_a_new_file_has_default_permissions(self, tmp_path: Path) -> None:
        (tmp_path / "plain").touch()
        write_atomically(tmp_path / "new", NEW)
        assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode

    def test_another_hard_link_has_the_old_content(self, target: Path, tmp_path: Path) -> None:
        os.link(target, tmp_path / "other")
        write_atomically(target, NEW)
        assert ((tmp_path / "other").read_text(), target.read_text()) == (OLD, NEW)

    def test_an_error_leaves_the_old_file_and_no_temporary_one(self, target: Path) -> None:
        with pytest.raises(KeyError), replacing(target) as fresh:
            fresh.write_text("half")
            raise KeyError
        assert target.read_text() == OLD
        assert list(target.parent.iterdir()) == [target]

    def test_a_file_that_is_a_mount_point(self, target: Path, tmp_path: Path) -> None:
        """As in a container: the file can be written, but not replaced by rename."""
        (outside := tmp_path / "outside").write_text(OLD)
        mounted = subprocess.run(["mount", "--bind", outside, target], capture_output=True, check=False)
        if mounted.returncode:
            pytest.skip("nothing can be mounted here")
        try:
            write_atomically(target, NEW)
        finally:
            subprocess.run(["umount", target], check=True)
        assert (outside.read_text(), target.read_text()) == (NEW, OLD)


def test_no_secret_is_in_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_TOKEN", "87654321")
    write_atomically(tmp_path / "text", "0.87654321 87654321 http://ada:s3cret@host\n")
    assert (tmp_path / "text").read_text() == "0.87654321 ${oc.env:HUB_TOKEN} http://***@host\n"
    write_json(tmp_path / "json", {"value": 87654321, "told": ["87654321"]})
    assert json.loads((tmp_path / "json").read_text()) == {"value": 87654321, "told": ["${oc.env:HUB_TOKEN}"]}


@pytest.mark.parametrize("content", [b"", b"no json", b"7", b"[1]", b"null", b"\xff\xfe", b"[" * 5000])
def test_json_that_is_not_a_mapping_is_read_as_an_empty_one(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(content)
    assert load_json_or_empty(tmp_path / "result.json") == {}
    with pytest.raises(ValueError):
        load_json(tmp_path / "result.json")


def test_what_a_killed_process_has_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    def leave(number: int) -> None:
        with replacing(tmp_path / f"{number}.json") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    killed = multiprocessing.get_context("fork").Process(target=leave, args=(0,))
    killed.start()
    killed.join()
    (tmp_path / ".mine.tmp").touch()
    with replacing(tmp_path / "1.json") as temporary:
        assert len(list(tmp_path.iterdir())) == 3
        remove_leftovers(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {temporary.name, ".mine.tmp"}
