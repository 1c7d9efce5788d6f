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
from runner.errors import Problem, brief, did_you_mean
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


def beyond_64_bits(key: str, value: object) -> list[Problem]:
    """Find the integers in a key's value that are too large: as floats they would lose their digits."""
    return [
        Problem(name, f"{name}={brief(format_value(number))} is out of range", BITS, topic="range")
        for name, number in leaves(value, key)
        if not fits_64_bits(number)
    ]


BITS = "write a whole number of at most 64 bits"


def check(config: Mapping[str, Any]) -> list[Problem]:
    """Find what is wrong in a resolved config, without anything but the config.

    Args:
        config: nested plain mappings, as `OmegaConf.to_container(cfg, resolve=True)` returns them. Missing values
            (`???`) are skipped.
    """
    problems = []
    for key, allowed in RANGES.items():
        value = select(config, key)
        if value is not None and value not in allowed:
            problems.append(_outside(key, value, allowed))
    for key, allowed in ITEM_RANGES.items():
        value = select(config, key)
        numbers = isinstance(value, list) and all(allowed.is_number(item) for item in value)
        if numbers and not all(item in allowed for item in value):
            text = f"{key}={brief(format_value(value))} is out of range"
            problems.append(Problem(key, text, f"each must be {allowed}", topic="range"))
    for key, allowed in AUTO.items():
        value = select(config, key)
        if value is not None and value not in WORDS.get(key, ("auto",)) and value not in allowed:
            problems.append(_outside(key, value, allowed))
    problems += [*_check_choices(config), *_check_null(config), *_check_pairs(config)]
    beyond = list(dict.fromkeys(beyond_64_bits("", config)))
    keys = {problem.key for problem in beyond}
    return [problem for problem in problems if problem.key not in keys] + beyond + _check_tracking(config)


def _outside(key: str, value: Any, allowed: Range) -> Problem:
    text, instead = f"{key}={brief(format_value(value))}", f"write {expected(key)}"
    if allowed.is_number(value) or key in AUTO:
        return Problem(key, f"{text} is out of range", instead, topic="range")
    return Problem(key, f"{text} is not {str(allowed).partition(' number')[0]} number", instead, topic="type")


def _check_choices(config: Mapping[str, Any]) -> list[Problem]:
    problems = []
    for key, choices in CHOICES.items():
        value = select(config, key)
        for one in value if isinstance(value, list) and key in LISTS else [value]:
            if one is not None and not any(one == c and type(one) is type(c) for c in choices):
                hint = did_you_mean(format_value(one), [format_value(c) for c in choices])
                problems.append(Problem(key, f"{key}={format_value(value)} is not a choice", hint, topic="choice"))
    return problems


def _check_null(config: Mapping[str, Any]) -> list[Problem]:
    """Find null where there must be a value."""
    problems = []
    for key in NEEDED:
        group, _, leaf = key.partition(".")
        node = config.get(group)
        if isinstance(node, Mapping) and node.get(leaf) is None:
            problems.append(_null(key, expected(key)))
    data = config.get("data")
    if isinstance(data, Mapping):
        own_table = str(data.get("_target_")).endswith("csv_file.csv_file")
        for leaf in (*ALWAYS, *(OF_TABLES if own_table else ())):
            if leaf in data and data[leaf] is None:  # a config of version 0.1.0 lacks the key
                problems.append(_null(f"data.{leaf}", f"data.{leaf}=auto"))
    return problems


def _null(key: str, instead: str | None) -> Problem:
    return Problem(key, f"{key}=null is not allowed", f"write {instead}", topic="missing")


def _check_pairs(config: Mapping[str, Any]) -> list[Problem]:
    """Find keys that need another key."""
    problems = []
    if select(config, "resume_mode") == "warm_start" and not select(config, "resume"):
        text, instead = "resume_mode=warm_start needs a run", "write resume=<its folder or MLflow run id>"
        problems.append(Problem("resume_mode", text, instead, topic="missing"))
    if select(config, "sweep.extend") and not select(config, "sweep.resume"):
        text, instead = "sweep.extend=true needs a sweep", "write sweep.resume=<its folder or MLflow parent id>"
        problems.append(Problem("sweep.extend", text, instead, topic="missing"))
    return problems


def _check_tracking(config: Mapping[str, Any]) -> list[Problem]:
    return [*_check_address(config), *_check_experiment(config), *_check_tags(config)]


def _check_address(config: Mapping[str, Any]) -> list[Problem]:
    """Check that the store's address is one that the chosen member of `tracking` can use."""
    name, uri = select(config, "tracking.name"), select(config, "tracking.uri")
    if uri is None:
        return []
    key = "tracking.uri"
    scheme = str(uri).partition("://")[0].partition("+")[0] if "://" in str(uri) else ""
    if name == "server" and scheme not in ("http", "https"):
        instead = "write tracking.uri=http://<host>:<port>, or tracking=local for a file"
        return [Problem(key, f"{key}={uri} is not the address of a server", instead, topic="type")]
    if name == "local" and scheme not in DATABASES:
        instead = "tracking=server" if scheme in ("http", "https") else f"{key}=sqlite:////<absolute path>.db"
        text = f"{key}={uri} is not the address of a database"
        return [Problem(key, text, f"write {instead}, or {key}=null", topic="type")]
    if name == "local" and scheme != "sqlite":
        from runner.util.driver import missing_driver  # SQLAlchemy takes 0.2 s, which a run on SQLite can save

        if missing := missing_driver(str(uri)):
            text, instead = missing
            return [Problem(key, f"{key}={uri}: {text}", instead, topic="unavailable")]
    return []


def _check_experiment(config: Mapping[str, Any]) -> list[Problem]:
    key, experiment = "tracking.experiment", select(config, "tracking.experiment")
    if experiment == "":
        return [Problem(key, f"{key}= is empty", "write a name", topic="missing")]
    if len(str(experiment)) > NAME_LENGTH:
        text = f"{key}={str(experiment)[:40]}... is longer than the {NAME_LENGTH} characters that MLflow takes"
        return [Problem(key, text, "shorten it", topic="range")]
    return []


def _check_tags(config: Mapping[str, Any]) -> list[Problem]:
    problems = []
    for tag, value in (select(config, "tracking.tags") or {}).items():
        key = f"tracking.tags.{tag}"
        typed = f"{key}={format_value(value)}"
        if whose := owner(f"{tag}." if isinstance(value, Mapping) else tag):
            text = f"{typed}: the name is reserved for {whose}"
            problems.append(Problem(key, text, "write another", topic="conflict"))
        elif legal(tag) != tag:
            text = f"{typed}: MLflow refuses the name"
            problems.append(Problem(key, text, f"write a name such as {legal(tag)}", topic="syntax"))
        elif not isinstance(value, str | int | float):
            problems.append(Problem(key, f"{typed} is not the value of a tag", "write a text", topic="type"))
        elif len(format_value(value)) > TAG_LENGTH:
            text = f"{typed[:60]}... is longer than the {TAG_LENGTH} characters that MLflow takes"
            problems.append(Problem(key, text, "shorten it", topic="range"))
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
