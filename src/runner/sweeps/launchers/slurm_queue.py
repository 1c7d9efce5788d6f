"""Slurm's queue: the states of this user's jobs, read for all of them at once."""

import getpass
import subprocess
import time

QUEUE_SECONDS = 10.0
"""Between two reads of the queue, which all users share."""

UNFINISHED = {
    "COMPLETING", "CONFIGURING", "PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESIZING", "RESV_DEL_HOLD",
    "RUNNING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "SUSPENDED",
}  # fmt: skip
"""States of a job that has not ended (the manual of squeue, JOB STATE CODES)."""


class Queue:
    """The states of this user's jobs.

    Attributes:
        reads: how often the queue has been read.
    """

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self.reads = 0
        self._next = 0.0

    def state(self, job_id: str) -> str | None:
        """Return the state of a job; None if it is no longer in the queue."""
        if time.monotonic() >= self._next:
            self.read()
        return self._states.get(job_id)

    def read(self) -> bool:
        """Read the queue; return whether Slurm has answered: its server may be away for a while."""
        self._next = time.monotonic() + QUEUE_SECONDS
        command = ["squeue", "-h", "-r", "-t", "all", "-u", getpass.getuser(), "-o", "%i %T"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        except (OSError, subprocess.SubprocessError):
            return False
        self._states = dict(line.split() for line in answer.stdout.splitlines())
        self.reads += 1
        return True
