#!/usr/bin/env bash
# torch 2.14.1: SGD with momentum and its fused kernel fails where a parameter gets its first gradient after others.
#
# A layer is frozen for the first step, as in gradual unfreezing; a branch of the model that the first batches do not
# take, or an expert that gets no token, does the same. The loop over tensors and `foreach` start the momentum of the
# late parameter with its first gradient. `fused=True` raises in the second step, about a None.
#
# Momenta of zeros, made for all parameters before the first step, take the same steps where dampening is zero.
#
# Seen on Linux, Python 3.11, on the CPU:
#   loop: [0.71, 0.9]
#   foreach: [0.71, 0.9]
#   fused: TypeError
#   fused, with momenta of zeros: [0.71, 0.9]
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
from typing import Any

import torch


def train(zeros: bool, **kernel: Any) -> str:
    early, late = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = torch.optim.SGD([early, late], lr=0.1, momentum=0.9, **kernel)
    if zeros:
        for weight in (early, late):
            optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    try:
        early.grad = torch.ones(1)
        optimizer.step()
        late.grad = torch.ones(1)
        optimizer.step()
    except TypeError as error:
        return type(error).__name__
    return str([round(weight.item(), 6) for weight in (early, late)])


seen = {
    "loop": train(False, foreach=False),
    "foreach": train(False, foreach=True),
    "fused": train(False, fused=True),
    "fused, with momenta of zeros": train(True, fused=True),
}
for name, result in seen.items():
    print(f"{name}: {result}")
right = "[0.71, 0.9]"
if list(seen.values()) != [right, right, "TypeError", right]:
    raise SystemExit("this has changed")
PYTHON
