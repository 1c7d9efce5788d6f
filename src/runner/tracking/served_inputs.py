"""Load and serve a model with several inputs or outputs in MLflow: this file is copied into the model's folder.

It does not import runner, which need not be installed where the model is served.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch


class NamedModel:
    """A graph that takes arrays (N, ...) by name.

    Args:
        folder: has `model.pt2`, the graph, and `inputs.json`, the types of its inputs by name.
    """

    def __init__(self, folder: Path) -> None:
        self._graph = torch.export.load(folder / "model.pt2").module()
        self._types = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Predict samples.

        Args:
            model_input: a dict of arrays (N, ...), a data frame with a cell for each input, or the array of the only
                one.
            params: not used.

        Returns:
            An array (N, ...), or a dict of them.
        """
        if isinstance(model_input, pd.DataFrame):
            model_input = {name: np.stack([*map(np.asarray, model_input[name])]) for name in self._types}
        if not isinstance(model_input, Mapping):
            (name,) = self._types
            model_input = {name: model_input}
        inputs = {name: torch.from_numpy(np.asarray(model_input[name], kind)) for name, kind in self._types.items()}
        with torch.no_grad():
            outputs = self._graph(*inputs.values()) if len(inputs) == 1 else self._graph(**inputs)
        if isinstance(outputs, torch.Tensor):
            return outputs.numpy()
        return {name: values.numpy() for name, values in outputs.items()}


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> NamedModel:
    """Load the model; MLflow calls this."""
    return NamedModel(Path(path))
