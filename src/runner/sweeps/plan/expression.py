"""Expressions over a job's values, `optimizer.lr < 0.1 or model == 'cnn'`: a small part of Python, without `eval`.

They have numbers, texts, `true`, `false`, `null`, lists, dotted keys, `and`, `or`, `not`, comparisons, `in`,
`+ - * / // % **` of numbers, and the functions len, min, max and abs.
"""

import ast
import math
import operator
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from runner.errors import Topic

LONGEST, DEEPEST = 1000, 30
"""Characters of an expression, and levels of its parts within each other."""

MOST_BITS = 1024
"""Of a whole number that ** makes."""

CONSTANTS = {"true": True, "false": False, "null": None}

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.In: lambda item, items: item in items, ast.NotIn: lambda item, items: item not in items,
}  # fmt: skip

ARITHMETIC: dict[type[ast.operator | ast.unaryop], Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.UAdd: operator.pos, ast.USub: operator.neg,
}  # fmt: skip

FUNCTIONS: dict[str, Callable[..., Any]] = {"len": len, "min": min, "max": max, "abs": abs}

Lookup = Callable[[str], Any]
"""Returns the value of a dotted key."""


class ExpressionError(Exception):
    """An expression cannot be read or computed.

    Args:
        what: is wrong.
        suggestion: what to write instead.
        topic: the kind of problem.
    """

    def __init__(self, what: str, suggestion: str = "", topic: Topic = "type") -> None:
        super().__init__(what)
        self.suggestion, self.topic = suggestion, topic


