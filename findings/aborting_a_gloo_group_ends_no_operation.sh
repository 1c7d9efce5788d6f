#!/usr/bin/env bash
# torch 2.14.1: `ProcessGroup.abort()` on a Gloo group returns at once, and an operation that waits for another rank
# goes on waiting, up to the timeout of the group. With NCCL the same call ends it.
#
# Rank 0 waits in an all-reduce that rank 1 joins only after 12 s; the timeout is 6 s, and abort is called after 2 s.
# What does end the operation is the end of the process of the other rank.
#
# Seen on Linux, Python 3.11:
#   abort returned after 2 s
#   the operation ended after 6 s: RuntimeError
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.2.6
cat > "$folder/ranks.py" <<'PYTHON'
import threading
import time
from datetime import timedelta

import torch
import torch.distributed as dist

dist.init_process_group("gloo", timeout=timedelta(seconds=6))
dist.barrier()
began = time.monotonic()


def abort() -> None:
    time.sleep(2)
    dist.group.WORLD.abort()
    print(f"abort returned after {time.monotonic() - began:.0f} s", flush=True)


if dist.get_rank() == 1:
    time.sleep(12)
else:
    threading.Thread(target=abort).start()
    try:
        dist.all_reduce(torch.zeros(1))
        raise SystemExit("the operation ended without an error: this has changed")
    except RuntimeError as error:
        seconds = time.monotonic() - began
        print(f"the operation ended after {seconds:.0f} s: {type(error).__name__}", flush=True)
        if seconds < 5:
            raise SystemExit("abort has ended the operation: this has changed") from error
PYTHON
for rank in 0 1; do
  RANK=$rank WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29534 OMP_NUM_THREADS=1 \
    "$folder/venv/bin/python" "$folder/ranks.py" 2> "$folder/$rank.err" &
  started[rank]=$!
done
status=0
wait "${started[0]}" || status=$?
kill "${started[1]}" 2> /dev/null || true
[ "$status" = 0 ] || { cat "$folder/0.err"; exit "$status"; }
