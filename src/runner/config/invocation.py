"""The command of a run, for its record: without credentials, and in one line that can be pasted into a shell."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.config.keys import ADDRESSES, GROUPS, format_value
from runner.config.overrides import key_of
from runner.util.redaction import is_secret, redact
from runner.util.tables import shorten
from runner.util.uri import without_userinfo

PROGRAM = "python -m runner"
MARK = "# $ "
"""The beginning of a line in config.yaml that holds a command."""

HIDDEN = "***"

_USERINFO = re.compile(r"""(?<![^\s'"=,(\[{])[^\s/:@'"=,(\[{]+:[^\s@'"]+@""")  # in an address without a scheme
_OBJECT = re.compile(r"runner\.objects\.(\w+)_[0-9a-f]{16}")
_REFERENCE = re.compile(r"\$\{[^{}]*\}")

NAMELESS = (
    "tracking", "hydra", "runner", "resume", "resume_mode", "sweep", "data.root", "data.num_workers", "device.threads",
    "device.evaluation_threads",
)  # fmt: skip
"""Keys, and groups of keys, that are not part of a run's name."""

CUSTOM = "custom"
"""The member of a group that stands for a class or function of the user's."""

_NAME_LENGTH, _WORD_LENGTH = 60, 24
"""The longest name without its date, and the longest word in it, in characters."""


def without_credentials(arguments: Sequence[str]) -> list[str]:
    """Replace the values of address keys, `user:password@` and other secrets in arguments by `***`."""
    return [_without_credentials(text) for text in arguments]


def _without_credentials(argument: str) -> str:
    name, equals, value = argument.partition("=")
    key = key_of(argument)
    secret = key in ADDRESSES or is_secret(key.rpartition(".")[2])
    if equals and secret and value not in ("", "null") and not _REFERENCE.fullmatch(value):
        return f"{name}={HIDDEN}"
    # A NUL, which no argument can contain, marks the hidden parts while the rest is redacted.
    return redact(_USERINFO.sub("\0", without_userinfo(argument, "\0"))).replace("\0", f"{HIDDEN}@")


def describe_command(arguments: Sequence[str]) -> str:
    """Format a command for a shell that starts runner with these arguments, in one line."""
    return " ".join([PROGRAM, *map(_quote_for_shell, arguments)])


def _quote_for_shell(argument: str) -> str:
    if argument.isprintable():
        return shlex.quote(argument)
    # A line break, or bytes that are not UTF-8, in the notation of bash and zsh.
    plain = (
        chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}" for byte in os.fsencode(argument)
    )
    return f"$'{''.join(plain)}'"


def read_commands(config: Path) -> list[str]:
    """Read the commands in a saved config: the one that started its run, and those that resumed it."""
    try:
        lines = config.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    return [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]


def format_description(text: str | None, commands: Sequence[str]) -> str:
    """Format a run's description for MLflow, in Markdown.

    Args:
        text: the user's description.
        commands: the commands that started and resumed the run.
    """
    lines = "\n".join(f"$ {line}" for line in commands)
    fence = "`" * max([3, *(len(ticks) + 1 for ticks in re.findall("`+", lines))])
    return "\n\n".join(
        part for part in (redact(text or ""), f"{fence}console\n{lines}\n{fence}" if lines else "") if part
    )


def format_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    """Format the user's tags for MLflow, without credentials."""
    return {name: redact(format_value(value)) for name, value in tags.items()}


def named_choices(choices: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, str]:
    """Return the chosen members of the groups; where one is `custom`, the name of its class or function.

    Args:
        choices: the chosen member of each group.
        config: with the groups.
    """
    named = dict(choices)
    for group, choice in choices.items():
        node = config.get(group) if choice == CUSTOM else None
        target = node.get("_target_") if isinstance(node, Mapping) else None
        if isinstance(target, str) and target != "???":
            named[group] = _name_of(target)
    return named


def _name_of(target: str) -> str:
    """Return the name of a class or function, `Net` also for `runner.objects.Net_3f2a91bc4d5e6f70`."""
    pickled = _OBJECT.fullmatch(target)
    return pickled[1] if pickled else target.rpartition(".")[2]


def name_customs(requested: str, choices: Mapping[str, str], named: Mapping[str, str]) -> str:
    """Return the path of a run's folder with the names of its own classes and functions instead of `custom`.

    Args:
        requested: the path, which ends in model and data unless the user has chosen it.
        choices: the chosen member of each group.
        named: as `named_choices` returns them.
    """
    groups = [group for group in ("model", "data") if group in choices]
    ending, names = (f"_{'_'.join(of[group] for group in groups)}" for of in (choices, named))
    return requested.removesuffix(ending) + names if groups and requested.endswith(ending) else requested


def make_run_name(typed: Sequence[str], choices: Mapping[str, str], folder: Path) -> str:
    """Make a run's name from the overrides of its command, its model and data, and its start time.

    Args:
        typed: the arguments of its command, without credentials.
        choices: the chosen member of each group, as `named_choices` returns them.
        folder: the run's folder; its name contains the start time, unless the user has chosen it.
    """
    values = {key_of(text): text.partition("=")[2] for text in typed if "=" in text and not text.startswith("-")}
    words = [
        _word(key, choices.get(key, value) if value == CUSTOM else value)
        for key, value in values.items()
        if key.partition(".")[0] not in NAMELESS and key not in NAMELESS
    ]
    words += [choices[group] for group in ("model", "data") if group in choices]
    words = list(dict.fromkeys(word for word in words if word))
    return with_date(" ".join(words), folder)


def with_date(name: str, folder: Path) -> str:
    """Append the start time in the name of a run's folder (`01-31_23-59-59`), or else all of the folder's name."""
    time = re.match(r"\d{4}-(\d\d-\d\d_\d\d-\d\d-\d\d)(?:$|_)", folder.name)
    twin = re.search(r"(?:^|_)(\d+)$", folder.name[time.end() :]) if time else None  # a second start in that second
    when = f"{time[1]}{f'_{twin[1]}' if twin else ''}" if time else folder.name
    return f"{shorten(name, _NAME_LENGTH)} {when}".strip()


def _word(key: str, value: str) -> str:
    """Format a setting for a name: `optimizer=adamw` as `adamw`, `optimizer.lr=0.1` as `lr=0.1`, null as nothing."""
    value = value.strip("'\"")
    if value == "null":
        return ""
    leaf = key.rpartition(".")[2]
    if leaf == "_target_":
        return shorten(_name_of(value), _WORD_LENGTH)
    if key in GROUPS:
        return shorten(value, _WORD_LENGTH)
    return f"{leaf}={shorten(value.rstrip('/').rpartition('/')[2], _WORD_LENGTH)}"
