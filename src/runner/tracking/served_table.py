"""Load and serve the model of a table in MLflow: this file is copied into the model's folder.

It does not import runner, which need not be installed where the model is served.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch


class TableModel:
    """A graph with the names of its columns.

    Args:
        folder: has `model.pt2`, a graph from float64 features (N, F) to outputs (N, K), and `table.json`, the names.
    """

    def __init__(self, folder: Path) -> None:
        self._graph = torch.export.load(folder / "model.pt2").module()
        self._names = json.loads((folder / "table.json").read_text(encoding="utf-8"))

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Predict the rows of a table; its columns may be in any order and of any numeric type.

        Raises:
            ValueError: a column does not hold numbers, or values are missing.
        """
        features = {}
        for name in self._names["inputs"]:
            try:
                features[name] = pd.to_numeric(model_input[name]).astype("float64")
            except (TypeError, ValueError) as error:
                raise ValueError(f"column {name!r} must hold numbers: {error}") from error
            if features[name].isna().any():
                raise ValueError(f"column {name!r} has missing values; fill them in or drop the rows")
        table = pd.DataFrame(features, index=model_input.index)
        with torch.no_grad():
            answers = self._graph(torch.tensor(table.to_numpy()))
        return pd.DataFrame(answers.numpy(), index=model_input.index, columns=self._names["outputs"])


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> TableModel:
    """Load the model; MLflow calls this."""
    return TableModel(Path(path))
