"""What torchvision says of the files of a data set, without importing torchvision."""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def published(module: str, name: str) -> dict[str, Any]:
    """Where the files of a data set are, and their checksums, as a class of torchvision has them.

    Its source is read, not run: importing torchvision takes 2-3 s of a processor, on a busy machine many times
    that, of which a user without a network would see nothing but a late error.

    Args:
        module: of `torchvision.datasets`.
        name: of the class in it.

    Returns:
        Those of the class's own attributes that are plain values.
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
            except ValueError:  # it is computed
                continue
