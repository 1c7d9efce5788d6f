"""Take the code of modules, and store what git does not have of it."""

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from runner.rundir import code, layout
from runner.rundir.code import RUNNER, Code, CodeFolder, Module, Patch, content_hash
from runner.rundir.ownership import is_real_file, is_real_folder
from runner.util import git
from runner.util.files import replacing
from runner.util.redaction import redact
from runner.util.users_code import is_runners

MAX_FILE = 1 << 20
"""Bytes of a file that is stored."""

MAX_FILES = 8 << 20
"""Bytes of all files that are stored."""

MAX_COUNT = 200
"""Number of files that are stored."""

MAX_PATCH = 4 << 20
"""Bytes of a patch that is stored."""

_BINARY = b"\nGIT binary patch\n"
_UNPRINTABLE = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass
class Snapshot:
    """The code of modules at one time.

    Attributes:
        code: its record.
        contents: of the files to store, by their names in the record.
    """

    code: Code = field(default_factory=Code)
    contents: dict[str, bytes] = field(default_factory=dict)


def take(files: Mapping[str, Path], repositories: git.Repositories) -> Snapshot:
    """Take the code of modules.

    Args:
        files: their absolute paths by the names of the modules.
        repositories: those whose states are known already.
    """
    return _Taking(repositories).take(files)


class _Taking:
    """Takes the files of modules.

    Args:
        repositories: see `take`.
    """

    def __init__(self, repositories: git.Repositories) -> None:
        self._repositories, self._snapshot = repositories, Snapshot()
        self._folders: dict[Path, CodeFolder] = {}
        self._tracked: dict[Path, frozenset[str]] = {}
        self._roots: dict[Path, Path | None] = {}
        self._real_folders: dict[Path, str] = {}
        self._total = 0

    def take(self, files: Mapping[str, Path]) -> Snapshot:
        paths: set[str] = set()
        for name, file in sorted(files.items()):
            imported_from = import_root(name, file)
            folder = self._folder(file, imported_from)
            relative = str(file)[len(folder.root) :].lstrip("/")
            if is_runners(name) and name != RUNNER and self._is_of_runner(folder, relative):
                continue
            in_git = self._is_in_git(folder, file, relative)
            if name == RUNNER:
                file, relative, in_git = file.parent, str(Path(relative).parent), True
            if (sha256 := _hash(file)) is not None:
                paths.add(str(imported_from))
                folder.modules[name] = Module(relative, sha256, None if in_git else self._store(file))
        for root, folder in self._folders.items():
            if folder.dirty:
                folder.patch = self._patch(root, folder)
        code = self._snapshot.code
        code.folders = list(self._folders.values())
        code.paths = _in_order_of_search(paths)
        return self._snapshot

    def _folder(self, file: Path, imported_from: Path) -> CodeFolder:
        """Return the repository of a file, or else the folder that it was imported from."""
        if file.parent not in self._roots:
            self._roots[file.parent] = git.repository_of(file.parent)
        root = self._roots[file.parent]
        status = self._repositories.status(root) if root is not None else None
        if root is None or status is None or status.commit is None:
            return self._folders.setdefault(imported_from, CodeFolder(str(imported_from)))
        if root not in self._folders:
            self._folders[root] = CodeFolder(str(root), status.commit, status.changed)
            self._tracked[root] = git.tracked_files(root) or frozenset()
        return self._folders[root]

    def _is_of_runner(self, folder: CodeFolder, relative: str) -> bool:
        """Whether a file of runner is in its hash, and in git if runner is."""
        return folder.commit is None or relative in self._tracked[Path(folder.root)]

    def _is_in_git(self, folder: CodeFolder, file: Path, relative: str) -> bool:
        """Whether the commit and the patch have a file; they have only the name of what is behind a link."""
        root = Path(folder.root)
        if folder.commit is None or relative not in self._tracked[root]:
            return False
        inside, own = relative.rpartition("/")[0], self._real(file.parent)
        return own == os.path.join(self._real(root), inside).rstrip("/") and not file.is_symlink()  # noqa: PTH118

    def _real(self, folder: Path) -> str:
        """Return the path of a folder without links; files share their folders."""
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(folder)
        return self._real_folders[folder]

    def _store(self, file: Path) -> str | None:
        """Store a copy of a file; None if it is too large."""
        if file.stat().st_size > MAX_FILE:
            self._note(f"{file} is not stored, it is larger than {MAX_FILE >> 20} MiB")
            return None
        content = file.read_bytes()
        if self._total + len(content) > MAX_FILES or len(self._snapshot.contents) >= MAX_COUNT:
            self._note(f"{file} is not stored, after {MAX_COUNT} files or {MAX_FILES >> 20} MiB")
            return None
        self._total += len(content)
        safe = without_secrets(content)
        if safe != content:
            self._note(f"the stored copy of {file} is without its secrets")
        suffix = file.suffix if re.fullmatch(r"\.[A-Za-z0-9]+", file.suffix) else ""
        return self._keep(f"files/{_plain(file.stem)}", suffix, safe)

    def _patch(self, root: Path, folder: CodeFolder) -> Patch | None:
        """Store the uncommitted changes of a repository; those of the imported files if all are too long."""
        imported = tuple(module.file for module in folder.modules.values() if module.stored is None)
        most = f"{MAX_PATCH >> 20} MiB"
        for files in ((), imported):
            try:
                patch = git.uncommitted_changes(root, MAX_PATCH, files)
            except git.TooLong:
                which = "imported files" if files else "files that are not imported"
                self._note(f"the uncommitted changes of {which} in {root} are not stored, they are larger than {most}")
                continue
            if patch is None:
                break
            safe = _patch_without_secrets(patch)
            if safe != patch:
                self._note(f"the stored changes of {root} are without their secrets")
            stored = self._keep(f"patch-{_plain(folder.name)}", ".diff", safe)
            return Patch(stored, hashlib.sha256(safe).hexdigest(), safe != patch, partial=bool(files))
        else:
            return None
        self._note(f"the uncommitted changes of {root} are not stored, git failed")
        return None

    def _keep(self, stem: str, suffix: str, content: bytes) -> str:
        """Name a content by its hash, so that the jobs of a sweep store it once."""
        name = f"{stem}-{hashlib.sha256(content).hexdigest()[:12]}{suffix}"
        self._snapshot.contents[name] = content
        return name

    def _note(self, what: str) -> None:
        self._snapshot.code.left_out.append(what)


