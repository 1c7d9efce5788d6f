"""The containers of a tree of inputs, as JSON: from named tensors to the tree that a task predicts from."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from runner.util.trees import Shapes, Tree, is_shape


def as_shapes(value: Any) -> Shapes:
    """Return shapes that JSON has turned into lists as they were: tuples, and dicts and tuples of these."""
    if isinstance(value, Mapping):
        return {name: as_shapes(part) for name, part in value.items()}
    return tuple(value) if is_shape(value) else tuple(map(as_shapes, value))


def containers_of(tree: Tree, path: str = "") -> dict[str, str]:
    """Return the import paths of all containers of a tree that are not plain dicts, tuples or lists, by their names.

    Args:
        tree: of tensors.
        path: the name of the tree itself, as `trees.named_leaves` names leaves.
    """
    if isinstance(tree, Tensor) or tree is None:
        return {}
    kind = type(tree)
    found = {} if kind in (dict, tuple, list) else {path: f"{kind.__module__}.{kind.__qualname__}"}
    for name, part in _children(tree):
        found |= containers_of(part, _join(path, name))
    return found


def rebuild(
    shapes: Shapes,
    tensors: Mapping[str, Any],
    containers: Mapping[str, str] | None = None,
    left_out: Sequence[str] = (),
    path: str = "",
) -> Tree:
    """Put named tensors together.

    Args:
        shapes: of the tree, as `trees.shapes` returns them.
        tensors: by the names of the leaves; one that is missing is None.
        containers: see `containers_of`.
        left_out: keys of a dict that it shall not have.
        path: the name of the tree itself.

    Raises:
        ImportError: the type of a container cannot be imported.
    """
    if is_shape(shapes):
        return tensors.get(path)
    kind = _find(containers[path]) if containers and path in containers else None
    if isinstance(shapes, Mapping):
        named = {
            name: rebuild(part, tensors, containers, (), _join(path, name))
            for name, part in shapes.items()
            if name not in left_out
        }
        if kind is None:
            return named
        return kind(named) if issubclass(kind, Mapping) else kind(**named)
    names = getattr(kind, "_fields", range(len(shapes)))
    parts = tuple(
        rebuild(part, tensors, containers, (), _join(path, str(name))) for name, part in zip(names, shapes, strict=True)
    )
    return parts if kind is None else kind(*parts)


def _children(tree: Tree) -> list[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        return [(str(name), part) for name, part in tree.items()]
    if hasattr(tree, "_fields"):
        return list(zip(tree._fields, tree, strict=True))
    if isinstance(tree, tuple | list):
        return [(str(number), part) for number, part in enumerate(tree)]
    return [(field.name, getattr(tree, field.name)) for field in fields(tree)] if is_dataclass(tree) else []


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _find(path: str) -> Any:
    """Import the type of a container.

    Raises:
        ImportError: there is none of this name.
    """
    parts = path.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
            for name in parts[count:]:
                found = getattr(found, name)
        except (ModuleNotFoundError, AttributeError):
            continue
        if isinstance(found, type) and (is_dataclass(found) or issubclass(found, Mapping | tuple)):
            return found
    raise ImportError(f"{path} cannot be imported")
