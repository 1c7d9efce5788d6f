"""A FIFO in a run's folder, where another user of a shared folder may put one, holds up no command."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Called
from runner import compare, evaluate, sync
from runner.rundir import layout

NAMES = (
    layout.JOURNAL, layout.CONFIG, layout.RESULT, layout.EPOCH_SECONDS, layout.ENVIRONMENT, ".tracking/manifest.json",
    "checkpoints/last.pt", "checkpoints/best.pt", "code/code.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    from runner.cli import run_command

    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        quick = ("trainer.epochs=1", "data.limit=64", "scheduler=constant", "tracking=off", "runner.quiet=true")
        assert run_command([*quick, f"hydra.run.dir={folder}/run"]) == 0
        yield folder / "run"


@pytest.mark.parametrize("name", NAMES)
def test_no_command_waits_for_its_other_end(
    runner: Callable[..., Called], here: Path, trained: Path, name: str
) -> None:
    folder = here / "run"
    shutil.copytree(trained, folder)
    (folder / name).unlink(missing_ok=True)
    (folder / name).parent.mkdir(exist_ok=True)
    os.mkfifo(folder / name)
    waited: list[str] = []

    def open_its_other_end() -> None:
        waited.append(name)
        os.close(os.open(folder / name, os.O_RDWR | os.O_NONBLOCK))  # then it goes on

    waiting = threading.Timer(20.0, open_its_other_end)
    waiting.start()
    try:
        codes = [
            compare.main([f"runs=[{folder}]"]),
            evaluate.main([f"run={folder}"]),
            sync.main([f"run={folder}"]),
            runner(f"resume={folder}", "trainer.epochs=2").code,
        ]
    finally:
        waiting.cancel()
    assert not waited, "a command waited for the other end of the pipe"
    assert set(codes) <= {0, 1, 2}
