"""The groups and keys of a config, and functions that read a plain config. Hydra is not needed."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from runner.config.settings import MISSING, DataSettings, ModelSettings, OptimizerSettings

TARGET_GROUPS = ("model", "data", "task", "optimizer", "scheduler", "loss")
"""Groups with a `_target_`; their keys are the parameters of the target."""

SHARED_SETTINGS = {"data": DataSettings, "model": ModelSettings, "optimizer": OptimizerSettings}
"""The keys that all members of such a group have, and their types."""

SHARED_KEYS = {group: tuple(field.name for field in fields(settings)) for group, settings in SHARED_SETTINGS.items()}
"""Keys of such a group besides the parameters of its `_target_`; `conf/config.yaml` sets them."""

MAPPINGS = ("tracking.tags", "optimizers", "optimizer.groups", "model.config", "trainer.callbacks")
"""Keys whose values are mappings with names that the user chooses."""

CHOSEN_LATER = ("loss.label_smoothing", "loss.class_weight", "loss.ignore_index")
"""Keys of losses that `loss=auto` passes on to the loss it chooses. Its file does not have them: a loss of the user's,
named over it with `loss._target_=`, would get them too."""

PRESETS = ("experiment", "debug")
"""Groups without keys; their members change the keys of other groups."""

GROUPS = (*TARGET_GROUPS, "device", "precision", "strategy", "trainer", "tracking", *PRESETS)

PATH_KEYS = (
    "run", "resume", "input", "output", "data.root", "data.path", "data.test_path", "data.val_path", "data.name",
    "data.tokenizer", "sweep.resume",
    "tracking.uri", "tracking.run_name", "model.weights", "hydra.sweeper.storage", "hydra.run.dir", "hydra.sweep.dir",
)  # fmt: skip
"""Keys whose values are paths or names; the command line quotes them for Hydra's grammar."""

PATH_LISTS = ("data.path", "data.test_path", "data.val_path")
"""Those of them whose values may be lists, `[a.tar,b.tar]`, unless there is a file of that name."""

EXPRESSIONS = ("sweep.where",)
"""Keys whose values are expressions; the command line quotes them whole."""

TEXT_KEYS = (
    "hydra.sweeper.study_name",
    *(f"hydra.launcher.{key}" for key in ("name", "partition", "account", "qos", "constraint", "comment", "wckey")),
)
"""Keys of Hydra's node whose values are texts but not paths."""

ADDRESSES = ("tracking.uri", "hydra.sweeper.storage")
"""Keys whose values are addresses of databases; these may be files, and may contain a password."""


def is_open(key: str) -> bool:
    """Return whether a key is one of `MAPPINGS`, or a name in one of them."""
    return any(key == mapping or key.startswith(f"{mapping}.") for mapping in MAPPINGS)


def may_be_new(key: str) -> bool:
    """Return whether a key can be set although the config does not have it."""
    return is_open(key) or key in CHOSEN_LATER


def select(config: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key; None if it does not exist or is missing."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return None if isinstance(node, str) and node == MISSING else node


def format_value(value: Any) -> str:
    """Format a value as it is typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(format_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{format_value(item)}" for key, item in value.items()) + "}"
    return str(value)


def flatten(node: Any, prefix: str = "") -> dict[str, str]:
    """Flatten nested mappings to dotted keys, with values as they are typed."""
    if isinstance(node, Mapping) and node:
        return {
            k: v
            for name, child in node.items()
            for k, v in flatten(child, f"{prefix}.{name}" if prefix else name).items()
        }
    return {prefix: format_value(node)}


def iterate_leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Iterate over the values in nested mappings and lists, each with the dotted key of its mapping's entry."""
    if isinstance(node, Mapping):
        for name, child in node.items():
            yield from iterate_leaves(child, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for child in node:
            yield from iterate_leaves(child, key)
    else:
        yield key, node
