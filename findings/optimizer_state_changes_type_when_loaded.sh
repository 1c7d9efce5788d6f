#!/usr/bin/env bash
# torch 2.14.1: loading an optimizer's own state_dict changes the type of its state, and with it every later step.
#
# NAdam keeps `mu_product`, a running product of its momentum schedule, as a float32 scalar whatever the type of the
# weights. Optimizer.load_state_dict casts all floating-point state (but `step`) to the parameter's type. With float64
# weights the product goes on in float64, and the weights differ from those of a run that was never saved, by 1e-12
# and less. Nothing warns, and state_dict() before and after compare as equal numbers.
#
# Seen on Linux, Python 3.11, on the CPU:
#   before loading: torch.float32, after: torch.float64, equal: True
#   largest difference of the weights after 20 more steps: above 0 and below 1e-9
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
import copy

import torch


def steps(weights, optimizer, count):
    for _ in range(count):
        optimizer.zero_grad()
        (weights**4).sum().backward()
        optimizer.step()


def start():
    weights = torch.linspace(0.1, 1, 50, dtype=torch.float64).requires_grad_()
    return weights, torch.optim.NAdam([weights], lr=0.01)


weights, optimizer = start()
steps(weights, optimizer, 10)
saved = copy.deepcopy(optimizer.state_dict())
values = weights.detach().clone()

again, other = start()
with torch.no_grad():
    again.copy_(values)
other.load_state_dict(copy.deepcopy(saved))
before, after = saved["state"][0]["mu_product"], other.state[again]["mu_product"]
equal = bool(before == after)
print(f"before loading: {before.dtype}, after: {after.dtype}, equal: {equal}")
steps(weights, optimizer, 20)
steps(again, other, 20)
difference = (weights - again).abs().max().item()
print(f"largest difference of the weights after 20 more steps: {difference:.1e}")
assert before.dtype is torch.float32 and after.dtype is torch.float64 and equal
assert 0 < difference < 1e-9
PYTHON
echo "as described, torch 2.14.1"