class Expression:
    """An expression that is true or false.

    Args:
        text: as typed.

    Attributes:
        names: the dotted keys in it.

    Raises:
        ExpressionError: it has parts that such an expression cannot have.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._body = _parse(text)
        self.names = list(dict.fromkeys(name for name in _names(self._body) if name not in CONSTANTS))

    def is_true(self, lookup: Lookup) -> bool:
        """Compute it.

        Args:
            lookup: returns the values of `names`; called only for those that decide.

        Raises:
            ExpressionError: a part has values of a wrong type, or it is neither true nor false.
        """
        value = _compute(self._body, lookup)
        if not isinstance(value, bool):
            raise ExpressionError(f"it is {_show(value)}, and not true or false", f"compare it: {self.text} == <value>")
        return value


def _parse(text: str) -> ast.expr:
    if len(text) > LONGEST:
        raise ExpressionError(f"it is longer than {LONGEST:,} characters", "shorten it", "range")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # such as of 1(2)
            body = ast.parse(" ".join(text.split("\n")).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "it is too deep"
        instead = "write == to compare" if "'='" in reason or "==" in reason else "write it as in optimizer.lr < 0.1"
        raise ExpressionError(f"it cannot be read ({reason.partition('.')[0]})", instead, "syntax") from error
    _check(body, 0)
    return body


def _check(node: ast.expr, depth: int) -> None:
    """Check that an expression has only known parts.

    Raises:
        ExpressionError: it has others.
    """
    if depth > DEEPEST:
        raise ExpressionError("it is too deep", f"use at most {DEEPEST} levels", "range")
    if _dotted(node) is not None:
        return
    if isinstance(node, ast.Compare) and any(isinstance(op, ast.Is | ast.IsNot) for op in node.ops):
        raise ExpressionError(f"{ast.unparse(node)} has no meaning here", "compare by == and !=", "syntax")
    if not _is_known(node):
        raise ExpressionError(f"{ast.unparse(node)} has no meaning here", _INSTEAD, "syntax")
    children = node.args if isinstance(node, ast.Call) else ast.iter_child_nodes(node)
    for child in children:
        if isinstance(child, ast.expr):
            _check(child, depth + 1)


_INSTEAD = (
    f"use keys, numbers, texts in quotes, lists, and, or, not, in, comparisons, + - * / // % **, {', '.join(FUNCTIONS)}"
)


def _is_known(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=value):
            return value is None or isinstance(value, str | int | float)
        case ast.BoolOp() | ast.List() | ast.Tuple():
            return True
        case ast.UnaryOp(op=op):
            return isinstance(op, ast.Not) or type(op) in ARITHMETIC
        case ast.BinOp(op=op):
            return isinstance(op, ast.Pow) or type(op) in ARITHMETIC
        case ast.Compare(ops=ops):
            return all(type(op) in COMPARISONS for op in ops)
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            return name in FUNCTIONS
        case ast.Subscript(slice=index):
            return _place(index) is not None
    return False


def _place(index: ast.expr) -> int | None:
    """Return the place in a list that an index names, as -1 for the last; None if it is no whole number."""
    match index:
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(place))) if not isinstance(place, bool):
            return -place
        case ast.Constant(value=int(place)) if not isinstance(place, bool):
            return place
    return None


def _dotted(node: ast.AST) -> str | None:
    """Return the dotted key that a node stands for; None if it is none."""
    if isinstance(node, ast.Name):
        return node.id
    above = _dotted(node.value) if isinstance(node, ast.Attribute) else None
    return f"{above}.{node.attr}" if above is not None and isinstance(node, ast.Attribute) else None


def _names(node: ast.AST) -> Iterator[str]:
    if (name := _dotted(node)) is not None:
        yield name
        return
    for child in node.args if isinstance(node, ast.Call) else ast.iter_child_nodes(node):
        yield from _names(child)


def _compute(node: ast.expr, lookup: Lookup) -> Any:
    if (name := _dotted(node)) is not None:
        return CONSTANTS[name] if name in CONSTANTS else lookup(name)
    match node:
        case ast.Constant(value=value):
            return value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_compute(item, lookup) for item in items]
        case ast.BoolOp(op=op, values=parts):
            return _combine(isinstance(op, ast.And), parts, lookup)
        case ast.UnaryOp(op=ast.Not(), operand=part):
            return not _truth(part, lookup)
        case ast.Compare(left=left, ops=ops, comparators=others):
            return _compare(left, ops, others, lookup)
        case ast.UnaryOp(op=op, operand=part):
            return _arithmetic(node, op, _compute(part, lookup))
        case ast.BinOp(left=left, op=op, right=right):
            return _arithmetic(node, op, _compute(left, lookup), _compute(right, lookup))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return _call(node, name, [_compute(argument, lookup) for argument in arguments])
        case ast.Subscript(value=items, slice=index):
            return _item(node, _compute(items, lookup), _place(index) or 0)
    raise AssertionError(node)  # `_check` knows no others


def _combine(is_and: bool, parts: list[ast.expr], lookup: Lookup) -> bool:
    """Compute `and` or `or`; what follows the part that decides is not computed."""
    for part in parts:
        if _truth(part, lookup) is not is_and:
            return not is_and
    return is_and


def _truth(node: ast.expr, lookup: Lookup) -> bool:
    value = _compute(node, lookup)
    if isinstance(value, bool):
        return value
    raise ExpressionError(f"{ast.unparse(node)} is {_show(value)}, and not true or false", "compare it with a value")


def _compare(left: ast.expr, ops: list[ast.cmpop], others: list[ast.expr], lookup: Lookup) -> bool:
    value = _compute(left, lookup)
    for op, other in zip(ops, others, strict=True):
        next_value = _compute(other, lookup)
        if isinstance(op, ast.In | ast.NotIn):
            fits = isinstance(next_value, list | dict) or (isinstance(next_value, str) and isinstance(value, str))
        else:
            alike = isinstance(value, str) and isinstance(next_value, str)
            fits = isinstance(op, ast.Eq | ast.NotEq) or alike or (_is_number(value) and _is_number(next_value))
        if not fits:
            raise _unlike(op, (left, value), (other, next_value))
        if not COMPARISONS[type(op)](value, next_value):
            return False
        left, value = other, next_value
    return True


def _unlike(op: ast.cmpop, left: tuple[ast.expr, Any], right: tuple[ast.expr, Any]) -> ExpressionError:
    """Make the error for a comparison of values that cannot be compared."""
    one, other = (f"{ast.unparse(node)} is {_show(value)}" for node, value in (left, right))
    if isinstance(op, ast.In | ast.NotIn):
        return ExpressionError(f"{other}, and no list", "write in [<value>,<value>]")
    return ExpressionError(f"{one}, and {other}", "compare numbers with numbers, and texts by == or !=")


def _arithmetic(node: ast.expr, op: ast.operator | ast.unaryop, *values: Any) -> int | float:
    for value in values:
        if not _is_number(value):
            raise ExpressionError(f"{ast.unparse(node)} computes with {_show(value)}", "compute with numbers")
    try:
        result = _power(*values) if isinstance(op, ast.Pow) else ARITHMETIC[type(op)](*values)
    except ZeroDivisionError:
        assert isinstance(node, ast.BinOp)
        is_number = isinstance(node.right, ast.Constant)
        instead = "use another number" if is_number else f"write {ast.unparse(node.right)} != 0 and ... before it"
        raise ExpressionError(f"{ast.unparse(node)} divides by zero", instead, "range") from None
    except OverflowError:
        raise ExpressionError(f"{ast.unparse(node)} is too large", "use smaller numbers", "range") from None
    if not isinstance(result, int | float):  # a root of a negative number
        raise ExpressionError(f"{ast.unparse(node)} is not a real number", "use a base of at least 0")
    return result


def _power(base: float, exponent: float) -> Any:
    whole = isinstance(base, int) and isinstance(exponent, int) and exponent > 0
    if whole and math.log2(abs(base) + 1) * exponent > MOST_BITS:
        raise OverflowError
    return base**exponent


def _call(node: ast.expr, name: str, values: list[Any]) -> Any:
    try:
        return FUNCTIONS[name](*values)
    except (TypeError, ValueError):
        shown = ", ".join(map(_show, values)) or "nothing"
        example = {"len": "len(model.hidden)", "abs": "abs(<number>)"}.get(name, f"{name}(<number>,<number>)")
        raise ExpressionError(f"{ast.unparse(node)}: {name} of {shown}", f"write it as in {example}") from None


def _item(node: ast.expr, items: Any, place: int) -> Any:
    if not isinstance(items, list):
        raise ExpressionError(f"{ast.unparse(node)}: {_show(items)} has no items", "use it with a list")
    if not -len(items) <= place < len(items):
        raise ExpressionError(f"{ast.unparse(node)}: the list has {len(items)} items", "use a smaller number", "range")
    return items[place]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _show(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, dict):
        return "a group of keys"
    return f"the {'text' if isinstance(value, str) else 'list' if isinstance(value, list) else 'number'} {value}"
