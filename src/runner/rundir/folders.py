"""Where things lie on disk: the outputs folder, and a run's own folder in it."""

import os
import re
import shlex
from pathlib import Path
from typing import NamedTuple

from runner.errors import ConfigError, Problem, abbreviate, to_one_line
from runner.rundir import layout


class FolderKind(NamedTuple):
    """Whose folder it is: the key that names it, the key that goes on with it, and what tells that it is in use."""

    key: str
    resume: str
    traces: tuple[str, ...]
    what: str


RUN = FolderKind("hydra.run.dir", "resume", (layout.CONFIG, layout.JOURNAL, layout.CHECKPOINTS), "run")
SWEEP = FolderKind("hydra.sweep.dir", "sweep.resume", (layout.SWEEP_PLAN, *RUN.traces), "sweep")
NAME_BYTES = 255  # what file systems take
PATH_BYTES = 3900  # what Linux takes, 4,096, less the files of a run

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def outputs() -> Path:
    """Where runs are kept: `RUNNER_OUTPUTS`, or `outputs` below the current directory."""
    return Path(os.environ.get("RUNNER_OUTPUTS") or "outputs").expanduser().resolve()


def parse_path(value: str, key: str) -> Path:
    """The path that an option names; there need be nothing there.

    Args:
        value: as typed.
        key: of the option, for the error.

    Raises:
        ConfigError: no file can have that name.
    """
    try:
        if "\0" in value:
            raise ValueError("a name cannot contain a null character")
        path = Path(value).expanduser()
        path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long; of a user whose home is not known
        reason = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
        raise ConfigError(f"{abbreviate(f'{key}={value}')}: {reason}; write the path of a file or folder") from error
    return path


def check_folder(wanted: str, exact: bool, kind: FolderKind = RUN) -> list[Problem]:
    """Find what would keep `make_run_folder` from making a folder, without making any.

    Args:
        wanted: the path the config asks for.
        exact: the user named it.
        kind: of a run or a sweep.
    """
    path = Path(wanted).expanduser().absolute()
    key = kind.key

    def problem(text: str, suggestion: str) -> list[Problem]:
        return [Problem(key, text, suggestion, topic="file")]

    if len(os.fsencode(path)) > PATH_BYTES:
        return problem(f"{abbreviate(f'{key}={wanted}')} is longer than {PATH_BYTES} bytes", "write a shorter path")
    place = f"{key}={wanted}" if exact else f"the outputs folder {path.parent}"
    instead = "write another folder" if exact else "set RUNNER_OUTPUTS to a writable folder"
    if any(len(os.fsencode(part)) > NAME_BYTES for part in path.parts):
        return problem(f"{place[:60]}... has a name longer than {NAME_BYTES} bytes", "write a shorter one")
    if exact and any((path / trace).exists() for trace in kind.traces):
        instead = f"write {kind.resume}={wanted}, or another folder"
        return [Problem(key, f"{place} already holds a {kind.what}", instead, topic="conflict")]
    try:
        there = next(folder for folder in (path, *path.parents) if folder.exists())
    except OSError as error:
        return problem(f"{place} cannot be accessed ({error.strerror})", instead)
    if not there.is_dir():
        return problem(f"{place} cannot be created: {there} is a file", instead)
    if not os.access(there, os.W_OK | os.X_OK):
        return problem(f"{place} cannot be created: {there} is not writable", instead)
    return []


def make_run_folder(wanted: str, exact: bool, kind: FolderKind = RUN) -> Path:
    """Make a folder that no other run has: of two starts in one second, the second gets `<name>_2`.

    Args:
        wanted: the path the config asks for.
        exact: the user named it, so it is taken as it is, or not at all.
        kind: whose it is.

    Raises:
        ConfigError: it cannot be made, or there is a run in it already.
    """
    path = Path(wanted).expanduser().resolve()
    try:
        if exact:
            path.mkdir(parents=True, exist_ok=True)
            if any((path / trace).exists() for trace in kind.traces):
                raise ConfigError(
                    f"{kind.key}={wanted} holds a {kind.what} already: write {kind.resume}={wanted}, or another folder"
                )
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
        instead = "write another folder" if exact else "set RUNNER_OUTPUTS to a folder that can be written"
        named = f"{kind.key}={wanted}" if exact else f"the folder {path}"
        raise ConfigError(f"{named} cannot be made: {error.strerror}; {instead}") from error


def display_path(path: Path) -> str:
    """A path as a person would write it here, in one line."""
    return to_one_line(_from_here(path))


def shell_path(path: Path) -> str:
    """A path as a part of a command, as a person would write it here."""
    return for_shell(_from_here(path))


def for_shell(text: str) -> str:
    """A text as a part of a command, on one line, quoted where a shell needs it."""
    if _CONTROL.search(text):  # $'a\nb' for a line break in a name
        escaped = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text.replace("\\", "\\\\").replace("'", "\\'"))
        return f"$'{escaped}'"
    return shlex.quote(text)


def _from_here(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
