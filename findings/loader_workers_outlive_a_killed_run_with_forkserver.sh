#!/usr/bin/env bash
# torch 2.14.1: with the start method forkserver, the default of Python 3.14 on Linux, the workers of a `DataLoader`
# never end if the process that loads is killed (SIGKILL, the kernel's out-of-memory killer).
#
# A worker asks every 5 s whether its parent process is still the same (`ManagerWatchdog`, os.getppid). With fork and
# spawn that is the process that loads. With forkserver it is the server, which lives as long as one of its clients, and
# each worker is one: server and workers wait for each other, with all memory that they hold. A thread in each worker
# that waits for `multiprocessing.parent_process().sentinel` and then calls `os._exit` helps with each method.
#
# Seen on Linux, Python 3.11, 12 s after the SIGKILL:
#   fork: 0 of 2 workers run
#   spawn: 0 of 2 workers run
#   forkserver: 2 of 2 workers run
# The script fails if that differs. It ends the workers that are left.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.2.6 psutil==7.1.3
cat >"$folder/load.py" <<'PYTHON'
import signal
import sys

from torch.utils.data import DataLoader

if __name__ == "__main__":
    loader = DataLoader(list(range(8)), num_workers=2, persistent_workers=True, multiprocessing_context=sys.argv[1])
    batches = list(loader)
    print(*(worker.pid for worker in loader._iterator._workers), flush=True)
    signal.pause()
PYTHON
"$folder/venv/bin/python" - "$folder/load.py" <<'PYTHON'
import subprocess
import sys
import time

import psutil

left = {}
for method in ("fork", "spawn", "forkserver"):
    process = subprocess.Popen(
        [sys.executable, sys.argv[1], method], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    workers = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
    process.kill()
    process.wait()
    time.sleep(12)
    left[method] = [worker for worker in workers if worker.is_running()]
    print(f"{method}: {len(left[method])} of {len(workers)} workers run")
    for worker in left[method]:
        worker.kill()
assert {method: len(workers) for method, workers in left.items()} == {"fork": 0, "spawn": 0, "forkserver": 2}
PYTHON
echo "as described, torch 2.14.1"
