"""Explain what Hydra and OmegaConf reject, in terms of what the user typed."""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import cache

import yaml
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from runner.config import schema
from runner.config.keys import GROUPS, TARGET_GROUPS, format_value
from runner.config.overrides import key_of
from runner.errors import ConfigError, Problem, Topic, close_match, describe_error, first_line
from runner.util import advice

REFUSED = (
    HydraException, OmegaConfBaseException, ConfigError, ValueError, OverflowError, OSError, yaml.YAMLError,
    RecursionError,
)  # fmt: skip
"""Exceptions that composing raises for a wrong config or override."""

EXAMPLES = {"tracking.uri": "http://127.0.0.1:5000", "seed": "0"}
"""Values to suggest for keys that can be missing."""

MAX_LISTED = 8
"""The largest number of keys that a message lists."""

FUNCTIONS = {
    "choice": "choice(1,2)",
    "range": "range(0,5)",
    "interval": "interval(0.001,0.1)",
    "glob": "glob(*)",
    "sort": "sort(3,1,2)",
    "shuffle": "shuffle(1,2,3)",
    "tag": "tag(log,interval(0.001,0.1))",
}
"""The functions of a sweep, each with an example."""


def explain_unreadable(text: str) -> Problem:
    """Explain why Hydra's grammar rejects an argument, from the argument alone."""
    key, equals, value = text.partition("=")

    def problem(what: str, suggestion: str) -> Problem:
        return Problem(key_of(text).strip(), f"{text}: {what}" if text.strip() else what, suggestion, topic="syntax")

    if not text.strip():
        return problem(f"{text!r}: an empty argument", "leave it out, or write <key>=<value>")
    if text.strip() in ("help", "version"):
        return problem("the value is missing", f"write --{text.strip()}")
    if not key.strip("+~@ "):
        sign = text.strip()[0] if text.strip()[0] in "+~" else ""
        instead = f"write {sign}<key>{'' if sign == '~' else '=<value>'}"
        return problem("the key is missing", instead)
    if not equals:
        return problem("the value is missing", f"write {text.strip()}=<value>")
    if key != key.strip() or " " in key:
        return problem("a key cannot contain spaces", f"write {''.join(key.split())}={value.strip()}")
    function, bracket, _ = value.partition("(")
    if bracket and value.endswith(")") and function in FUNCTIONS:
        return problem(f"{function}() does not take these arguments", f"write them as in {key}={FUNCTIONS[function]}")
    if (expected := schema.describe_expected(key)) and not schema.is_text(key):
        return problem("the value is not valid", f"write {expected}")
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    return problem("the value contains special characters", f"quote it: '{key}=\"{quoted}\"'")


def explain_refusal(
    text: str, override: Override, known: Collection[str], base: DictConfig, members: Mapping[str, list[str]]
) -> Problem | None:
    """Explain why an override does not fit the config; None if its key and value do not show the reason.

    Args:
        text: the override as it was typed.
        override: the override as Hydra parsed it.
        known: all dotted keys of the config.
        base: the config without the override.
        members: the keys of each member of the key's group.
    """
    key, value = override.key_or_group, override.value()

    def problem(what: str, suggestion: str, topic: Topic) -> Problem:
        return Problem(key, f"{text}: {what}", suggestion, topic=topic)

    parent = key.rpartition(".")[0]
    if isinstance(_node(base, parent), ListConfig) or (
        isinstance(value, dict) and isinstance(_node(base, key), ListConfig)
    ):
        return problem(f"{key if key in known else parent} is a list", _list_instead(base, key, value), "type")
    if key not in known and not override.is_add():
        suggestion = "leave it out" if override.is_delete() else suggest_key(key, known, members)
        if re.fullmatch(r".*\._\w+_", key) and not override.is_delete():  # Hydra's own, such as _recursive_
            return problem(f"unknown key {key}", f"write +{text}", "unknown")
        if not override.is_delete() and find_similar_key(key, known) is None and _has_foreign_target(base, key):
            suggestion = f"write +{text} if the class takes it; {suggestion}"
        return problem(f"unknown key {key}", suggestion, "unknown")
    if override.is_add() and not override.is_force_add() and key in known:
        return problem(f"{key} exists already", f"write {text.lstrip('+')}", "conflict")
    expected = schema.describe_expected(key)
    if not expected and isinstance(_node(base, key), DictConfig):
        inside = [k for k in known if k.startswith(f"{key}.") and not k.endswith("._target_")]
        names = " or ".join(f"{k}=<value>" for k in inside[:3]) or f"+{key}.<name>=<value>"
        return problem(f"{key} is a group of keys", f"write {names}", "type")
    if expected:
        what = f"{text}: null is not allowed here" if value is None else f"{text} is not valid"
        return Problem(key, what, f"write {expected}", topic="missing" if value is None else "type")
    return None


