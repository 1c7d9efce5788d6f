"""`mlflow.pytorch`, imported without PyTorch Lightning: where that is installed, MLflow would take 1.5 s to import it.

Nothing is missing but its autologging of Lightning's own `Trainer`. A Lightning that is imported already is left alone.
"""

import sys

_NAME = "pytorch_lightning"
_hidden = _NAME not in sys.modules
if _hidden:
    sys.modules[_NAME] = None  # type: ignore[assignment] # as good as not installed
try:
    import mlflow.pytorch as pytorch  # not from mlflow import pytorch: that is loaded when it is first used
finally:
    if _hidden:
        del sys.modules[_NAME]

__all__ = ["pytorch"]
