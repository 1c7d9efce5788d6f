"""A Slurm with its own munge, which the tests start and stop in a temporary folder; its nodes are on this machine."""

import getpass
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
START_SECONDS = 30.0

CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=1000,requeue_delay=1
ReturnToService=2
KillWait=20
MinJobAge=60
MpiDefault=none
{nodes}
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} State=UNKNOWN"


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def missing() -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in PROGRAMS if _which(name) is None]


NEEDS = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        bool(missing()), reason=f"no {missing()} here: apt-get install slurmctld slurmd slurm-client munge"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("submitit") is None, reason="submitit is not installed: pip install -e '.[slurm]'"
    ),
]
"""The marks of tests on a Slurm."""


@contextmanager
def slurm(folder: Path, cpus: int = 2, nodes: int = 1) -> Iterator[dict[str, str]]:
    """Run Slurm; yield the environment variables by which a process finds it."""
    (folder / "state").mkdir(parents=True)
    host = socket.gethostname()
    names = [host, *(f"{host}-{number}" for number in range(2, nodes + 1))]  # the first one's name has an address
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    conf = folder / "slurm.conf"
    controller, *ports = _free_ports(1 + nodes)
    node = partial(NODE.format, host=host, cpus=cpus)
    conf.write_text(
        CONF.format(
            host=host,
            user=getpass.getuser(),
            controller=controller,
            folder=folder,
            nodes="\n".join(node(name=name, port=port) for name, port in zip(names, ports, strict=True)),
        )
    )
    environment = {"SLURM_CONF": str(conf)}
    munge = [
        "munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}",
        f"--log-file={folder}/munged.log", f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munged.seed",
    ]  # fmt: skip
    running = []
    try:
        daemons = [["slurmctld", "-D"], *(["slurmd", "-D", "-N", name] for name in names)]
        for command in (munge, *([*daemon, "-f", str(conf)] for daemon in daemons)):
            command[0] = _which(command[0]) or command[0]
            running.append(
                subprocess.Popen(
                    command,
                    env=os.environ | environment,
                    stdout=(folder / "printed.log").open("ab"),
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        _wait_until_idle(environment, folder)
        yield environment
    finally:
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["scancel", "-u", getpass.getuser()], env=os.environ | environment, timeout=10, check=False)
        for process in reversed(running):
            process.terminate()
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def _wait_until_idle(environment: dict[str, str], folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        states = subprocess.run(
            ["sinfo", "-h", "-o", "%T"], env=os.environ | environment, capture_output=True, text=True, check=False
        )
        if set(states.stdout.split()) == {"idle"}:
            return
        if time.monotonic() > deadline:
            logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
            raise RuntimeError(f"Slurm does not start: {states.stdout}{states.stderr}\n{logs}")
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as open_:
        sockets = [open_.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
