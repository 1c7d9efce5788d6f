"""Redaction: removing passwords, tokens and other secrets from any text."""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from runner.util.uri import strip_credentials

MASK = "***"

# A user name alone is not secret: `postgresql://ada@host`. With http it is a token, and so is a long name. A suggestion
# of an error, `<user>:<password>`, is not redacted.
_CREDENTIALS = re.compile(
    r"""(?<=://)(?!<user>:<password>@)[^/\s'"]*:[^\s'"]*(?=@)"""
    r"""|(?<=http://)[^/\s'"@]+(?=@)|(?<=https://)[^/\s'"@]+(?=@)|(?<=://)[^/\s'"@]{20,}(?=@)"""
    r"""|(?<![\w/.+-])[\w.+-]+:[^\s'":@/,]{3,}(?=@[\w.-]+)"""
)
_SECRET_QUERY = re.compile(
    r"(?i)([?&;](?:[\w.-]*(?:pass(?:word|wd|phrase)?|pwd|token|secret|credentials?|signature)|sig|auth(?:orization)?"
    r"|(?:[\w.-]*(?:api|access|secret|private|account)[-_]?)?key)=)[^&;\s'\"]+"
)
_SECRET_WORD = re.compile(  # in libpq's connection strings, and in the headers of a request
    r"""(?i)((?<![\w.+-])(?:password|passwd|pwd)\s?=\s?['"]?|authorization['"]?\s?[:=]\s?['"]?(?:\w+\s)?"""
    r"""|\b(?:bearer|basic)\s(?=[^\s'"]*\d))[^\s'",;&]+"""
)

# The name of an environment variable.
_SECRET_NAME = re.compile(
    r"(?i)(?:pass(?:word|wd|phrase)?|secret|token|credentials?|_pwd|_pat|(?:^|_|api|access)key)(?:_\w+)?$"
)
_REFERENCE = re.compile(r"""\$\{\s*oc\.env\s*:\s*['"]?(?!RUNNER_)(\w+)""")  # with the spaces that OmegaConf allows
_PUBLIC_KEY = re.compile(r"(?:^|[._])(?:paths?|root|dir|folder|file|name|experiment|tags|description)$")
_NUMBER = re.compile(r"[-+]?\d*\.?\d+(?:e[-+]?\d+)?", re.IGNORECASE)
_MIN_LENGTH = 8
"""The shortest secret. A shorter value may be a common word: many databases have the password `mlflow`."""

_NO_SECRETS = ("FINISHED", "SCHEDULED")
"""Words that could be a weak password, but that runner's own files need."""

_secret_variables: set[str] = set()
_hidden_variables: set[str] = set()
_passwords: set[str] = set()


def hide_variable(name: str) -> None:
    """Hide the value of an environment variable also if it is an address without credentials: its path may be one."""
    _hidden_variables.add(name)


@cache
def is_secret(name: str) -> bool:
    """Return whether the name of a variable or a key is that of a password, a token or another secret."""
    return _SECRET_NAME.search(name) is not None


def register_secrets(node: Any, key: str = "") -> None:
    """Register the secrets in a config or a command line for `redact`.

    These are the passwords in addresses, which an error may repeat without the address, and the environment variables
    that the config refers to. Variables are public if their key is that of a path or a name, or if their value is an
    address without credentials or a number.

    Args:
        node: a value of an unresolved config: a mapping, a list or a text.
        key: the key of the value.
    """
    if isinstance(node, Mapping):
        for name, value in node.items():
            register_secrets(value, str(name))
    elif isinstance(node, list):
        for value in node:
            register_secrets(value, key)
    elif isinstance(node, str):
        if "oc.env" in node and not _PUBLIC_KEY.search(key):
            _secret_variables.update(_REFERENCE.findall(node))
        if "@" in node:
            passwords = (match.partition(":")[2] for match in _CREDENTIALS.findall(node))
            _passwords.update(password for password in passwords if len(password) >= _MIN_LENGTH)


