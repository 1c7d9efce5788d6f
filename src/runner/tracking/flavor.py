"""`mlflow.pytorch`, imported without PyTorch Lightning: where that is installed, MLflow would take 1.5 s to import it.

Nothing is missing but its autologging of Lightning's own `Trainer`. A Lightning that is imported already is left alone.
"""

from runner.tracking.slim_import import without_packages

with without_packages("pytorch_lightning"):
    import mlflow.pytorch as pytorch  # not from mlflow import pytorch: that is loaded when it is first used

__all__ = ["pytorch"]
