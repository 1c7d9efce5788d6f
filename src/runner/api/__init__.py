"""The Python API, for notebooks and scripts: `from runner import run, sweep, load`.

A run or a sweep is the command `python -m runner` with the same arguments, in a process of its own, and so computes the
same bits. This wing turns Python's values and objects into arguments (`arguments.py`, `given.py`), starts that process
(`process.py`), shows its progress (`view.py`), and reads what it has left behind (`finished_run.py`,
`finished_sweep.py`). Importing it does not load torch.
"""

from runner.api.calls import load, run, sweep
from runner.api.errors import Interrupted, RunFailed
from runner.api.finished_run import Run
from runner.api.finished_sweep import Sweep

__all__ = ["Interrupted", "Run", "RunFailed", "Sweep", "load", "run", "sweep"]
