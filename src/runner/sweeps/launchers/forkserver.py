"""Processes that start with everything imported: forks of a server that only imports.

A cold `python -m runner` imports for seconds before anything happens; a fork takes 0.02 s. The server must not run a
single tensor operation: torch's threads do not survive a fork, and a child that waits for them hangs. It must not
query CUDA either, which cannot be initialised again in a fork.
"""

import contextlib
import gc
import importlib
import logging
import multiprocessing
import multiprocessing.util
import os
import signal
import tempfile
import time
import warnings
from collections.abc import Iterable
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psutil

from runner.errors import ConfigError, Problem
from runner.sweeps.launchers.launcher import LauncherDied
from runner.tracking.store import quiet_mlflow
from runner.util.stopping import blocked, unblock

PRELOAD = [
    "runner.sweeps.launchers.preload",
    "runner.sweeps.check.build_jobs",
    "runner.sweeps.launchers.worker",
    # Late imports of a run, each of which would cost every job a part of a second:
    "runner.plots.by_class",
    "runner.plots.curves",
    "runner.plots.pictures",
    "runner.plots.samples",
    *(f"PIL.{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Png", "Ppm")),
    "runner.sweeps.launchers.remember",  # after the modules that it tells apart
]
PRELOAD_TO_EXPORT_MODELS = [
    "torch._dynamo",
    "runner.tracking.flavor",
    "mlflow.pyfunc",
    "torch.export._trace",
    "torch._export.passes.replace_autocast_with_hop_pass",
    "torch._export.passes.replace_set_grad_with_hop_pass",
    "torch._inductor.fx_passes.dedupe_symint_uses",
    "torch._inductor.ir",
    "sympy.tensor.tensor",
    "torch._inductor.compiler_bisector",
    "torch.fx.experimental.validator",
    "torch.utils.serialization.config",
]

PRELOAD_FOR_STACKS = ["runner.training.stackable", "runner.sweeps.launchers.stack_worker"]

PRELOAD_FOR_TARGETS = {"runner.model.vision.": "torchvision.models"}
"""Modules to import for the jobs' targets, by the first characters of a `_target_`."""

LOST = 255
"""The exit code that multiprocessing reports for a process whose server is gone."""

MAX_TMPDIR_BYTES = 70
"""Length of the folder of multiprocessing's sockets, whose own paths may have 107 bytes."""

SOCKETS = "RUNNER_SOCKETS"
"""An environment variable of the server: the folder of its socket, which it removes at its end."""

ATTEMPTS = 3
"""Servers that are started for one fork."""

MEMORY = "possibly by the kernel's out-of-memory killer"

log = logging.getLogger("runner")


_POLL_SECONDS = 0.02

_reported: list[bool] = []  # of this death


_context = multiprocessing.get_context("forkserver")


def start(targets: Iterable[str], exports_models: bool, stacks: bool = False) -> None:
    """Start the server without waiting for it.

    Args:
        targets: the `_target_`s of the jobs, or of the first of them.
        exports_models: most jobs will export the graph of their model, which no job before them has.
        stacks: jobs are trained as one program where that is possible.

    Raises:
        ConfigError: the path of the folder for temporary files is too long.
    """
    if len(os.fsencode(folder := tempfile.gettempdir())) > MAX_TMPDIR_BYTES:
        text = f"TMPDIR={folder} is longer than {MAX_TMPDIR_BYTES} bytes, too long for the sockets of a sweep"
        raise ConfigError(Problem("TMPDIR", text, "set TMPDIR=/tmp", topic="range"))
    for_targets = [
        module for begins, module in PRELOAD_FOR_TARGETS.items() if any(target.startswith(begins) for target in targets)
    ]
    quiet_mlflow()
    # torch then asks the driver's management library whether there is CUDA, and a fork can still use it.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    _context.set_forkserver_preload(
        PRELOAD + for_targets + PRELOAD_FOR_STACKS * stacks + PRELOAD_TO_EXPORT_MODELS * exports_models
    )
    _reported.clear()
    _ensure_running()


