"""The types of the config's keys, and the checks that need nothing but the config.

Hydra checks names and types against these dataclasses while it composes; `check` adds what a type
cannot say: ranges, choices, keys that contradict each other. Values live in `conf/`, not here.
Groups whose members differ (`model`, `data`, `optimizer`, `scheduler`, `loss`) are open: `assembly` holds
them against the signature of their `_target_`.
"""

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from runner.config.keys import PATH_KEYS, TEXT_KEYS, format_value, is_open, leaves, select
from runner.config.settings import (
    MISSING,
    ConsoleSettings,
    DeviceSettings,
    PrecisionSettings,
    SweepSettings,
    TrackingSettings,
    TrainerSettings,
)
from runner.errors import brief, did_you_mean
from runner.util.ranges import COUNT, PROBABILITY, SECONDS, THREADS, Range, fits_64_bits
from runner.util.tags import NAME_LENGTH, TAG_LENGTH, legal, owner
from runner.util.uri import DATABASES


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
    sweep: SweepSettings = field(default_factory=SweepSettings)
    runner: ConsoleSettings = field(default_factory=ConsoleSettings)


def register() -> None:
    """Make the schema known to Hydra; `conf/config.yaml` names it first in its defaults list.

    And the values that a config can ask for: `${devices:}` is what there is to compute on, as a sweep takes it.
    """
    ConfigStore.instance().store(name="schema", node=Config, provider="runner")
    OmegaConf.register_new_resolver("devices", _devices, replace=True)


def _devices() -> str:
    """`cpu`, or `cpu,cuda`, or `cpu,mps`."""
    import torch  # late: most configs do not ask

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return ",".join(["cpu", *(name for name, available in there.items() if available)])


RANGES: dict[str, Range] = {
    "seed": Range(0, 2**63 - 1, whole=True),
    "data.batch_size": COUNT,
    "data.val_fraction": PROBABILITY,
    "data.limit": COUNT,
    "data.num_workers": Range(0, 1024, whole=True),
    "data.augment.crop": Range(0, whole=True),
    "data.augment.rotation": Range(0, 180),
    "data.augment.erasing": Range(0, 1),
    "model.dropout": PROBABILITY,
    "optimizer.lr": Range(0, open_low=True),
    "optimizer.momentum": PROBABILITY,
    "optimizer.weight_decay": Range(0),
    "optimizer.eps": Range(0),
    "optimizer.alpha": PROBABILITY,
    "optimizer.adamw_lr": Range(0, open_low=True),
    "optimizer.ns_steps": Range(1, 99, whole=True),
    "loss.label_smoothing": Range(0, 1),
    "scheduler.min_lr": Range(0),
    "scheduler.period": COUNT,
    "scheduler.step_size": COUNT,
    "scheduler.gamma": Range(0, open_low=True),
    "scheduler.factor": Range(0, 1, open_low=True, open_high=True),
    "scheduler.patience": Range(0, whole=True),
    "scheduler.threshold": Range(0),
    "scheduler.warmup_epochs": Range(0),
    "scheduler.pct_start": Range(0, 1),
    "scheduler.div_factor": Range(1),
    "scheduler.final_div_factor": Range(1),
    "scheduler.base_momentum": PROBABILITY,
    "device.index": Range(0, whole=True),
    "trainer.epochs": COUNT,
    "trainer.max_steps": COUNT,
    "trainer.max_time": SECONDS,
    "trainer.grad_accumulation": COUNT,
    "trainer.clip_norm": Range(0, open_low=True),
    "trainer.ema_decay": PROBABILITY,
    "trainer.validate_every_epochs": COUNT,
    "trainer.validate_every_steps": COUNT,
    "trainer.log_every_epochs": COUNT,
    "trainer.log_every_steps": COUNT,
    "trainer.checkpoint_every_epochs": COUNT,
    "trainer.checkpoint_every_steps": COUNT,
    "trainer.checkpoint_every_seconds": SECONDS,
    "trainer.keep_checkpoints": COUNT,
    "trainer.profile_steps": COUNT,
    "trainer.early_stopping.patience": COUNT,
    "trainer.early_stopping.min_delta": Range(0),
    "tracking.wait": Range(0),
    "sweep.jobs_per_gpu": COUNT,
    "sweep.job_timeout": SECONDS,
}

AUTO: dict[str, Range] = {
    "data.scale": Range(0, open_low=True),
    "device.threads": THREADS,
    "device.evaluation_threads": THREADS,
    "sweep.jobs": Range(1, 1024, whole=True),
}
"""Of keys that may be `auto` too."""

