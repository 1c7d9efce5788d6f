"""A second user of this machine, who may write to the store and to a shared folder, and to nothing of ours."""

import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

UID = 54321

needs_two_users = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as a second user")


def as_second_user(act: Callable[[], object]) -> None:
    """Call a function in a process of the second user."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(UID)
            os.setuid(UID)
            os.umask(0o022)
            act()
            os._exit(0)
        except BaseException:  # else pytest would go on in two processes
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder like /tmp: everyone may create something in it."""
    folder = Path(tempfile.mkdtemp(prefix="runner-shared-"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return mode, owner and content of everything below a folder; links are not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path.relative_to(folder))] = (stat.st_mode, stat.st_uid, content)
    return found
