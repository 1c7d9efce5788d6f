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
            columns, the transformers (a list of them for an ensemble) and the names of the answers.
    """

    def __init__(self, folder: Path) -> None:
        from runner_tabular import encoder  # type: ignore[import-not-found]

        self._graph = torch.export.load(folder / "model.pt2").module()
        table = json.loads((folder / "table.json").read_text(encoding="utf-8"))
        states = table["encoder"]
        self._is_ensemble = isinstance(states, list)
        self._read = encoder.read
        self._encoders = [encoder.Encoder.from_state(state) for state in (states if self._is_ensemble else [states])]
        self._names = table["outputs"]

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Predict the rows of a table, with columns as in the training table, in any order.

        A category that training did not have is one of its own; a cell that cannot be read counts as a blank.

        Raises:
            KeyError: a column is missing.
        """
        named, by_name = {}, self._is_ensemble
        for number, encoder in enumerate(self._encoders):  # of an ensemble, each member has its own
            inputs = encoder.transform(self._read(encoder.columns, model_input))
            by_name |= isinstance(inputs, dict)
            of_member = f"_{number}" if self._is_ensemble else ""
            for name, values in (inputs if isinstance(inputs, dict) else {"inputs": inputs}).items():
                named[name + of_member] = torch.from_numpy(values)
        with torch.no_grad():
            answers = self._graph(**named) if by_name else self._graph(*named.values())
        return pd.DataFrame(answers.numpy(), index=model_input.index, columns=self._names)


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> RowsModel:
    """Load the model; MLflow calls this."""
    return RowsModel(Path(path))