WORDS = {"data.scale": ("auto", "none")}
"""Of keys in `AUTO` that may be other words as well."""

ITEM_RANGES: dict[str, Range] = {
    "model.hidden": COUNT,
    "model.channels": COUNT,
    "model.strides": COUNT,
    "optimizer.betas": PROBABILITY,
}
"""Of each number in a list."""

CHOICES: dict[str, tuple[Any, ...]] = {
    "resume_mode": ("exact", "warm_start"),
    "data.in_memory": ("auto", True, False),
    "data.augment.flip": (True, False),
    "data.header": ("auto", True, False),
    "data.target_type": ("auto", "category", "number"),
    "data.scale_targets": ("auto", True, False),
    "device.name": ("auto", "cpu", "cuda", "mps"),
    "precision.name": ("fp32", "tf32", "bf16", "fp16", "amp", "fp64"),
    "trainer.on_nonfinite": ("stop", "skip", "ignore"),
    "tracking.name": ("local", "server", "off"),
    "sweep.on_failure": ("continue", "stop"),
    "sweep.direction": ("min", "max"),
}

LISTS = ("sweep.direction",)
"""Keys whose value may be a list of choices."""

NEEDED = ("data.batch_size", "data.in_memory", "data.num_workers")
"""Keys of open groups that have no null; those of typed ones say so by their type."""

ALWAYS, OF_TABLES = ("scale", "scale_targets"), ("index", "header", "target_type")
"""Keys of the data that have no null where they are there: of all data sets, and of tables."""

ADDED = {"device.evaluation_threads": "null", "tracking.tags": "{}", "tracking.description": "null"}
"""Keys that 0.1.0 did not have, with the value that its configs, which lack them, mean."""


def beyond_64_bits(key: str, value: object) -> list[str]:
    """A sentence for each whole number in a key's value that is too large: as a float it would lose its digits."""
    return [
        f"{name}={brief(format_value(number))} is out of range: whole numbers have at most 64 bits"
        for name, number in leaves(value, key)
        if not fits_64_bits(number)
    ]


def check(config: Mapping[str, Any]) -> list[str]:
    """Find what is wrong in a resolved config with nothing but the config in hand.

    Args:
        config: nested plain mappings, as `OmegaConf.to_container(cfg, resolve=True)` gives them. What is
            missing in it (`???`) is passed over.

    Returns:
        One sentence a problem; empty if there is none.
    """
    problems = []
    for key, allowed in RANGES.items():
        value = select(config, key)
        if value is not None and value not in allowed:
            wrong = "out of range" if allowed.is_number(value) else f"not {str(allowed).partition(' number')[0]} number"
            problems.append(f"{key}={brief(format_value(value))} is {wrong}: write {expected(key)}")
    for key, allowed in ITEM_RANGES.items():
        value = select(config, key)
        numbers = isinstance(value, list) and all(allowed.is_number(item) for item in value)
        if numbers and not all(item in allowed for item in value):
            problems.append(f"{key}={brief(format_value(value))} is out of range: each must be {allowed}")
    for key, choices in CHOICES.items():
        value = select(config, key)
        for one in value if isinstance(value, list) and key in LISTS else [value]:
            if one is not None and not any(one == c and type(one) is type(c) for c in choices):
                hint = did_you_mean(format_value(one), [format_value(c) for c in choices])
                problems.append(f"{key}={format_value(value)} is not a choice: {hint}")
    for key in NEEDED:
        group, _, leaf = key.partition(".")
        node = config.get(group)
        if isinstance(node, Mapping) and node.get(leaf) is None:
            problems.append(f"{key}={format_value(None)} is not allowed: write {expected(key)}")
    for key, allowed in AUTO.items():
        value = select(config, key)
        if value is not None and value not in WORDS.get(key, ("auto",)) and value not in allowed:
            problems.append(f"{key}={brief(format_value(value))} is out of range: write {expected(key)}")
    data = config.get("data")
    if isinstance(data, Mapping):
        own_table = str(data.get("_target_")).endswith("csv_file.csv_file")
        for leaf in (*ALWAYS, *(OF_TABLES if own_table else ())):
            if leaf in data and data[leaf] is None:  # a config of version 0.1.0 does not have it
                problems.append(f"data.{leaf}=null is not allowed: write data.{leaf}=auto")
    if select(config, "resume_mode") == "warm_start" and not select(config, "resume"):
        problems.append("resume_mode=warm_start needs a run to start from: write resume=<its folder or MLflow run id>")
    if select(config, "sweep.extend") and not select(config, "sweep.resume"):
        problems.append(
            "sweep.extend=true needs a sweep to extend: write sweep.resume=<its folder or MLflow parent id>"
        )
    beyond = beyond_64_bits("", config)
    of = {problem.partition("=")[0] for problem in beyond}
    problems = [problem for problem in problems if problem.partition("=")[0] not in of]
    return problems + list(dict.fromkeys(beyond)) + _check_tracking(config)


