"""Columns of a table become rows, some at a time, by several threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import TypeVar

import numpy as np

from runner.data.columns import empty
from runner.util.cores import usable_cores

ROWS = 2**14
"""Rows that are copied at a time; they stay in the processor's cache."""

MOST_THREADS = 8  # more would need more memory, and wait for it

T = TypeVar("T")
R = TypeVar("R")


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

    if columns:
        in_threads(copy, range(len(begins)))
    return arrays


def threads() -> int:
    """Return the number of threads for a table, in a process that has the machine, or a slot of it, to itself."""
    return min(usable_cores(), MOST_THREADS)


def together(one: Callable[[], T], other: Callable[[], R]) -> tuple[T, R]:
    """Return both results; an error of the first comes first."""
    with ThreadPoolExecutor(1, "table") as pool:
        later = pool.submit(other)
        return one(), later.result()


def in_threads(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Return the result of each item. Several threads help where the work is NumPy's."""
    if len(items) < 2:
        return list(map(work, items))
    with ThreadPoolExecutor(threads(), "table") as pool:
        return list(pool.map(work, items))
