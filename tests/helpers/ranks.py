"""Shared by the tests of several ranks: commands that start them, and the processes of a rank."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

SMALL = (
    "device=cpu", "device.threads=1", "data.limit=101", "data.batch_size=24", "trainer.epochs=3", "tracking=off",
    "model.hidden=[16]", "runner.quiet=true",
)  # fmt: skip
"""101 samples of each part: the last batch cannot be divided equally."""

Started = subprocess.Popen[str]


def start(folder: Path, *arguments: str, by: Sequence[str] = ("-m", "runner")) -> Started:
    """Start a run in a folder, or resume it there.

    Args:
        folder: of the run.
        arguments: of the command.
        by: what Python runs: runner, or torchrun with its options.
    """
    where = f"resume={folder}" if folder.exists() else f"hydra.run.dir={folder}"
    return subprocess.Popen(
        [sys.executable, *by, *arguments, where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def torchrun(ranks: int, *options: str, module: str = "runner") -> list[str]:
    """Return what Python runs so that torchrun starts ranks of runner."""
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *options, "-m", module]


def in_shards(ranks: int, *options: str) -> list[str]:
    """Return what starts ranks of runner for which each model is a large one."""
    return torchrun(ranks, *options, module="helpers.all_large")


def node(port: int, *options: str) -> list[str]:
    """Return what Python runs so that torchrun starts a rank on one of two machines; both are this one."""
    return [
        "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d",
        f"--rdzv-endpoint=localhost:{port}", "--local-addr=localhost", *options, "-m", "runner",
    ]  # fmt: skip


def free_port() -> int:
    """Return a port that nobody listens to."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return int(one.getsockname()[1])


def rank_of(started: Started, rank: int) -> psutil.Process:
    """Return the process of a rank."""
    for process in psutil.Process(started.pid).children(recursive=True):
        if process.environ().get("RANK") == str(rank):
            return process
    raise AssertionError(f"there is no rank {rank}")
