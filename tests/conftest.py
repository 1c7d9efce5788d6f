"""What the tests share: an empty place to run in, and the command line called in this process."""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Several processes with several threads each on the same cores wait for each other most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from runner.cli import command

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass
class Called:
    """What a command printed on standard error, and its exit code."""

    code: int
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error:")]


@pytest.fixture(autouse=True)
def _quiet_again() -> Iterator[None]:
    """Take away the terminal lines that a run in this process has set up."""
    yield
    log = logging.getLogger("runner")
    log.handlers.clear()
    log.propagate = True


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, with no data and no outputs anywhere else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNNER_OUTPUTS", raising=False)
    monkeypatch.setenv("RUNNER_DATA", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def runner(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """`runner("model=cnn", ...)` is `python -m runner model=cnn ...` within this process."""

    def call(*arguments: str) -> Called:
        capsys.readouterr()
        code = command(arguments)
        return Called(code, capsys.readouterr().err)

    return call


def run_folder(here: Path) -> Path:
    """The folder of the only run there is."""
    (folder,) = (here / "outputs" / "runs").iterdir()
    return folder
