"""A bound on what the references of a config (`${data.root}`) expand to.

OmegaConf resolves a reference again each time it reads it: without a bound a few lines that double take hours.
"""

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from runner.config.nesting import MAX_DEPTH, MAX_EXPANDED
from runner.errors import ConfigError, Problem

_BY_KEY = r"oc\.select|oc\.dict\.keys|oc\.dict\.values"
_REFERENCE = re.compile(rf"(?<!\\)\$\{{\s*(?:(?:{_BY_KEY})\s*:\s*|(hydra):)?(\.*[^${{}}:,\s]*)")

Path = tuple[str, ...]


def check_references(cfg: DictConfig) -> None:
    """Check that the references of a config stand for at most `MAX_EXPANDED` values.

    A key that is itself made of references is not followed.

    Raises:
        ConfigError: they stand for more; it names a key that does.
        RecursionError: they lead back to themselves, or form a chain that is too long.
    """
    sizes = _Sizes(OmegaConf.to_container(cfg, resolve=False))
    if sizes.of(()) <= MAX_EXPANDED + len(sizes.known):
        return
    path = max((p for p in sizes.known if p), key=lambda p: (sizes.known[p], -len(p)))
    while children := [p for p in sizes.known if p[:-1] == path and sizes.known[p] > MAX_EXPANDED]:
        path = children[0]
    key = ".".join(path)
    text = f"{key}: its references stand for more than {MAX_EXPANDED:,} values"
    raise ConfigError(Problem(key, text, "use fewer", topic="range"))


class _Sizes:
    """Counts the values that each node stands for, every node once.

    Args:
        root: the config as plain containers, with unresolved references.

    Attributes:
        known: the counts by path.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self.known: dict[Path, int] = {}

    def of(self, path: Path) -> int:
        """Count a node's values; 0 of one that does not exist, or within itself, both of which OmegaConf reports."""
        if path in self.known:
            return self.known[path]
        self.known[path] = 0
        try:
            node = self._node(path)
        except LookupError:
            return 0
        if isinstance(node, dict | list):
            names = node if isinstance(node, dict) else range(len(node))
            size = 1 + sum(self.of((*path, str(name))) for name in names)
        else:
            size = 1 + sum(self.of(target) for target in _targets(node, path))
        self.known[path] = size
        return size

    def _node(self, path: Path) -> Any:
        """Find a node; the way to it may lead through a reference to a container.

        Raises:
            LookupError: there is none.
        """
        node, at = self._root, Path()
        for name in path:
            for _ in range(MAX_DEPTH):
                if len(targets := _targets(node, at)) != 1:
                    break
                at = targets[0]
                node = self._node(at)
            if isinstance(node, dict):
                node = next((value for key, value in node.items() if str(key) == name), None)
            elif isinstance(node, list) and name.isdecimal():
                node = node[int(name)]
            else:
                raise LookupError
            at = (*at, name)
        return node


def _targets(node: Any, path: Path) -> list[Path]:
    """Return the paths of the nodes to which the references in a text refer."""
    found = []
    for match in _REFERENCE.finditer(node) if isinstance(node, str) and "${" in node else ():
        words = match[2].lstrip(".")
        up = len(match[2]) - len(words)
        names = tuple(name for name in re.split(r"[.\[\]]+", words) if name)
        above = path[: len(path) - up] if up else ("hydra",) if match[1] else ()
        found.append((*above, *names))
    return found
