"""The lines of a journal: one point each. A journal may have millions, so they are parsed together.

The quick ways rely on the form that `encode` writes. A block of lines with any other line, such as a damaged one, is
parsed line by line.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # numpy is imported late: the commands that read no curves start faster
    import numpy as np
    from numpy.typing import NDArray

_HEAD, _VALUE, _STEP, _TIME, _END = b'{"name": "', b'", "value": ', b', "step": ', b', "time": ', b"}"


class MetricPoint(NamedTuple):
    """One value of a metric; `time` is in seconds since the epoch, to the millisecond (MLflow's resolution)."""

    name: str
    value: float
    step: int
    time: float


class Curve(NamedTuple):
    """The points of a metric in the order of the journal: steps and values, both float64 of shape (N,)."""

    steps: "NDArray[np.float64]"
    values: "NDArray[np.float64]"


def encode(name: str, value: float, step: int, seconds: float) -> str:
    """Return the line of a point; `name` is a JSON string."""
    return f'{{"name": {name}, "value": {json.dumps(float(value))}, "step": {step:d}, "time": {seconds!r}}}\n'


def parse(block: bytes) -> list[MetricPoint]:
    """Parse lines, without the newline of the last one. A damaged line (zeros after a power loss) is skipped."""
    if not (block.startswith(_HEAD) and block.endswith(_END)):
        return _parse_slowly(block)
    fields = block[len(_HEAD) : -len(_END)].replace(_END + b"\n" + _HEAD, b"\n")
    for separator in (_VALUE, _STEP, _TIME):
        fields = fields.replace(separator, b"\n")
    columns = fields.split(b"\n")
    names, values, steps, times = (columns[place::4] for place in range(4))
    try:
        decoded = {name: json.loads(b'"%b"' % name) for name in set(names)}
        numbers = map(float, values), map(int, steps), map(float, times)
        points = list(map(MetricPoint._make, zip(map(decoded.__getitem__, names), *numbers, strict=True)))
    except ValueError:
        return _parse_slowly(block)
    return points if len(points) == _count(block) else _parse_slowly(block)


def select(block: bytes, names: Collection[str]) -> bytes:
    """Return the lines of some metrics, and perhaps others; see `is_named`."""
    heads = _heads(names)
    return b"\n".join(line for line in block.split(b"\n") if line.startswith(heads)) if _is_usual(block) else block


def select_step(block: bytes, step: int) -> bytes:
    """Return the lines of a step, and perhaps others."""
    if not _is_usual(block):
        return block
    lines, mark, found = [], b"%b%d," % (_STEP, step), 0
    while (found := block.find(mark, found)) >= 0:
        begin, end = block.rfind(b"\n", 0, found) + 1, block.find(b"\n", found)
        found = end if end >= 0 else len(block)
        lines.append(block[begin:found])
    return b"\n".join(lines)


def is_named(name: str, names: Collection[str]) -> bool:
    """Return whether a metric is one of `names`, of which one with a slash at its end has all that begin with it."""
    return name in names or any(name.startswith(prefix) for prefix in names if prefix.endswith("/"))


def last_steps(block: bytes) -> dict[str, int]:
    """Return the highest step of each metric; the steps of a metric increase from line to line."""
    lines = {line.partition(_VALUE)[0]: line for line in block.split(b"\n")}
    points = [_parse_line(line) for line in lines.values()]
    if None in points:  # a damaged line may have hidden another one
        points = list(_parse_slowly(block))
    steps: dict[str, int] = {}
    for point in points:
        if point is not None:
            steps[point.name] = max(point.step, steps.get(point.name, point.step))
    return steps


def parse_curves(block: bytes, names: Collection[str]) -> dict[str, Curve]:
    """Parse the steps and values of some metrics, see `is_named`, without a Python object for each number."""
    curves = _parse_curves(block, names) if _is_usual(block) else None
    if curves is None:
        curves = curves_of(point for point in _parse_slowly(block) if is_named(point.name, names))
    return curves


def _parse_curves(block: bytes, names: Collection[str]) -> dict[str, Curve] | None:
    """Parse lines as `encode` writes them; None if one of them is damaged."""
    import numpy as np

    grouped: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for line in block.split(b"\n"):
        head, _, rest = line.partition(_VALUE)
        grouped[head].append(rest)
    heads, curves = _heads(names), dict[str, Curve]()
    for head, rests in grouped.items():
        if (head + b'"').startswith(heads):
            try:
                pairs = b",".join([rest[: rest.rindex(_TIME)] for rest in rests]).replace(_STEP, b",")
                numbers = np.fromstring(pairs, sep=",")
                curves[json.loads(head.removeprefix(_HEAD[:-1]) + b'"')] = Curve(numbers[1::2], numbers[0::2])
            except ValueError:
                return None
            if len(numbers) != 2 * len(rests):
                return None
    return curves


def curves_of(points: Iterable[MetricPoint]) -> dict[str, Curve]:
    """Group points by their metric."""
    import numpy as np

    grouped: dict[str, list[MetricPoint]] = {}
    for point in points:
        grouped.setdefault(point.name, []).append(point)
    return {
        name: Curve(np.array([float(p.step) for p in found]), np.array([p.value for p in found]))
        for name, found in grouped.items()
    }


def _heads(names: Collection[str]) -> tuple[bytes, ...]:
    """Return the beginnings of the lines of some metrics."""
    return tuple(
        _HEAD[:-1] + json.dumps(name).removesuffix('"' if name.endswith("/") else "").encode() for name in names
    )


def _is_usual(block: bytes) -> bool:
    """Return whether each line begins as `encode` writes it, and none is cut short."""
    lines = _count(block)
    return block.startswith(_HEAD) and block.endswith(_END) and block.count(_END + b"\n" + _HEAD) == lines - 1


def _count(block: bytes) -> int:
    return block.count(b"\n") + 1


def _parse_slowly(block: bytes) -> list[MetricPoint]:
    return [point for line in block.split(b"\n") if (point := _parse_line(line)) is not None]


def _parse_line(line: bytes) -> MetricPoint | None:
    try:
        record = json.loads(line)
        return MetricPoint(record["name"], float(record["value"]), int(record["step"]), float(record["time"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
