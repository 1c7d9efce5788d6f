"""What is measured against what, and how much it may take."""

import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from processes import Done, peer, run, runner

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        name: to choose it by.
        what: is measured.
        against: what it is compared with.
        most: the ratio of the two may be.
        ours: measures it once, in seconds or megabytes.
        theirs: measures the other once.
    """

    name: str
    what: str
    against: str
    most: float
    ours: Callable[[], float]
    theirs: Callable[[], float]


def epoch(done: Done) -> float:
    """The median of a run's epochs, but for the first, in which memory is still being found."""
    return statistics.median(done.told["epoch_seconds"][1:])


def mnist(*overrides: str, root: str, epochs: int = 4) -> Done:
    """A run of runner's on 48,000 images of MNIST, validated on the other 12,000."""
    return runner(
        "data=mnist", f"data.root={root}", "data.batch_size=64", "data.val_fraction=0.2", "optimizer=sgd",
        "scheduler=constant", "device=cpu", f"trainer.epochs={epochs}", *overrides,
    )  # fmt: skip


def cases(root: str, full: bool) -> list[Case]:
    """The table.

    Args:
        root: where MNIST's files are.
        full: as the budgets are meant; otherwise as little as shows the order of magnitude.
    """
    cnn_samples = 48_000 if full else 6_400
    limited = [] if full else ["data.limit=8000"]
    mlp = partial(mnist, "model=mlp", root=root)
    cnn = partial(mnist, "model=cnn", *limited, root=root, epochs=3 if full else 2)
    import_all = [sys.executable, "-c", "import torch, torchvision, mlflow"]
    import_hydra = [sys.executable, "-c", "import hydra"]
    config = [sys.executable, "-m", "runner", "--cfg", "job"]
    digits = ["trainer.epochs=1"]

    def bare(model: str, **options: object) -> Done:
        return peer("tensors", root=root, model=model, **options)

    def process(command: list[str]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            return run(command, Path(folder)).seconds

    with_store = Path(tempfile.mkdtemp())
    return [
        Case("mlp", "MLP epoch, MNIST, fp32", "a bare tensor loop", 1.10,
             lambda: epoch(mlp()), lambda: epoch(bare("mlp"))),
        Case("mlp_notebook", "the same", "the notebooks' loop", 1 / 6,
             lambda: epoch(mlp()), lambda: epoch(peer("notebook", root=root, model="mlp"))),
        Case("mlp_lightning", "the same", "Lightning's Trainer on the notebooks' loader", 1 / 8,
             lambda: epoch(mlp()), lambda: epoch(peer("lightning", root=root, model="mlp"))),
        Case("cnn", "CNN epoch, fp32", "a bare loop, channels_last", 1.05,
             lambda: epoch(cnn()), lambda: epoch(bare("cnn", channels_last=True, samples=cnn_samples, epochs=2))),
        Case("cnn_amp", "CNN epoch, precision=amp", "the notebooks' loop", 1 / 3.3,
             lambda: epoch(cnn("precision=amp")),
             lambda: epoch(peer("notebook", root=root, model="cnn", samples=cnn_samples))),
        Case("tiny", "tiny_sigmoid, 10,000 epochs", "the bare loop", 1.5,
             lambda: sum(runner("experiment=tiny_sigmoid").told["epoch_seconds"]),
             lambda: float(peer("tiny").told["seconds"])),
        Case("tracking", "MLP epoch, tracking local", "tracking off", 1.02,
             lambda: epoch(mlp()), lambda: epoch(mlp("tracking=off"))),
        Case("memory", "peak memory, MNIST MLP", "the bare loop's process", 1.35,
             lambda: mlp().megabytes, lambda: bare("mlp").megabytes),
        Case("start", "python -m runner trainer.epochs=1, whole process", "importing torch, torchvision and mlflow", 1.6,
             lambda: runner(*digits, folder=with_store).seconds, lambda: process(import_all)),
        Case("config", "python -m runner --cfg job", "importing hydra", 4.0,
             lambda: process(config), lambda: process(import_hydra)),
    ]  # fmt: skip


def mnist_root() -> str | None:
    """Where MNIST is, if it is anywhere that runner looks."""
    for place in (os.environ.get("RUNNER_DATA"), "~/.cache/runner", str(REPOSITORY.parent / "shared" / "data")):
        if place and (Path(place).expanduser() / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
            return str(Path(place).expanduser())
    return None
