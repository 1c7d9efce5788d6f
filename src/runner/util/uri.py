"""Addresses of tracking stores: which are files; and how to name one, or say anything, without giving a secret away."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit, urlunsplit

# What SQLAlchemy (2.1 and later, which decode it) or OmegaConf would not take for a part of a path.
_RESERVED = re.compile(r"[%?#$\x00-\x1f\x7f]")

# The first form is greedy for a password with a `/` or `@` that nobody percent-encoded.
_USERINFO = re.compile(r"""(?<=://)(?:[^/\s'"]*:[^\s'"]*@|[^/\s'"]+@)""")

MASK = "***"

# A user name alone is no secret: `postgresql://ada@host`. Behind http it is a token, and so is what is long. What an
# error says to write, `<user>:<password>`, stays.
_CREDENTIALS = re.compile(
    r"""(?<=://)(?!<user>:<password>@)[^/\s'"]*:[^\s'"]*(?=@)"""
    r"""|(?<=http://)[^/\s'"@]+(?=@)|(?<=https://)[^/\s'"@]+(?=@)|(?<=://)[^/\s'"@]{20,}(?=@)"""
    r"""|(?<![\w/.+-])[\w.+-]+:[^\s'":@/,]{3,}(?=@[\w.-]+)"""
)
_SECRET_QUERY = re.compile(
    r"(?i)([?&;](?:[\w.-]*(?:pass(?:word|wd|phrase)?|pwd|token|secret|credentials?|signature)|sig|auth(?:orization)?"
    r"|(?:[\w.-]*(?:api|access|secret|private|account)[-_]?)?key)=)[^&;\s'\"]+"
)
_SECRET_WORD = re.compile(  # of libpq's connection strings, and of a request's headers
    r"""(?i)((?<![\w.+-])(?:password|passwd|pwd)\s?=\s?['"]?|authorization['"]?\s?[:=]\s?['"]?(?:\w+\s)?"""
    r"""|\b(?:bearer|basic)\s(?=[^\s'"]*\d))[^\s'",;&]+"""
)

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""What MLflow keeps a store in, beside a server."""

# Behind the user's name; greedy for a password with a `/` or `@` that nobody percent-encoded.
_PASSWORD = re.compile(r"""(?<=://)(?P<user>[^:/\s'"@]*):(?P<password>[^\s'"]*)@""")
_REFERRED = re.compile(r"\$\{oc\.env:\w+\}")
_SECRET_ITEM = re.compile(r"(?i)pass|pwd|token|secret|credential|key=|sig")

# Of a variable in the environment. What is shorter may be a word of ours: the password of many a database is `mlflow`.
_SECRET_NAME = re.compile(
    r"(?i)(?:pass(?:word|wd|phrase)?|secret|token|credentials?|_pwd|_pat|(?:^|_|api|access)key)(?:_\w+)?$"
)
_REFERENCE = re.compile(r"""\$\{\s*oc\.env\s*:\s*['"]?(?!RUNNER_)(\w+)""")  # as OmegaConf's grammar lets it be written
_PUBLIC_KEY = re.compile(r"(?:^|[._])(?:paths?|root|dir|folder|file|name|experiment|tags|description)$")
_NUMBER = re.compile(r"[-+]?\d*\.?\d+(?:e[-+]?\d+)?", re.IGNORECASE)
_SHORTEST_SECRET = 8
_NO_SECRETS = ("FINISHED", "SCHEDULED")
"""Words that a weak password may be, and that files of ours are read by."""

_named: set[str] = set()
_typed: set[str] = set()


def sqlite_address(file: Path, like: str = "sqlite:///") -> str:
    """Name a SQLite file as SQLAlchemy takes it: a character with a meaning in an address is percent-encoded.

    Args:
        file: absolute.
        like: an address whose driver and query it gets.
    """
    path = _RESERVED.sub(lambda found: f"%{ord(found[0]):02X}", str(file))
    scheme, query = like.partition(":///")[0], "".join(like.partition("?")[1:])
    if scheme == "sqlite" and "%" in path:
        scheme = "sqlite+pysqlite"  # the same driver; by the short name, MLflow makes the folder as it is encoded
    return f"{scheme}:///{path}{query}"


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a SQLite store, None for every other kind."""
    scheme, separator, path = uri.partition(":///")
    if not separator or not scheme.startswith("sqlite") or path in ("", ":memory:"):
        return None
    return Path(unquote(path.partition("?")[0]))


def absolute_uri(uri: str) -> str:
    """The address, with the file of a SQLite store named such that it is the same one from any folder."""
    file = sqlite_file(uri)
    if file is None:
        return uri
    return sqlite_address(Path.cwd() / os.path.expanduser(file), uri)  # noqa: PTH111 - `~x` may be a folder


def expand_home(value: str) -> str:
    """Put the home folder for `~` at the beginning of a path, also of one behind `sqlite:///`."""
    if value.partition(":///")[2].startswith("~"):
        return absolute_uri(value)
    return os.path.expanduser(value)  # noqa: PTH111 - what is no path stays as it is, to the letter


def without_userinfo(text: str, instead: str = "") -> str:
    """Replace `user:password@`, or `user@`, in every address in a text."""
    return _USERINFO.sub(instead, text)


def is_secret(name: str) -> bool:
    """Tell whether a variable or a key of this name holds a password, a token or the like."""
    return _SECRET_NAME.search(name) is not None


def strip_credentials(uri: str) -> str:
    """Drop what is secret in an address; anything else (a path, a name) stays as it is.

    Of a database, the name of the user and what else is no secret are kept, as nothing works without them; a password
    is, where it is a reference (`${oc.env:...}`). Of a server, user, password and query are dropped.
    """
    if "://" not in uri or sqlite_file(uri) is not None:
        return uri
    if uri.partition("://")[0].partition("+")[0] in DATABASES:
        uri = _PASSWORD.sub(
            lambda found: found[0] if _REFERRED.fullmatch(found["password"]) else f"{found['user']}@", uri
        )
        base, _, query = uri.partition("?")
        kept = [item for item in query.split("&") if item and not _SECRET_ITEM.search(item)]
        return f"{base}?{'&'.join(kept)}" if kept else base
    parts = urlsplit(_USERINFO.sub("", uri))
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))


def register_secrets(node: Any, key: str = "") -> None:
    """Let `redact` know of the secrets that a config or a command line names.

    These are the variables that it takes out of the environment, whatever their names, but for what is a name or a
    place by its key or its value, and for numbers; and the passwords in addresses, which an error may repeat alone.

    Args:
        node: a value of a config before it is resolved: a mapping, a list, a text.
        key: of the value.
    """
    if isinstance(node, Mapping):
        for name, value in node.items():
            register_secrets(value, str(name))
    elif isinstance(node, list):
        for value in node:
            register_secrets(value, key)
    elif isinstance(node, str):
        if "oc.env" in node and not _PUBLIC_KEY.search(key):
            _named.update(_REFERENCE.findall(node))
        if "@" in node:
            passwords = (found.partition(":")[2] for found in _CREDENTIALS.findall(node))
            _typed.update(password for password in passwords if len(password) >= _SHORTEST_SECRET)


def register_secret_arguments(words: Iterable[str]) -> None:
    """The same for the arguments of a command: `key=value`."""
    register_secrets({key.lstrip("+"): value for key, _, value in (word.partition("=") for word in words)})


def redact(text: str) -> str:
    """Take credentials out of any text: MLflow's errors repeat the address they were sent to.

    A secret of the environment is replaced by the interpolation that gives it: so a config can be used again. Any
    other becomes `***`.
    """
    if "@" in text:
        text = _CREDENTIALS.sub(MASK, text)
    if "=" in text:
        text = _SECRET_QUERY.sub(rf"\1{MASK}", text)
    lower = text.lower()
    if any(word in lower for word in ("passw", "pwd", "authorization", "bearer", "basic")):  # ten times faster
        text = _SECRET_WORD.sub(rf"\1{MASK}", text)
    for value, instead in _secrets():
        if value in text:
            pattern = rf"(?<![\d.]){value}(?!\d)" if value.isdigit() else re.escape(value)  # not in a measured number
            text = instead.join(re.split(pattern, text))
    return text


def find_unfinished_secret(text: str) -> int:
    """Where, at the end of a text, something begins that may turn out to be a secret; its length if nothing does."""
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
    """Texts that give a secret away, with what to write instead; a longer one before one that it contains."""
    found = {form: MASK for value in _typed for form in _forms(value)}
    for name, value in os.environ.items():
        if len(value) < _SHORTEST_SECRET:
            continue
        # An address without credentials is a place: links lead there.
        public = _NUMBER.fullmatch(value) or ("://" in value and strip_credentials(value) == value)
        if _is_secret(name) or (name in _named and not public):
            found |= dict.fromkeys(_forms(value), f"${{oc.env:{name}}}")
    return sorted(found.items(), key=lambda pair: -len(pair[0]))


@cache
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


@cache
def _forms(value: str) -> tuple[str, ...]:
    """How a secret may stand in a text: as it is, line by line, percent-encoded, in a string of Python or JSON.

    A place is none, nor is what the user or the current folder is called: the password `postgres` of the user
    postgres would take the paths away that runs are found by.
    """
    user = (os.environ.get(name) for name in ("USER", "LOGNAME"))
    if value in _NO_SECRETS or value in user or value in os.environ.get("PWD", "") or _is_place(value):
        return ()
    forms = {value, quote(value, safe=""), quote_plus(value), repr(value)[1:-1], json.dumps(value)[1:-1]}
    lines = {line.strip() for line in value.splitlines()} if "\n" in value else set()
    return tuple(form for form in forms | lines if len(form) >= _SHORTEST_SECRET)


def _is_place(value: str) -> bool:
    """Whether it is a path that is there: of a file with a key, or of a folder with data."""
    try:
        return value.startswith(("/", "~")) and Path(value).expanduser().parent.is_dir() and len(Path(value).parts) > 1
    except (OSError, RuntimeError, ValueError):
        return False


def redact_all(node: Any) -> Any:
    """The same for every text in nested mappings and lists."""
    if isinstance(node, dict):
        return {key: redact_all(value) for key, value in node.items()}
    if isinstance(node, list):
        return [redact_all(value) for value in node]
    return redact(node) if isinstance(node, str) else node
