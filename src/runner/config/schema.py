"""The types of the config's keys, and all checks that need only the config.

Hydra checks names and types against these dataclasses while it composes. `check_config` checks what a type cannot
express: ranges, choices, and keys that need another key. The values are in `conf/`.
The groups with a `_target_` have different keys for each member: `assembly` checks these against its signature.
"""

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Annotated, Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from runner.config import callbacks, fine_tuning
from runner.config.keys import PATH_KEYS, SHARED_SETTINGS, TEXT_KEYS, flatten, format_value, iterate_leaves, select
from runner.config.limits import TORCH_LIMITS, Limit, collect_limits, settings_limits, takes_none
from runner.config.settings import (
    LARGEST,
    MISSING,
    SINGLE,
    SUPERVISED,
    ConsoleSettings,
    DeviceSettings,
    PrecisionSettings,
    StrategySettings,
    SweepSettings,
    TrackingSettings,
    TrainerSettings,
)
from runner.errors import Problem, did_you_mean
from runner.util.ranges import Choice, Range, fits_64_bits
from runner.util.tags import NAME_LENGTH, TAG_LENGTH, legal_name, legal_registered_name, reserved_for
from runner.util.uri import DATABASES, is_server_address, scheme_of


@dataclass
class Config:
    """The config of a run."""

    seed: Annotated[int, Range(0, 2**63 - 1, whole=True)] = MISSING
    resume: str | None = MISSING
    resume_mode: Annotated[str, Choice(("exact", "warm_start"))] = MISSING
    model: Any = MISSING
    data: Any = MISSING
    task: Any = MISSING
    optimizer: Any = MISSING
    optimizers: dict[str, Any] = field(default_factory=dict)
    scheduler: Any = MISSING
    loss: Any = MISSING
    metrics: Any = field(default_factory=list)
    device: DeviceSettings = field(default_factory=DeviceSettings)
    precision: PrecisionSettings = field(default_factory=PrecisionSettings)
    strategy: StrategySettings = field(default_factory=StrategySettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    sweep: SweepSettings = field(default_factory=SweepSettings)
    runner: ConsoleSettings = field(default_factory=ConsoleSettings)


def register() -> None:
    """Register the schema with Hydra; it is the first entry of the defaults list in `conf/config.yaml`.

    Also register the resolver `${devices:}`: the devices of this machine, as the values of a sweep.
    """
    store = ConfigStore.instance()
    if "schema.yaml" not in store.list(""):  # 5 ms, for each job of a sweep
        store.store(name="schema", node=Config, provider="runner")
    OmegaConf.register_new_resolver("devices", _devices, replace=True)


def _devices() -> str:
    """Return `cpu`, `cpu,cuda` or `cpu,mps`."""
    from runner.util.accelerators import available  # late: it imports torch, and most configs do not need it

    return ",".join(["cpu", *available()])


NEW_DATA_KEYS, NEW_TABLE_KEYS = ("scale", "scale_targets"), ("index", "header", "target_type")
"""Keys of all data sets, and of tables, that are new since 0.1.0; they may be missing but not null."""

NEW_KEYS = {
    "device.evaluation_threads": "null", "tracking.tags": "{}", "tracking.description": "null", "model.freeze": "null",
    "model.unfreeze_at_epoch": "null", "model.lora.params": "null", "model.lora.rank": "8", "model.lora.alpha": "null",
    "model.lora.dropout": "0.0", "model.lora.train": "null", "optimizer.groups": "{}", "optimizer.no_decay": "false",
    "optimizer.layer_decay": "null", "optimizers": "{}", "metrics": "[]", "trainer.callbacks": "null",
    "trainer.log_norms": "false", "trainer.activation_checkpointing": "null",
    "trainer.on_oom": "fail",
    "trainer.steps_per_epoch": "null", "tracking.register": "null", "tracking.notify": "[]",
    "trainer.lr_range.steps": "null", "trainer.lr_range.lowest": "1e-07", "trainer.lr_range.highest": "10.0",
    "data.split": "random", "data.split_by": "null", "data.folds": "null", "data.fold": "null",
    "data.sampler": "shuffle", "data.sample_weight": "null",
    **flatten({"task": SUPERVISED}), **flatten({"strategy": SINGLE}),
}  # fmt: skip
"""Other keys that are new since 0.1.0, with the values that apply to its configs."""


def find_large_integers(key: str, value: object) -> list[Problem]:
    """Find the integers in a key's value that do not fit into 64 bits; as floats they would lose digits."""
    return [
        Problem(name, f"{name}={format_value(number)} is out of range", BITS, topic="range")
        for name, number in iterate_leaves(value, key)
        if not fits_64_bits(number)
    ]


def find_number_flags(key: str, value: object) -> list[Problem]:
    """Find numbers in a key's value that stand for true or false: OmegaConf takes 3 as true."""
    return [
        Problem(name, f"{name}={format_value(flag)} is not true or false", f"write {FLAGS}", topic="type")
        for name, flag in iterate_leaves(value, key)
        if isinstance(flag, int | float) and not isinstance(flag, bool) and _hint(name) is bool
    ]


FLAGS = "true or false"

BITS = "use at most 64 bits for a whole number"


def check_config(config: Mapping[str, Any]) -> list[Problem]:
    """Check a resolved config, using only the config.

    Args:
        config: nested plain mappings, as `OmegaConf.to_container(cfg, resolve=True)` returns them. Missing values
            (`???`) are skipped.
    """
    problems = [
        *_check_limits(config),
        *_check_new_keys(config),
        *_check_pairs(config),
        *fine_tuning.check(config),
        *callbacks.check(config),
    ]
    too_large = list(dict.fromkeys(find_large_integers("", config)))
    keys = {problem.key for problem in too_large}
    return [problem for problem in problems if problem.key not in keys] + too_large + _check_tracking(config)


def _check_limits(config: Mapping[str, Any]) -> list[Problem]:
    """Check the values against the limits of their keys."""
    problems = []
    for key, limit in collect_limits(config, Config).items():
        value = select(config, key)
        if value is None:
            group, _, leaf = key.rpartition(".")
            node = select(config, group) if group else config
            null = isinstance(node, Mapping) and leaf in node and node[leaf] is None
            if null and not limit.optional and limit.shape != "unknown":
                problems.append(_null(key, f"a list, each item {limit}" if limit.shape == "list" else str(limit)))
        elif problem := check_value(key, value, limit):
            problems.append(problem)
    return problems


def check_value(key: str, value: Any, limit: Limit) -> Problem | None:
    """Check a value against a limit.

    A value of the wrong type is skipped if the check of the signature reports more.
    """
    typed, bound = f"{key}={format_value(value)}", limit.bound
    if isinstance(bound, Choice):
        items = value if isinstance(value, list) and bound.several else [value]
        wrong = next((format_value(item) for item in items if item not in bound), None)
        if wrong is None:
            return None
        hint = did_you_mean(wrong, [format_value(choice) for choice in bound.values])
        return Problem(key, f"{typed} is not a choice", hint, topic="choice")
    is_built = isinstance(value, Mapping) and "_target_" in value and key not in settings_limits(Config)
    if isinstance(value, Mapping) and limit.shape not in ("list", "mapping") and not is_built:
        text = f"{key} is not {'valid' if bound.words else bound.kind} but a group of keys"
        return Problem(key, text, f"write {limit}", topic="type")
    if isinstance(value, Mapping) or (isinstance(value, list) and limit.shape != "one"):
        items = list(value.values()) if isinstance(value, Mapping) else value
        if all(map(bound.is_number, items)) and not all(item in bound for item in items):
            return Problem(key, f"{typed} is out of range", f"each must be {bound}", topic="range")
        return None
    if value in bound or limit.shape in ("list", "mapping"):
        return None
    if bound.is_number(value):
        return Problem(key, f"{typed} is out of range", f"write {limit}", topic="range")
    kind = "valid" if bound.words else bound.kind
    return Problem(key, f"{typed} is not {kind}", f"write {limit}", topic="type")


def _check_new_keys(config: Mapping[str, Any]) -> list[Problem]:
    """Find null in keys of tables that are new since 0.1.0: to the function, None means that the key is missing."""
    data = config.get("data")
    if not isinstance(data, Mapping) or not str(data.get("_target_")).endswith("csv_file.csv_file"):
        return []
    null = [f"data.{leaf}" for leaf in NEW_TABLE_KEYS if leaf in data and data[leaf] is None]
    return [_null(key, f"{key}=auto") for key in null]


def _null(key: str, instead: str) -> Problem:
    return Problem(key, f"{key}=null is not allowed", f"write {instead}", topic="missing")


def _check_pairs(config: Mapping[str, Any]) -> list[Problem]:
    """Find keys whose required other key is missing."""
    problems = []
    if select(config, "resume_mode") == "warm_start" and not select(config, "resume"):
        text, instead = "resume_mode=warm_start needs a run", "write resume=<its folder or MLflow run id>"
        problems.append(Problem("resume_mode", text, instead, topic="missing"))
    if select(config, "sweep.extend") and not select(config, "sweep.resume"):
        text, instead = "sweep.extend=true needs a sweep", "write sweep.resume=<its folder or MLflow parent id>"
        problems.append(Problem("sweep.extend", text, instead, topic="missing"))
    if select(config, "data.batch_size") == LARGEST and select(config, "strategy.name") not in (None, "single"):
        text = f"data.batch_size={LARGEST}: one process cannot find what several ranks share"
        instead = "write a number: strategy=single finds that of one rank, times the number of ranks"
        problems.append(Problem("data.batch_size", text, instead, topic="conflict"))
    return [*problems, *_check_folds(config)]


def _check_folds(config: Mapping[str, Any]) -> list[Problem]:
    """Check that folds go with the other keys that choose the validation part."""
    folds, fold = (select(config, f"data.{key}") for key in ("folds", "fold"))
    if fold is not None and folds is None:
        text = f"data.fold={fold} needs the number of folds"
        return [Problem("data.fold", text, "write data.folds=5, for example", topic="missing")]
    if not isinstance(folds, int):
        return []
    problems = []
    if isinstance(fold, int) and fold >= folds:
        text = f"data.fold={fold}: the last of {folds} folds is {folds - 1}"
        problems.append(Problem("data.fold", text, f"write data.fold={folds - 1}, or leave it out", topic="range"))
    for key in ("data.val_fraction", "data.val_path"):
        if (value := select(config, key)) is not None:
            text = f"{key}={format_value(value)}: with data.folds={folds} each fold is the validation part once"
            problems.append(Problem(key, text, f"write {key}=null", topic="conflict"))
    return problems


def _check_tracking(config: Mapping[str, Any]) -> list[Problem]:
    checks = (_check_address, _check_experiment, _check_tags, _check_register)
    return [problem for check in checks for problem in check(config)]


def _check_address(config: Mapping[str, Any]) -> list[Problem]:
    """Check that the chosen member of `tracking` can use the store's address."""
    name, uri = select(config, "tracking.name"), select(config, "tracking.uri")
    if uri is None:
        return []
    key = "tracking.uri"
    scheme = scheme_of(str(uri))
    if name == "server" and (scheme not in ("http", "https") or not is_server_address(str(uri))):
        instead = "write tracking.uri=http://<host>:<port>, or tracking=local for a file"
        return [Problem(key, f"{key}={uri} is not the address of a server", instead, topic="type")]
    if name == "local" and scheme not in DATABASES:
        is_server = scheme in ("http", "https")
        instead = "add tracking=server" if is_server else f"write {key}=sqlite:////<absolute path>.db"
        text = f"{key}={uri} is not the address of a database"
        return [Problem(key, text, f"{instead}, or write {key}=null", topic="type")]
    if name == "local" and scheme != "sqlite":
        from runner.util.driver import check_driver  # late: importing SQLAlchemy takes 0.2 s, and SQLite needs no check

        if problem := check_driver(key, str(uri)):
            return [problem]
    return []


def _check_experiment(config: Mapping[str, Any]) -> list[Problem]:
    key, experiment = "tracking.experiment", select(config, "tracking.experiment")
    if experiment == "":
        return [Problem(key, f"{key}= is empty", "write a name", topic="missing")]
    if len(str(experiment)) > NAME_LENGTH:
        text = f"{key}={experiment} is longer than the {NAME_LENGTH} characters that MLflow takes"
        return [Problem(key, text, "shorten it", topic="range")]
    return []


def _check_tags(config: Mapping[str, Any]) -> list[Problem]:
    problems = []
    for tag, value in (select(config, "tracking.tags") or {}).items():
        key = f"tracking.tags.{tag}"
        typed = f"{key}={format_value(value)}"
        if whose := reserved_for(f"{tag}." if isinstance(value, Mapping) else tag):
            text = f"{typed}: the name is reserved for {whose}"
            problems.append(Problem(key, text, "write another", topic="conflict"))
        elif legal_name(tag) != tag:
            text = f"{typed}: MLflow refuses the name"
            problems.append(Problem(key, text, f"write a name such as {legal_name(tag)}", topic="syntax"))
        elif not isinstance(value, str | int | float):
            problems.append(Problem(key, f"{typed} is not the value of a tag", "write a text", topic="type"))
        elif len(format_value(value)) > TAG_LENGTH:
            text = f"{typed} is longer than the {TAG_LENGTH} characters that MLflow takes"
            problems.append(Problem(key, text, "shorten it", topic="range"))
    return problems


def _check_register(config: Mapping[str, Any]) -> list[Problem]:
    """Check the name of a registered model, and that there will be a model to register."""
    key, name = "tracking.register", select(config, "tracking.register")
    if name is None:
        return []
    typed = f"{key}={name}"
    if (legal := legal_registered_name(name)) != name:
        text = f"{typed}: MLflow refuses the name of a registered model" if name else f"{key}= is empty"
        return [Problem(key, text, f"write a name such as {legal}", topic="syntax")]
    if select(config, "tracking.name") == "off":
        text = f"{typed}: tracking=off has no registry"
        return [Problem(key, text, "leave it out, or write tracking=local", topic="conflict")]
    if select(config, "tracking.log_model") is False:
        text = f"{typed}: with tracking.log_model=false there is no model to register"
        return [Problem(key, text, "leave one of them out", topic="conflict")]
    return []


def describe_expected(key: str) -> str | None:
    """Describe the values that a key accepts; None if the schema does not know them."""
    if limit := settings_limits(Config).get(key) or TORCH_LIMITS.get(key):
        return str(limit)
    hint = _hint(key)
    if hint is bool:
        return FLAGS
    if key == "optimizers":
        return "optimizers.<name>.<key>=<value>"
    if typing.get_origin(hint) is dict:
        return "names and their texts, such as {team:vision}"
    if hint is str or str in typing.get_args(hint):
        return "a text, or null" if takes_none(hint) else "a text"
    return None


def is_required(key: str) -> bool:
    """Return whether every config must have this key."""
    return _hint(key) is not None and key.partition(".")[0] not in ("model", "optimizer")


def is_text(key: str) -> bool:
    """Return whether a key holds a text, or a list or mapping of texts, in which `1e5` is not a number."""
    if key in PATH_KEYS or key in TEXT_KEYS or key.startswith("tracking.tags") or fine_tuning.is_pattern(key):
        return True
    if key in settings_limits(Config):  # numbers, or choices, none of which looks like a number
        return False
    return _leaves(_hint(key)) == {str}


def _leaves(hint: Any) -> set[Any]:
    """Collect the innermost types in an annotation, without None: str for `list[str] | None`."""
    parts = typing.get_args(hint)
    return set().union(*map(_leaves, parts)) if parts else {hint} - {type(None)}


def _hint(key: str) -> Any:
    """Return the annotation of a key of a group with fixed keys, or of a key that all members of a group have."""
    parts = key.split(".")
    node: Any = Config
    if parts[0] in SHARED_SETTINGS and len(parts) > 1:
        node, parts = SHARED_SETTINGS[parts[0]], parts[1:]
    for part in parts:
        node = typing.get_type_hints(node).get(part) if is_dataclass(node) else None
    return node
