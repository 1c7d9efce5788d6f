"""What a long history costs: a checkpoint after many epochs, and reading a journal of many points.

Both are called by `loops.py`, in a process of their own.
"""

import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from torch import nn

from runner.plots.curves import CURVES
from runner.rundir.checkpoint import Checkpoints
from runner.rundir.checkpoint_file import FORMAT, KEYS
from runner.rundir.epoch_seconds import EpochSeconds
from runner.rundir.journal import Journal, read_curves, read_step
from runner.training.progress import Progress

SAVES = 100
EPOCH_METRICS = (
    "train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr", "time/epoch_seconds", "time/validation_seconds",
    "throughput/samples_per_second",
)  # fmt: skip


def checkpoint(epochs: int) -> dict[str, list[float]]:
    """Write checkpoints of a small model after this many epochs and after 5, by turns.

    Returns:
        The seconds of each, and the kilobytes of the last ones.
    """
    with tempfile.TemporaryDirectory() as folder:
        late, early = _Saving(Path(folder) / "late", epochs), _Saving(Path(folder) / "early", 5)
        seconds = [(late.save(), early.save()) for _ in range(SAVES)]
        after, before = map(list, zip(*seconds, strict=True))
        return {"late": after, "early": before, "late_kilobytes": [late.kilobytes()]}


class _Saving:
    """A run after some epochs, which saves a checkpoint after each of the next ones."""

    def __init__(self, folder: Path, epochs: int) -> None:
        self.net, self.progress = nn.Linear(64, 64), Progress()
        self.file, self.checkpoints = EpochSeconds(folder), Checkpoints(folder / "checkpoints")
        for _ in range(epochs):
            self._train()
        self.save()  # the first one writes the seconds of all epochs before

    def _train(self) -> None:
        self.progress.seconds = 0.1 + self.progress.epoch / 1e6
        self.progress.end_epoch(samples=1000)

    def save(self) -> float:
        """Return the seconds that a checkpoint takes."""
        self._train()
        began, progress = time.perf_counter(), self.progress
        self.file.append(progress.finished_epochs - len(progress.epoch_seconds), progress.epoch_seconds)
        progress.epoch_seconds.clear()
        own: dict[str, Any] = {"format": FORMAT, "model": self.net.state_dict(), "progress": progress.state_dict()}
        self.checkpoints.save({key: {} for key in KEYS} | own, best=False)
        return time.perf_counter() - began

    def kilobytes(self) -> float:
        """Return the size of the last checkpoint."""
        return self.checkpoints.last.stat().st_size / 1e3


def journal(points: int, by_line: bool) -> dict[str, list[float]]:
    """Read a journal as a resumed run does, or parse its lines as JSON one by one; return the seconds of CPU time."""
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        writer = Journal(path)
        for epoch in range(1, 1 + points // len(EPOCH_METRICS)):
            writer.write({name: draw.random() for name in EPOCH_METRICS}, epoch)
        writer.close()
        began = time.process_time()
        if by_line:
            with path.open(encoding="utf-8") as file:
                for line in file:
                    json.loads(line)
        else:
            Journal(path).close()
            read_step(path, 1)
            read_curves(path, CURVES)
        return {"seconds": [time.process_time() - began]}
