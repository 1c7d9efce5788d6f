"""How MLflow loads and serves the model of a table: this file is copied into the model's folder.

It imports nothing of runner, which need not be there where the model is served.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch


class TableModel:
    """A graph with the names of its columns.

    Args:
        folder: with `model.pt2`, a graph from float64 features (N, F) to answers (N, K), and `table.json`, the names.
    """

    def __init__(self, folder: Path) -> None:
        self._graph = torch.export.load(folder / "model.pt2").module()
        self._names = json.loads((folder / "table.json").read_text(encoding="utf-8"))

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Answer a table whose columns are found by their names, whatever their order and types of number.

        Raises:
            ValueError: a column holds no numbers, or values are missing.
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
    """What MLflow calls."""
    return TableModel(Path(path))