def register_secret_arguments(words: Iterable[str]) -> None:
    """Register the secrets in the arguments of a command, `key=value`."""
    register_secrets({key.lstrip("+"): value for key, _, value in (word.partition("=") for word in words)})


def redact(text: str) -> str:
    """Remove secrets from any text; for example, MLflow's errors repeat the address of the store.

    A secret of the environment is replaced by its interpolation, so that a config can still be used. Any other secret
    is replaced by `***`.
    """
    return _redact(text, _secrets())


def _redact(text: str, secrets: Sequence[tuple[str, str]]) -> str:
    if "@" in text:
        text = _CREDENTIALS.sub(MASK, text)
    if "=" in text:
        text = _SECRET_QUERY.sub(rf"\1{MASK}", text)
    lower = text.lower()
    if any(word in lower for word in ("passw", "pwd", "authorization", "bearer", "basic")):  # ten times faster
        text = _SECRET_WORD.sub(rf"\1{MASK}", text)
    for value, instead in secrets:
        if value in text:
            pattern = rf"(?<![\d.]){value}(?!\d)" if value.isdigit() else re.escape(value)  # not within a longer number
            text = instead.join(re.split(pattern, text))
    return text


def find_unfinished_secret(text: str) -> int:
    """Find an incomplete secret at the end of a text.

    Returns:
        The index at which it may begin; the length of the text if there is none.
    """
    begin = max(map(text.rfind, " \t\r\n")) + 1
    word = text[begin:]
    if "://" in word or "password" in word.lower():
        return begin
    longest = 0
    for value, _ in _secrets():
        sizes = range(1, min(len(value), len(text) + 1))
        longest = max([longest, *(size for size in sizes if text.endswith(value[:size]))])
    return len(text) - longest


def _secrets() -> list[tuple[str, str]]:
    """List the secrets and their replacements, the longest first, because one may contain another."""
    replacements = {form: MASK for value in _passwords for form in _forms(value)}
    for name, value in os.environ.items():
        if len(value) < _MIN_LENGTH:
            continue
        # An address without credentials must remain, because links point to it.
        public = _NUMBER.fullmatch(value) or ("://" in value and strip_credentials(value) == value)
        if is_secret(name) or name in _hidden_variables or (name in _secret_variables and not public):
            replacements |= dict.fromkeys(_forms(value), f"${{oc.env:{name}}}")
    return sorted(replacements.items(), key=lambda pair: -len(pair[0]))


@cache
def _forms(value: str) -> tuple[str, ...]:
    """List the forms of a secret in a text: unchanged, line by line, percent-encoded, in a string of Python or JSON.

    An existing path is not a secret, and neither is the user's name or a part of the current folder's path: redacting
    the password `postgres` of the user postgres would remove the paths of runs.
    """
    user = (os.environ.get(name) for name in ("USER", "LOGNAME"))
    if value in _NO_SECRETS or value in user or value in os.environ.get("PWD", "") or _is_path(value):
        return ()
    forms = {value, quote(value, safe=""), quote_plus(value), repr(value)[1:-1], json.dumps(value)[1:-1]}
    lines = {line.strip() for line in value.splitlines()} if "\n" in value else set()
    return tuple(form for form in forms | lines if len(form) >= _MIN_LENGTH)


def _is_path(value: str) -> bool:
    """Return whether a value is a path in an existing folder: of a key file, or of a folder with data."""
    try:
        return value.startswith(("/", "~")) and Path(value).expanduser().parent.is_dir() and len(Path(value).parts) > 1
    except (OSError, RuntimeError, ValueError):
        return False


def redact_all(node: Any) -> Any:
    """Redact all texts in nested mappings and lists."""
    return _redact_all(node, _secrets())  # listing the secrets takes ten times as long as redacting a short text


def _redact_all(node: Any, secrets: Sequence[tuple[str, str]]) -> Any:
    if isinstance(node, dict):
        return {key: _redact_all(value, secrets) for key, value in node.items()}
    if isinstance(node, list):
        return [_redact_all(value, secrets) for value in node]
    return _redact(node, secrets) if isinstance(node, str) else node