def _list_instead(base: DictConfig, key: str, value: object) -> str:
    """Suggest a list for a key that was given names and values, or for the list that a key lies below.

    Metrics are names, or mappings of a name and its arguments; of any other list the present items are the example.
    """
    items = _node(base, key)
    if not isinstance(items, ListConfig):
        key, _, name = key.rpartition(".")
        items, value = _node(base, key), {name: value}
    if key == "metrics" and isinstance(value, dict):
        entries = [{name: given} if isinstance(given, dict) and given else str(name) for name, given in value.items()]
        return f"a list is written metrics={format_value(entries)}"
    example = format_value(list(items)) if isinstance(items, ListConfig) and items else "[<value>,<value>]"
    return f"a list is written {key}={example}"


def _has_foreign_target(base: DictConfig, key: str) -> bool:
    """Return whether the `_target_` of the key's group is not runner's: its file need not list all keys."""
    group = key.partition(".")[0]
    if group not in TARGET_GROUPS or key.count(".") != 1:
        return False
    target = OmegaConf.select(base, f"{group}._target_", throw_on_missing=False)
    return target is None or not str(target).startswith("runner.")


def find_similar_key(key: str, known: Collection[str]) -> str | None:
    """Find a key similar to an unknown one: in its group, with the same last word, or the name in another tool."""
    parent, _, leaf = key.rpartition(".")
    if close := get_close_matches(leaf, _siblings(parent, known), n=1, cutoff=0.6):
        return f"{parent}.{close[0]}" if parent else close[0]
    if elsewhere := [k for k in known if k.rpartition(".")[2] == leaf]:
        return " or ".join(elsewhere)
    if meant := advice.for_key(leaf, [*known, *GROUPS]):
        return meant
    if parent:
        return None
    if close := get_close_matches(leaf, [k.rpartition(".")[2] for k in known], n=1, cutoff=0.7):
        return " or ".join(k for k in known if k.rpartition(".")[2] == close[0])
    return close_match(key, TOP_LEVEL)


def suggest_key(key: str, known: Collection[str], members: Mapping[str, list[str]]) -> str:
    """Suggest what to write for an unknown key: a similar one, or the keys of its group."""
    if similar := find_similar_key(key, known):
        return f"did you mean {similar}?"
    parent, _, leaf = key.rpartition(".")
    if parent.partition(".")[0] not in (*TOP_LEVEL, "hydra", "optimizers", "sweep", "metrics"):
        return f"the config has {', '.join(name for name in TOP_LEVEL if name != 'resume_mode')}"
    siblings = _siblings(parent, known)
    if having := [f"{parent}={member}" for member, keys in members.items() if leaf in keys]:
        return f"choose {' or '.join(having)} to set it"
    if len(siblings) > MAX_LISTED:
        return f"{config_command(parent)} lists the keys of {parent}"
    if siblings:
        return f"{parent} has {', '.join(siblings)}"
    return f"write {parent}=<value>: it has no keys" if parent in known else f"{parent} has no keys to set"


TOP_LEVEL = sorted([*GROUPS, "seed", "resume", "resume_mode", "runner"])
"""The groups, and the keys that belong to none."""


def _siblings(parent: str, known: Collection[str]) -> list[str]:
    return sorted(k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == parent and not k.endswith("_target_"))


def config_command(package: str) -> str:
    """Return the command that prints a part of the config."""
    return f"python -m runner --cfg {'hydra' if package.partition('.')[0] == 'hydra' else 'job'} -p {package}"


def explain_error(error: BaseException, text: str = "") -> Problem:
    """Explain an exception by its innermost cause.

    Args:
        error: one of `REFUSED`.
        text: the override that led to it, as it was typed.
    """
    while inner := error.__cause__ or (error.__context__ if isinstance(error, HydraException) else None):
        error = inner
    before = f"{text}: " if text else ""
    if isinstance(error, ConfigError):
        problem = error.problems[0]
        return replace(problem, key=problem.key or key_of(text), text=before + problem.text)
    key = key_of(text)
    if isinstance(error, RecursionError):  # arguments and files that are nested too deeply are refused before
        what = "it includes itself, by its defaults list or a reference"
        return Problem(key, before + what, "remove that line", topic="conflict")
    if isinstance(error, OSError) and error.filename:
        return Problem(key, before + describe_error(error), "name another file", topic="file")
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        what = f"{mark.name}, line {mark.line + 1}, is not YAML: {error.problem}"
        return Problem(key, before + what, "correct it", topic="syntax")
    line = first_line(error)
    full_key = getattr(error, "full_key", None)
    if isinstance(error, OmegaConfBaseException) and full_key:
        key = str(full_key)
        if "not in '" in line:
            return Problem(key, f"{before}unknown key {key}", "remove it from the file", topic="unknown")
        if expected := schema.describe_expected(key):
            return Problem(key, f"{before}{key} has a wrong value", f"write {expected}", topic="type")
        before += f"{key}: "
    return explain_message(line, before, key)