def _check_tracking(config: Mapping[str, Any]) -> list[str]:
    problems = []
    name, uri = select(config, "tracking.name"), select(config, "tracking.uri")
    scheme = str(uri).partition("://")[0].partition("+")[0] if "://" in str(uri) else ""
    if name == "server" and uri is not None and scheme not in ("http", "https"):
        problems.append(
            f"tracking.uri={uri} is not a server's: write tracking.uri=http://<host>:<port>,"
            " or tracking=local for a file"
        )
    if name == "local" and uri is not None and scheme not in DATABASES:
        instead = "tracking=server" if scheme in ("http", "https") else "tracking.uri=sqlite:////<absolute path>.db"
        problems.append(f"tracking.uri={uri} is not a database's: write {instead}, or tracking.uri=null")
    elif name == "local" and scheme not in ("", "sqlite"):
        from runner.util.driver import missing_driver  # SQLAlchemy takes 0.2 s, which a run on SQLite goes without

        if missing := missing_driver(str(uri)):
            problems.append(f"tracking.uri={uri}: {missing}")
    experiment = select(config, "tracking.experiment")
    if experiment == "":
        problems.append("tracking.experiment= is empty: write a name")
    elif len(str(experiment)) > NAME_LENGTH:
        problems.append(
            f"tracking.experiment={str(experiment)[:40]}... is longer than the {NAME_LENGTH} characters that MLflow"
            " takes; shorten it"
        )
    for tag, value in (select(config, "tracking.tags") or {}).items():
        given = f"tracking.tags.{tag}={format_value(value)}"
        if whose := owner(f"{tag}." if isinstance(value, Mapping) else tag):
            problems.append(f"{given}: the name is reserved for {whose}; write another")
        elif legal(tag) != tag:
            problems.append(f"{given}: MLflow refuses the name; write one such as {legal(tag)}")
        elif not isinstance(value, str | int | float):
            problems.append(f"{given} is not a tag's value: write a text")
        elif len(format_value(value)) > TAG_LENGTH:
            problems.append(f"{given[:60]}... is longer than the {TAG_LENGTH} characters that MLflow takes; shorten it")
    return problems


def expected(key: str) -> str | None:
    """What may be written for a key, in words; None if that is not known here."""
    hint = _hint(key)
    optional = type(None) in typing.get_args(hint) or key == "data.limit"
    if key in AUTO:
        words = f"{', '.join(WORDS.get(key, ('auto',)))} or {AUTO[key]}"
    elif key in RANGES:
        words = str(RANGES[key])
    elif key in CHOICES:
        words = "one of " + ", ".join(map(format_value, CHOICES[key]))
    elif hint is bool:
        words = "true or false"
    elif typing.get_origin(hint) is dict:
        return "names and their texts, such as {team:vision}"
    elif hint is str or str in typing.get_args(hint):
        words = "a text"
    else:
        return None
    return f"{words}, or null" if optional else words


def needed(key: str) -> bool:
    """Whether a config without this key is none."""
    return key in NEEDED or key in AUTO or _hint(key) is not None


def is_text(key: str) -> bool:
    """Whether a key's value is a text, or holds texts, by its type: `1e5` is no number there."""
    if key in PATH_KEYS or key in TEXT_KEYS or is_open(key):
        return True
    if key in CHOICES:  # no choice looks like a number
        return False
    return _leaves(_hint(key)) == {str}


def _leaves(hint: Any) -> set[Any]:
    """The types that are in an annotation, None left out: `list[str] | None` has str."""
    parts = typing.get_args(hint)
    return set().union(*map(_leaves, parts)) if parts else {hint} - {type(None)}


def _hint(key: str) -> Any:
    """The annotation of a typed key."""
    node: Any = Config
    for part in key.split("."):
        node = typing.get_type_hints(node).get(part) if hasattr(node, "__dataclass_fields__") else None
    return node
