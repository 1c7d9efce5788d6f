"""The parameters of a `_target_`, read from its source: importing it, and torch with it, may take seconds."""

import ast
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from runner.util import ranges
from runner.util.ranges import Bound

NONE, TEXTS, LISTS = "None", ("str", "Path"), ("list", "tuple", "Sequence", "Iterable", "Collection")
RANGES = ranges.__name__
"""The module that defines the bounds in annotations."""

TOP_LEVEL = re.compile(r"^[\w@\"'#]", re.MULTILINE)
"""How a line begins that is not part of the definition before it."""

IMPORTS = re.compile(
    rf"^from (?:{re.escape(RANGES)}|{re.escape(RANGES.rpartition('.')[0])}) import (?:\([^)]*\)|[^\n]*)\n", re.MULTILINE
)


def find_text_parameters(target: str) -> dict[str, bool]:
    """Find the parameters that are annotated as texts.

    Args:
        target: dotted path of a class or a function.

    Returns:
        By name, whether integers are allowed too: True for `str | int`, False for `str`, `str | None` or `Path`. Empty
        if the source cannot be found, or does not define the target under this name.
    """
    kinds = {name: _members(annotation) for name, annotation in _read(target)[0].items()}
    return {
        name: "int" in members
        for name, members in kinds.items()
        if members & {*TEXTS} and members <= {*TEXTS, NONE, "int"}
    }


@dataclass(frozen=True)
class BoundedParameter:
    """A parameter with a bound in its annotation.

    Attributes:
        bound: the bound of the value, or of each item of a list.
        optional: None is allowed.
        is_list: the value is a list.
        or_one: a single number may stand for a list.
    """

    bound: Bound
    optional: bool
    is_list: bool
    or_one: bool = False


@cache
def read_bounds(target: str) -> dict[str, BoundedParameter]:
    """Read the bounds in the annotations of a target's parameters.

    Args:
        target: dotted path of a class or a function.

    Returns:
        The parameters by name. Bounds that cannot be read from the source are missing; the check of the signature
        imports the target and finds them.
    """
    annotations, names = _read(target)
    bounded = {}
    for name, annotation in annotations.items():
        if bound := _bound(annotation, names):
            members = _members(annotation)
            is_list = bool(members & {*LISTS})
            bounded[name] = BoundedParameter(
                bound, NONE in members, is_list, is_list and bool(members & {"int", "float"})
            )
    return bounded


@cache
def _read(target: str) -> tuple[dict[str, ast.expr], dict[str, Any]]:
    """Read the annotations of a target's parameters, and the names under which its module imports bounds.

    Only the target and the imports of bounds are parsed: whole files would add 8 ms to each start.
    """
    module, _, name = target.rpartition(".")
    try:
        source = _read_source(module)
        exported = re.search(rf"^from ([\w.]+) import .*\b{re.escape(name)}\b", source, re.MULTILINE)
        if exported and not _definition(source, name):
            source = _read_source(exported[1])  # a package that has it from one of its modules
        tree = ast.parse("".join([*IMPORTS.findall(source), *_definition(source, name)]))
    except (OSError, SyntaxError, ValueError, ImportError):  # importing it later explains the error
        return {}, {}
    function = _constructor(tree, name)
    if function is None:
        return {}, {}
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    annotations = {argument.arg: _unquote(argument.annotation) for argument in arguments if argument.annotation}
    return annotations, _names_of_bounds(tree)


def _definition(source: str, name: str) -> list[str]:
    """Find the source of a top-level class or function; it ends before the line of the next statement."""
    start = re.search(rf"^(?:class|def) {name}\b", source, re.MULTILINE)
    if start is None:
        return []
    end = TOP_LEVEL.search(source, start.end())
    return [source[start.start() : end.start() if end else len(source)]]


def _unquote(annotation: ast.expr) -> ast.expr:
    """Parse an annotation in quotes; return any other unchanged."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return ast.parse(annotation.value, mode="eval").body
    return annotation


def _names_of_bounds(tree: ast.Module) -> dict[str, Any]:
    """Find the names under which a module imports bounds, or the module `ranges` itself."""
    names: dict[str, Any] = {}
    parent, _, last = RANGES.rpartition(".")
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == RANGES:
            names |= {alias.asname or alias.name: getattr(ranges, alias.name, None) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == parent:
            names |= {alias.asname or alias.name: ranges for alias in node.names if alias.name == last}
    return names


def _bound(annotation: ast.expr, names: Mapping[str, Any]) -> Bound | None:
    """Find the bound in an annotation such as `Annotated[int, COUNT] | None` or `Annotated[float, Range(0, 1)]`."""
    match annotation:
        case ast.Subscript(
            value=ast.Name(id="Annotated") | ast.Attribute(attr="Annotated"), slice=ast.Tuple(elts=parts)
        ):
            values = (_value(part, names) for part in parts[1:])
            return next((value for value in values if isinstance(value, Bound)), None)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _bound(left, names) or _bound(right, names)
        case _:
            return None


def _value(expression: ast.expr, names: Mapping[str, Any]) -> Any:
    """Evaluate an expression of bounds' names, their calls and literals; None for any other expression."""
    match expression:
        case ast.Name(id=name):
            return names.get(name)
        case ast.Attribute(value=ast.Name(id=module), attr=name) if names.get(module) is ranges:
            return getattr(ranges, name, None)
        case ast.Call(func=called, args=positional, keywords=keywords):
            make = _value(called, names)
            if not inspect.isclass(make):
                return None
            try:
                named = {keyword.arg or "": ast.literal_eval(keyword.value) for keyword in keywords}
                return make(*map(ast.literal_eval, positional), **named)
            except (TypeError, ValueError):
                return None
        case _:
            return None


def _read_source(module: str) -> str:
    """Read the source of a module; empty if its file cannot be found."""
    file = _source(module)
    return file.read_text(encoding="utf-8") if file is not None else ""


def _source(module: str) -> Path | None:
    """Find the file of a module without importing the module or its packages."""
    locations: list[str] | None = None
    spec = None
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:count]), locations)
        if spec is None:
            return None
        locations = list(spec.submodule_search_locations or [])
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def _constructor(tree: ast.Module, name: str) -> ast.FunctionDef | None:
    """Find the function with a name, or the constructor of the class with that name."""
    body: list[ast.stmt] = tree.body
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    return None


def _members(annotation: ast.expr | None) -> frozenset[str]:
    """Collect the types in an annotation; `str | None`, `Optional[str]` and `Union[str, None]` are equivalent."""
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _members(left) | _members(right)
        case ast.Subscript(
            value=ast.Name(id="Annotated") | ast.Attribute(attr="Annotated"), slice=ast.Tuple(elts=parts)
        ):
            return _members(parts[0])
        case ast.Subscript(value=ast.Name(id="Optional") | ast.Attribute(attr="Optional"), slice=inner):
            return _members(inner) | {NONE}
        case ast.Subscript(value=ast.Name(id="Union") | ast.Attribute(attr="Union"), slice=ast.Tuple(elts=inner)):
            return frozenset().union(*map(_members, inner))
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name)) if name in LISTS:
            return frozenset({name})
        case ast.Constant(value=str(quoted)):  # a forward reference
            return _members(ast.parse(quoted, mode="eval").body)
        case ast.Constant(value=None):
            return frozenset({NONE})
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return frozenset({name})
        case _:
            return frozenset({"?"})
