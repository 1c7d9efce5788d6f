"""The groups with fixed keys as plain dataclasses. Hydra checks their types, `schema.py` their bounds.

The values are in `conf/`, each with a comment.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

from runner.util import compile_modes
from runner.util.ranges import COUNT, POSITIVE, PROBABILITY, SECONDS, THREADS, Choice, Range

MISSING: Any = "???"
"""OmegaConf's mark of a missing value."""


SUPERVISED = {"_target_": "runner.task.supervised.Supervised", "targets": None}
"""The task of a config that has none: version 0.1.0 had no other."""

FIRST_SEEDS = 4
"""Seeds of each configuration before `sweep.seeds=auto` looks at their values for the first time."""

LARGEST = "max"
"""The value of `data.batch_size` for the largest batch that fits in memory."""

STRATEGIES = ("single", "ddp", "fsdp")

PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "amp", "fp64")


@dataclass
class DeviceSettings:
    """Where to compute."""

    name: str = MISSING  # also what torch calls an accelerator of its users
    index: Annotated[int, Range(0, whole=True)] = MISSING
    threads: Annotated[int | str, THREADS] = MISSING
    evaluation_threads: Annotated[int | str | None, THREADS] = None


@dataclass
class PrecisionSettings:
    """The number format."""

    name: Annotated[str, Choice(PRECISIONS)] = MISSING


@dataclass
class StrategySettings:
    """Who trains."""

    name: Annotated[str, Choice(STRATEGIES)] = MISSING
    nproc_per_node: Annotated[int | None, COUNT] = MISSING
    find_unused_parameters: bool = MISSING
    shard: list[str] | None = None


SINGLE = {"name": "single", "nproc_per_node": None, "find_unused_parameters": False, "shard": None}
"""The strategy of a config that has none: earlier versions had no other."""


@dataclass
class EarlyStoppingSettings:
    """When to stop early."""

    patience: Annotated[int | None, COUNT] = MISSING
    min_delta: Annotated[float, Range(0)] = MISSING


@dataclass
class LrRangeSettings:
    """A learning-rate range test in place of training."""

    steps: Annotated[int | None, Range(2, whole=True)] = None
    lowest: Annotated[float, POSITIVE] = 1e-7
    highest: Annotated[float, POSITIVE] = 10.0


@dataclass
class TrainerSettings:
    """How long to train, and what to do in between."""

    epochs: Annotated[int, COUNT] = MISSING
    max_steps: Annotated[int | None, COUNT] = MISSING
    max_time: Annotated[float | None, SECONDS] = MISSING
    grad_accumulation: Annotated[int, COUNT] = MISSING
    clip_norm: Annotated[float | None, POSITIVE] = MISSING
    ema_decay: Annotated[float | None, PROBABILITY] = MISSING
    monitor: str = MISSING
    validate_every_epochs: Annotated[int, COUNT] = MISSING
    validate_every_steps: Annotated[int | None, COUNT] = MISSING
    log_every_epochs: Annotated[int, COUNT] = MISSING
    log_every_steps: Annotated[int | None, COUNT] = MISSING
    checkpoint_every_epochs: Annotated[int, COUNT] = MISSING
    checkpoint_every_steps: Annotated[int | None, COUNT] = MISSING
    checkpoint_every_seconds: Annotated[float | None, SECONDS] = MISSING
    keep_checkpoints: Annotated[int, COUNT] = MISSING
    on_nonfinite: Annotated[str, Choice(("stop", "skip", "ignore"))] = MISSING
    compile: Annotated[bool | str, Choice((True, False, *compile_modes.MODES))] = MISSING
    deterministic: bool = MISSING
    detect_anomaly: bool = MISSING
    profile_steps: Annotated[int | None, COUNT] = MISSING
    steps_per_epoch: Annotated[int | None, COUNT] = None  # configs saved by 0.1.0 lack it
    early_stopping: EarlyStoppingSettings = field(default_factory=EarlyStoppingSettings)
    # Configs saved earlier lack these keys, so they have defaults here.
    callbacks: Any = None
    log_norms: bool = False
    activation_checkpointing: list[str] | None = None
    on_oom: Annotated[str, Choice(("fail", "accumulate"))] = "fail"
    lr_range: LrRangeSettings = field(default_factory=LrRangeSettings)


