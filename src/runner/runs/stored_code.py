"""Unpack the stored code of a run into a temporary folder, and run a command there.

Only on request: the code is a program, and whoever may write to the store can change it.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import runner
from runner.errors import ConfigError, Problem
from runner.rundir.code import RUNNER, Code, CodeFolder, Module, content_hash
from runner.saved.code import StoredCode
from runner.util import git
from runner.util.options import EXIT_SIGNAL

KEY = "code"
WITHOUT = "leave out code=stored to run the present code"


@contextmanager
def unpacked(stored: StoredCode) -> Iterator[Path]:
    """Unpack the code of a run into a temporary folder, in which each folder has its old path.

    Raises:
        ConfigError: the run has no stored code, or not all of it can be had.
    """
    if stored.record is None:
        text = stored.problem or f"no code is stored with {stored.run.place}"
        raise ConfigError(Problem(KEY, f"code=stored: {text}", WITHOUT, topic="run"))
    with tempfile.TemporaryDirectory(prefix="runner-code-") as temporary:
        target = Path(temporary)
        folders = sorted(stored.record.folders, key=lambda folder: len(Path(folder.root).parts))
        problems = [problem for folder in folders for problem in _Unpacking(stored, folder, target).problems()]
        if problems:
            raise ConfigError(*problems)
        yield target


def describe(code: Code) -> list[str]:
    """Describe what of the stored code is unpacked, a line for each folder."""
    lines = []
    for folder in code.folders:
        commit = f"commit {folder.commit[:12]}{_changes(folder)}, " if folder.commit is not None else ""
        count = sum(name != RUNNER for name in folder.modules)
        files = f"{count} imported file{'s' * (count > 1)}" if count else "runner itself"
        if count or commit:  # runner outside of a repository is not stored
            lines.append(f"{folder.root}: {commit}{files}")
    return lines


def _changes(folder: CodeFolder) -> str:
    """Describe the uncommitted changes of a repository."""
    if not folder.dirty:
        return ""
    if folder.patch is None:
        return " without its uncommitted changes, which are not stored"
    return f" with uncommitted changes{' of imported files alone' if folder.patch.partial else ''}"


class _Unpacking:
    """Unpacks one folder.

    Args:
        stored: the code.
        folder: one of its folders.
        target: where its path begins.
    """

    def __init__(self, stored: StoredCode, folder: CodeFolder, target: Path) -> None:
        self._stored, self._folder, self._target = stored, folder, target
        self._place = moved(folder.root, target)

    def problems(self) -> Iterator[Problem]:
        """Unpack the folder, and yield what cannot be had."""
        if self._folder.commit is not None and (text := self._check_out(self._folder.commit)) is not None:
            yield Problem(KEY, f"code=stored: {text}", WITHOUT, topic="run")
            return
        for name, module in self._folder.modules.items():
            # The folder of runner may have had untracked files that were not imported: then its hash is another.
            if (name != RUNNER or self._is_redacted) and not self._restore(module):
                text = f"code=stored: {module.file} of {self._folder.root} cannot be restored, {self._reason(module)}"
                yield Problem(KEY, text, WITHOUT, topic="run")

    def _check_out(self, commit: str) -> str | None:
        """Write the files of the commit, with the changes; return what is wrong."""
        repository = next((root for root in _repositories(self._folder) if git.has_commit(root, commit)), None)
        if repository is None:
            where = f"commit {commit[:12]} of {self._folder.root} is in no repository here"
            return f"{where}, fetch it there or cd to a clone that has it"
        patch = None
        if self._folder.patch is not None:
            patch = self._stored.file(self._folder.patch.stored)
            if patch is None or content_hash(patch) != self._folder.patch.sha256:
                return f"{self._folder.patch.stored} is missing or has changed in {self._stored.run.place}"
        _make_folder(self._place, self._target)
        with tempfile.TemporaryDirectory(prefix="runner-git-") as scratch:
            try:
                if git.write_files(repository, commit, patch, self._place, Path(scratch)):
                    return None
            except OSError as error:
                return f"{error.strerror}: {error.filename}"
        secrets = ", as its secrets were removed" if self._is_redacted else ""
        return f"the stored changes of {self._folder.root} do not fit its commit {commit[:12]}{secrets}"

    def _restore(self, module: Module) -> bool:
        """Write a file that the commit does not have; return whether it is the one that the run imported."""
        place = self._place / module.file
        sources = [self._stored.file(module.stored) if module.stored is not None else None]
        if module.stored is None and content_hash(place) == module.sha256:
            return True
        sources.append(Path(self._folder.root, module.file))  # the present file, if it is still the same
        for source in sources:
            if source is not None and source.is_file() and content_hash(source) == module.sha256:
                _make_folder(place.parent, self._target)
                place.unlink(missing_ok=True)
                shutil.copyfile(source, place)
                return True
        return False

    def _reason(self, module: Module) -> str:
        """Say why a file cannot be restored."""
        if module.stored is not None:
            return "its copy is stored without secrets, or was changed"
        return "its changes are stored without secrets" if self._is_redacted else "it is not stored"

    @property
    def _is_redacted(self) -> bool:
        return self._folder.patch is not None and self._folder.patch.redacted


def _repositories(folder: CodeFolder) -> Iterator[Path]:
    """Yield the repositories that may have a commit: where it was, the one of the current folder, and runner's."""
    for path in (Path(folder.root), Path.cwd(), Path(runner.__file__).parent):
        root = git.repository_of(path)
        if root is not None:
            yield root


def moved(path: str, target: Path) -> Path:
    """Return where an absolute path is below the folder that code is unpacked into."""
    return target / path.lstrip("/")


def _make_folder(folder: Path, target: Path) -> None:
    """Create a folder below the target; a link on the way, which a commit may have, is replaced."""
    for part in [*reversed(folder.relative_to(target).parents), folder.relative_to(target)]:
        path = target / part
        if path.is_symlink():
            path.unlink()
        path.mkdir(exist_ok=True)


def run(module: str, arguments: Sequence[str], code: Code, target: Path) -> int:
    """Run a module in a child process, with unpacked code before all other; it gets the signals of this one.

    Args:
        module: its name.
        arguments: of the command.
        code: the record of the code.
        target: the folder that it was unpacked into.

    Returns:
        The exit code.
    """
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []  # signals from before the child exists

    def forward(number: int, _frame: FrameType | None) -> None:
        if process is None:
            early.append(number)
        else:
            process.send_signal(number)

    former = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # A group of its own: Ctrl-C in a terminal then reaches it once.
        command = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(command, env=environment(code, target), process_group=0)
        for number in early:
            process.send_signal(number)
        exit_code = process.wait()
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    return exit_code if exit_code >= 0 else EXIT_SIGNAL - exit_code


def environment(code: Code, target: Path) -> Mapping[str, str]:
    """Return the variables with which Python imports unpacked code first, and the current folder's last."""
    stored = [str(path) for path in (moved(path, target) for path in code.paths) if path.is_dir()]
    present = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([*stored, *present, str(Path.cwd())]),
        "PYTHONSAFEPATH": "1",  # otherwise the current folder comes first
    }