def explain_message(line: str, before: str = "", key: str = "") -> Problem:
    """Translate OmegaConf's message about a reference or a file.

    Args:
        line: the message.
        before: the beginning of the problem's text.
        key: the key that the message is about.
    """
    if "Environment variable" in line:
        what = f"the environment variable {line.split(chr(39))[1]} is not set"
        return Problem(key, before + what, "set it, or write a value", topic="missing")
    if match := re.match(r"Invalid loaded object type: (\w+)", line):
        what = f"its file holds a value of type {match[1]}, not keys"
        return Problem(key, before + what, "write lines of the form key: value in it", topic="type")
    if match := re.match(r"Cannot merge (Dict|List)Config with (Dict|List)Config", line):
        given, needed = ("keys", "a list") if match[1] == "Dict" else ("a list", "keys")
        return Problem(key, f"{before}it must have {needed} and not {given}", f"write {needed}", topic="type")
    if match := re.search(r"Missing mandatory value: (\S+)", line):
        what = f"it refers to {match[1]}, which has no value"
        return Problem(key, before + what, "write a value, or another key", topic="missing")
    if "Interpolation to parent node" in line:
        what = "it refers to the group that it is in"
        return Problem(key, before + what, f"write {schema.describe_expected(key) or 'a value'}", topic="conflict")
    if match := re.match(r"While dereferencing interpolation '\$\{(.+?)\}'", line):
        what = f"it refers to {match[1]}, whose value is of another type"
        return Problem(key, before + what, f"write {schema.describe_expected(key) or 'a value'}", topic="type")
    if "Recursive interpolation" in line:
        return Problem(key, before + "it refers to itself", "write a value, or another key", topic="conflict")
    if "resolving interpolation" in line or line.startswith("Unsupported interpolation type"):
        instead = "write a value, or a reference such as ${seed} or ${oc.env:<variable>}"
        return Problem(key, f"{before}its reference cannot be resolved", instead, topic="syntax")
    if line.startswith("Interpolation key "):
        what = f"it refers to the unknown key {line.split(chr(39))[1]}"
        return Problem(key, before + what, "write a value, or an existing key", topic="unknown")
    return Problem(key, before + line, topic="syntax")


def _node(base: DictConfig, key: str) -> object:
    node: object = base
    for part in key.split("."):
        node = node._get_node(part, validate_access=False) if isinstance(node, DictConfig) else None
    return node


def find_unset(cfg: DictConfig) -> list[Problem]:
    """Find keys without a value, broken references, and unknown keys.

    A broken reference is replaced by a missing value, so that the rest can be checked.
    """
    expected = _known()
    typed = {key.rpartition(".")[0] for key in expected}
    present = dotted_keys(cfg)
    problems = [_missing(key) for key in expected if key not in present]
    for key in present:
        parent, _, leaf = key.rpartition(".")
        if parent in typed and key not in expected:
            problems.append(Problem(key, f"{key}: unknown key", suggest_key(key, expected, {}), topic="unknown"))
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if not isinstance(node, DictConfig):  # a parent was a broken reference and has just been replaced
            continue
        if OmegaConf.is_missing(node, leaf) and leaf != "_target_":
            problems.append(_missing(key))
        elif OmegaConf.is_interpolation(node, leaf):
            try:
                node[leaf]
            except OmegaConfBaseException as error:
                problems.append(explain_message(first_line(error), f"{key}: ", key))
                with open_dict(node):
                    node[leaf] = schema.MISSING
    return problems


@cache
def _known() -> list[str]:
    """List the keys that every config has."""
    return dotted_keys(OmegaConf.structured(schema.Config))


def _missing(key: str) -> Problem:
    example = EXAMPLES.get(key, f"<{schema.describe_expected(key) or 'value'}>")
    return Problem(key, f"{key} is missing", f"write {key}={example}", topic="missing")


def dotted_keys(node: DictConfig, prefix: str = "") -> list[str]:
    """List the dotted keys of a config and its nodes, without resolving references."""
    keys = []
    for name in map(str, node):
        key = f"{prefix}{name}"
        if key == "hydra":
            continue
        keys.append(key)
        child = node._get_node(name)
        if (
            isinstance(child, DictConfig)
            and not child._is_missing()
            and not child._is_none()
            and not child._is_interpolation()
        ):
            keys += dotted_keys(child, f"{key}.")
    return keys
