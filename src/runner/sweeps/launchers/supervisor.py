"""On a node of a cluster: runs a job's training in a child process, and reports how that ends.

The sweep and its nodes communicate through a shared folder alone: files in a job's folder say that the job has
started, how far it is, and that it should stop.
"""

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from runner.sweeps.jobs import JobSpec
from runner.sweeps.results.resume import ResumeAction, choose_action, wait_for_orphans
from runner.util import cores, program
from runner.util.files import write_json
from runner.util.options import EXIT_FAILED, EXIT_SIGNAL

NODE = "node.json"
"""File in a job's folder while it runs: its host, the process id of its supervisor, and the time of its start."""

STOP = ".end"
"""File in a job's folder that asks it to stop."""

CHILD = [sys.executable, "-c", "from runner.sweeps.launchers.supervisor import child; child()"]
_POLL_SECONDS = 0.5


def supervise(spec: JobSpec, interrupted: threading.Event | None = None) -> int:
    """Run a job in a child process; if the cluster runs it again, it resumes from its checkpoint.

    Args:
        spec: of the job. Its environment is added to the node's.
        interrupted: is set when the cluster takes the resources back.

    Returns:
        The child's exit code, negative after a signal.
    """
    folder = spec.folder
    if is_stop_requested(folder):
        return EXIT_SIGNAL + signal.SIGTERM
    wait_for_orphans([folder])  # the child of a killed supervisor finishes its step and writes a checkpoint
    action = choose_action(folder, spec.artifacts)
    if action in (ResumeAction.SKIP, ResumeAction.RESTART):  # it had ended, and the cluster did not learn of it
        return 0 if action is ResumeAction.SKIP else EXIT_FAILED
    config = None if action is ResumeAction.RESUME else spec.config
    write_json(folder / NODE, {"host": socket.gethostname(), "process": os.getpid(), "time": time.time()})
    return _run_child(
        replace(spec, config=config),
        lambda: (interrupted is not None and interrupted.is_set()) or is_stop_requested(folder),
    )


def assist(spec: JobSpec, is_over: Callable[[], bool]) -> int:
    """Run the ranks of a job on a node that is not its first.

    Args:
        spec: of the job.
        is_over: returns whether they are to end: the cluster takes the resources back, or the first node has ended.

    Returns:
        The child's exit code, negative after a signal.
    """
    return _run_child(replace(spec, config=None), is_over)


def _run_child(spec: JobSpec, is_over: Callable[[], bool]) -> int:
    """Run a child process until it ends; ask it to stop when its job is over."""
    own = {**os.environ, **spec.environment}
    if spec.ranks is not None and "OMP_NUM_THREADS" not in spec.environment:  # the node's are for all ranks
        own["OMP_NUM_THREADS"] = str(max(1, cores.usable_cores() // spec.ranks))
    own["PYTHONPATH"] = os.pathsep.join(filter(None, (e.get("PYTHONPATH") for e in (spec.environment, os.environ))))
    spec = replace(spec, environment=own)
    process = subprocess.Popen(
        CHILD, stdin=subprocess.PIPE, cwd=spec.where, env=spec.environment, preexec_fn=_ignore_own_signals
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(pickle.dumps(spec))
        process.stdin.flush()  # not closed: the child sees its end when this process ends
    stopping = False
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_SECONDS)
            break
        if not stopping and is_over():
            process.terminate()
            stopping = True
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # processes that it may have left behind, such as a loader's workers
    return process.returncode


def child() -> None:
    """Train, in the child process; the job comes through standard input, which closes when the supervisor ends."""
    program.prepare_environment()
    from runner.sweeps.launchers import worker

    spec = pickle.load(sys.stdin.buffer)
    worker.main(spec, None, sys.stdin.fileno())


def is_stop_requested(folder: Path) -> bool:
    """Return whether the sweep has asked a job to stop."""
    return (folder / STOP).exists()


def _ignore_own_signals() -> None:
    """Ignore SIGUSR2, which Slurm sends to all processes of a job; an ignored signal stays so across exec."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
