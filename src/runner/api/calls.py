"""`run`, `sweep` and `load`, which `from runner import ...` gives."""

import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.api import in_process as here
from runner.api import process
from runner.api.arguments import make_arguments
from runner.api.errors import Interrupted, RunFailed
from runner.api.finished_run import Run
from runner.api.finished_sweep import Sweep
from runner.api.view import View
from runner.errors import ConfigError, Problem
from runner.rundir.folders import parse_path
from runner.rundir.manifest import own_folder
from runner.saved.run import find, get_logged_run, store_of
from runner.saved.sweep_folder import is_sweep
from runner.util.options import EXIT_CONFIG


def run(*arguments: str | Mapping[str, Any], in_process: bool = False, **settings: Any) -> Run:
    """Train, validate and test a model: `run("model=cnn", "data=mnist", optimizer={"lr": 0.1})`.

    Args:
        arguments: as on the command line of `python -m runner`, or mappings: `{"optimizer.lr": 0.1}`.
        in_process: run in this process, for a debugger; by default in one of its own, and this one stays as it is.
        settings: more of them: `seed=1`, `trainer={"epochs": 5}`. Groups take objects too: `model` a module or its
            class; `data` arrays `(x, y)` or `(x, y, x_test, y_test)`, a table whose last column is predicted, a data
            set, or `{"train": ..., "val": ..., "test": ...}` of these; `optimizer`, `scheduler`, `loss` and `task` a
            class or a function. Objects are copied, with the code of a class that is defined in a notebook.

    Returns:
        The run. Its metrics are bit for bit those of the command with the same arguments.

    Raises:
        ConfigError: the config is wrong, as its one-line text says; nothing has been started.
        Interrupted: a KeyboardInterrupt, which names the run; its checkpoint is written, and it can be resumed.
        RunFailed: training has failed.
    """
    words = make_arguments(arguments, settings)
    folder = _call(words, in_process, Run)
    return _ended(Run(folder))


def resume(
    before: Run, arguments: tuple[str | Mapping[str, Any], ...], settings: Mapping[str, Any], in_process: bool
) -> Run:
    """Continue a run, or start a new one from its weights: see `Run.resume`."""
    words = make_arguments((f"resume={before.folder}", *arguments), settings)
    return _ended(Run(_call(words, in_process, Run, before.folder)))


def sweep(*arguments: str | Mapping[str, Any], in_process: bool = False, **settings: Any) -> Sweep:
    """Run a sweep: `sweep("model=mlp,cnn", optimizer={"lr": [0.1, 0.03]}, seed=[0, 1, 2])`.

    Args:
        arguments: as on the command line of `python -m runner --multirun`, or mappings; a list has the values of an
            axis, also of objects: `model=[Small(), Large()]`. A tuple is a single value.
        in_process: whether this process runs the sweep; its jobs have processes of their own in any case.
        settings: see `run`.

    Returns:
        The sweep; a job that has failed is a row of its table.

    Raises:
        ConfigError: the config is wrong; nothing has been started.
        Interrupted: a KeyboardInterrupt, which names the sweep; it can be resumed.
    """
    words = make_arguments(arguments, settings, sweeping=True)
    return Sweep(_call(["--multirun", *words], in_process, Sweep))


def load(name: str | Path) -> Run | Sweep:
    """Open a run or a sweep of the past.

    Args:
        name: its folder, or its run id in MLflow.

    Raises:
        ConfigError: it does not exist.
    """
    folder: Path | None = parse_path(str(name), "load")
    if re.fullmatch("[0-9a-f]{32}", str(name)) and not Path(name).exists():
        folder = own_folder(get_logged_run(str(name), f"load={name}", store_of(str(name))).data.tags)
    if folder is not None and is_sweep(folder):
        return Sweep(folder.resolve())
    saved = find(str(name), "load")
    if saved.folder is None:
        raise ConfigError(saved.problem("its folder is not on this machine", f"write {saved.place}"))
    return Run(saved.folder)


def _call(words: list[str], in_process: bool, kind: type[Run | Sweep], resumed: Path | None = None) -> Path:
    """Run a command line, and return the folder.

    Args:
        words: the arguments.
        in_process: see `run`.
        kind: of what is run.
        resumed: the folder of a run that is resumed: a finished one is not started again.
    """
    view = View()
    try:
        if in_process:
            code, interrupted = here.call(words, view.receive)
        else:
            code, interrupted = process.call(words, view.receive, view.show)
    finally:
        view.close()
    if interrupted:
        raise Interrupted(kind(view.folder) if view.folder is not None else None)
    if code == EXIT_CONFIG and view.problems:
        raise ConfigError(*view.problems)
    if view.folder is None and code == 0 and resumed is not None:
        return resumed
    if view.folder is None and code == 0:
        text = "nothing was started, so there is no result: what a dry run finds is printed"
        raise ConfigError(Problem("", text, "leave out dry_run=true", topic="conflict"))
    if view.folder is None:
        raise RunFailed("; ".join(map(str, view.problems)) or f"the process has ended with the code {code}")
    if code < 0 and kind is Run:
        how = f"its process was killed by {signal.Signals(-code).name}; runner.load(...).resume() continues it"
        raise RunFailed(how, Run(view.folder))
    return view.folder


def _ended(run: Run) -> Run:
    """Return a run that has not failed.

    Raises:
        RunFailed: it has.
    """
    if run.status == "FAILED":
        raise RunFailed(run.result.get("error", "the run has failed"), run)
    return run
