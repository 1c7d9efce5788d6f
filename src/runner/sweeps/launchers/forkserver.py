"""Processes that begin with everything imported: forks of a server that imports, and does nothing else.

A cold `python -m runner` imports for seconds before anything happens; a fork takes 0.02 s. The server must not run a
single tensor operation: torch's threads do not survive a fork, and a child that waits for them waits for ever; nor may
it ask for CUDA, which cannot be initialised again in a fork.
"""

import gc
import importlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from runner.errors import ConfigError
from runner.tracking.store import quiet_mlflow
from runner.util.stopping import ignoring_hangups

PRELOAD = [
    "runner.sweeps.launchers.preload",
    "runner.sweeps.check.build_jobs",
    "runner.sweeps.launchers.worker",
    # What a run imports on its way, each of which would take a job its part of a second:
    "torch._dynamo",
    "runner.plots.curves",
    "runner.plots.samples",
    *(f"PIL.{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Png", "Ppm")),
]
PRELOAD_TO_SAVE_MODELS = [
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

PRELOAD_FOR_TARGETS = {"runner.model.vision.": "torchvision.models"}
"""What is imported for objects that the jobs are made of; the first characters of their `_target_`."""

LOST = 255
"""What multiprocessing gives as the exit code of a process whose server cannot be asked any more."""

LONGEST_TEMPORARY = 70
"""Bytes of the path in which multiprocessing makes its sockets, whose own may have 107."""

_context = multiprocessing.get_context("forkserver")


def start(targets: Iterable[str], saves_models: bool) -> None:
    """Start the server, and do not wait for it.

    Args:
        targets: what the jobs, or the first of them, are made of.
        saves_models: the jobs will save models in MLflow's format.

    Raises:
        ConfigError: the folder for temporary files is no place for it.
    """
    if len(os.fsencode(folder := tempfile.gettempdir())) > LONGEST_TEMPORARY:
        raise ConfigError(f"TMPDIR={folder}: too long a path for the sockets of a sweep; write TMPDIR=/tmp")
    for_targets = [
        module for begins, module in PRELOAD_FOR_TARGETS.items() if any(target.startswith(begins) for target in targets)
    ]
    quiet_mlflow()
    # Whether there is CUDA is then asked of the driver's management library, which leaves a fork able to use it.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    _context.set_forkserver_preload(PRELOAD + for_targets + PRELOAD_TO_SAVE_MODELS * saves_models)
    with ignoring_hangups():  # the server outlives the terminal, as the sweep does
        forkserver.ensure_running()


def process(function: str, *arguments: Any) -> ForkServerProcess:
    """A fork, not started yet, that calls a function, and may start processes of its own.

    Args:
        function: `module:name`; it is imported there, and not here.
        arguments: what it is given.
    """
    return _context.Process(target=_named, args=(function, arguments))


def _named(function: str, arguments: tuple[Any, ...]) -> Any:
    gc.freeze()  # what the server has imported is looked through by no collection: 0.2 s each, and pages copied
    # A fork of this server would start its own processes, the workers of a loader, by another such server, cold.
    multiprocessing.set_start_method(None, force=True)
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)(*arguments)


def pipe() -> tuple[Connection, Connection]:
    """A pipe for one direction: its reading end and its writing end."""
    return _context.Pipe(duplex=False)


def call(function: str, *arguments: Any) -> Any:
    """What a function gives in a fork.

    Args:
        function: `module:name`.
        arguments: what it is given.

    Raises:
        ConfigError: the function did, or the fork came to an end without an answer.
    """
    receiving, sending = pipe()
    child = process(f"{__name__}:answer", sending, str(Path.cwd()), dict(os.environ), function, arguments)
    try:
        child.start()
    except EOFError as error:
        raise ConfigError("the process that imports torch for the jobs has ended; what it said is above") from error
    sending.close()
    try:
        answer = receiving.recv()
    except EOFError:
        child.join()
        how = f"ended without an answer ({ended_by(child.exitcode)})"
        if child.exitcode == -signal.SIGKILL:
            how = "was killed (SIGKILL), possibly for want of memory"
        raise ConfigError(f"the process that checks the jobs {how}") from None
    except BaseException:  # Ctrl-C: nobody waits for the answer any more
        child.kill()
        raise
    child.join()
    if isinstance(answer, ConfigError):
        raise answer
    return answer


def answer(
    sending: Connection, folder: str, environment: dict[str, str], function: str, arguments: tuple[Any, ...]
) -> None:
    """Send what a function gives, or the problems it has found; the fork's side of `call`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the sweep, and that its children
    enter(folder, environment)
    try:
        sending.send(_named(function, arguments))
    except ConfigError as error:
        sending.send(ConfigError(*error.problems))  # without its causes, which may not be sent


def enter(folder: str, environment: dict[str, str]) -> None:
    """Be where the parent is, and not where the server was when it started."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)


def ended_by(exit_code: int | None) -> str:
    """How a process came to its end, in words."""
    if exit_code is not None and exit_code < 0:
        try:
            return signal.Signals(-exit_code).name
        except ValueError:
            return f"signal {-exit_code}"
    gone = ", the process that starts the jobs is gone" if exit_code == LOST else ""
    return f"exit code {exit_code}{gone}"
