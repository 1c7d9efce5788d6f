"""The groups whose keys are fixed, as plain dataclasses: Hydra checks the config against them, the rest uses them.

There are no values here: each stands in `conf/`, with a word on what it does.
"""

from dataclasses import dataclass, field
from typing import Any

MISSING: Any = "???"  # how OmegaConf marks a value that must come from elsewhere


@dataclass
class DeviceSettings:
    """Where to compute."""

    name: str = MISSING
    index: int = MISSING
    threads: int | str = MISSING
    evaluation_threads: int | str | None = None


@dataclass
class PrecisionSettings:
    """In which number format to compute."""

    name: str = MISSING


@dataclass
class EarlyStoppingSettings:
    """When to give up."""

    patience: int | None = MISSING
    min_delta: float = MISSING


@dataclass
class TrainerSettings:
    """How long to train, and what to do on the way."""

    epochs: int = MISSING
    max_steps: int | None = MISSING
    max_time: float | None = MISSING
    grad_accumulation: int = MISSING
    clip_norm: float | None = MISSING
    ema_decay: float | None = MISSING
    monitor: str = MISSING
    validate_every_epochs: int = MISSING
    validate_every_steps: int | None = MISSING
    log_every_epochs: int = MISSING
    log_every_steps: int | None = MISSING
    checkpoint_every_epochs: int = MISSING
    checkpoint_every_steps: int | None = MISSING
    checkpoint_every_seconds: float | None = MISSING
    keep_checkpoints: int = MISSING
    on_nonfinite: str = MISSING
    compile: bool = MISSING
    deterministic: bool = MISSING
    detect_anomaly: bool = MISSING
    profile_steps: int | None = MISSING
    early_stopping: EarlyStoppingSettings = field(default_factory=EarlyStoppingSettings)


@dataclass
class TrackingSettings:
    """Whom to tell."""

    name: str = MISSING
    uri: str | None = MISSING
    experiment: str = MISSING
    run_name: str | None = MISSING
    log_model: bool = MISSING
    log_checkpoints: bool = MISSING
    wait: float = MISSING
    # Not in a config that 0.1.0 has saved: hence a value here.
    tags: dict[str, Any] = field(default_factory=dict)
    description: str | None = None


@dataclass
class SweepSettings:
    """How the jobs of a sweep are run, and which of them is the best."""

    jobs: int | str = MISSING
    jobs_per_gpu: int = MISSING
    job_timeout: float | None = MISSING
    on_failure: str = MISSING
    metric: Any = MISSING
    direction: Any = MISSING
    resume: str | None = MISSING
    extend: bool = MISSING
    dry_run: bool = MISSING


@dataclass
class ConsoleSettings:
    """How much to print."""

    quiet: bool = MISSING
    verbose: bool = MISSING
