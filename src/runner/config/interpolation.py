"""OmegaConf's references in texts: `${data.root}`, `${oc.env:NAME}`."""

import re
from collections.abc import Mapping
from typing import Any

_REFERENCE = re.compile(r"(\\*)\$\{")


def escape_references(text: str) -> str:
    """A text as OmegaConf gives it back: `${x}` may be the name of a folder."""
    return _REFERENCE.sub(r"\1\1\\${", text)


def escape_all_references(node: Any, but: str | None = None) -> Any:
    """The same for every text in nested mappings and lists, but for references that begin so: `oc.env:`."""
    if isinstance(node, Mapping):
        return {key: escape_all_references(value, but) for key, value in node.items()}
    if isinstance(node, list):
        return [escape_all_references(value, but) for value in node]
    return escape_references(node) if isinstance(node, str) and not (but and f"${{{but}" in node) else node
