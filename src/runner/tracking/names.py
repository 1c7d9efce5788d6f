"""Names as MLflow takes them: it refuses `@ [ ] = ,` and whatever reads like a path outside."""

import re
import zlib
from collections.abc import Iterable

_ILLEGAL = re.compile(r"[^\w./: -]", re.ASCII)
_LONGEST = 250


def legal(name: str, taken: Iterable[str] = ()) -> str:
    """Make a name legal in MLflow: `accuracy@5` becomes `accuracy_5`.

    Args:
        name: of a metric, a parameter or a tag.
        taken: legal names in use for something else; a clash gets a suffix made from the name itself.
    """
    parts = [part for part in _ILLEGAL.sub("_", name).split("/") if part not in ("", ".", "..")]
    key = "/".join(parts) or "_"
    if len(key) > _LONGEST or key in taken:
        suffix = f"_{zlib.crc32(name.encode()):08x}"
        key = key[: _LONGEST - len(suffix)] + suffix
    return key
