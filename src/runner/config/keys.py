"""The groups and keys of a config, and small readings of one: no type, no check, nothing of Hydra."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from runner.config.settings import DataSettings

MISSING = "???"
"""OmegaConf's mark of a value that is not given."""

TARGET_GROUPS = ("model", "data", "optimizer", "scheduler", "loss")
"""Groups with a `_target_`, whose keys are those of its signature."""

SHARED_KEYS = {
    "data": tuple(field.name for field in fields(DataSettings)),
    "model": ("weights",),
}
"""Keys that every member of an open group has beside those of its `_target_`; `conf/config.yaml` sets them."""

MAPPINGS = ("tracking.tags",)
"""Keys whose values are mappings with names of the user's own."""

PRESETS = ("experiment", "debug")
"""Groups that have no keys of their own: their members change those of others."""

GROUPS = (*TARGET_GROUPS, "device", "precision", "trainer", "tracking", *PRESETS)

PATH_KEYS = (
    "run", "resume", "input", "output", "data.root", "data.path", "data.test_path", "data.val_path", "sweep.resume",
    "tracking.uri", "tracking.run_name", "model.weights", "hydra.sweeper.storage", "hydra.run.dir", "hydra.sweep.dir",
)  # fmt: skip
"""Keys whose values are paths or names: the command line quotes them where Hydra's grammar needs it."""

TEXT_KEYS = (
    "hydra.sweeper.study_name",
    *(f"hydra.launcher.{key}" for key in ("name", "partition", "account", "qos", "constraint", "comment", "wckey")),
)
"""Keys of Hydra's node whose values are texts, beside paths."""

ADDRESSES = ("tracking.uri", "hydra.sweeper.storage")
"""Keys whose values are those of databases, which may be files, or have a password in them."""


def is_open(key: str) -> bool:
    """Whether a key is a mapping with names of the user's own, or a name in one."""
    return any(key == mapping or key.startswith(f"{mapping}.") for mapping in MAPPINGS)


def select(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, or None if there is none."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return None if isinstance(node, str) and node == MISSING else node


def format_value(value: Any) -> str:
    """A value as the user would type it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(format_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{format_value(item)}" for key, item in value.items()) + "}"
    return str(value)


def flatten(node: Any, prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted keys with values as one would type them."""
    if isinstance(node, Mapping) and node:
        return {
            k: v
            for name, child in node.items()
            for k, v in flatten(child, f"{prefix}.{name}" if prefix else name).items()
        }
    return {prefix: format_value(node)}


def iterate_leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The values in nested mappings and lists, each with the dotted key of the mapping's entry."""
    if isinstance(node, Mapping):
        for name, child in node.items():
            yield from iterate_leaves(child, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for child in node:
            yield from iterate_leaves(child, key)
    else:
        yield key, node
