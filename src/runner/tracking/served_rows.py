"""Load and serve the model of `data=table` in MLflow: this file is copied into the model's folder.

So is `runner.data.tabular`, as `runner_tabular`: runner itself need not be installed where the model is served.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch


class RowsModel:
    """A graph with the columns of its table.

    Args:
        folder: has `model.pt2`, a graph from the inputs of the model to its answers (N, K), and `table.json`, with the
            columns, the transformers and the names of the answers.
    """

    def __init__(self, folder: Path) -> None:
        from runner_tabular import encoder  # type: ignore[import-not-found]

        self._graph = torch.export.load(folder / "model.pt2").module()
        table = json.loads((folder / "table.json").read_text(encoding="utf-8"))
        self._read, self._encoder = encoder.read, encoder.Encoder.from_state(table["encoder"])
        self._names = table["outputs"]

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Predict the rows of a table, with columns as in the training table, in any order.

        A category that training did not have is one of its own; a cell that cannot be read counts as a blank.

        Raises:
            KeyError: a column is missing.
        """
        inputs = self._encoder.transform(self._read(self._encoder.columns, model_input))
        with torch.no_grad():
            if isinstance(inputs, dict):
                answers = self._graph(**{name: torch.from_numpy(values) for name, values in inputs.items()})
            else:
                answers = self._graph(torch.from_numpy(inputs))
        return pd.DataFrame(answers.numpy(), index=model_input.index, columns=self._names)


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> RowsModel:
    """Load the model; MLflow calls this."""
    return RowsModel(Path(path))
