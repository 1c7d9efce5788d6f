"""The values that a data set has for each training sample besides what a model gets: columns and arrays, by name."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from runner.data.listing import list_names
from runner.data.parts import part_of
from runner.data.source import Source
from runner.errors import ConfigError, Problem, did_you_mean


def values_of(source: Source, name: str, key: str) -> list[Any]:
    """Return the values of a column or array for all samples of the training part.

    They are those of `Source.arrays`, the columns of an HF data set, or an attribute of the user's data set.

    Args:
        source: the data set.
        name: of the column or array.
        key: the config key that names it.

    Raises:
        ConfigError: there is no such column, or it has another length.
    """
    train: Any = source.train
    columns = getattr(train, "column_names", None)  # of an HF data set
    known: Mapping[str, Any] = source.arrays or {}
    if name in known:
        values = known[name]
    elif isinstance(columns, Sequence) and name in columns:
        values = train[name]
    elif not isinstance(train, Tensor | Mapping | tuple) and hasattr(train, name):
        values = getattr(train, name)
    else:
        names = list(dict.fromkeys([*known, *(columns or []), *(source.columns or [])]))
        instead = did_you_mean(name, names) if names else "return Source(arrays={name: values})"
        there = f"only {list_names(names)}" if names else "and no other"
        text = f"{key}={name}: data={source.name} has no such column or array, {there}"
        raise ConfigError(Problem(key, text, instead, topic="unknown"))
    plain: list[Any] = np.asarray(values).tolist()
    samples = len(part_of(train))
    if len(plain) != samples:
        text = f"{key}={name} has {len(plain)} values for {samples} training samples"
        raise ConfigError(Problem(key, text, "give one for each sample", topic="shape"))
    return plain
