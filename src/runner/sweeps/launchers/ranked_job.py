"""A job of several ranks: its process starts those of a machine by torchrun, and passes on what rank 0 reports."""

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
from runner.sweeps.jobs import JobSpec, Nodes
from runner.util import program
from runner.util.ranks import Ranks

ADDRESS, KEY = "RUNNER_JOB_ADDRESS", "RUNNER_JOB_KEY"
"""Environment variables of rank 0: the socket where it gets the job, and the key that it shows there."""


def launch(spec: JobSpec, ranks: int, reports: Connection | None, nodes: Nodes | None) -> int:
    """Start the ranks of a job on this machine, and wait for them.

    Args:
        spec: of the job.
        ranks: their number.
        reports: receives the progress of rank 0; None: nobody does.
        nodes: the machines of the job, of which the first one has rank 0; None: there is one.

    Returns:
        The exit code of rank 0, or that of a signal.
    """
    key = secrets.token_bytes(32)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    with tempfile.TemporaryDirectory() as folder, Listener(f"{folder}/job", "AF_UNIX", authkey=key) as listener:
        os.environ |= {ADDRESS: str(listener.address), KEY: key.hex()}
        own = replace(spec, ranks=None, nodes=None)
        threading.Thread(target=_serve, args=(listener, own, reports), daemon=True).start()
        return ranked.launch([], ranks, __name__, _options(nodes))


def _options(nodes: Nodes | None) -> list[str]:
    """Return the options of torchrun for the machines; a `c10d` rendezvous would number them by their names."""
    if nodes is None:
        return ["--standalone"]
    return [
        f"--nnodes={nodes.count}",
        f"--node-rank={nodes.number}",
        f"--master-addr={nodes.address}",
        f"--master-port={nodes.port}",
    ]


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
