"""The types of the config's keys, and the checks that need nothing but the config.

Hydra checks names and types against these dataclasses while it composes; `check` adds what a type
cannot say: ranges, choices, keys that contradict each other. Values live in `conf/`, not here.
Groups whose members differ (`model`, `data`, `optimizer`, `scheduler`, `loss`) are open: `build.py` holds
them against the signature of their `_target_`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from .errors import did_you_mean
from .settings import (
    MISSING,
    ConsoleSettings,
    DeviceSettings,
    PrecisionSettings,
    TrackingSettings,
    TrainerSettings,
)

GROUPS = (
    "model", "data", "optimizer", "scheduler", "loss", "device", "precision", "trainer", "tracking",
    "experiment", "debug",
)  # fmt: skip

PATH_KEYS = (
    "run", "resume", "input", "output", "data.root", "data.path", "data.test_path", "sweep.resume",
    "tracking.uri", "tracking.run_name", "model.weights",
)  # fmt: skip
"""Keys whose values are paths or names: the command line quotes them where Hydra's grammar needs it."""


@dataclass
class Config:
    """One run."""

    seed: int = MISSING
    resume: str | None = MISSING
    resume_mode: str = MISSING
    model: Any = MISSING
    data: Any = MISSING
    optimizer: Any = MISSING
    scheduler: Any = MISSING
    loss: Any = MISSING
    device: DeviceSettings = field(default_factory=DeviceSettings)
    precision: PrecisionSettings = field(default_factory=PrecisionSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    runner: ConsoleSettings = field(default_factory=ConsoleSettings)


def register() -> None:
    """Make the schema known to Hydra; `conf/config.yaml` names it first in its defaults list."""
    ConfigStore.instance().store(name="schema", node=Config, provider="runner")


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; `open_low`/`open_high`: the end itself does not belong to them."""

    low: float
    high: float = float("inf")
    open_low: bool = False
    open_high: bool = False
    whole: bool = False

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if self.whole and not isinstance(value, int):
            return False
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        low = f"{'above' if self.open_low else 'at least'} {self.low:g}"
        high = (
            ""
            if self.high == float("inf")
            else f" and {'below' if self.open_high else 'at most'} {self.high:g}"
        )
        return f"{kind} {low}{high}"


COUNT = Range(1, whole=True)
SECONDS = Range(0, open_low=True)
PROBABILITY = Range(0, 1, open_high=True)

RANGES: dict[str, Range] = {
    "seed": Range(0, 2**63 - 1, whole=True),
    "data.batch_size": COUNT,
    "data.val_fraction": PROBABILITY,
    "data.limit": COUNT,
    "data.num_workers": Range(0, whole=True),
    "model.dropout": PROBABILITY,
    "optimizer.lr": Range(0, open_low=True),
    "optimizer.momentum": PROBABILITY,
    "optimizer.weight_decay": Range(0),
    "loss.label_smoothing": Range(0, 1),
    "scheduler.min_lr": Range(0),
    "device.index": Range(0, whole=True),
    "trainer.epochs": COUNT,
    "trainer.max_steps": COUNT,
    "trainer.max_time": SECONDS,
    "trainer.grad_accumulation": COUNT,
    "trainer.clip_norm": Range(0, open_low=True),
    "trainer.validate_every_epochs": COUNT,
    "trainer.validate_every_steps": COUNT,
    "trainer.log_every_epochs": COUNT,
    "trainer.log_every_steps": COUNT,
    "trainer.checkpoint_every_epochs": COUNT,
    "trainer.checkpoint_every_steps": COUNT,
    "trainer.checkpoint_every_seconds": SECONDS,
    "trainer.keep_checkpoints": COUNT,
    "trainer.early_stopping.patience": COUNT,
    "trainer.early_stopping.min_delta": Range(0),
}

CHOICES: dict[str, tuple[Any, ...]] = {
    "resume_mode": ("exact", "warm_start"),
    "data.in_memory": ("auto", True, False),
    "device.name": ("auto", "cpu", "cuda", "mps"),
    "precision.name": ("fp32", "bf16", "fp16", "amp", "fp64"),
    "trainer.monitor": ("val/loss", "val/accuracy", "train/loss", "train/accuracy"),
    "trainer.on_nonfinite": ("stop", "skip", "ignore"),
    "tracking.name": ("local", "server", "off"),
}


def check(config: Mapping[str, Any]) -> list[str]:
    """Find what is wrong in a resolved config with nothing but the config in hand.

    Args:
        config: nested plain mappings, as `OmegaConf.to_container(cfg, resolve=True)` gives them.

    Returns:
        One sentence a problem; empty if there is none.
    """
    problems = []
    for key, allowed in RANGES.items():
        value = select(config, key)
        if value is not None and value not in allowed:
            problems.append(f"{key}={show(value)} is out of range: write {allowed}")
    for key, choices in CHOICES.items():
        value = select(config, key)
        if value is not None and not any(
            value is c or (value == c and type(value) is type(c)) for c in choices
        ):
            names = [show(c) for c in choices]
            problems.append(f"{key}={show(value)} is not a choice: {did_you_mean(show(value), names)}")
    threads = select(config, "device.threads")
    if threads is not None and threads != "auto" and threads not in COUNT:
        problems.append(f"device.threads={show(threads)} is out of range: write auto or {COUNT}")
    uri = select(config, "tracking.uri")
    if (
        select(config, "tracking.name") == "server"
        and uri
        and not str(uri).startswith(("http://", "https://"))
    ):
        problems.append(
            "tracking.uri of tracking=server must begin with http:// or https://; for a file, tracking=local"
        )
    return problems


def select(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, or None if there is none."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node


def show(value: Any) -> str:
    """A value as the user would type it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
