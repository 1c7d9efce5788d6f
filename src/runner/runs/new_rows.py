"""New rows for a model of `data=table`, read by the columns and transformers that its run recorded."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runner.data import table_reader
from runner.data.listing import list_names
from runner.data.named_path import NamedPath
from runner.data.table_rows import as_tensors
from runner.data.tabular.encoder import Encoder, Raw
from runner.data.tabular.encoder import read as read_raw
from runner.util.trees import Tree

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("runner")


def read(file: NamedPath, state: Mapping[str, Any]) -> tuple[Tree, int]:
    """Read a table.

    Categories that the training part did not have are counted, and said; so are cells that cannot be read.

    Args:
        file: CSV, TSV or Parquet, gzipped or not; it may have other columns too, the target among them.
        state: `table` of the run's input specification.

    Returns:
        The inputs of the model, and the number of rows.

    Raises:
        ConfigError: it is not a table, or lacks a column.
    """
    encoder = Encoder.from_state(state["encoder"])
    cells = read_cells(file, encoder, state["layout"])
    raw = read_raw(encoder.columns, cells)
    for note in notes_on(encoder, raw):
        log.warning("note       %s", note)
    expected = {column.name: column.expected for column in encoder.columns}
    for name, texts in encoder.unreadable(cells, raw).items():
        shown = list_names(repr(text) for text in sorted(set(texts)))
        how_many = f"{len(texts):,} of {len(cells):,} cells"
        log.warning("note       %s: %s cannot be read (%s), and count as blanks", name, how_many, shown)
        log.warning("           training had %s", expected[name])
    return as_tensors(encoder.transform(raw)), len(cells)


def read_cells(file: NamedPath, encoder: Encoder, layout: Mapping[str, Any]) -> "pd.DataFrame":
    """Read the columns of a table that a model takes.

    Args:
        file: see `read`.
        encoder: of the run.
        layout: of the training table, from the run's input specification.

    Raises:
        ConfigError: it is not a table, or lacks a column.
    """
    names = [column.name for column in encoder.columns]
    return table_reader.read_new(file, names, layout["header"], layout["width"], layout["target"])


def notes_on(encoder: Encoder, raw: Raw) -> list[str]:
    """Return a note on each column with categories that the training part did not have."""
    notes = []
    for name, texts in encoder.unseen(raw).items():
        rows = f"{len(texts):,} row{'s' if len(texts) > 1 else ''}"
        shown = list_names(repr(text) for text in sorted(set(texts)))
        notes.append(f"{name}: {rows} with categories that training did not have ({shown})")
    return notes
