"""The part of a Slurm job that runs on its nodes: it trains, and is requeued if Slurm interrupts it."""

import os
import signal
import subprocess
import threading
import time
from dataclasses import replace

import submitit

from runner.sweeps.jobs import JobSpec, Nodes
from runner.sweeps.launchers import supervisor
from runner.util.files import load_json_or_empty, write_json

SUBMITTED = "slurm.json"
"""File in a job's folder: its id in Slurm, and how often it has run out of time."""

PORTS = range(20000, 32768)
"""Where the ranks of a job meet: below those that Linux gives to outgoing connections."""


class Submitted:
    """The call that Slurm runs on a node; its pickle waits in the queue.

    Args:
        spec: of the job.
        minutes: after which Slurm warns that the job's time is nearly over.
        timeouts: how often it may be requeued after running out of time.
    """

    def __init__(self, spec: JobSpec, minutes: float, timeouts: int) -> None:
        self._task, self._minutes, self._timeouts = spec, minutes, timeouts

    def __call__(self) -> int:
        """Train; requeue the job if Slurm has interrupted it."""
        began, interrupted = time.monotonic(), threading.Event()
        for number in (signal.SIGTERM, signal.SIGUSR2):  # replaces submitit's handlers, which do not stop the child
            signal.signal(number, lambda *_: interrupted.set())
        # Not every cluster limits a job to its own cores, and one that uses all cores of a node slows the others down.
        for cores in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
            if cores in os.environ:
                os.environ.setdefault("OMP_NUM_THREADS", os.environ[cores])
        place = submitit.JobEnvironment()
        if place.num_nodes > 1:
            address, port = place.hostnames[0], PORTS[int(place.raw_job_id) % len(PORTS)]
            self._task = replace(self._task, nodes=Nodes(place.num_nodes, place.node, address, port))
        if place.node > 0:
            return self._assist(interrupted)
        code = supervisor.supervise(self._task, interrupted)
        stopped = supervisor.is_stop_requested(self._task.folder)
        if interrupted.is_set() and not stopped and (code < 0 or code > 128):
            over = time.monotonic() - began > (self._minutes - 1) * 60  # Slurm warns up to a minute too early
            if not over or self._may_continue_after_timeout():
                self._requeue()
        return code

    def _assist(self, interrupted: threading.Event) -> int:
        """Run the ranks of this node, which is not the first; that one requeues the job."""
        place = submitit.JobEnvironment()
        first = submitit.core.utils.JobPaths(os.environ["SUBMITIT_FOLDER"], place.job_id, 0).result_pickle
        return supervisor.assist(self._task, lambda: interrupted.is_set() or first.exists())

    def _may_continue_after_timeout(self) -> bool:
        path = self._task.folder / SUBMITTED
        record = load_json_or_empty(path)
        timeouts = record.get("timeouts", 0) + 1
        over = {"timeouts_over": timeouts} if timeouts > self._timeouts else {}
        write_json(path, record | {"timeouts": timeouts} | over)
        return not over

    def _requeue(self) -> None:
        """Requeue the job, and leave no result. If Slurm itself does it, or the job was cancelled, only exit."""
        job_id = submitit.JobEnvironment().job_id  # in the last job of an array, SLURM_JOB_ID is that of the array
        command = ["squeue", "-h", "-j", job_id, "-o", "%T"]
        state = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        if state == "RUNNING" and subprocess.run(["scontrol", "requeue", job_id], check=False).returncode:
            return  # this cluster does not allow it: the sweep sees the job end, and can be resumed
        (self._task.folder / supervisor.NODE).unlink(missing_ok=True)  # it waits for resources again
        os._exit(128 + signal.SIGTERM)
