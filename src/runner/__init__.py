"""A config-driven experiment runner for PyTorch.

Hydra composes plain objects out of YAML; one visible loop trains them; a journal on disk keeps what
was measured, and MLflow is told.
"""

__version__ = "0.1.0"
