"""Addresses of tracking stores: which are files, and how to name one without giving a secret away."""

import re
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

# The first form is greedy for a password with a `/` or `@` that nobody percent-encoded.
_USERINFO = re.compile(r"""(?<=://)(?:[^/\s'"]*:[^\s'"]*@|[^/\s'"]+@)""")
_SECRET_QUERY = re.compile(r"(?i)([?&](?:user(?:name)?|pass(?:word)?|pwd|token|[\w-]*key|sig(?:nature)?)=)[^&\s'\"]+")


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a SQLite store, None for every other kind."""
    scheme, separator, path = uri.partition(":///")
    if not separator or not scheme.startswith("sqlite") or path in ("", ":memory:"):
        return None
    return Path(path.partition("?")[0])


def strip_credentials(uri: str) -> str:
    """Drop user, password and query from an address; anything else (a path, a name) stays as it is."""
    if "://" not in uri or sqlite_file(uri) is not None:
        return uri
    parts = urlsplit(_USERINFO.sub("", uri))
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))


def redact(text: str) -> str:
    """Take credentials out of any text: MLflow's errors repeat the address they were sent to."""
    return _SECRET_QUERY.sub(r"\1***", _USERINFO.sub("", text))
