"""Git, called as a program. A repository is only read: its index, references and objects stay as they are."""

import contextlib
import os
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_SECONDS = 5.0
_LOCATIONS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX")
"""Variables that a hook of git sets for its own repository."""

_DIFF = (
    "diff", "HEAD", "--binary", "--full-index", "--unified=3", "--no-color", "--no-ext-diff", "--no-textconv",
    "--no-renames", "--src-prefix=a/", "--dst-prefix=b/", "--ignore-submodules=all",
)  # fmt: skip
"""A patch that can be applied, whatever the user's own settings are."""


class TooLong(Exception):
    """The output of a command is longer than it may be."""


@dataclass(frozen=True)
class Status:
    """The state of a repository's files.

    Attributes:
        commit: the hash of the current commit; None if there is none yet.
        branch: the name of the current branch; None without one.
        changed: whether tracked files have uncommitted changes.
        dirty: whether there are such changes, or untracked files.
    """

    commit: str | None
    branch: str | None
    changed: bool
    dirty: bool


class Repositories:
    """The states of repositories, each asked for once."""

    def __init__(self) -> None:
        self._known: dict[Path, Status | None] = {}

    def status(self, folder: Path) -> Status | None:
        """Return the state of the repository that a folder belongs to; None if there is none that can be read."""
        key = repository_of(folder) or folder
        if key not in self._known:
            self._known[key] = status(key)
        return self._known[key]


def repository_of(folder: Path) -> Path | None:
    """Return the top folder of the repository that an absolute path belongs to; git is not asked."""
    return next((parent for parent in (folder, *folder.parents) if os.path.lexists(parent / ".git")), None)


def status(folder: Path) -> Status | None:
    """Return the state of a repository's files; None outside a repository, without git, or if it takes too long."""
    output = call(folder, "status", "--porcelain=v2", "--branch")
    if output is None:
        return None
    lines = output.decode(errors="replace").splitlines()
    head = dict(line[2:].partition(" ")[::2] for line in lines if line.startswith("# "))
    files = [line for line in lines if not line.startswith("# ")]
    commit, branch = head.get("branch.oid", "(initial)"), head.get("branch.head", "(detached)")
    return Status(
        commit=None if commit == "(initial)" else commit,
        branch=None if branch == "(detached)" else branch,
        changed=any(not line.startswith("?") for line in files),
        dirty=bool(files),
    )


def tracked_files(root: Path) -> frozenset[str] | None:
    """Return the tracked files of a repository, relative to its top folder; None if git fails."""
    output = call(root, "ls-files", "-z")
    return None if output is None else frozenset(map(os.fsdecode, output.split(b"\0")))


def uncommitted_changes(root: Path, most: int, files: tuple[str, ...] = ()) -> bytes | None:
    """Return the changes of tracked files since the last commit as a patch, also of binary files.

    Args:
        root: the top folder of the repository.
        most: the number of bytes that the patch may have.
        files: their paths relative to the root; none means all.

    Returns:
        The patch; None if git fails, or takes too long.

    Raises:
        TooLong: the patch is longer.
    """
    return call(root, "--literal-pathspecs", *_DIFF, "--", *files, most=most)


def has_commit(root: Path, commit: str) -> bool:
    """Whether a repository has a commit."""
    return call(root, "cat-file", "-e", f"{commit}^{{commit}}") is not None


def write_files(root: Path, commit: str, patch: Path | None, target: Path, scratch: Path) -> bool:
    """Write all files of a commit, with a patch applied, into a folder. Submodules are left out.

    Git refuses a patch that writes outside of the folder.

    Args:
        root: the top folder of a repository that has the commit.
        commit: its hash.
        patch: from `uncommitted_changes`.
        target: the folder; it exists, and is empty.
        scratch: an empty folder for temporary files.

    Returns:
        Whether the patch could be applied.

    Raises:
        OSError: git fails otherwise.
    """
    objects = call(root, "rev-parse", "--path-format=absolute", "--git-path", "objects")
    if objects is None:
        raise OSError(0, "git cannot read the repository", str(root))
    (scratch / "objects").mkdir()
    # An index and new objects of their own: the repository's are not touched.
    own = {
        "GIT_INDEX_FILE": str(scratch / "index"),
        "GIT_OBJECT_DIRECTORY": str(scratch / "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": _quoted(os.fsdecode(objects.rstrip(b"\n"))),
    }
    if call(root, "read-tree", commit, environment=own, seconds=None) is None:
        raise OSError(0, f"git cannot read commit {commit[:12]}", str(root))
    if patch is not None and not _apply(root, patch, own):
        return False
    if call(root, "checkout-index", "--all", f"--prefix={target}/", environment=own, seconds=None) is None:
        raise OSError(0, "git cannot write the files of the commit", str(target))
    return True


def _quoted(path: str) -> str:
    """Quote a path for a list of paths, which colons separate."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _apply(root: Path, patch: Path, environment: Mapping[str, str]) -> bool:
    arguments = ("apply", "--cached", "--binary", "--whitespace=nowarn", str(patch))
    return call(root, *arguments, environment=environment, seconds=None) is not None


def call(
    folder: Path,
    *arguments: str,
    most: int | None = None,
    environment: Mapping[str, str] | None = None,
    seconds: float | None = _SECONDS,
) -> bytes | None:
    """Run git in a folder.

    Args:
        folder: the working directory.
        arguments: of git.
        most: the number of bytes that the output may have.
        environment: additional variables.
        seconds: the time limit.

    Returns:
        Its standard output; None if git is missing, fails, or takes too long.

    Raises:
        TooLong: the output is longer.
    """
    variables = {name: value for name, value in os.environ.items() if name not in _LOCATIONS}
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**variables, **(environment or {})},
        )
    except (OSError, ValueError):  # no git; a null byte in an argument
        return None
    assert process.stdout is not None
    timer = threading.Timer(seconds, process.kill) if seconds is not None else None
    with process, contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        if timer is not None:
            timer.daemon = True
            timer.start()
            stack.callback(timer.cancel)
        output = process.stdout.read(-1 if most is None else most + 1)
        if most is not None and len(output) > most:
            raise TooLong
        code = process.wait()
    return output if code == 0 else None
