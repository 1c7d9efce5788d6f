"""A large model: the memory of runs against a bare loop, and how long its checkpoints keep training from going on."""

import contextlib
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from processes import PYTHON, run
from torch import nn

WIDTH = 5_000
"""Of three hidden layers: 50 million parameters."""

BATCH, RATE, MOMENTUM = 256, 0.01, 0.9

MODEL = (
    "model=mlp", f"model.hidden=[{WIDTH},{WIDTH},{WIDTH}]", "data=digits", "device=cpu", "tracking=off",
    "optimizer=sgd", f"optimizer.lr={RATE}", f"optimizer.momentum={MOMENTUM}",
)  # fmt: skip

BATCH_BETWEEN, BETWEEN, SAVES = 16, 10, 3
"""Of checkpoints within an epoch: the batch size, the steps between two of them, and how many there are."""


def bare() -> dict[str, list[float]]:
    """Train an epoch on the digits with SGD and momentum, and save the model and the optimizer with `torch.save`."""
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(classes)
    layers = [nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()]
    net, loss = nn.Sequential(*layers, nn.Linear(WIDTH, 10)), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM)
    for index in torch.randperm(len(inputs)).split(BATCH):
        optimizer.zero_grad()
        loss(net(inputs[index]), targets[index]).backward()
        optimizer.step()
    torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict()}, "last.pt")
    return {}


class LargeModel:
    """Runs of runner with the same model, optimizer and data; the one that is resumed is made once.

    Args:
        folder: where it is made.
    """

    def __init__(self, folder: Path) -> None:
        self._saved = folder / "run"
        folder.mkdir(exist_ok=True)
        if not self._saved.exists():
            self._train(self._saved)

    def resume(self) -> dict[str, list[float]]:
        """Resume the run for another epoch."""
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(self._saved, copy, dirs_exist_ok=True)
            return _weighed(f"resume={copy}", "trainer.epochs=2")

    def save(self) -> dict[str, list[float]]:
        """Train for an epoch, and save the model for MLflow."""
        with tempfile.TemporaryDirectory() as folder:
            return self._train(Path(folder) / "run", "tracking.log_model=true")

    def _train(self, folder: Path, *overrides: str) -> dict[str, list[float]]:
        return _weighed(*MODEL, f"data.batch_size={BATCH}", "trainer.epochs=1", f"hydra.run.dir={folder}", *overrides)


def blocked() -> dict[str, list[float]]:
    """Train with checkpoints within the epoch.

    Returns:
        The seconds from each one's begin until training goes on, and those of all steps and checkpoints.
    """
    from runner import cli
    from runner.training import loop

    spent, steps = list[float](), list[float]()
    save, step = loop.save_within_epoch, loop.take_step

    def saving(*arguments: Any, **named: Any) -> None:
        began = time.perf_counter()
        save(*arguments, **named)
        spent.append(time.perf_counter() - began)

    def stepping(*arguments: Any) -> None:
        steps.append(time.perf_counter())
        step(*arguments)

    loop.save_within_epoch, loop.take_step = saving, stepping
    sys.argv[1:] = [
        *MODEL, f"data.batch_size={BATCH_BETWEEN}", f"trainer.checkpoint_every_steps={BETWEEN}",
        f"trainer.max_steps={BETWEEN * SAVES + 5}", "hydra.run.dir=run",
    ]  # fmt: skip
    with contextlib.suppress(SystemExit):
        cli.main()
    return {"seconds": spent[:SAVES], "training": [steps[-1] - steps[0]]}


def _weighed(*overrides: str) -> dict[str, list[float]]:
    """Run `python -m runner`, and return its peak memory in megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        done = run([*PYTHON, "-m", "runner", *overrides], Path(folder), weigh=True)
    return {"peak": [done.peak]}
