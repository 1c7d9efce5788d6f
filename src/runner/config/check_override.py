"""Checks of a single override before anything is composed: its group, its choice, its syntax."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.config import schema
from runner.config.group_files import GroupFiles
from runner.config.hydra_node import check_copied, check_deletion, check_search_path
from runner.config.keys import GROUPS, PRESETS, TARGET_GROUPS, format_value
from runner.config.messages import REFUSED, dotted_keys, explain_error, explain_unreadable, suggest_key
from runner.config.overrides import key_of
from runner.errors import Problem, Topic, did_you_mean
from runner.util import advice


@dataclass(frozen=True)
class ParsedOverride:
    """An argument of the command line.

    Attributes:
        text: as the user typed it.
        translated: as it is passed to Hydra.
        override: as Hydra parsed it.
    """

    text: str
    translated: str
    override: Override


def check(files: GroupFiles, typed: ParsedOverride) -> list[Problem]:
    """Check an override, as far as that is possible without composing."""
    text, override = typed.text, typed.override
    key = override.key_or_group
    if not key:
        return [explain_unreadable(text)]
    if key == "hydra" and not override.is_delete():  # Hydra's own node has a file, so it looks like a group
        suggestion = "write one of its keys, such as hydra.run.dir=<folder>"
        return [Problem(key, f"{text}: hydra is a group of keys", suggestion, topic="type")]
    if override.is_sweep_override():
        return []
    if wrong := schema.find_large_integers(key, override.value()) or schema.find_number_flags(key, override.value()):
        return wrong
    if key == "hydra.searchpath" and not override.is_delete():
        return check_search_path(text, override.value())
    if wrong := check_deletion(text, override):
        return wrong
    if key == "hydra.job.env_copy":
        return check_copied(text, override.value())
    options = files.options(key)
    if override.is_delete():
        if options and key not in PRESETS and key in GROUPS:
            return [Problem(key, f"{text}: a run needs one", f"choose from {', '.join(options)}", topic="missing")]
        if schema.is_required(key):
            suggestion = f"write {schema.describe_expected(key) or 'its keys'}"
            return [Problem(key, f"{text}: a run needs {key}", suggestion, topic="missing")]
        return []
    if not options:
        return [_no_group(files, text, key)] if "/" in key else []
    if override.package is not None:
        suggestion = f"write {key}={override.value()}"
        return [Problem(key, f"{text}: {key} has a fixed place in the config", suggestion, topic="conflict")]
    if override.is_add() and key in GROUPS and key not in PRESETS:
        return [Problem(key, f"{text}: {key} exists already", f"write {text.lstrip('+')}", topic="conflict")]
    return _check_choice(files, text, key, override.value(), options)


def explain_syntax(files: GroupFiles, text: str) -> Problem:
    """Explain why Hydra's grammar rejects an argument; knows search paths and groups."""
    key, _, value = text.partition("=")
    if key == "hydra.searchpath":
        return check_search_path(text, value)[0]
    if value and (options := files.options(key)):
        return _unknown_choice(text, key, did_you_mean(value, options))
    return explain_unreadable(text)


def explain_several(files: GroupFiles, typed: ParsedOverride, cfg: DictConfig | None) -> Problem:
    """Explain `key=a,b` in a single run; the suggestion depends on the type of the key's value."""
    key, value = typed.override.key_or_group, typed.text.partition("=")[2]
    now = OmegaConf.select(cfg, key, throw_on_missing=False) if cfg is not None and "/" not in key else None
    is_choice = bool(files.options(key))
    suggestion = "add --multirun for a run of each, or write one"
    if is_choice:
        suggestion = "add --multirun for a run of each, or choose one"
    elif isinstance(now, ListConfig):
        suggestion = f"a list is written {key}=[{value}]"
    elif isinstance(now, str) or schema.is_text(key):
        suggestion = f"add --multirun for a run of each, or write one text as '{key}=\"{value}\"'"
    text = f"{typed.text} names several {'choices' if is_choice else 'values'}"
    return Problem(key, text, suggestion, topic="conflict")


