"""1,000 requests by 16 clients, to `runner.serve` and to MLflow's scoring server with the same run."""

import atexit
import os
import socket
import subprocess
import time
import urllib.request
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
from clients import WARM, ask, make_messages
from measuring import Budget, Contestants, Figures, Group
from processes import NOT_OURS, PYTHON, run

REQUESTS, CLIENTS = 1000, 16
WAIT_SECONDS = 120


def group(folder: Path) -> Group:
    """Return the lines `serve`, `serve_cpu`, which other work on the machine changes less, and `serve_p99`.

    Args:
        folder: for the run that both serve.
    """

    def prepare() -> Contestants:
        folder.mkdir(exist_ok=True)
        run([*PYTHON, "-m", "runner", "hydra.run.dir=digits", "trainer.epochs=5"], folder)
        ours = _start(folder, "runner.serve", "run=digits", "runner.quiet=true", "port={}")
        options = ("--env-manager", "local", "-m", "digits/model", "-p", "{}")
        theirs = _start(folder, "mlflow", "models", "serve", *options)
        messages = make_messages()
        return {
            name: partial(_measure, server, port, messages)
            for name, (server, port) in (("runner", ours), ("mlflow", theirs))
        }

    what, against = f"{REQUESTS:,} requests of a digit by {CLIENTS} clients", "MLflow's scoring server"
    return Group(
        prepare,
        [
            Budget("serve", what, against, 1 / 3, "runner.seconds", ["mlflow.seconds"]),
            Budget("serve_cpu", f"CPU time of the server for {what}", against, 1 / 3, "runner.cpu", ["mlflow.cpu"]),
            Budget("serve_p99", f"the 99th percentile of {what}", against, 1.0, "runner.p99", ["mlflow.p99"]),
        ],
    )


def _measure(server: psutil.Process, port: int, messages: list[bytes]) -> Figures:
    before = _cpu_seconds(server)
    asked = ask(port, messages, REQUESTS, CLIENTS)
    share = REQUESTS / (REQUESTS + WARM)
    return {**asked, "cpu": [share * (_cpu_seconds(server) - before)]}


def _cpu_seconds(server: psutil.Process) -> float:
    times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def _start(folder: Path, module: str, *words: str) -> tuple[psutil.Process, int]:
    """Start a server on a free port and wait until it is ready; it is stopped with this process."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(NOT_OURS)}
    path = f"{Path(PYTHON[0]).parent}{os.pathsep}{clean.get('PATH', '')}"  # MLflow starts `uvicorn`
    command = [*PYTHON, "-m", module, *(word.format(port) for word in words)]
    with (folder / f"{module}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=clean | {"PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"},
        )
    atexit.register(_stop, process)
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=WAIT_SECONDS):
            return psutil.Process(process.pid), port
        time.sleep(0.1)
    raise RuntimeError(f"{' '.join(command)} does not answer:\n{(folder / f'{module}.log').read_text()[-3000:]}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 15)
    process.wait()