def import_root(module: str, file: Path) -> Path:
    """Return the folder that a module was imported from, an entry of `sys.path`."""
    parts = module.split(".")
    parts = parts if file.stem == "__init__" else parts[:-1]
    folder = file.parent
    for part in reversed(parts):
        if folder.name != part:  # loaded by its path, under another name
            return file.parent
        folder = folder.parent
    return folder


def without_secrets(content: bytes) -> bytes:
    """Remove secrets from the content of a file, which may be of any encoding."""
    text = content.decode("utf-8", "surrogateescape")
    return redact(text).encode("utf-8", "surrogateescape")


def _patch_without_secrets(patch: bytes) -> bytes:
    """Remove secrets from a patch; what encodes a binary file is no text, and stays."""
    parts = re.split(rb"(?m)^(?=diff --git )", patch)
    return b"".join(part if _BINARY in part else without_secrets(part) for part in parts)


def _plain(name: str) -> str:
    return _UNPRINTABLE.sub("-", name).strip("-")[:40] or "file"


def _in_order_of_search(paths: Iterable[str]) -> list[str]:
    entries = [os.path.realpath(entry or os.curdir) for entry in sys.path]
    place = {path: index for index, path in reversed(list(enumerate(entries)))}
    return sorted(paths, key=lambda path: (place.get(os.path.realpath(path), len(entries)), path))


def _hash(file: Path) -> str | None:
    """Return the hash of a file, or of the folder of runner; None if it cannot be read any more."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return _hash_of(file, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4096)
def _hash_of(file: Path, _changed: int, _size: int) -> str | None:
    return content_hash(file)


def write(folder: Path, snapshot: Snapshot, name: str = layout.CODE_RECORD) -> None:
    """Write a record and what it stores into a run's folder; of a job into its sweep's, where the others find it.

    Args:
        folder: of the run.
        snapshot: the code.
        name: of the record.

    Raises:
        OSError: a file cannot be written, or a folder is a link.
    """
    in_sweep = is_real_file(folder.parent / layout.SWEEP_PLAN)
    for stored in snapshot.code.stored() & snapshot.contents.keys():
        place = folder.parent if in_sweep else folder
        if code.real_path(place, stored) is None:
            _write(place, stored, snapshot.contents[stored])
    _write(folder, name, snapshot.code.to_text().encode())


def _write(folder: Path, name: str, content: bytes) -> None:
    path = folder / layout.CODE / name
    for parent in dict.fromkeys((folder / layout.CODE, path.parent)):
        parent.mkdir(exist_ok=True)
        if not is_real_folder(parent):
            raise NotADirectoryError(0, "it is a link, and links are not followed: remove it", str(parent))
    with replacing(path, private=True) as temporary:
        temporary.write_bytes(content)
