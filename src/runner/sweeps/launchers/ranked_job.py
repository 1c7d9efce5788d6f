"""A job of several ranks: its process starts them by torchrun, and passes on what rank 0 reports."""

import logging
import os
import secrets
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Client, Connection, Listener

from runner.runs import ranked
from runner.sweeps.jobs import JobSpec
from runner.util import program
from runner.util.ranks import Ranks

ADDRESS, KEY = "RUNNER_JOB_ADDRESS", "RUNNER_JOB_KEY"
"""Environment variables of rank 0: the socket where it gets the job, and the key that it shows there."""


def launch(spec: JobSpec, ranks: int, reports: Connection | None) -> int:
    """Start the ranks of a job, and wait for them.

    Args:
        spec: of the job.
        ranks: their number.
        reports: receives the progress of rank 0; None: nobody does.

    Returns:
        The exit code of rank 0, or that of a signal.
    """
    key = secrets.token_bytes(32)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    with tempfile.TemporaryDirectory() as folder, Listener(f"{folder}/job", "AF_UNIX", authkey=key) as listener:
        os.environ |= {ADDRESS: str(listener.address), KEY: key.hex()}
        threading.Thread(target=_serve, args=(listener, replace(spec, ranks=None), reports), daemon=True).start()
        return ranked.launch([], ranks, __name__)


def _serve(listener: Listener, spec: JobSpec, reports: Connection | None) -> None:
    """Give rank 0 its job, and pass on its reports."""
    with suppress(EOFError, OSError), listener.accept() as rank:
        rank.send(spec)
        while True:
            report = rank.recv()
            if reports is not None:
                reports.send(report)


def main() -> int:
    """Be a rank of a job; return the exit code."""
    group = Ranks.here()
    assert group is not None
    if group.rank > 0:
        return ranked.follow(group)
    from runner.sweeps.launchers import worker

    log = logging.getLogger("runner")
    log.setLevel(logging.DEBUG)
    log.propagate = False
    key = bytes.fromhex(os.environ.pop(KEY))
    with Client(os.environ.pop(ADDRESS), "AF_UNIX", authkey=key) as sweep, ranked.dismissing():
        return worker.train(sweep.recv(), sweep)


if __name__ == "__main__":
    program.run(main)
