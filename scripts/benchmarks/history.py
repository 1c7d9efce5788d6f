"""What a long history costs: a checkpoint after many epochs, and reading a journal of many points.

Both are peers of `loops.py`.
"""

import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from torch import nn

SAVES = 100
EPOCH_METRICS = (
    "train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr", "time/epoch_seconds", "time/validation_seconds",
    "throughput/samples_per_second",
)  # fmt: skip


def checkpoint(epochs: int) -> dict[str, list[float]]:
    """Write checkpoints of a small model after this many epochs, an epoch apart; return the seconds of each."""
    from runner.rundir.checkpoint import FORMAT, KEYS, Checkpoints
    from runner.rundir.epoch_seconds import EpochSeconds
    from runner.training.progress import Progress

    net, progress, seconds = nn.Linear(64, 64), Progress(), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        file, checkpoints = EpochSeconds(Path(folder)), Checkpoints(Path(folder) / "checkpoints")
        for number in range(epochs + SAVES):
            progress.seconds = 0.1 + number / 1e6
            progress.end_epoch(samples=1000)
            if number >= epochs:
                began = time.perf_counter()
                file.append(progress.finished_epochs - len(progress.epoch_seconds), progress.epoch_seconds)
                progress.epoch_seconds.clear()
                own: dict[str, Any] = {"format": FORMAT, "model": net.state_dict(), "progress": progress.state_dict()}
                checkpoints.save({key: {} for key in KEYS} | own, best=False)
                seconds.append(time.perf_counter() - began)
    return {"seconds": seconds[1:]}  # the first one writes the seconds of all epochs before, and is read back


def journal(points: int, by_line: bool) -> dict[str, list[float]]:
    """Read a journal as a resumed run does, or parse its lines as JSON one by one; return the seconds of CPU time."""
    from runner.plots.curves import CURVES
    from runner.rundir.journal import Journal, read_curves, read_step

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
