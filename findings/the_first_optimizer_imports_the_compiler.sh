#!/usr/bin/env bash
# torch 2.14.1: to make an optimizer imports torch's compiler, whether anything is compiled or not.
#
# `import torch` is written to load `torch._dynamo` late. But `Optimizer.add_param_group`, which every constructor calls,
# is decorated so that a compiled program leaves it out, and the first call of a decorated method imports the compiler:
# hundreds of modules with sympy and parts of inductor, a third of the time of `import torch` and more. Without that
# import the first `step()` does it. So does the first operation on the meta device.
#
# Seen on Linux, Python 3.11, two cores of an AMD EPYC: 1,212 modules after `import torch`, 2,104 after
# `torch.optim.SGD(...)`; 2,106 after a linear layer on the meta device.
# The script fails if an optimizer no longer imports `torch._dynamo`.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import time

import torch

assert "torch._dynamo" not in sys.modules, "import torch loads the compiler"
before, began = len(sys.modules), time.process_time()
torch.nn.functional.linear(torch.zeros(2, 3), torch.zeros(4, 3))
assert "torch._dynamo" not in sys.modules, "an operation loads the compiler"
torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))], lr=0.1)
seconds = time.process_time() - began
assert "torch._dynamo" in sys.modules and "sympy" in sys.modules, "an optimizer no longer imports the compiler"
print(f"torch {torch.__version__}: {before:,} modules after import torch,"
      f" {len(sys.modules):,} after torch.optim.SGD(...), {seconds:.1f} s of CPU time")
PYTHON
