"""The record of the code that a run imports: `code/code.json`, and what git does not have of it, beside it."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from runner.rundir import layout
from runner.rundir.ownership import is_real_file, is_real_folder
from runner.util.files import open_to_read, read_text
from runner.util.redaction import redact_all

FORMAT = 1
MAX_RECORD = 16 << 20
"""Bytes of a record that is read."""

_HASH = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_STORED = re.compile(r"(?:files/)?[A-Za-z0-9_][A-Za-z0-9._-]*")
_MODULE = re.compile(r"\w+(?:\.\w+)*")


RUNNER = "runner"
"""The module that stands for all of runner: its file is the folder of the package."""


@dataclass(frozen=True)
class Module:
    """An imported file.

    Attributes:
        file: its path in its folder.
        sha256: of its content, see `content_hash`.
        stored: the name of its copy below `code/`; None if the commit and the patch have it, or it is not stored.
    """

    file: str
    sha256: str
    stored: str | None = None


@dataclass(frozen=True)
class Patch:
    """The uncommitted changes of a repository.

    Attributes:
        stored: the name of its file below `code/`.
        sha256: of that file.
        redacted: whether secrets were removed from it.
        partial: whether it has only the changes of imported files, because all changes are too long.
    """

    stored: str
    sha256: str
    redacted: bool = False
    partial: bool = False


@dataclass
class CodeFolder:
    """A repository, or a folder outside of any, with the files that were imported from it.

    Attributes:
        root: its absolute path.
        commit: of the repository; None outside of any.
        dirty: whether tracked files had uncommitted changes.
        patch: these changes; None if there were none, or they are not stored.
        modules: the imported files by the name of their module.
    """

    root: str
    commit: str | None = None
    dirty: bool = False
    patch: Patch | None = None
    modules: dict[str, Module] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the folder."""
        return PurePosixPath(self.root).name or "/"


@dataclass
class Code:
    """The code of a run.

    Attributes:
        folders: where it came from.
        paths: the absolute paths that its modules were imported from, in the order of `sys.path`.
        left_out: what is not stored, and why, a line each.
    """

    folders: list[CodeFolder] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def modules(self) -> Iterator[tuple[str, CodeFolder, Module]]:
        """Yield the name of each module, its folder and its file."""
        for folder in self.folders:
            for name, module in folder.modules.items():
                yield name, folder, module

    def stored(self) -> set[str]:
        """Return the names of the stored files."""
        patches = {folder.patch.stored for folder in self.folders if folder.patch is not None}
        return patches | {module.stored for _, _, module in self.modules() if module.stored is not None}

    def hashes(self) -> dict[str, str]:
        """Return the hash of each module's file by the module's name."""
        return {name: module.sha256 for name, _, module in self.modules()}

    def changed(self, other: "Code") -> list[str]:
        """Return the files of the modules that both have, and that differ.

        Which modules are imported depends on the config, so others say nothing about the code.
        """
        others = other.hashes()
        both = ((others.get(name), module) for name, _, module in self.modules())
        return sorted(module.file for sha256, module in both if sha256 not in (None, module.sha256))

    def add(self, later: "Code") -> None:
        """Add modules that were imported later."""
        known = {folder.root: folder for folder in self.folders}
        for folder in later.folders:
            if folder.root in known:
                known[folder.root].modules.update(folder.modules)
            else:
                self.folders.append(folder)
        self.paths += [path for path in later.paths if path not in self.paths]
        self.left_out += [line for line in later.left_out if line not in self.left_out]

    def to_text(self) -> str:
        """Return the record as JSON, without secrets."""
        return json.dumps(redact_all({"format": FORMAT, **asdict(self)}), indent=1) + "\n"

    @property
    def digest(self) -> str:
        """A hash of the record."""
        return hashlib.sha256(self.to_text().encode()).hexdigest()[:16]


def content_hash(path: Path) -> str | None:
    """Return the hash of a file, or of all modules in a folder; None if it cannot be read."""
    try:
        if not path.is_dir():
            with open_to_read(path) as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()
        digest = hashlib.sha256()
        for file in sorted(path.rglob("*.py")):
            content = file.read_bytes()
            digest.update(f"{file.relative_to(path).as_posix()} {len(content)}\n".encode() + content)
        return digest.hexdigest()
    except OSError:
        return None


def real_path(folder: Path, name: str) -> Path | None:
    """Return the path of a file below `code/` in a run's or a sweep's folder; None if it is missing, or behind a link.

    Args:
        folder: of the run or the sweep.
        name: of the file, as `Code` has it.
    """
    path = folder / layout.CODE / name
    between = [parent for parent in path.parents if parent.is_relative_to(folder / layout.CODE)]
    return path if is_real_file(path) and all(map(is_real_folder, between)) else None


def read_in(folder: Path) -> Code | None:
    """Read the record in a run's folder; None if there is none that can be read."""
    path = real_path(folder, layout.CODE_RECORD)
    try:
        return read(path) if path is not None else None
    except (OSError, ValueError):
        return None


def read(path: Path) -> Code:
    """Read a record, which anyone may have written: nothing in it is a path outside of its folders.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or of a later version.
    """
    if path.stat().st_size > MAX_RECORD:
        raise ValueError("it is too long")
    try:
        content = json.loads(read_text(path))
        if content["format"] != FORMAT:
            raise ValueError(f"its format {content['format']} is of another version of runner")
        folders = [_folder(one) for one in content["folders"]]
        paths, left_out = ([_text(one) for one in content[name]] for name in ("paths", "left_out"))
        return Code(folders, [_absolute(one) for one in paths], left_out)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("it is damaged") from error


def _folder(content: Mapping[str, Any]) -> CodeFolder:
    patch = content["patch"]
    return CodeFolder(
        _absolute(content["root"]),
        None if content["commit"] is None else _match(_COMMIT, content["commit"]),
        bool(content["dirty"]),
        None if patch is None else _patch(patch),
        {_match(_MODULE, name): _module(one) for name, one in content["modules"].items()},
    )


def _patch(content: Mapping[str, Any]) -> Patch:
    stored, sha256 = _match(_STORED, content["stored"]), _match(_HASH, content["sha256"])
    return Patch(stored, sha256, bool(content["redacted"]), bool(content["partial"]))


def _module(content: Mapping[str, Any]) -> Module:
    file, stored = PurePosixPath(_text(content["file"])), content["stored"]
    if file.is_absolute() or ".." in file.parts or not file.name or ".git" in file.parts:
        raise ValueError(f"it names the file {str(file)!r}, which is not in its folder")
    return Module(str(file), _match(_HASH, content["sha256"]), None if stored is None else _match(_STORED, stored))


def _absolute(value: Any) -> str:
    path = PurePosixPath(_text(value))
    if not path.is_absolute() or ".." in path.parts:
        raise ValueError(f"it names the folder {str(path)!r}, which is not an absolute path")
    return str(path)


def _match(pattern: re.Pattern[str], value: Any) -> str:
    text = _text(value)
    if not pattern.fullmatch(text):
        raise ValueError(f"it has {text[:80]!r} where {pattern.pattern} is needed")
    return text


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value or len(value) > 4096:
        raise ValueError("it is damaged")
    return value
