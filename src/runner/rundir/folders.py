"""The outputs folder, and the folders of runs and sweeps in it."""

import os
import re
import shlex
from itertools import count
from pathlib import Path
from typing import NamedTuple

from runner.errors import ConfigError, Problem, describe_error, to_one_line
from runner.rundir import layout


class FolderKind(NamedTuple):
    """The kind of a folder.

    Attributes:
        key: the config key that names the folder.
        resume: the key that resumes what is in it.
        traces: files and folders in it that show that it is taken.
        what: run or sweep.
    """

    key: str
    resume: str
    traces: tuple[str, ...]
    what: str


RUN = FolderKind("hydra.run.dir", "resume", (layout.CONFIG, layout.JOURNAL, layout.CHECKPOINTS), "run")
SWEEP = FolderKind("hydra.sweep.dir", "sweep.resume", (layout.SWEEP_PLAN, *RUN.traces), "sweep")
NAME_BYTES = 255  # the limit of file systems
PATH_BYTES = 3900  # the limit of Linux, 4,096, minus room for the files of a run

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def outputs() -> Path:
    """Return the folder of all runs: `RUNNER_OUTPUTS`, or `outputs` in the current directory."""
    return _resolve(os.environ.get("RUNNER_OUTPUTS") or "outputs", "RUNNER_OUTPUTS")


def _resolve(folder: str, key: str) -> Path:
    """Return the absolute path of a folder, without links; it need not exist.

    Raises:
        ConfigError: its links lead back to themselves, or it is in the home of an unknown user.
    """
    try:
        return Path(folder).expanduser().resolve()
    except (OSError, RuntimeError) as error:
        reason = describe_error(error) if isinstance(error, OSError) else str(error).rstrip(".")
        raise ConfigError(Problem(key, f"{key}={folder}: {reason}", "name another folder", topic="file")) from error


def parse_path(value: str, key: str) -> Path:
    """Parse the path that an option names; it need not exist.

    Args:
        value: as typed.
        key: the option, for the error.

    Raises:
        ConfigError: no file can have that name.
    """
    try:
        if "\0" in value:
            raise ValueError("a name cannot contain a null character")
        path = Path(value).expanduser()
        path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long, or a user without a known home
        reason = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
        text = f"{key}={value}: {reason}"
        raise ConfigError(Problem(key, text, "write the path of a file or folder", topic="file")) from error
    return path


def check_folder(requested: str, exact: bool, kind: FolderKind = RUN) -> list[Problem]:
    """Check whether `make_run_folder` could make a folder, without making it.

    Args:
        requested: the path in the config.
        exact: whether the user named it; then it must be new, or empty.
        kind: the kind of the folder.
    """
    key = kind.key
    try:
        _resolve(requested, key)
    except ConfigError as error:
        return error.problems
    path = Path(requested).expanduser().absolute()

    def problem(text: str, suggestion: str) -> list[Problem]:
        return [Problem(key, text, suggestion, topic="file")]

    if len(os.fsencode(path)) > PATH_BYTES:
        return problem(f"{key}={requested} is longer than {PATH_BYTES} bytes", "write a shorter path")
    place = f"{key}={requested}" if exact else f"the outputs folder {path.parent}"
    instead = "write another folder" if exact else "set RUNNER_OUTPUTS to a writable folder"
    if any(len(os.fsencode(part)) > NAME_BYTES for part in path.parts):
        return problem(f"{place} has a name longer than {NAME_BYTES} bytes", "write a shorter one")
    try:
        if exact and any((path / trace).exists() for trace in kind.traces):
            return [_taken(requested, kind)]
        if exact and path.is_dir() and (content := _content(path)):
            names = (Path(requested, f"{kind.what}_{number}") for number in count(1))
            new = next(name for name in names if not name.expanduser().exists())
            return problem(f"{place} is not empty, it has {content}", f"write {for_shell(f'{key}={new}')}, or another")
        existing = next(folder for folder in (path, *path.parents) if folder.exists())
    except OSError as error:
        return problem(f"{place} cannot be accessed ({error.strerror})", instead)
    if not existing.is_dir():
        return problem(f"{place} cannot be created: {existing} is a file", instead)
    if not os.access(existing, os.W_OK | os.X_OK):
        return problem(f"{place} cannot be created: {existing} is not writable", instead)
    return []


def _content(folder: Path) -> str | None:
    """Name what was in a folder before runner used it; None if there is nothing.

    A file without content may be the log of this very command, which the shell or Slurm has just opened.
    """
    others = [entry for entry in folder.iterdir() if entry.name not in (layout.LOCK, layout.TRACKING)]
    names = sorted(entry.name for entry in others if entry.is_dir() or entry.lstat().st_size)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") or None


def _taken(requested: str, kind: FolderKind) -> Problem:
    instead = f"write {kind.resume}={requested}, or another folder"
    return Problem(kind.key, f"{kind.key}={requested} already holds a {kind.what}", instead, topic="conflict")


def make_run_folder(requested: str, exact: bool, kind: FolderKind = RUN) -> Path:
    """Make a folder for one run. Of two runs that start in the same second, the second gets `<name>_2`.

    Args:
        requested: the path in the config.
        exact: whether the user named it; then the name is not changed.
        kind: the kind of the folder.

    Raises:
        ConfigError: the folder cannot be made, or already holds a run.
    """
    path = _resolve(requested, kind.key)
    try:
        if exact:
            path.mkdir(parents=True, exist_ok=True)
            if any((path / trace).exists() for trace in kind.traces):
                raise ConfigError(_taken(requested, kind))
            return path
        path = path.with_name(re.sub(r"[^A-Za-z0-9._-]+", "-", path.name))
        path.parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            candidate = path if number == 1 else path.with_name(f"{path.name}_{number}")
            try:
                candidate.mkdir()
                return candidate
            except FileExistsError:
                number += 1
    except OSError as error:
        instead = "write another folder" if exact else "set RUNNER_OUTPUTS to a writable folder"
        name = f"{kind.key}={requested}" if exact else f"the folder {path}"
        text = f"{name} cannot be created: {error.strerror}"
        raise ConfigError(Problem(kind.key, text, instead, topic="file")) from error


def display_path(path: Path) -> str:
    """Return a path for a message: relative to the current directory if it is below it, in one line."""
    return to_one_line(_from_here(path))


def shell_path(path: Path) -> str:
    """Return a path for a command: relative to the current directory if it is below it, quoted if necessary."""
    return for_shell(_from_here(path))


def for_shell(text: str) -> str:
    """Quote a word of a command if a shell needs that; the result is one line."""
    if _CONTROL.search(text):  # $'a\nb' for a line break in a name
        escaped = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text.replace("\\", "\\\\").replace("'", "\\'"))
        return f"$'{escaped}'"
    return shlex.quote(text)


def _from_here(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
