"""Paths that cannot be used, in every command that takes one: one line, exit 2, and nothing is made."""

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Called
from helpers.rights import as_plain_user, needs_rights

QUICK = ("tracking=off", "trainer.epochs=1", "data.limit=60")
OF_RUNNER: dict[str, Callable[[str], list[str]]] = {
    "resume": lambda path: [f"resume={path}"],
    "sweep.resume": lambda path: ["-m", f"sweep.resume={path}"],
    "hydra.run.dir": lambda path: [*QUICK, f"hydra.run.dir={path}/run"],
    "hydra.sweep.dir": lambda path: ["-m", *QUICK, "seed=0,1", f"hydra.sweep.dir={path}/sweep"],
    "hydra.searchpath": lambda path: [*QUICK, f"hydra.searchpath=[{path}]"],
    "--config-dir": lambda path: [*QUICK, "--config-dir", path],
    "--config-path": lambda path: [*QUICK, "--config-path", path],
}
OF_PARTS: dict[str, Callable[[str], list[str]]] = {
    "csv": lambda path: [*QUICK, "data=csv", f"data.path={path}"],
    "image_folder": lambda path: [*QUICK, "data=image_folder", f"data.path={path}"],
    "mnist": lambda path: [*QUICK, "data=mnist", f"data.root={path}"],
    "model.weights": lambda path: [*QUICK, f"model.weights={path}"],
}
"""Commands that build something first, which takes longer."""

OF_OTHERS: dict[str, Callable[[str], list[str]]] = {
    "evaluate": lambda path: [f"run={path}"],
    "predict": lambda path: [f"run={path}", "input=[1]"],
    "export": lambda path: [f"run={path}", "format=torch_export"],
    "compare": lambda path: [f"runs=[{path}]"],
    "sync": lambda path: [f"run={path}"],
    "reproduce": lambda path: [f"run={path}"],
}


@pytest.fixture(params=["closed", "closed/inner", "file/inner", "loop", "~nobody-at-all/x", "x" * 300])
def path(request: pytest.FixtureRequest, here: Path) -> str:
    """A path that nobody can use, below a folder, a file and a link."""
    (here / "closed" / "inner").mkdir(parents=True)
    (here / "closed").chmod(0)
    (here / "file").touch()
    (here / "loop").symlink_to("loop")
    request.addfinalizer(lambda: (here / "closed").chmod(0o700))
    return str(request.param)


def check(called: Called) -> None:
    assert called.code == 2, called.err
    assert len(called.errors) == len(called.err.splitlines()) == 1, called.err
    assert len(called.errors[0]) < 600
    assert "Errno" not in called.err and "RuntimeError" not in called.err and "verbose" not in called.err


@needs_rights
@pytest.mark.usefixtures("delivery_here")
def test_each_command_refuses_it(
    path: str,
    here: Path,
    runner: Callable[..., Called],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_download(*_: object) -> None:
        raise AssertionError("nothing is fetched")

    monkeypatch.setattr("urllib.request.urlopen", no_download)
    before = sorted(here.iterdir())
    with as_plain_user():
        for arguments in [*OF_RUNNER.values(), *(OF_PARTS.values() if path.startswith("closed") else ())]:
            check(runner(*arguments(path)))
        for name, arguments in OF_OTHERS.items():
            code = importlib.import_module(f"runner.{name}").main(arguments(path))
            check(Called(code, capsys.readouterr().err))
    assert sorted(here.iterdir()) == before
