"""Machines whose energy can be measured, and others, for runs in the process of a test and in its sweeps."""

from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import quick
from runner.sweeps.launchers import forkserver
from runner.training import energy as of_training
from runner.util import energy

if TYPE_CHECKING:
    import pytest

PACKAGES = energy.Packages

STEP = 0.25
"""Kilowatt-hours between two readings."""


class Steady:
    """A counter that has gone on by the same energy at each reading."""

    name = "CPU"

    def joules(self) -> float:
        return STEP * energy.JOULES_PER_KWH


def metered(patch: "pytest.MonkeyPatch") -> None:
    """Let runs, and the jobs of sweeps, find such a counter, and log each epoch."""
    patch.setattr(energy, "Packages", Steady)
    patch.setattr(of_training, "LOG_SECONDS", 0.0)
    patch.setattr(forkserver, "process", lambda *call: _process(_with_counter, call))


def unmetered(patch: "pytest.MonkeyPatch") -> None:
    """Let runs, and the jobs of sweeps, find no counter."""
    patch.setattr(energy, "Packages", PACKAGES)
    patch.setattr(energy, "POWERCAP", Path("missing"))
    patch.setattr(forkserver, "process", lambda *call: _process(_without_counter, call))


def _process(prepare: Callable[[], None], call: tuple[Any, ...]) -> ForkServerProcess:
    return forkserver._context.Process(target=_call, args=(prepare, *call))


def _call(prepare: Callable[[], None], function: str, *arguments: Any) -> Any:
    prepare()
    return quick._call(function, arguments)


def _with_counter() -> None:
    energy.Packages, of_training.LOG_SECONDS = Steady, 0.0  # type: ignore[assignment, misc]


def _without_counter() -> None:
    energy.POWERCAP = Path("missing")
