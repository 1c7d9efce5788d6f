"""A `Training` of plain objects, like in a notebook: no config, no MLflow."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from runner.config.settings import EarlyStoppingSettings, LrRangeSettings, TrainerSettings
from runner.data.loading import Loaders, make_loaders
from runner.data.preprocess import Preprocess
from runner.data.source import Source
from runner.data.splits import Splits
from runner.data.splitting import split
from runner.device import resolve
from runner.loss import CrossEntropy, Loss
from runner.precision import Precision
from runner.rundir.checkpoint import Checkpoints
from runner.scheduler import Schedule
from runner.task import Step, Task
from runner.task.supervised import Supervised
from runner.training.progress import Metrics
from runner.training.state import Training

CPU = torch.device("cpu")


class Log:
    """The metrics of the loop: (name, step) -> value."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, int], float] = {}

    def __call__(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            assert (name, step) not in self.values, "a metric was measured twice at a step"
            self.values[name, step] = value

    def of(self, name: str) -> dict[int, float]:
        return {step: value for (n, step), value in self.values.items() if n == name}

    def exact(self) -> dict[tuple[str, int], float]:
        """Return all metrics without times, rates and energy."""
        return {
            k: v for k, v in self.values.items() if not k[0].startswith(("time/", "throughput/", "energy/", "system/"))
        }


class Silent:
    """A display that shows nothing and records its calls."""

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.notes: list[str] = []

    def start_epoch(self, epoch: int, batches: int, done: int) -> None: ...

    def due(self) -> bool:
        return False

    def batch(self, done: int, loss: float) -> None: ...

    def end_epoch(self, epoch: int, metrics: Metrics, seconds: float, best: bool) -> None:
        self.epochs.append(epoch)

    def note(self, text: str) -> None:
        self.notes.append(text)


class Stop:
    """A stop request at the n-th check."""

    def __init__(self, after: int | None = None) -> None:
        self.looks, self.after = 0, after

    @property
    def requested(self) -> bool:
        self.looks += 1
        return self.after is not None and self.looks > self.after


def settings(**changed: Any) -> TrainerSettings:
    values: dict[str, Any] = {
        "epochs": 2,
        "max_steps": None,
        "max_time": None,
        "grad_accumulation": 1,
        "clip_norm": None,
        "ema_decay": None,
        "monitor": "val/loss",
        "validate_every_epochs": 1,
        "validate_every_steps": None,
        "log_every_epochs": 1,
        "log_every_steps": None,
        "checkpoint_every_epochs": 1,
        "checkpoint_every_steps": None,
        "checkpoint_every_seconds": None,
        "keep_checkpoints": 1,
        "on_nonfinite": "stop",
        "compile": False,
        "deterministic": False,
        "detect_anomaly": False,
        "profile_steps": None,
        "log_norms": False,
        "activation_checkpointing": None,
        "on_oom": "fail",
        "lr_range": LrRangeSettings(),
        "early_stopping": EarlyStoppingSettings(patience=None, min_delta=0.0),
    }
    assert not set(changed) - set(values)
    return TrainerSettings(**(values | changed))


def blobs(samples: int = 101, features: int = 6, classes: int = 3) -> Source:
    """Classes that are almost linearly separable."""
    made = torch.Generator().manual_seed(7)
    targets = torch.randint(classes, (samples,), generator=made)
    inputs = torch.randn(samples, features, generator=made) + 1.5 * torch.eye(classes, features)[targets]
    return Source("blobs", train=(inputs, targets), test=(inputs[:20] + 0.1, targets[:20]))


def net(features: int = 6, classes: int = 3, dropout: float = 0.0, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(features, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, classes))


def divided(source: Source | None = None, val_fraction: float = 0.2, seed: int = 0) -> Splits:
    return split(source or blobs(), val_fraction=val_fraction, limit=None, seed=seed)


def loaders(
    splits: Splits,
    *,
    prepare: Callable[[Tensor, torch.dtype], Tensor] | None = None,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    **arguments: Any,
) -> Loaders:
    """The batches of all parts, by default as cross entropy takes them, in memory."""
    preprocess = Preprocess(splits.normalize, prepare or CrossEntropy().prepare, device, dtype, channels_last)
    return make_loaders(splits, preprocess, **{"batch_size": 7, "seed": 3, "in_memory": True} | arguments)


def supervised(loss: Loss | None = None) -> Supervised:
    task = Supervised()
    task.loss = loss or CrossEntropy()
    return task


def step(loss: Tensor, outputs: Tensor, targets: Tensor) -> Step:
    """Return the step of a batch of `supervised`."""
    return Step(loss, len(targets), len(targets), outputs, targets)


def training(
    folder: Path,
    *,
    model: nn.Module | None = None,
    loss: Loss | None = None,
    task: Task | None = None,
    splits: Splits | None = None,
    batch_size: int = 32,
    precision: str = "fp32",
    optimizer: Any = None,
    schedule: Any = None,
    in_memory: bool = True,
    num_workers: int = 0,
    stop: Any = None,
    seed: int = 0,
    **trainer: Any,
) -> Training:
    device = resolve("cpu", threads=1)
    formats = Precision(precision, device.torch)
    model = (model or net()).to(formats.dtype)
    task = task or supervised(loss)
    task.to(formats.dtype)
    task.dtype = formats.dtype
    made = (optimizer or (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)))(model.parameters())
    return Training(
        model=model,
        task=task,
        optimizer=made,
        schedule=schedule(made) if schedule else Schedule(None),
        precision=formats,
        device=device,
        loaders=loaders(
            splits or divided(),
            prepare=task.prepare,
            batch_size=batch_size,
            seed=seed,
            device=device.torch,
            dtype=formats.dtype,
            in_memory=in_memory,
            num_workers=num_workers,
        ),
        settings=settings(**trainer),
        checkpoints=Checkpoints(folder / "checkpoints", trainer.get("keep_checkpoints", 1)),
        log=Log(),
        display=Silent(),
        stop=stop or Stop(),
    )


def same(a: Any, b: Any) -> bool:
    """Return whether two nested states are bit for bit equal."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def exact_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint without times."""
    progress = {k: v for k, v in state["progress"].items() if "seconds" not in k}
    return {**state, "progress": progress}
