"""`mlflow.pytorch`, imported without PyTorch Lightning. If Lightning is installed, importing it takes 1.5 s.

Only the autologging of Lightning's `Trainer` is missing. A Lightning that is already imported is left alone.
"""

from runner.tracking.slim_import import without_packages

with without_packages("pytorch_lightning"):
    import mlflow.pytorch as pytorch  # `from mlflow import pytorch` would import it at its first use

__all__ = ["pytorch"]
