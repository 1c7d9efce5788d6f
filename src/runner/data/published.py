"""The files of torchvision's data sets: addresses and checksums, without importing torchvision."""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def published(module: str, name: str) -> dict[str, Any]:
    """Return the addresses and checksums of a data set's files, as a class of torchvision lists them.

    The source is parsed, not run: importing torchvision takes 2-3 s of CPU time, and many times that on a busy machine;
    without a network all of that would only delay an error.

    Args:
        module: of `torchvision.datasets`.
        name: of the class in it.

    Returns:
        The attributes of the class that are plain values.
    """
    loaded = sys.modules.get("torchvision.datasets")
    package = importlib.util.find_spec("torchvision")
    if loaded is None and package and package.origin:
        source = Path(package.origin).parent / "datasets" / f"{module}.py"
        for node in ast.parse(source.read_bytes()).body if source.is_file() else []:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return dict(_constants(node))
    return dict(vars(getattr(loaded or importlib.import_module("torchvision.datasets"), name)))


def _constants(node: ast.ClassDef) -> Iterator[tuple[str, Any]]:
    for statement in node.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                yield statement.targets[0].id, ast.literal_eval(statement.value)
            except ValueError:  # not a literal
                continue
