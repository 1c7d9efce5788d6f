"""Addresses of tracking stores and studies: SQLite files, databases and servers; removing credentials from them."""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

# Characters that SQLAlchemy (2.1 and later decode addresses) or OmegaConf would not read as part of a path.
_RESERVED = re.compile(r"[%?#$\x00-\x1f\x7f]")

# The first form is greedy, for passwords with a `/` or `@` that is not percent-encoded.
_USERINFO = re.compile(r"""(?<=://)(?:[^/\s'"]*:[^\s'"]*@|[^/\s'"]+@)""")

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""Kinds of databases that MLflow can use as a store."""

# Greedy, for passwords with a `/` or `@` that is not percent-encoded.
_PASSWORD = re.compile(r"""(?<=://)(?P<user>[^:/\s'"@]*):(?P<password>[^\s'"]*)@""")
_REFERENCE = re.compile(r"\$\{oc\.env:\w+\}")
_SECRET_ITEM = re.compile(r"(?i)pass|pwd|token|secret|credential|key=|sig")


def sqlite_address(file: Path, like: str = "sqlite:///") -> str:
    """Make SQLAlchemy's address of a SQLite file, with reserved characters percent-encoded.

    Args:
        file: an absolute path.
        like: an address with the driver and the query to use.
    """
    path = _RESERVED.sub(lambda match: f"%{ord(match[0]):02X}", str(file))
    scheme, query = like.partition(":///")[0], "".join(like.partition("?")[1:])
    if scheme == "sqlite" and "%" in path:
        scheme = "sqlite+pysqlite"  # the same driver; for `sqlite`, MLflow creates a folder with the encoded name
    return f"{scheme}:///{path}{query}"


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a SQLite store; None for any other store."""
    scheme, separator, path = uri.partition(":///")
    if not separator or not scheme.startswith("sqlite") or path in ("", ":memory:"):
        return None
    return Path(unquote(path.partition("?")[0]))


def absolute_uri(uri: str) -> str:
    """Make the path in the address of a SQLite store absolute; return any other address unchanged."""
    file = sqlite_file(uri)
    if file is None:
        return uri
    return sqlite_address(Path.cwd() / os.path.expanduser(file), uri)  # noqa: PTH111 - `~x` may be a folder


def expand_home(value: str) -> str:
    """Expand `~` at the beginning of a path, also of the path in `sqlite:///~/...`."""
    if value.partition(":///")[2].startswith("~"):
        return absolute_uri(value)
    return os.path.expanduser(value)  # noqa: PTH111 - pathlib would change a value that is not a path


def without_userinfo(text: str, instead: str = "") -> str:
    """Replace `user:password@` and `user@` in all addresses in a text."""
    return _USERINFO.sub(instead, text)


def strip_credentials(uri: str) -> str:
    """Remove the secrets from an address; return a path or a name unchanged.

    In the address of a database, the user's name and the other parts of the query remain, because it does not work
    without them; a password remains if it is a reference (`${oc.env:...}`). In the address of a server, user, password
    and query are removed.
    """
    if "://" not in uri or sqlite_file(uri) is not None:
        return uri
    if uri.partition("://")[0].partition("+")[0] in DATABASES:
        uri = _PASSWORD.sub(
            lambda match: match[0] if _REFERENCE.fullmatch(match["password"]) else f"{match['user']}@", uri
        )
        base, _, query = uri.partition("?")
        public = [item for item in query.split("&") if item and not _SECRET_ITEM.search(item)]
        return f"{base}?{'&'.join(public)}" if public else base
    parts = urlsplit(_USERINFO.sub("", uri))
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))


def scheme_of(uri: str) -> str:
    """Return the scheme of an address without the driver of a database: `sqlite`, `http`; empty without one."""
    return uri.partition("://")[0].partition("+")[0] if "://" in uri else ""


def is_server_address(uri: str) -> bool:
    """Whether the address of a server has a host, and a port that can be."""
    try:
        parts = urlsplit(uri)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as a bracket that is not closed, or a port above 65,535
        return False
