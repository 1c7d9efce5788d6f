"""What Hydra and OmegaConf refuse, in the user's own words instead of theirs."""

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from functools import cache

import yaml
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from runner.config import schema
from runner.config.keys import GROUPS, TARGET_GROUPS
from runner.errors import did_you_mean, first_line
from runner.util import advice

REFUSED = (HydraException, OmegaConfBaseException, ValueError, OverflowError, OSError, yaml.YAMLError)
"""What composing raises for a config that is wrong."""

EXAMPLES = {"tracking.uri": "http://127.0.0.1:5000", "seed": "0"}
"""A value to write, for keys that can be missing."""

MANY = 8
"""Keys that a sentence still lists."""


FUNCTIONS = {
    "choice": "choice(1,2)",
    "range": "range(0,5)",
    "interval": "interval(0.001,0.1)",
    "glob": "glob(*)",
    "sort": "sort(3,1,2)",
    "shuffle": "shuffle(1,2,3)",
    "tag": "tag(log,interval(0.001,0.1))",
}
"""The functions of a sweep, each as it may be written."""


def unreadable(text: str) -> str:
    """Why an argument that Hydra's grammar does not take is none."""
    key, equals, value = text.partition("=")
    if not text.strip():
        return f"{text!r}: an empty argument; leave it out, or write key=value"
    if text.strip() in ("help", "version"):
        return f"{text}: there is no value; write --{text.strip()}"
    if not equals:
        return f"{text}: there is no value; write {text.strip()}=<value>"
    if not key.strip("+~ "):
        return f"{text}: there is no key before the =; write key=value"
    if key != key.strip() or " " in key:
        return f"{text}: a key has no spaces; write {''.join(key.split())}={value.strip()}"
    function, bracket, _ = value.partition("(")
    if bracket and value.endswith(")") and function in FUNCTIONS:
        return f"{text}: {function}() does not take these arguments; write them as in {key}={FUNCTIONS[function]}"
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    return f"{text}: the value has characters with a meaning of their own; write '{key}=\"{quoted}\"', quotes included"


def refused(
    text: str, override: Override, known: Collection[str], base: DictConfig, having: Mapping[str, list[str]]
) -> str | None:
    """Why an override does not go with the config, as far as key and value tell.

    Args:
        text: as it was typed.
        override: as Hydra reads it.
        known: all dotted keys of the config.
        base: the config without it.
        having: for the group of the key, the members that do have it, and the chosen one's keys.
    """
    key, value = override.key_or_group, override.value()
    if key not in known and not override.is_add():
        hint = unknown_key(key, known, having)
        if "did you mean" not in hint and _is_of_the_user(base, key):
            hint += f"; write +{text} if the class takes it"
        return f"{text}: there is no key {key}; {hint}"
    if override.is_add() and not override.is_force_add() and key in known:
        return f"{text}: {key} is there already; write {text.lstrip('+')}"
    wanted = schema.expected(key)
    if not wanted and isinstance(base._get_node(key) if "." not in key else _node(base, key), DictConfig):
        inside = [k for k in known if k.startswith(f"{key}.") and not k.endswith("._target_")]
        return f"{text}: {key} is a group of keys; write {' or '.join(f'{k}=...' for k in inside[:3])}"
    if wanted:
        return f"{text}: {'null is not allowed here; ' if value is None else ''}write {wanted}"
    return None


def _is_of_the_user(base: DictConfig, key: str) -> bool:
    """Whether the key's group has a class or function that is not runner's: its file need not have all keys."""
    group = key.partition(".")[0]
    if group not in TARGET_GROUPS or key.count(".") != 1:
        return False
    target = OmegaConf.select(base, f"{group}._target_", throw_on_missing=False)
    return target is None or not str(target).startswith("runner.")


