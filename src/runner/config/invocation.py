"""The command that somebody typed, for the record of a run: without credentials, in one line that can be pasted."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.config.keys import ADDRESSES, GROUPS, format_value
from runner.config.overrides import key_of
from runner.util.redaction import is_secret, redact
from runner.util.uri import without_userinfo

PROGRAM = "python -m runner"
MARK = "# $ "
"""Begins the lines of a config.yaml that hold a command."""

HIDDEN = "***"

_USERINFO = re.compile(r"""(?<![^\s'"=,(\[{])[^\s/:@'"=,(\[{]+:[^\s@'"]+@""")  # in what begins with no scheme
_REFERENCE = re.compile(r"\$\{[^{}]*\}")

NAMELESS = (
    "tracking", "hydra", "runner", "resume", "resume_mode", "sweep", "data.root", "data.num_workers", "device.threads",
    "device.evaluation_threads",
)  # fmt: skip
"""Keys, and groups of keys, that do not tell runs apart."""

_WORDS, _WORD = 60, 24
"""Characters of a name before its date, and of one word in it."""


def without_credentials(arguments: Sequence[str]) -> list[str]:
    """The arguments with `***` for the values of address keys, for `user:password@`, and for other secrets."""
    return [_without_credentials(text) for text in arguments]


def _without_credentials(argument: str) -> str:
    name, equals, value = argument.partition("=")
    key = key_of(argument)
    secret = key in ADDRESSES or is_secret(key.rpartition(".")[2])
    if equals and secret and value not in ("", "null") and not _REFERENCE.fullmatch(value):
        return f"{name}={HIDDEN}"
    # A NUL, which no argument can hold, stands for what is hidden while the rest is looked at.
    return redact(_USERINFO.sub("\0", without_userinfo(argument, "\0"))).replace("\0", f"{HIDDEN}@")


def describe_command(arguments: Sequence[str]) -> str:
    """One line for a shell that starts runner with these arguments."""
    return " ".join([PROGRAM, *map(_quoted, arguments)])


def _quoted(argument: str) -> str:
    if argument.isprintable():
        return shlex.quote(argument)
    # A line break, or bytes that are not UTF-8: as bash and zsh write them.
    plain = (
        chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}" for byte in os.fsencode(argument)
    )
    return f"$'{''.join(plain)}'"


def read_commands(config: Path) -> list[str]:
    """The commands that a saved config names: the one that began its run, and those that resumed it."""
    try:
        lines = config.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    return [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]


def format_description(text: str | None, commands: Sequence[str]) -> str:
    """What MLflow shows as the description of a run, in Markdown.

    Args:
        text: of the user's.
        commands: that began the run, and that resumed it.
    """
    lines = "\n".join(f"$ {line}" for line in commands)
    fence = "`" * max([3, *(len(ticks) + 1 for ticks in re.findall("`+", lines))])
    return "\n\n".join(
        part for part in (redact(text or ""), f"{fence}console\n{lines}\n{fence}" if lines else "") if part
    )


def format_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    """The user's own tags as MLflow takes them, without credentials."""
    return {name: redact(format_value(value)) for name, value in tags.items()}


def make_run_name(typed: Sequence[str], choices: Mapping[str, str], folder: Path) -> str:
    """Name a run by what tells it apart: what was typed, then model and data, then when it began.

    Args:
        typed: the arguments of its command, without credentials.
        choices: which member of each group was chosen.
        folder: the run's own; its name says when the run began, or is the user's own.
    """
    told = {key_of(text): text.partition("=")[2] for text in typed if "=" in text and not text.startswith("-")}
    words = [
        _word(key, value)
        for key, value in told.items()
        if key.partition(".")[0] not in NAMELESS and key not in NAMELESS
    ]
    words += [choices[group] for group in ("model", "data") if group in choices]
    words = list(dict.fromkeys(word for word in words if word))
    return with_date(" ".join(words), folder)


def with_date(what: str, folder: Path) -> str:
    """Put the name of a run's folder, or the time that begins it (`01-31_23-59-59`), behind what the run is."""
    time = re.match(r"\d{4}-(\d\d-\d\d_\d\d-\d\d-\d\d)(?:$|_)", folder.name)
    twin = re.search(r"(?:^|_)(\d+)$", folder.name[time.end() :]) if time else None  # a second start in that second
    when = f"{time[1]}{f'_{twin[1]}' if twin else ''}" if time else folder.name
    return f"{cut(what, _WORDS)} {when}".strip()


def cut(text: str, length: int) -> str:
    """The text, or its beginning with dots."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _word(key: str, value: str) -> str:
    """A setting in a name: `adamw` for `optimizer=adamw`, `lr=0.1` for `optimizer.lr=0.1`, nothing for null."""
    value = value.strip("'\"")
    if value == "null":
        return ""
    leaf = key.rpartition(".")[2]
    if leaf == "_target_":
        return cut(value.rpartition(".")[2], _WORD)
    if key in GROUPS:
        return cut(value, _WORD)
    return f"{leaf}={cut(value.rstrip('/').rpartition('/')[2], _WORD)}"
