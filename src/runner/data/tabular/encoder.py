"""The columns of a table as inputs of a model, by scikit-learn's transformers, which are kept as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from .cells import BLANK_NUMBER, trimmed
from .columns import Column, columns_of

MOST_CATEGORIES = 100
"""Categories of a column that are told apart; rarer ones count as unseen."""

FAR = 4.0
"""Scaled numbers beyond this are drawn towards it, as outliers of heavy tails would otherwise decide every gradient.
z / sqrt(1 + (z / FAR)^2) changes 1 to 0.97 and 10 to 3.7 (the smooth clipping of RealMLP, arXiv:2407.04491)."""


@dataclass(frozen=True)
class Raw:
    """Rows of a table, before the transformers.

    Attributes:
        numbers: float64 (N, F), NaN for blanks.
        texts: of the categories, (N, C); a blank is the empty text.
    """

    numbers: np.ndarray
    texts: np.ndarray


def read(columns: Sequence[Column], frame: pd.DataFrame) -> Raw:
    """Read the cells of columns; those of others are ignored."""
    rows = len(frame)
    numbers = [column.values(frame[column.name]) for column in columns if column.kind != "category"]
    texts = [column.texts(frame[column.name]) for column in columns if column.kind == "category"]
    return Raw(
        np.concatenate(numbers, axis=1) if numbers else np.empty((rows, 0)),
        np.stack(texts, axis=1) if texts else np.empty((rows, 0), dtype=object),
    )


class Encoder:
    """Numbers scaled, with blanks filled and indicated; categories as one-hot columns, or as codes for embeddings.

    A category that training did not have is one of its own: no one-hot column, or the code 0.

    Args:
        columns: the features.
        codes: whether categories become codes.
        scaler: of the numbers.
        imputer: of the scaled numbers.
        categories: of each category column.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        codes: bool,
        scaler: StandardScaler,
        imputer: SimpleImputer,
        categories: Sequence[Sequence[str]],
    ) -> None:
        self.columns, self.codes, self.scaler, self.imputer = list(columns), codes, scaler, imputer
        self.categories = [list(texts) for texts in categories]
        self._one_hot, self._ordinal = _category_encoders(self.categories)

    @classmethod
    def fit(cls, columns: Sequence[Column], raw: Raw, codes: bool) -> "Encoder":
        """Fit the transformers to rows: those of the training part."""
        scaler = StandardScaler()
        if raw.numbers.shape[1]:
            with np.errstate(invalid="ignore"):
                scaler.fit(raw.numbers)
            empty = np.isnan(raw.numbers).all(axis=0)
            scaler.mean_, scaler.scale_ = np.where(empty, 0.0, scaler.mean_), np.where(empty, 1.0, scaler.scale_)
        categories = [_most_frequent(raw.texts[:, place]) for place in range(raw.texts.shape[1])]
        return cls(columns, codes, scaler, _imputer(np.isnan(raw.numbers).any(axis=0)), categories)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Encoder":
        """Rebuild what `state` returned."""
        numbers = state["numbers"]
        scaler = StandardScaler()
        scaler.mean_, scaler.scale_ = (np.array(numbers[name], dtype=np.float64) for name in ("mean", "scale"))
        scaler.var_, scaler.n_features_in_ = scaler.scale_**2, len(scaler.scale_)
        imputer = _imputer(np.array(numbers["indicated"], dtype=bool))
        return cls(columns_of(state["columns"]), state["codes"], scaler, imputer, state["categories"])

    def state(self) -> dict[str, Any]:
        """Return the columns and the fitted attributes of the transformers, as JSON."""
        width = sum(len(column.numbers) for column in self.columns)
        return {
            "columns": [column.state() for column in self.columns],
            "codes": self.codes,
            "numbers": {
                "mean": self.scaler.mean_.tolist() if width else [],
                "scale": self.scaler.scale_.tolist() if width else [],
                "indicated": self._indicated(width).tolist(),
            },
            "categories": self.categories,
        }

    def _indicated(self, width: int) -> np.ndarray:
        indicated = np.zeros(width, dtype=bool)
        if width:
            indicated[self.imputer.indicator_.features_] = True
        return indicated

    @property
    def sizes(self) -> list[int]:
        """The number of codes of each category column, 0 included."""
        return [len(texts) + 1 for texts in self.categories]

    def names(self) -> list[str]:
        """Return the names of the numbers, and of the one-hot columns if there are no codes."""
        numbers = [name for column in self.columns for name in column.numbers]
        indicated = [
            f"{name} is blank" for name, is_one in zip(numbers, self._indicated(len(numbers)), strict=True) if is_one
        ]
        texts = [column.name for column in self.columns if column.kind == "category"]
        pairs = zip(texts, self.categories, strict=True)
        return (
            numbers + indicated + ([] if self.codes else [f"{name}={text}" for name, known in pairs for text in known])
        )

    def numbers(self, raw: Raw) -> np.ndarray:
        """Return scaled numbers, and 0 or 1 for blanks, float32 (N, numbers)."""
        if not raw.numbers.shape[1]:
            return np.empty((len(raw.numbers), 0), dtype=np.float32)
        scaled = self.scaler.transform(raw.numbers)
        near = scaled / np.sqrt(1 + (scaled / FAR) ** 2)
        return self.imputer.transform(near).astype(np.float32)

    def transform(self, raw: Raw) -> np.ndarray | dict[str, np.ndarray]:
        """Return the inputs: float32 (N, columns); with codes float32 `numbers` and int64 `categories`."""
        numbers = self.numbers(raw)
        if self.codes:
            return {"numbers": numbers, "categories": self._codes(raw.texts)}
        if not self.categories:
            return numbers
        return np.concatenate([numbers, self._one_hot.transform(raw.texts)], axis=1)

    def _codes(self, texts: np.ndarray) -> np.ndarray:
        if not self.categories:
            return np.empty(texts.shape, dtype=np.int64)
        return self._ordinal.transform(texts).astype(np.int64) + 1

    def unseen(self, raw: Raw) -> dict[str, list[str]]:
        """Return the cells of each column that are no category of the training part."""
        names = [column.name for column in self.columns if column.kind == "category"]
        known = zip(names, self.categories, raw.texts.T, strict=True)
        found = {name: [text for text in texts if text not in of_training] for name, of_training, texts in known}
        return {name: texts for name, texts in found.items() if texts}

    def unreadable(self, frame: pd.DataFrame, raw: Raw) -> dict[str, list[str]]:
        """Return the cells of columns of numbers and dates that are neither blank nor in the notation of training."""
        found, place = {}, 0
        for column in self.columns:
            if column.kind == "category":
                continue
            texts = trimmed(frame[column.name])
            lost = np.isnan(raw.numbers[:, place]) & ~texts.str.lower().isin(BLANK_NUMBER).to_numpy()
            place += len(column.numbers)
            if lost.any():
                found[column.name] = texts[lost].tolist()
        return found


