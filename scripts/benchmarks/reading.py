"""Read a large CSV file, with pandas or as a data set, until its tensors exist; called by `loops.py`.

Each runs in a process of its own, which has imported what both need before the clock starts. The memory is the peak of
the whole process, imports included: both are processes that could train.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

COLUMNS = 20


def pandas(path: str) -> dict[str, list[float]]:
    """Read with `pandas.read_csv`."""
    import pandas

    return _measure(lambda: pandas.read_csv(path))


def csv(path: str) -> dict[str, list[float]]:
    """Read with `data=csv`."""
    from runner.data.csv_file import csv_file

    return _measure(lambda: csv_file(path, old_rules=False, loss_takes="classes"))


def table(path: str) -> dict[str, list[float]]:
    """Read with `data=table`."""
    from runner.data.table import table

    return _measure(lambda: table(path, loss_takes="classes"))


def _measure(read: Callable[[], object]) -> dict[str, list[float]]:
    import pyarrow.csv
    import sklearn.preprocessing
    import torch

    import runner.data.csv_file
    import runner.data.table
    import runner.data.tabular.encoder

    imported: list[Any] = [pyarrow.csv, sklearn.preprocessing, torch, runner.data]
    before, began, began_cpu = peak_megabytes(), time.perf_counter(), time.process_time()
    result = read()
    seconds, cpu_seconds, peak = time.perf_counter() - began, time.process_time() - began_cpu, peak_megabytes()
    del result, imported
    return {"seconds": [seconds], "cpu_seconds": [cpu_seconds], "peak": [peak], "added": [peak - before]}


def peak_megabytes() -> float:
    """Return the peak of this process's resident memory since it was started (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return float(line.split()[1]) * 1024 / 1e6


def make(path: Path, rows: int) -> None:
    """Write a table of 19 columns of decimals and a column of ten classes, unless it is there."""
    import numpy as np

    if path.exists():
        return
    draw, form = np.random.default_rng(0), ",".join(["%.6f"] * (COLUMNS - 1) + ["%d"])
    with path.open("w") as file:
        file.write(",".join([*(f"x{place}" for place in range(COLUMNS - 1)), "label"]) + "\n")
        for begin in range(0, rows, 50_000):
            count = min(50_000, rows - begin)
            numbers, labels = draw.normal(size=(count, COLUMNS - 1)).tolist(), draw.integers(0, 10, size=count).tolist()
            file.writelines(form % (*row, label) + "\n" for row, label in zip(numbers, labels, strict=True))
