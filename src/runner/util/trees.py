"""Trees: a tensor, or tensors in dicts, tuples, named tuples, dataclasses and mappings such as HF's `BatchEncoding`.

The containers are those of `torch.utils._pytree`, not of optree: `torch.export`, `torch.func.vmap` and `torch.compile`
take apart what is registered there, so that they accept the same batches without a second registration. Mappings and
dataclasses are registered when they are first seen. A plain tensor never gets that far: taking apart a dict of four
costs 6 us, and putting it together 2 us (torch 2.14), which is 5 % of the step of a small model.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

Tree = Any
"""A tensor, or a container of trees. None stands for nothing: it has no leaves."""

Shapes = Any
"""The shapes of a tree's tensors: one tuple of whole numbers, or such tuples in dicts and tuples."""


class UnevenTree(ValueError):
    """The tensors of a tree have no common first axis; the text names the ones that differ."""


def flatten(tree: Tree, is_leaf: Callable[[Any], bool] | None = None) -> tuple[list[Any], pytree.TreeSpec]:
    """Take a tree apart.

    Args:
        tree: of any leaves.
        is_leaf: whether to leave a container whole.

    Returns:
        The leaves, None among them, and what `unflatten` puts them together by.
    """
    values, spec = pytree.tree_flatten(tree, is_leaf)
    while _register(value for value in values if not isinstance(value, Tensor)):
        values, spec = pytree.tree_flatten(tree, is_leaf)
    return values, spec


def unflatten(values: Iterable[Any], spec: pytree.TreeSpec) -> Tree:
    """Put leaves together as `flatten` found them."""
    return pytree.tree_unflatten(values, spec)


def _register(values: Iterable[Any]) -> bool:
    """Register the types of mappings and dataclasses among these leaves; returns whether there were any."""
    kinds = {
        type(value)
        for value in values
        if isinstance(value, Mapping) or (dataclasses.is_dataclass(value) and not isinstance(value, type))
    }
    for kind in kinds:
        name = f"{kind.__module__}.{kind.__qualname__}"
        if dataclasses.is_dataclass(kind):
            pytree.register_dataclass(kind, serialized_type_name=name)
        else:
            pytree.register_pytree_node(
                kind,
                lambda mapping: (list(mapping.values()), list(mapping)),
                lambda values, keys, kind=kind: kind(dict(zip(keys, values, strict=True))),  # type: ignore[misc]
                serialized_type_name=name,
                flatten_with_keys_fn=lambda mapping: (
                    [(pytree.MappingKey(key), value) for key, value in mapping.items()],
                    list(mapping),
                ),
            )
    return bool(kinds)


def is_container(tree: Tree) -> bool:
    """Whether this is more than a leaf."""
    return not isinstance(tree, Tensor) and not flatten(tree)[1].is_leaf()


def leaves(tree: Tree) -> list[Any]:
    """Return the leaves of a tree."""
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for leaf in flatten(tree)[0] if leaf is not None]


def tree_map(function: Callable[[Any], Any], tree: Tree) -> Tree:
    """Return the tree with the results of a function in the places of the leaves."""
    if isinstance(tree, Tensor):
        return function(tree)
    values, spec = flatten(tree)
    return unflatten([None if value is None else function(value) for value in values], spec)


def at(tree: Tree, index: Any) -> Tree:
    """Return the samples of a tree at some indices of the first axis, or at one."""
    return tree_map(lambda leaf: leaf[index], tree)


def named_leaves(tree: Tree) -> list[tuple[str, Any]]:
    """Return the leaves of a tree by their names: `pixels`, `0`, `boxes.1`; that of a single tensor is empty."""
    flatten(tree)  # registers what is new
    try:
        paths = pytree.tree_flatten_with_path(tree)[0]
    except ValueError:  # a type that another package has registered without names
        return [(str(number), leaf) for number, leaf in enumerate(leaves(tree))]
    return [(".".join(map(_name, path)), leaf) for path, leaf in paths if leaf is not None]


def _name(key: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def first_axis(tree: Tree) -> int:
    """Return the length of the first axis that all tensors of a tree have in common: its samples.

    Raises:
        UnevenTree: they have none; or a leaf is no tensor, or there is no leaf.
    """
    if isinstance(tree, Tensor) and tree.ndim:
        return len(tree)
    named = named_leaves(tree)
    if not named:
        raise UnevenTree("there is no tensor in it")
    for name, leaf in named:
        called = name or "it"
        if not isinstance(leaf, Tensor):
            raise UnevenTree(f"{called} is of type {type(leaf).__name__}, not a tensor")
        if not leaf.ndim:
            raise UnevenTree(f"{called} is a single number, without an axis of samples")
    (first, one), *others = named
    for name, other in others:
        if len(other) != len(one):
            raise UnevenTree(f"{first} has {len(one)} samples, {name} has {len(other)}")
    return len(one)


def shapes(tree: Tree, axes_left_out: int = 0) -> Shapes:
    """Return the shapes of a tree's tensors: of a mapping or dataclass as a dict, of a sequence as a tuple.

    Args:
        tree: of tensors, and of None.
        axes_left_out: how many of the first axes are not of interest.
    """
    if isinstance(tree, Tensor):
        return tuple(tree.shape[axes_left_out:])
    if isinstance(tree, Mapping):
        return {name: shapes(part, axes_left_out) for name, part in tree.items()}
    if isinstance(tree, tuple | list):
        return tuple(shapes(part, axes_left_out) for part in tree)
    if dataclasses.is_dataclass(tree):
        return {field.name: shapes(getattr(tree, field.name), axes_left_out) for field in dataclasses.fields(tree)}
    return ()


def is_shape(value: Shapes) -> bool:
    """Whether this is the shape of a single tensor, not a tree of shapes."""
    return isinstance(value, Sequence) and all(isinstance(size, int) for size in value)


def apply(model: Callable[..., Any], inputs: Tree) -> Any:
    """Call a model: with a tensor, with a mapping as keyword arguments, or with a tuple as positional ones."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)
