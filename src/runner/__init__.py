"""A config-driven experiment runner for PyTorch.

Hydra composes plain objects out of YAML; one visible loop trains them; a journal on disk keeps what
was measured, and MLflow is told.
"""

from runner.util.openmp import wait_asleep

__version__ = "0.1.0"

DISTRIBUTION = "runner-torch"  # the name `runner` is another's in the package index

wait_asleep()  # here, as every process of ours comes through here before it loads torch
