"""Small runs in the process of a test and in its sweeps, without what takes most of their time."""

from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from typing import TYPE_CHECKING, Any

from runner.sweeps.launchers import forkserver

if TYPE_CHECKING:
    import pytest


class NoRehearsal:
    """A rehearsal whose verdict does not come."""

    def __init__(self, state: object) -> None: ...

    def verdict(self, wait: float = 0.0) -> None: ...

    def running(self) -> bool:
        return True

    def close(self) -> None: ...


def no_plots(*_: object) -> None: ...


def without_plots_and_rehearsal(patch: "pytest.MonkeyPatch") -> None:
    """Let runs, and the jobs of sweeps, draw no plots and rehearse no resume.

    test_plots.py and test_hidden.py have these; whole runs with them are those in processes of their own, and the
    commands of test_readme.py.
    """
    patch.setattr("runner.runs.report.draw_plots", no_plots)
    patch.setattr("runner.training.hidden.Rehearsal", NoRehearsal)
    patch.setattr(forkserver, "process", _process)


def _process(function: str, *arguments: Any) -> ForkServerProcess:
    return forkserver._context.Process(target=_call, args=(function, arguments))


def _call(function: str, arguments: Sequence[Any]) -> Any:
    from runner.runs import report
    from runner.training import hidden

    report.draw_plots, hidden.Rehearsal = no_plots, NoRehearsal  # type: ignore[assignment, misc]
    return forkserver._call(function, tuple(arguments))
