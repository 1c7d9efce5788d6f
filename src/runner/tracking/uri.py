"""Addresses of tracking stores: which are files; and how to name one, or say anything, without giving a secret away."""

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

# What SQLAlchemy (2.1 and later, which decode it) or OmegaConf would not take for a part of a path.
_RESERVED = re.compile(r"[%?#$\x00-\x1f\x7f]")

# The first form is greedy for a password with a `/` or `@` that nobody percent-encoded.
_USERINFO = re.compile(r"""(?<=://)(?:[^/\s'"]*:[^\s'"]*@|[^/\s'"]+@)""")
_SECRET_QUERY = re.compile(
    r"(?i)([?&](?:user(?:name)?|pass(?:word)?|pwd|(?:\w+[-_])?token|(?:(?:api|access|secret|private|account)[-_]?)?key"
    r"|sig(?:nature)?)=)[^&\s'\"]+"
)

# Of a variable in the environment. What is shorter may be a word of ours: the password of many a database is `mlflow`.
_SECRET_NAME = re.compile(
    r"(?i)(?:pass(?:word|wd|phrase)?|secret|token|credentials?|_pwd|_pat|(?:^|_|api|access)key)(?:_\w+)?$"
)
_SHORTEST_SECRET = 8


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


def absolute(uri: str) -> str:
    """The address, with the file of a SQLite store named such that it is the same one from any folder."""
    file = sqlite_file(uri)
    if file is None:
        return uri
    return sqlite_address(Path.cwd() / os.path.expanduser(file), uri)  # noqa: PTH111 - `~x` may be a folder


def strip_credentials(uri: str) -> str:
    """Drop user, password and query from an address; anything else (a path, a name) stays as it is."""
    if "://" not in uri or sqlite_file(uri) is not None:
        return uri
    parts = urlsplit(_USERINFO.sub("", uri))
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))


def redact(text: str) -> str:
    """Take credentials out of any text: MLflow's errors repeat the address they were sent to.

    A secret of the environment is replaced by the interpolation that gives it: so a config can be used again.
    """
    text = _SECRET_QUERY.sub(r"\1***", _USERINFO.sub("", text))
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and _SECRET_NAME.search(name) and value in text:
            text = text.replace(value, f"${{oc.env:{name}}}")
    return text


def redacted(node: Any) -> Any:
    """The same for every text in nested mappings and lists."""
    if isinstance(node, dict):
        return {key: redacted(value) for key, value in node.items()}
    if isinstance(node, list):
        return [redacted(value) for value in node]
    return redact(node) if isinstance(node, str) else node
