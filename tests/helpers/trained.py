"""Runs for the tests of the commands after training: trained once per module, in a separate folder."""

import contextlib
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.quick import without_plots_and_rehearsal
from runner.cli import run_command

SMALL = ("debug=fast", "model.hidden=[8]")


@contextlib.contextmanager
def place(folder: Path) -> Iterator[Path]:
    """Change into a folder, with data and outputs below it."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.delenv("RUNNER_OUTPUTS", raising=False)
        patch.setenv("RUNNER_DATA", str(folder / "data"))
        without_plots_and_rehearsal(patch)
        yield folder
    torch.set_num_threads(threads)


def train(name: str, *arguments: str) -> Path:
    """Train a run in a folder of this name below the current one; it is not tracked by default."""
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        small = SMALL[:1] if any(text.startswith("model=") for text in arguments) else SMALL
        code = run_command(["tracking=off", *small, f"hydra.run.dir={name}", *arguments])
    assert code == 0, printed.getvalue()
    return Path(name).resolve()


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def table(path: Path, target: str) -> Path:
    """Write a table of 60 rows: width, target and height. The target `price` is a number, `kind` one of two texts."""
    random = np.random.RandomState(0)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["width", target, "height"])
        for width, height in random.uniform(1, 9, (60, 2)).round(3):
            what = round(3 * width - height, 3) if target == "price" else ("tall" if height > width else "wide")
            rows.writerow([width, what, height])
    return path
