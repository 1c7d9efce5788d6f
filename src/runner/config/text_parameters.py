"""Which parameters of a `_target_` are texts: read from its source, as importing it may take seconds (torch)."""

import ast
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path

NONE, TEXTS = "None", ("str", "Path")


@cache
def text_parameters(target: str) -> dict[str, bool]:
    """The parameters that are annotated as texts, and whether they may be whole numbers too.

    Args:
        target: dotted path of a class or a function.

    Returns:
        By name: True for `str | int`, False for `str`, `str | None` or `Path`. Empty where the source cannot be
        found, or defines the target by another name.
    """
    module, _, name = target.rpartition(".")
    try:
        file = _source(module)
        tree = ast.parse(file.read_bytes()) if file is not None else None
    except (OSError, SyntaxError, ValueError, ImportError):  # importing it says what is wrong with it
        return {}
    function = _constructor(tree, name) if tree is not None else None
    if function is None:
        return {}
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    kinds = {argument.arg: _members(argument.annotation) for argument in arguments}
    return {
        name: "int" in members
        for name, members in kinds.items()
        if members & {*TEXTS} and members <= {*TEXTS, NONE, "int"}
    }


def _source(module: str) -> Path | None:
    """The file of a module; its packages are not imported either."""
    places: list[str] | None = None
    spec = None
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:count]), places)
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or [])
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def _constructor(tree: ast.Module, name: str) -> ast.FunctionDef | None:
    """The function of that name, or the constructor of the class."""
    body: list[ast.stmt] = tree.body
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    return None


def _members(annotation: ast.expr | None) -> frozenset[str]:
    """The types that an annotation names: `str | None`, `Optional[str]` and `Union[str, None]` are the same."""
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _members(left) | _members(right)
        case ast.Subscript(value=ast.Name(id="Optional") | ast.Attribute(attr="Optional"), slice=inner):
            return _members(inner) | {NONE}
        case ast.Subscript(value=ast.Name(id="Union") | ast.Attribute(attr="Union"), slice=ast.Tuple(elts=inner)):
            return frozenset().union(*map(_members, inner))
        case ast.Constant(value=str(quoted)):  # a forward reference
            return _members(ast.parse(quoted, mode="eval").body)
        case ast.Constant(value=None):
            return frozenset({NONE})
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return frozenset({name})
        case _:
            return frozenset({"?"})
