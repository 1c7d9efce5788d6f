"""A config-driven experiment runner for PyTorch.

Hydra composes a config from YAML, one visible loop trains the objects that it describes, and a journal on disk records
the metrics. A separate process uploads them to MLflow.
"""

from runner.util.openmp import wait_asleep
from runner.util.stopping import INTERRUPT, is_command

__version__ = "0.1.0"

DISTRIBUTION = "runner-torch"  # another project owns the name `runner` in the package index

wait_asleep()  # here, because every process of runner imports this package before torch
if is_command():  # before anything else is imported, which takes seconds
    INTERRUPT.install()
