"""`data.augment` as a list of names, `[flip,{crop:4},mixup]`: short for the keys below `data.augment`.

The config itself always has the keys: each can be typed alone (`data.augment.mixup.alpha=0.4`) and be an axis of a
sweep. A list turns on what it names and turns off everything else; keys that are typed beside it apply after it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from runner.config.keys import format_value
from runner.config.overrides import key_of
from runner.errors import ConfigError, Problem, close_match, did_you_mean

KEY = "data.augment"

OFF: Mapping[str, Any] = {
    "crop": 0,
    "flip": False,
    "rotation": 0,
    "erasing": 0,
    "randaugment": {"operations": 0, "magnitude": 9},
    "mixup": {"alpha": 0, "probability": 1},
    "cutmix": {"alpha": 0, "probability": 1},
}
"""The keys and their values where nothing is augmented, as in `conf/config.yaml`."""

NAMED: Mapping[str, Any] = {
    "crop": 4,
    "flip": True,
    "rotation": 15,
    "erasing": 0.5,
    "randaugment": {"operations": 2},
    "mixup": {"alpha": 0.2},
    "cutmix": {"alpha": 1},
}
"""What a name alone stands for.

A crop of 4 pixels as He et al. (2016), erasing half of the images as Zhong et al. (2020), two operations of magnitude
9 of 30 as torchvision's RandAugment, an alpha of 0.2 for mixup and 1 for cutmix as their papers on ImageNet.
"""

MAIN = {"randaugment": "magnitude", "mixup": "alpha", "cutmix": "alpha"}
"""The argument that a single number stands for: `{mixup: 0.4}`."""


def expand(value: object) -> dict[str, Any] | None:
    """Expand a list of names, a single name, or null for none, to all keys of `data.augment`.

    Args:
        value: as it was typed, or read from YAML.

    Returns:
        None if the value is none of these: a mapping of keys, a reference.

    Raises:
        ConfigError: with a problem for each item that is unknown or wrong.
    """
    if isinstance(value, str):
        if "${" in value:  # a reference
            return None
        value = [value]
    value = [] if value is None else value
    if not isinstance(value, Sequence):
        return None
    expanded: dict[str, Any] = {name: dict(off) if isinstance(off, Mapping) else off for name, off in OFF.items()}
    problems, named = list[Problem](), set[str]()
    typed = f"{KEY}={format_value(value)}"
    for name, arguments in _items(value):
        unknown = _unknown_argument(name, arguments)
        if name not in OFF:
            text = f"{typed}: unknown augmentation {name}"
            problems.append(Problem(KEY, text, _rename(value, name, OFF), topic="unknown"))
        elif name in named:
            problems.append(Problem(KEY, f"{typed} names {name} twice", "write it once", topic="conflict"))
        elif unknown is not None:
            text = f"{typed}: {name} takes no {unknown}"
            problems.append(Problem(KEY, text, _rename(value, unknown, OFF[name]), topic="unknown"))
        elif problem := _wrong_form(name, arguments):
            problems.append(problem)
        else:
            named.add(name)
            expanded[name] = _with_arguments(name, arguments)
    if problems:
        raise ConfigError(*problems)
    return expanded


def _items(value: Sequence[object]) -> Iterator[tuple[str, Any]]:
    """Iterate over the names in a list, each with its arguments; `...` where it has none."""
    for item in value:
        if isinstance(item, Mapping):
            yield from ((str(name), arguments) for name, arguments in item.items())
        else:
            yield format_value(item), ...


def _unknown_argument(name: str, arguments: Any) -> str | None:
    """Return the first argument that an augmentation does not take."""
    known = OFF.get(name)
    if not isinstance(known, Mapping) or not isinstance(arguments, Mapping):
        return None
    return next((str(argument) for argument in arguments if argument not in known), None)


def _wrong_form(name: str, arguments: Any) -> Problem | None:
    """Find out whether arguments have the wrong form; their values are checked with the config."""
    fits = isinstance(OFF[name], Mapping) if isinstance(arguments, Mapping) else not isinstance(arguments, list)
    if fits:
        return None
    key = f"{KEY}.{name}"
    text = f"{key}={format_value(arguments)} has the wrong form"
    return Problem(key, text, f"write {key}={format_value(NAMED[name])}", topic="type")


def _rename(value: Any, wrong: str, known: Iterable[str]) -> str:
    """Suggest the value with the name that is meant; or what there is to choose from."""

    def renamed(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {renamed(name): renamed(item) for name, item in node.items()}
        if isinstance(node, list):
            return [renamed(item) for item in node]
        return meant if node == wrong else node

    meant = close_match(wrong, known)
    return f"write {KEY}={format_value(renamed(value))}" if meant else did_you_mean(wrong, known)


def _with_arguments(name: str, arguments: Any) -> Any:
    off, named = OFF[name], NAMED[name]
    if not isinstance(off, Mapping):
        return named if arguments is ... else arguments
    if arguments is ...:
        return {**off, **named}
    return {**off, **named, **(arguments if isinstance(arguments, Mapping) else {MAIN[name]: arguments})}


def expand_override(argument: str) -> str:
    """Expand an override of `data.augment`, or `data.augment.mixup=0.4`; any other is returned unchanged.

    So is one of several values (a sweep): the override of each of its jobs is expanded.

    Raises:
        ConfigError: see `expand`.
    """
    name, _, text = argument.partition("=")
    key = name.lstrip("+")
    short = [f"{KEY}.{augmentation}" for augmentation in MAIN]
    if key not in (KEY, *short) or text == "":
        return argument
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:  # explained elsewhere
        return argument
    if override.is_sweep_override():
        return argument
    typed, expanded = override.value(), None
    if key == KEY:
        expanded = expand(typed)
    elif isinstance(typed, int | float):
        augmentation = key.rpartition(".")[2]
        expanded = (expand([{augmentation: typed}]) or {})[augmentation]
    return argument if expanded is None else f"{name}={_as_typed(expanded)}"


def lists_first(arguments: Sequence[str]) -> list[str]:
    """Return overrides with those of `data.augment` itself before all others, so that its keys apply after it."""
    return sorted(arguments, key=lambda argument: key_of(argument) != KEY)


def is_list_beside_keys(arguments: Iterable[str], others: Iterable[str]) -> bool:
    """Return whether some overrides set `data.augment` itself, and others its keys."""
    return KEY in map(key_of, arguments) and any(key_of(other).startswith(f"{KEY}.") for other in others)


def is_about_augment(argument: str) -> bool:
    """Return whether an override sets `data.augment` or one of its keys."""
    return f"{key_of(argument)}.".startswith(f"{KEY}.")


def with_augment_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved config with all keys of `data.augment`, of which that of an older version lacks some."""
    data = config["data"]
    return {**config, "data": {**data, "augment": {**OFF, **(data.get("augment") or {})}}}


def _as_typed(value: Any) -> str:
    """Format a value in Hydra's grammar, its texts in quotes."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_as_typed(item)}" for key, item in value.items()) + "}"
    return QuotedString(text=value, quote=Quote.single).with_quotes() if isinstance(value, str) else format_value(value)


def expand_file(content: DictConfig, package: str) -> None:
    """Expand the list in a config file, in place: Hydra refuses a list where the defaults have keys.

    Args:
        content: of the file.
        package: the dotted path of its keys in the config; empty for the whole config.

    Raises:
        ConfigError: see `expand`.
    """
    if package not in ("", "data"):
        return
    node = content if package == "data" else content._get_node("data")
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing() or node._is_interpolation():
        return
    augment: Any = node._get_node("augment")
    if augment is None or augment._is_missing() or augment._is_interpolation():
        return
    value = OmegaConf.to_container(augment) if OmegaConf.is_config(augment) else augment._value()
    if (expanded := expand(value)) is not None:
        node["augment"] = expanded