def _check_choice(files: GroupFiles, text: str, group: str, value: Any, options: list[str]) -> list[Problem]:
    def problem(what: str, suggestion: str, topic: Topic = "choice") -> list[Problem]:
        return [Problem(group, f"{text}: {what}", suggestion, topic=topic)]

    if value is None and group in PRESETS:
        return []
    if value is None:
        return problem("a run needs one", advice.for_choice(group, "null", options), "missing")
    if isinstance(value, dict):
        suggestion = f"choose from {', '.join(options)}; write single keys as {group}.<key>=<value>"
        return problem(f"{group} is a choice", suggestion, "type")
    if isinstance(value, list) and len(value) != 1 and group not in PRESETS:
        choices = ",".join(map(str, value)) or "<one>,<another>"
        suggestion = f"choose one, or write --multirun {group}={choices} for a run of each"
        return problem(f"a run has one {group}", suggestion, "conflict")
    wrong = [choice for choice in (value if isinstance(value, list) else [value]) if str(choice) not in options]
    if wrong:
        return [_unknown_choice(text, group, advice.for_choice(group, str(wrong[0]), options))]
    if group in GROUPS and group not in (*PRESETS, *TARGET_GROUPS):
        return _check_file(files, text, group, str(value))
    return []


def _check_file(files: GroupFiles, text: str, group: str, choice: str) -> list[Problem]:
    """Check all keys in the file of a member of a group with fixed keys; Hydra stops at the first problem."""
    try:
        content = files.load(group, choice)
    except REFUSED as error:
        return [explain_error(error, text)]
    settings = OmegaConf.structured(schema.Config)
    known = dotted_keys(settings)
    problems = []
    prefix = f"{text} ({group}/{choice}.yaml)"
    for key in dotted_keys(content, f"{group}."):
        if key not in known:
            suggestion = suggest_key(key, known, {})
            problems.append(Problem(key, f"{prefix}: unknown key {key}", suggestion, topic="unknown"))
            continue
        value = content._get_node(key.removeprefix(f"{group}.")) if key.count(".") == 1 else None
        if value is None or isinstance(value, DictConfig) or value._is_interpolation() or value._is_missing():
            continue
        try:
            OmegaConf.update(settings, key, value._value())
        except OmegaConfBaseException:
            what = f"{prefix}: {key}={format_value(value._value())} is not valid"
            problems.append(Problem(key, what, f"write {schema.describe_expected(key)}", topic="type"))
    return problems


def _no_group(files: GroupFiles, text: str, key: str) -> Problem:
    parent = key.rpartition("/")[0]
    groups = [f"{parent}/{name}" for name in files.subgroups(parent)]
    return Problem(key, f"{text}: unknown group {key}", did_you_mean(key, groups or GROUPS), topic="unknown")


def check_preset_twice(typed: ParsedOverride, before: Sequence[ParsedOverride]) -> list[Problem]:
    """Reject a second preset of the same group: it would silently replace the first."""
    group = typed.override.key_or_group
    if group not in PRESETS or typed.override.is_delete() or typed.override.value() is None:
        return []
    other = next((earlier.text for earlier in before if earlier.override.key_or_group == group), None)
    if other is None:
        return []
    suggestion = "choose one, and set the keys of the other"
    return [Problem(group, f"{typed.text} and {other} exclude each other", suggestion, topic="conflict")]


def _unknown_choice(text: str, group: str, suggestion: str) -> Problem:
    return Problem(group, f"{text}: unknown {group.removeprefix('hydra/')}", suggestion, topic="choice")


def check_optimizers(cfg: DictConfig, overrides: Sequence[str]) -> list[Problem]:
    """Check that no single optimizer is typed beside several, which would leave it unused."""
    typed = [text for text in overrides if key_of(text).partition(".")[0] == "optimizer"]
    if not typed or not OmegaConf.select(cfg, "optimizers"):
        return []
    text = f"{typed[0]}: the optimizers of this run are those of the key optimizers"
    return [Problem("optimizer", text, "leave it out, or write optimizers.<name>.<key>=<value>", topic="conflict")]
