"""Escaping of OmegaConf's references in texts: `${data.root}`, `${oc.env:NAME}`."""

import re
from collections.abc import Mapping
from typing import Any

_REFERENCE = re.compile(r"(\\*)\$\{")


def escape_references(text: str) -> str:
    """Escape a text so that OmegaConf resolves it to itself: `${x}` may be the name of a folder."""
    return _REFERENCE.sub(r"\1\1\\${", text)


def escape_all_references(node: Any, keep: str | None = None) -> Any:
    """Escape all texts in nested mappings and lists.

    Args:
        node: a value of a config.
        keep: texts with a reference that begins with this, such as `oc.env:`, remain unchanged.
    """
    if isinstance(node, Mapping):
        return {key: escape_all_references(value, keep) for key, value in node.items()}
    if isinstance(node, list):
        return [escape_all_references(value, keep) for value in node]
    return escape_references(node) if isinstance(node, str) and not (keep and f"${{{keep}" in node) else node
