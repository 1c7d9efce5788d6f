"""On a node of a cluster: a job's training in a child process, so that whatever kills it leaves somebody to tell.

The sweep and its nodes have a folder in common, and need nothing else to talk: a job's folder says that it has begun,
how far it is, and that it is to end.
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
from dataclasses import replace
from pathlib import Path

from runner.sweeps.jobs import JobSpec
from runner.sweeps.results.resume import ResumeAction, course_of, wait_for_orphans
from runner.util import program
from runner.util.files import write_json
from runner.util.options import EXIT_FAILED, EXIT_SIGNAL

BEGUN = "node.json"
"""In a job's folder once it runs: where, and since when; `process` is the one that watches it."""

END = ".end"
"""In a job's folder when it is told to end."""

CHILD = [sys.executable, "-c", "from runner.sweeps.launchers.supervisor import child; child()"]
_SECONDS_BETWEEN_LOOKS = 0.5


def supervise(task: JobSpec, interrupted: threading.Event | None = None) -> int:
    """Run a job in a child process; when the engine runs it again, it goes on from its checkpoint.

    Args:
        task: what to do. Its environment is added to what this node has.
        interrupted: is set when the engine wants its place back.

    Returns:
        The child's exit code, negative after a signal.
    """
    folder = task.folder
    if is_told_to_end(folder):
        return EXIT_SIGNAL + signal.SIGTERM
    wait_for_orphans([folder])  # the child of a supervisor that was killed finishes its step, and writes a checkpoint
    course = course_of(folder)
    if course in (ResumeAction.SKIP, ResumeAction.AGAIN):  # it had ended, and that was not reported
        return 0 if course is ResumeAction.SKIP else EXIT_FAILED
    config = None if course is ResumeAction.GO_ON else task.config
    own = {**os.environ, **task.environment}
    own["PYTHONPATH"] = os.pathsep.join(filter(None, (e.get("PYTHONPATH") for e in (task.environment, os.environ))))
    task = replace(task, config=config, environment=own)
    write_json(folder / BEGUN, {"host": socket.gethostname(), "process": os.getpid(), "time": time.time()})
    process = subprocess.Popen(
        CHILD, stdin=subprocess.PIPE, cwd=task.where, env=task.environment, preexec_fn=_ignore_what_is_for_us
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(pickle.dumps(task))
        process.stdin.flush()  # and left open: its end is that of this process
    told = False
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_BETWEEN_LOOKS)
            break
        if not told and ((interrupted is not None and interrupted.is_set()) or is_told_to_end(folder)):
            process.terminate()
            told = True
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # what it may have left behind: workers of a loader, say
    return process.returncode


def child() -> None:
    """Train, in the child process: what is to be done comes by standard input, whose end is that of the supervisor."""
    program.prepare_environment()
    from runner.sweeps.launchers import worker

    task = pickle.load(sys.stdin.buffer)
    worker.main(task, None, sys.stdin.fileno())


def is_told_to_end(folder: Path) -> bool:
    """Whether the sweep has told a job to end."""
    return (folder / END).exists()


def _ignore_what_is_for_us() -> None:
    """Slurm sends its warnings to all processes of a job; what is ignored stays so in another program."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
