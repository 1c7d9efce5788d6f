"""What the tests share: an empty place to run in, and the command line called in this process."""

import copy
import gc
import logging
import os
import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

# Several processes with several threads each on the same cores wait for each other most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import yaml
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from runner.cli import run_command
from runner.config.check_override import ParsedOverride
from runner.config.compose import Composer
from runner.errors import Problem
from runner.util import options
from runner.util.cores import physical_cores
from runner.util.program import COLLECT_AFTER

if TYPE_CHECKING:
    from helpers.drawn import Plot

REPOSITORY = Path(__file__).resolve().parents[1]

MEMORY = Path("/dev/shm")  # Linux's file system in memory
ROOM = 2 << 30  # bytes; the default suite needs a quarter of them

# The files that take longest come first: at the end, the processes wait for each other for as long as a file takes.
# And before them one that forks this process: a fork computes no gradients once something was compiled in it.
LONGEST_FIRST = (
    "hidden",
    "sweep",
    "optuna",
    "wheel",
    "tracking",
    "cli",
    "run",
    "knobs",
    "resume",
    "readme",
    "configs",
    "program",
)


@dataclass
class Called:
    """What a command printed on standard error, its exit code, and the problems that it reported."""

    code: int
    err: str
    problems: list[Problem] = field(default_factory=list)

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error:")]

    @property
    def about(self) -> list[tuple[str, str]]:
        """The key and the topic of each problem."""
        return [(problem.key, problem.topic) for problem in self.problems]


LEFT_OUT = "not soak and not cluster"
"""What the options in pyproject.toml choose."""


def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores, as tests also wait for processes, servers and pauses."""
    return physical_cores() + 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what the default suite leaves out."""
    if config.option.markexpr == LEFT_OUT:
        terminalreporter.write_line(
            "left out: scripts/soak runs the long forms, scripts/test -m cluster those on a Ray and a Slurm"
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files, and leave the order within them."""
    rank = {f"test_{name}.py": place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def pytest_configure(config: pytest.Config) -> None:
    """Put the temporary files of the default suite into memory: each run flushes thirty files, 5 ms each on a disk."""
    if config.option.markexpr == LEFT_OUT and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_finish() -> None:
    """Let garbage collections pass over what the tests have imported: half a second each, as in the commands."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


@pytest.fixture(autouse=True)
def _quiet_again() -> Iterator[None]:
    """Take away the terminal lines that a run in this process has set up."""
    yield
    log = logging.getLogger("runner")
    log.handlers.clear()
    log.propagate = True


@pytest.fixture(scope="session", autouse=True)
def _yaml_parsed_once() -> Iterator[None]:
    """Parse each text of YAML once: a config is composed of thirty files, and the tests compose thousands."""
    parsed: dict[str, Any] = {}

    def load(stream: Any, Loader: Any) -> Any:  # noqa: N803 - PyYAML's name
        if isinstance(stream, str):
            return yaml.load(stream, Loader)
        text = stream.read()
        if text not in parsed:
            stream.seek(0)
            parsed[text] = yaml.load(stream, Loader)
        return copy.deepcopy(parsed[text])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("omegaconf.omegaconf.yaml", SimpleNamespace(**{**vars(yaml), "load": load}))
        yield


@pytest.fixture(scope="session", autouse=True)
def _composed_once() -> Iterator[None]:
    """Compose the same files with the same overrides once, and copy the result: thousands of configs are composed."""
    compose, composed = Composer._compose, dict[Any, tuple[str, bytes]]()

    def compose_or_copy(self: Composer, usable: Sequence[ParsedOverride], mode: RunMode) -> DictConfig:
        texts = tuple(typed.translated for typed in usable)
        reads_more = any(text.lstrip("+").startswith(("hydra.searchpath", "hydra.job.env")) for text in texts)
        if self.options["config_path"] or self.options["config_name"] != "config" or reads_more:
            return compose(self, usable, mode)
        users = str(Path(self.options["config_dir"] or "/").resolve())
        files = sorted(Path(users).rglob("*.yaml")) if self.options["config_dir"] else ()
        key = (*((file.relative_to(users), file.read_bytes()) for file in files), texts, mode)
        if key not in composed:
            OmegaConf.clear_cache(cfg := compose(self, usable, mode))  # the time of its folder's name
            composed[key] = (users, pickle.dumps(cfg))
        theirs, pickled = composed[key]
        cfg = pickle.loads(pickled)
        cfg.hydra.runtime.cwd = str(Path.cwd())
        for source in cfg.hydra.runtime.config_sources:
            if source.path == theirs:
                source.path = users
        return cfg

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Composer, "_compose", compose_or_copy)
        yield


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, with no data and no outputs anywhere else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNNER_OUTPUTS", raising=False)
    monkeypatch.setenv("RUNNER_DATA", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an MLflow store with nothing in it, to be copied."""
    from helpers.delivered import make_empty_store, shared_folder

    return make_empty_store(shared_folder(tmp_path_factory))


@pytest.fixture
def delivery_here(empty_store: Path) -> Iterator[None]:
    """Runs in this process tell MLflow themselves, where the process that does it otherwise is not the subject."""
    from helpers.delivered import delivered_here

    with delivered_here(empty_store):
        yield


@pytest.fixture
def delivery_by_forks() -> Iterator[None]:
    """Runs in this process tell MLflow by a process that has MLflow imported already.

    That a new process does it is seen in test_run.py, and where credentials are in test_tracking.py.
    """
    from helpers.forked import forked_delivery

    with forked_delivery():
        yield


@pytest.fixture
def plots() -> Iterator["dict[str, Plot]"]:
    """Every saved plot of a run by name, checked to be legible."""
    from helpers.drawn import checked_plots  # late: matplotlib

    with checked_plots() as found:
        yield found


@pytest.fixture
def runner(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, reported: list[Problem]
) -> Callable[..., Called]:
    """`runner("model=cnn", ...)` is `python -m runner model=cnn ...` in this process, without plots and rehearsal."""
    from helpers.delivered import delivered_late
    from helpers.quick import without_plots_and_rehearsal

    without_plots_and_rehearsal(monkeypatch)
    delivered_late(monkeypatch)

    def call(*arguments: str) -> Called:
        capsys.readouterr()
        reported.clear()
        code = run_command(arguments)
        return Called(code, capsys.readouterr().err, list(reported))

    return call


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[Problem]:
    """The problems that a command prints within this process."""
    problems: list[Problem] = []
    print_errors = options.print_errors

    def collect(*reasons: Problem | str) -> int:
        problems.extend(reason for reason in reasons if isinstance(reason, Problem))
        return print_errors(*reasons)

    monkeypatch.setattr(options, "print_errors", collect)
    monkeypatch.setattr("runner.cli.print_errors", collect)
    return problems


def run_folder(here: Path) -> Path:
    """The folder of the only run there is."""
    (folder,) = (here / "outputs" / "runs").iterdir()
    return folder