@dataclass
class TrackingSettings:
    """Where metrics are logged."""

    name: Annotated[str, Choice(("local", "server", "off"))] = MISSING
    uri: str | None = MISSING
    experiment: str = MISSING
    run_name: str | None = MISSING
    log_model: bool = MISSING
    log_checkpoints: bool = MISSING
    wait: Annotated[float, Range(0)] = MISSING
    # Configs saved by 0.1.0 lack these keys, so they have defaults here.
    tags: dict[str, Any] = field(default_factory=dict)
    description: str | None = None
    register: str | None = None
    notify: list[str] = field(default_factory=list)


@dataclass
class SweepSettings:
    """How the jobs of a sweep run, and which job is the best."""

    jobs: Annotated[int | str, Range(1, 1024, whole=True, words=("auto",))] = MISSING
    jobs_per_gpu: Annotated[int, COUNT] = MISSING
    job_timeout: Annotated[float | None, SECONDS] = MISSING
    max_time: Annotated[float | None, SECONDS] = MISSING
    where: str | None = MISSING
    seeds: Annotated[int | str | None, Range(1, 10_000, whole=True, words=("auto",))] = MISSING
    max_seeds: Annotated[int, Range(FIRST_SEEDS, 10_000, whole=True)] = MISSING
    smallest_difference: Annotated[float | None, Range(0, open_low=True)] = MISSING
    on_failure: Annotated[str, Choice(("continue", "stop"))] = MISSING
    artifacts: Annotated[str, Choice(("all", "best"))] = MISSING
    metric: Any = MISSING
    direction: Annotated[Any, Choice(("min", "max"), several=True)] = MISSING
    resume: str | None = MISSING
    extend: bool = MISSING
    dry_run: bool = MISSING


@dataclass
class ConsoleSettings:
    """How much to print, and whether to do more than that."""

    quiet: bool = MISSING
    verbose: bool = MISSING
    dry_run: bool = False  # configs saved earlier lack it


@dataclass
class ModelSettings:
    """The keys that every model has, besides the parameters of its class; those of 0.1.0 had `weights` alone."""

    weights: str | None = None
    freeze: list[str] | None = None
    unfreeze_at_epoch: Annotated[int | None, Range(2, whole=True)] = None
    lora: Any = None


@dataclass
class OptimizerSettings:
    """The keys that every optimizer has, besides the parameters of its class; those of 0.1.0 had none."""

    groups: Any = None
    no_decay: Any = False
    layer_decay: Annotated[float | None, Range(0, 1, open_low=True)] = None


@dataclass
class DataSettings:
    """The keys that every data set has, besides the parameters of its function."""

    batch_size: Annotated[int | str, Range(1, whole=True, words=(LARGEST,))] = MISSING
    val_fraction: Annotated[float | None, PROBABILITY] = MISSING
    limit: Annotated[int | None, COUNT] = MISSING
    scale: Annotated[float | str, Range(0, open_low=True, words=("auto", "none"))] = MISSING
    scale_targets: Annotated[bool | str, Choice(("auto", True, False))] = MISSING
    in_memory: Annotated[bool | str, Choice(("auto", True, False))] = MISSING
    num_workers: Annotated[int, Range(0, 1024, whole=True)] = MISSING
    augment: Any = MISSING
    # Configs saved by 0.1.0 lack these keys.
    split: Annotated[str, Choice(("random", "stratified", "sequential"))] = "random"
    split_by: str | None = None
    folds: Annotated[int | None, Range(2, whole=True)] = None
    fold: Annotated[int | None, Range(0, whole=True)] = None
    sampler: Annotated[str, Choice(("shuffle", "balanced", "weighted"))] = "shuffle"
    sample_weight: str | None = None
