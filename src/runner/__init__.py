"""A config-driven experiment runner for PyTorch.

Hydra composes a config from YAML, one visible loop trains the objects that it describes, and a journal on disk records
the metrics. A separate process uploads them to MLflow.
"""

import importlib
from typing import TYPE_CHECKING, Any

from runner.util.openmp import wait_asleep
from runner.util.stopping import INTERRUPT, is_command

if TYPE_CHECKING:
    from runner.api import load, run, sweep

__all__ = ["load", "run", "sweep"]
__version__ = "0.1.0"

DISTRIBUTION = "runner-torch"  # another project owns the name `runner` in the package index

wait_asleep()  # here, because every process of runner imports this package before torch
if is_command():  # before anything else is imported, which takes seconds
    INTERRUPT.install()


def __getattr__(name: str) -> Any:
    """Import the Python API at its first use: the commands do not need it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module("runner.api"), name)  # a wing above all others
