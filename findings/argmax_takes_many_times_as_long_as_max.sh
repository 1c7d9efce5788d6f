#!/usr/bin/env bash
# torch 2.14.1, CPU: `argmax(dim=1)` takes many times as long as `max(dim=1).indices`, which returns the same.
#
# The accuracy of a segmentation is commonly `outputs.argmax(dim=1) == masks`. For outputs (8, 3, 64, 64) on one thread
# argmax takes as long as a convolution; max, which returns the largest values as well, is several times faster. Both
# return the first of equal values, and the place of a NaN. For classes along the last axis, (4096, 10), the difference
# is smaller. Likewise `log_softmax(dim=1)` of (4096, 10) takes several times as long as that of a transposed copy along
# its first axis, copy included.
#
# Seen on Linux, Python 3.11, one thread of an Intel Xeon (Sapphire Rapids), medians:
#   argmax / max of (8, 3, 64, 64): 4560 / 420 us; of (4096, 10): 177 / 113 us
#   log_softmax of (4096, 10): 641 us, of a transposed copy: 82 us
# The script fails if argmax takes less than 3 times as long for masks, or log_softmax less than 2 times.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
import statistics
import time

import torch


def microseconds(function, times=60):
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        function()
        taken.append((time.perf_counter() - began) * 1e6)
    return statistics.median(taken)


torch.set_num_threads(1)
torch.manual_seed(0)
masks, rows = torch.randn(8, 3, 64, 64), torch.randn(4096, 10)
ties = torch.randint(0, 2, (4096, 10)).float()
for outputs in (masks, rows, ties):
    assert torch.equal(outputs.argmax(dim=1), outputs.max(dim=1).indices)

ratios = {}
for name, outputs in (("(8, 3, 64, 64)", masks), ("(4096, 10)", rows)):
    slow = microseconds(lambda: outputs.argmax(dim=1))
    fast = microseconds(lambda: outputs.max(dim=1).indices)
    ratios[name] = slow / fast
    print(f"argmax / max of {name}: {slow:.0f} / {fast:.0f} us")

straight = microseconds(lambda: torch.log_softmax(rows, dim=1))
turned = microseconds(lambda: torch.log_softmax(rows.t().contiguous(), dim=0))
assert torch.allclose(torch.log_softmax(rows, dim=1), torch.log_softmax(rows.t().contiguous(), dim=0).t(), atol=1e-6)
print(f"log_softmax of (4096, 10): {straight:.0f} us, of a transposed copy: {turned:.0f} us")
assert ratios["(8, 3, 64, 64)"] > 3 and straight / turned > 2
PYTHON
echo "as described, torch 2.14.1"