def _ensure_running() -> None:
    """Start the server, or another one if it has died.

    It gets no signals of a terminal, which are for the sweep: it ends when all that use it have ended.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "resource_tracker", UserWarning)  # it has died, and another one is started
        resource_tracker.ensure_running()
    os.environ[SOCKETS] = multiprocessing.util.get_temp_dir()
    try:
        with blocked():
            forkserver.ensure_running()
    finally:
        del os.environ[SOCKETS]


def process(function: str, *arguments: Any) -> ForkServerProcess:
    """Make a fork, not started yet, that calls a function; it may start processes itself.

    Args:
        function: `module:name`; imported in the fork, not here.
        arguments: of the function.
    """
    return _context.Process(target=_call, args=(function, arguments))


def start_process(fork: ForkServerProcess) -> None:
    """Start a fork; if the server has died, or dies now, start another one.

    Raises:
        LauncherDied: the servers die, one after the other.
    """
    for _ in range(ATTEMPTS):
        _ensure_running()
        try:
            fork.start()
        except (EOFError, ConnectionError, FileNotFoundError):  # it has died, maybe while it imported
            kill()
            report_death()
        else:
            _reported.clear()
            return
    text = f"the process that imports torch for the jobs has died {ATTEMPTS} times, {MEMORY}"
    raise LauncherDied(Problem("", text, "see its output above, or free memory", topic="unavailable"))


def is_running() -> bool:
    """Return whether the server was started and lives."""
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    with contextlib.suppress(psutil.Error):
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def kill() -> None:
    """Kill the server, which may still import, and wait for its end; its forks continue."""
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)  # only this can end an import
    if pid is None:
        return
    with contextlib.suppress(psutil.Error):
        server = psutil.Process(pid)
        server.kill()
        while server.status() != psutil.STATUS_ZOMBIE:  # multiprocessing takes its status, and forgets it
            time.sleep(_POLL_SECONDS)


def report_death() -> None:
    """Report that the server has died, once until a fork of the next one has started."""
    if not _reported:
        log.warning("the process that starts the jobs has died, %s; another one is started", MEMORY)
    _reported.append(True)


def _call(function: str, arguments: tuple[Any, ...]) -> Any:
    for number in (signal.SIGTERM, signal.SIGHUP):  # which the server ignores
        signal.signal(number, signal.SIG_DFL)
    unblock()
    gc.freeze()  # no collection then visits what the server has imported: 0.2 s each, and copied pages
    gc.enable()  # the server has none
    # Otherwise this fork would start its own processes, the workers of a loader, from another such server, cold.
    multiprocessing.set_start_method(None, force=True)
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)(*arguments)


def pipe() -> tuple[Connection, Connection]:
    """Return the reading end and the writing end of a one-way pipe."""
    return _context.Pipe(duplex=False)


def call(function: str, *arguments: Any) -> Any:
    """Call a function in a fork and return its result.

    Args:
        function: `module:name`.
        arguments: of the function.

    Raises:
        ConfigError: raised by the function, or the fork ended without a result.
    """
    receiving, sending = pipe()
    child = process(f"{__name__}:answer", sending, str(Path.cwd()), dict(os.environ), function, arguments)
    start_process(child)
    sending.close()
    try:
        result = receiving.recv()
    except EOFError:
        child.join()
        how = f"ended without a result ({describe_exit(child.exitcode)})"
        if child.exitcode in (-signal.SIGKILL, LOST):
            how = f"was killed (SIGKILL), {MEMORY}"
        raise ConfigError(Problem("", f"the process that checks the jobs {how}", topic="unavailable")) from None
    except BaseException:  # Ctrl-C: nothing waits for the result any more
        child.kill()
        raise
    child.join()
    if isinstance(result, ConfigError):
        raise result
    return result


def answer(
    sending: Connection, folder: str, environment: dict[str, str], function: str, arguments: tuple[Any, ...]
) -> None:
    """Send a function's result, or its problems; the fork's side of `call`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C stops the sweep, which stops its children
    enter(folder, environment)
    try:
        sending.send(_call(function, arguments))
    except ConfigError as error:
        sending.send(ConfigError(*error.problems))  # without its causes, which may not be picklable


def enter(folder: str, environment: dict[str, str]) -> None:
    """Take over the parent's working directory and environment; the server's are those of its start."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)


def describe_exit(exit_code: int | None) -> str:
    """Describe an exit code: `SIGKILL`, `exit code 1`."""
    if exit_code is not None and exit_code < 0:
        try:
            return signal.Signals(-exit_code).name
        except ValueError:
            return f"signal {-exit_code}"
    return f"exit code {exit_code}"