def _imputer(indicated: np.ndarray) -> SimpleImputer:
    """Return an imputer that fills blanks with 0, the mean of scaled numbers, and indicates those of some columns."""
    imputer = SimpleImputer(strategy="constant", fill_value=0.0, add_indicator=True, keep_empty_features=True)
    return imputer.fit(np.where(indicated, np.nan, 0.0)[None]) if len(indicated) else imputer


def _most_frequent(texts: np.ndarray) -> list[str]:
    """Return the categories in the order of the alphabet; of too many the most frequent."""
    different, counts = np.unique(texts, return_counts=True)
    chosen = np.sort(np.argsort(-counts, kind="stable")[:MOST_CATEGORIES])
    return [str(text) for text in different[chosen]]


def _category_encoders(categories: Sequence[Sequence[str]]) -> tuple[OneHotEncoder, OrdinalEncoder]:
    """Return scikit-learn's encoders of these categories, fitted without private attributes: to one row."""
    known = [np.array(texts, dtype=object) for texts in categories]
    one_hot = OneHotEncoder(categories=known, handle_unknown="ignore", sparse_output=False, dtype=np.float32)
    ordinal = OrdinalEncoder(categories=known, handle_unknown="use_encoded_value", unknown_value=-1)
    if known:
        row = np.array([[texts[0] for texts in known]], dtype=object)
        one_hot.fit(row)
        ordinal.fit(row)
    return one_hot, ordinal
