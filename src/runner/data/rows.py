"""Columns of a table become rows, some at a time, by several threads."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import numpy as np

from runner.data.columns import empty
from runner.util.cores import usable_cores

ROWS = 2**14
"""Rows that are copied at a time; they stay in the processor's cache."""

MOST_THREADS = 8


def as_rows(columns: Sequence[np.ndarray], chosen: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Copy columns into rows.

    Args:
        columns: float64, each (N,).
        chosen: choices of rows, each bool (N,).

    Returns:
        The rows of each choice, float64 (rows, columns).
    """
    begins = range(0, len(chosen[0]), ROWS)
    counts = [[int(np.count_nonzero(rows[begin : begin + ROWS])) for begin in begins] for rows in chosen]
    places = [[0, *accumulate(each)] for each in counts]
    arrays = [empty(each[-1], len(columns)) for each in places]

    def copy(number: int) -> None:
        part = slice(begins[number], begins[number] + ROWS)
        block = np.stack([values[part] for values in columns], axis=1)
        for array, rows, place in zip(arrays, chosen, places, strict=True):
            target = array[place[number] : place[number + 1]]
            np.take(block, np.flatnonzero(rows[part]), axis=0, out=target, mode="clip")  # else `out` is copied

    if not columns or len(begins) < 2:
        for number in range(len(begins) if columns else 0):
            copy(number)
        return arrays
    with ThreadPoolExecutor(min(usable_cores(), MOST_THREADS), "copy_rows") as pool:
        for _ in pool.map(copy, range(len(begins))):
            pass
    return arrays