def unknown_key(key: str, known: Collection[str], having: Mapping[str, list[str]]) -> str:
    """What may have been meant by a key that there is not."""
    parent, _, leaf = key.rpartition(".")
    siblings = sorted(
        k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == parent and not k.endswith("_target_")
    )
    if close := get_close_matches(leaf, siblings, n=1, cutoff=0.6):
        return f"did you mean {parent + '.' if parent else ''}{close[0]}?"
    if elsewhere := [k for k in known if k.rpartition(".")[2] == leaf]:
        return f"did you mean {' or '.join(elsewhere)}?"
    if meant := advice.for_key(leaf, [*known, *GROUPS]):
        return f"did you mean {meant}?"
    if parent:
        there = f"{parent} has {', '.join(siblings)}" if siblings else f"{parent} has no keys to set"
        if len(siblings) > MANY:
            there = f"see {asking_for(parent)} for those there are"
        members = [f"{parent}={member}" for member, own in having.items() if leaf in own]
        return there + (f" ({' and '.join(members)}: also {leaf})" if members else "")
    close = get_close_matches(leaf, [k.rpartition(".")[2] for k in known], n=1, cutoff=0.7)
    if close:
        return f"did you mean {' or '.join(k for k in known if k.rpartition('.')[2] == close[0])}?"
    return did_you_mean(key, [*GROUPS, "seed", "resume", "resume_mode", "runner"])


def asking_for(package: str) -> str:
    """The command that prints a part of the config."""
    return f"python -m runner --cfg {'hydra' if package.partition('.')[0] == 'hydra' else 'job'} -p {package}"


def reason(error: BaseException) -> str:
    """The innermost reason of an exception, in one line, beginning with the key it is about if it tells."""
    while inner := error.__cause__ or (error.__context__ if isinstance(error, HydraException) else None):
        error = inner
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}, is not YAML: {error.problem}; correct it"
    line = first_line(error)
    key = getattr(error, "full_key", None)
    if isinstance(error, OmegaConfBaseException) and key:
        wanted = schema.expected(str(key))
        if "not in '" in line:
            return f"there is no key {key}"
        return f"{key}: write {wanted}" if wanted else f"{key}: {plain(line)}"
    return plain(line)


def plain(line: str) -> str:
    """OmegaConf's sentence about a reference, without what only it understands."""
    if "Environment variable" in line:
        return "the environment variable " + line.split("'")[1] + " is not set: set it, or write a value"
    if found := re.match(r"Invalid loaded object type: (\w+)|Cannot merge DictConfig with ListConfig", line):
        kind = f"a value of type {found[1]}" if found[1] else "a list"
        return f"its file holds {kind}, not keys: write lines of the form key: value in it"
    if line.startswith("Interpolation key "):
        return f"it refers to {line.split(chr(39))[1]}, which is no key: write a value, or an existing key"
    return line


def _node(base: DictConfig, key: str) -> object:
    node: object = base
    for part in key.split("."):
        node = node._get_node(part) if isinstance(node, DictConfig) else None
    return node


def unset(cfg: DictConfig) -> list[str]:
    """Keys without a value, references that lead nowhere, and keys that nobody knows.

    A reference that leads nowhere is made a missing value, so that the rest can be looked at.
    """
    expected = _known()
    typed = {key.rpartition(".")[0] for key in expected}
    present = dotted_keys(cfg)
    problems = [f"{key} is missing: {_example(key)}" for key in expected if key not in present]
    for key in present:
        parent, _, leaf = key.rpartition(".")
        if parent in typed and key not in expected:
            problems.append(f"{key}: there is no such key; {unknown_key(key, expected, {})}")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if not isinstance(node, DictConfig):  # below a value that was just found to be no reference
            continue
        if OmegaConf.is_missing(node, leaf) and leaf != "_target_":
            problems.append(f"{key} is missing: {_example(key)}")
        elif OmegaConf.is_interpolation(node, leaf):
            try:
                node[leaf]
            except OmegaConfBaseException as error:
                problems.append(f"{key}: {plain(first_line(error))}")
                with open_dict(node):
                    node[leaf] = schema.MISSING
    return problems


@cache
def _known() -> list[str]:
    """The keys that every config has."""
    return dotted_keys(OmegaConf.structured(schema.Config))


def _example(key: str) -> str:
    return f"write {key}={EXAMPLES.get(key, '<' + (schema.expected(key) or 'value') + '>')}"


def dotted_keys(node: DictConfig, prefix: str = "") -> list[str]:
    """The dotted keys of a config, of its nodes too, without resolving any."""
    found = []
    for name in map(str, node):
        key = f"{prefix}{name}"
        if key == "hydra":
            continue
        found.append(key)
        child = node._get_node(name)
        if (
            isinstance(child, DictConfig)
            and not child._is_missing()
            and not child._is_none()
            and not child._is_interpolation()
        ):
            found += dotted_keys(child, f"{key}.")
    return found
