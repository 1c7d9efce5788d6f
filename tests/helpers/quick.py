"""Small runs in the process of a test and in its sweeps, without what takes most of their time."""

from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conftest import REPOSITORY
from runner.sweeps.launchers import forkserver
from runner.util.users_code import imported_files

if TYPE_CHECKING:
    import pytest


class NoRehearsal:
    """A rehearsal whose verdict does not come."""

    def __init__(self, state: object, shared: object = None) -> None: ...

    def verdict(self, wait: float = 0.0) -> None: ...

    def running(self) -> bool:
        return True

    def close(self) -> None: ...


def no_plots(*_: object) -> None: ...


def files_elsewhere() -> dict[str, Path]:
    """Return the imported files outside of this repository, whose state git would be asked for at each start."""
    return {name: file for name, file in imported_files().items() if not file.is_relative_to(REPOSITORY)}


def without_plots_and_rehearsal(patch: "pytest.MonkeyPatch") -> None:
    """Let runs, and the jobs of sweeps, draw no plots, rehearse no resume and leave out the code of this repository.

    test_plots.py, test_hidden.py and test_code.py have these; whole runs with them are those in processes of their own,
    and the commands of test_readme.py.
    """
    patch.setattr("runner.runs.code.imported_files", files_elsewhere)
    patch.setattr("runner.runs.report.draw_plots", no_plots)
    patch.setattr("runner.training.hidden.Rehearsal", NoRehearsal)
    patch.setattr(forkserver, "process", process)
    # A refused sweep ends the server of its jobs, and the next one in this process would start another, for seconds.
    patch.setattr("runner.sweeps.launch._kill_server", lambda *_: None)


def process(function: str, *arguments: Any) -> ForkServerProcess:
    """Replaces `forkserver.process`: such a fork."""
    return forkserver._context.Process(target=_call, args=(function, arguments))


def _call(function: str, arguments: Sequence[Any]) -> Any:
    from runner.runs import code, report
    from runner.training import hidden

    code.imported_files = files_elsewhere
    report.draw_plots, hidden.Rehearsal = no_plots, NoRehearsal  # type: ignore[assignment, misc]
    return forkserver._call(function, tuple(arguments))
