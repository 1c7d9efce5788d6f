"""The rows of a table as tensors, and the transformers that are fitted to those of the training part."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from runner.data.rows import as_rows

if TYPE_CHECKING:
    import pandas as pd

    from runner.data.tabular.columns import Column
    from runner.data.tabular.encoder import Encoder, Raw


class TableRows:
    """Rows as tensors: numbers, and a number that stands for each text, so that a hash of them is one of the table.

    Args:
        columns: the features.
        codes: whether categories become codes.
        layout: of the training table, for new ones.
        fitted: the transformers of an earlier run; None fits them.
    """

    def __init__(
        self, columns: "list[Column]", codes: bool, layout: Mapping[str, Any], fitted: Mapping[str, Any] | None = None
    ) -> None:
        self.columns, self.codes, self.layout, self._fitted = columns, codes, layout, fitted
        self._texts: dict[float, str] = {}
        self.blanks: dict[str, int] = {}
        self.example: dict[str, list[Any]] = {}

    def tensors(self, cells: "pd.DataFrame", chosen: Sequence[np.ndarray], plain: Collection[str] = ()) -> list[Tensor]:
        """Return each choice of rows, bool (N,), as float64 (rows, numbers + categories).

        `blanks` counts those of all rows so far.

        Args:
            cells: the rows.
            chosen: the choices.
            plain: see `Frame`.
        """
        arrays: list[np.ndarray] = []
        for column in self.columns:
            if column.kind == "category":
                continue
            blanks = 0
            if column.kind == "number" and column.name in plain:
                arrays.append(cells[column.name].to_numpy())
            else:
                values = column.values(cells[column.name])
                blanks = int(np.isnan(values[:, 0]).sum())
                arrays.extend(values.T)
            self.blanks[column.name] = self.blanks.get(column.name, 0) + blanks
        arrays += [
            self._marks(column.texts(cells[column.name])) for column in self.columns if column.kind == "category"
        ]
        return [torch.from_numpy(rows) for rows in as_rows(arrays, chosen)]

    def _marks(self, cells: np.ndarray) -> np.ndarray:
        """Return the numbers that stand for texts, float64 (N,)."""
        texts, index = np.unique(cells, return_inverse=True)
        marks = [_mark(text) for text in texts]
        self._texts |= dict(zip(marks, texts, strict=True))
        return np.array(marks)[index]

    def raw(self, rows: Tensor) -> "Raw":
        """Return the numbers and texts of what `tensors` returned."""
        from runner.data.tabular.encoder import Raw

        width = sum(len(column.numbers) for column in self.columns)
        marks = rows[:, width:].numpy()
        texts = np.empty(marks.shape, dtype=object)
        for place in range(marks.shape[1]):
            different, index = np.unique(marks[:, place], return_inverse=True)
            texts[:, place] = np.array([self._texts[mark] for mark in different], dtype=object)[index]
        return Raw(rows[:, :width].numpy(), texts)

    def fit(self, rows: Tensor) -> "FittedTable":
        """Fit the transformers to the rows of the training part, or rebuild those of an earlier run."""
        from runner.data.tabular.encoder import Encoder

        if self._fitted is not None:
            return FittedTable(self, Encoder.from_state(self._fitted["encoder"]))
        return FittedTable(self, Encoder.fit(self.columns, self.raw(rows), self.codes))


@dataclass(frozen=True)
class FittedTable:
    """The rows of a table with their fitted transformers."""

    rows: TableRows
    encoder: "Encoder"

    @property
    def sizes(self) -> list[int]:
        """The number of codes of each category column; none if the inputs are one vector a row."""
        return self.encoder.sizes if self.encoder.codes else []

    def inputs(self, rows: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the inputs of rows as a model takes them: see `Encoder.transform`."""
        return as_tensors(self.encoder.transform(self.rows.raw(rows)))

    def state(self) -> dict[str, Any]:
        """Return what reads new tables for the same model, as JSON."""
        return {"layout": dict(self.rows.layout), "encoder": self.encoder.state()}

    @property
    def example(self) -> dict[str, list[Any]]:
        """Two rows of the table, by column."""
        return self.rows.example


def as_tensors(inputs: "np.ndarray | dict[str, np.ndarray]") -> Tensor | dict[str, Tensor]:
    """Return what `Encoder.transform` returned as tensors."""
    if isinstance(inputs, dict):
        return {name: torch.from_numpy(values) for name, values in inputs.items()}
    return torch.from_numpy(inputs)


def _mark(text: str) -> float:
    """Return a number that stands for a text: 48 bits of its hash, which float64 holds."""
    return float(int.from_bytes(sha256(text.encode(errors="surrogatepass")).digest()[:6], "big"))
