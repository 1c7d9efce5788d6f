"""The lines of a journal are read alike in all ways: together, by metric, by step, and one by one."""

import json
import math
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from runner.rundir import journal
from runner.rundir.journal import Journal
from runner.rundir.points import Curve, MetricPoint, encode, is_named

NAMES = (
    "val/loss",
    "val/loss_step",
    "best/val/loss",
    "lr",
    "überraschung \N{SNOWMAN}",
    'a "quoted", "value": name',
    "\\",
)
VALUES = (0.1, 1 / 3, -0.0, 5e-324, 1.7976931348623157e308, 1e16, math.nan, math.inf, -math.inf)

DAMAGE = (
    b"", b"\0" * 60, b"{", b"null", b"[1]", b'{"name": "val/loss", "val', b'{"name": "lr", "value": 0.5, "step": 9}',
    b'{"name": "lr", "value": 0.5, "step": 1.5.2, "time": 1.5}', b'{"name": "lr", "value": x, "step": 9, "time": 1.5}',
    b'{"name": "l\0", "value": 0.5, "step": 9, "time": 1.5}', b'{"name": "lr", "value": 0.5, "step": , "time": 1.5}',
    b'{"name": "lr", "value": 0.5, "step": 9, "time": 1.5', b'{"name": "lr", "value": , "step": 9, "time": 1.5}',
    b'{"name": "lr", "va{"name": "lr", "value": 0.5, "step": 9, "time": 1.5}',
)  # fmt: skip
"""Lines without a point."""

OTHERS = (
    (b'{"step":7,"time":2,"value":3,"name":"val/loss"}', MetricPoint("val/loss", 3.0, 7, 2.0)),
    (b' {"name": "lr", "value": 1, "step": 8, "time": 2.5}', MetricPoint("lr", 1.0, 8, 2.5)),
)
"""Lines in another form, and their points."""


def key(point: MetricPoint) -> tuple[str, str, int, float]:
    return point.name, repr(point.value), point.step, point.time  # equal for NaN


def assert_read(path: Path, points: list[MetricPoint]) -> None:
    """Assert that all ways of reading a journal find these points."""
    read, end = journal.read(path)
    assert list(map(key, read)) == list(map(key, points))
    assert end == path.stat().st_size
    for names in (("val/loss",), ("lr", "\\"), ("best/", "val/loss_step"), ("val/",), ("absent",), NAMES):
        chosen = [point for point in points if is_named(point.name, names)]
        assert list(map(key, journal.read(path, names=names)[0])) == list(map(key, chosen)), names
        curves = journal.read_curves(path, names)
        assert curves.keys() == {point.name for point in chosen}
        for name, curve in curves.items():
            assert_curve(curve, [point for point in chosen if point.name == name])
    for step in {point.step for point in points} | {0}:
        chosen = [point for point in points if point.step == step]
        assert list(map(key, journal.read_step(path, step))) == list(map(key, chosen)), step
    last = journal.read_last(path)
    assert ([key(last)] if last is not None else []) == [key(point) for point in points[-1:]]
    highest: dict[str, int] = {}
    for point in points:
        highest[point.name] = max(point.step, highest.get(point.name, -1))
    resumed = Journal(path)
    assert {name: resumed.last_step(name) for name in highest} == highest
    resumed.close()


def assert_curve(curve: Curve, points: Iterable[MetricPoint]) -> None:
    points = list(points)
    assert curve.steps.tolist() == [point.step for point in points]
    assert list(map(repr, curve.values.tolist())) == [repr(point.value) for point in points]
    assert curve.steps.dtype == curve.values.dtype == float


def drawn(number: int, seed: int) -> list[MetricPoint]:
    """Draw points whose steps increase for each metric, at times in order."""
    draw = random.Random(seed)
    steps = dict.fromkeys(NAMES, 0)
    points = []
    for place in range(number):
        name = draw.choice(NAMES)
        steps[name] += draw.randint(1, 3)
        value = draw.choice(VALUES) if draw.random() < 0.3 else draw.lognormvariate(0, 9)
        points.append(MetricPoint(name, value, steps[name], round(1.7e9 + place / 7, 3)))
    return points


def line(point: MetricPoint) -> bytes:
    return encode(json.dumps(point.name), *point[1:]).rstrip("\n").encode()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("block", [50, 1000, 1 << 20])
def test_points_are_read_as_they_were_written(
    tmp_path: Path, seed: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_BLOCK", block)
    points = drawn(200, seed)
    path = tmp_path / "m.jsonl"
    journal.rewrite(path, points)
    assert path.read_bytes() == b"".join(line(point) + b"\n" for point in points)
    assert_read(path, points)


@pytest.mark.parametrize("bad", DAMAGE)
@pytest.mark.parametrize("place", [0, 7, 30])
def test_a_damaged_line_hides_no_other_one(tmp_path: Path, bad: bytes, place: int) -> None:
    points = drawn(30, 1)
    lines = list(map(line, points))
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\n".join([*lines[:place], bad, *lines[place:], b""]))
    assert_read(path, points)


@pytest.mark.parametrize(("other", "point"), OTHERS)
@pytest.mark.parametrize("place", [0, 7, 30])
def test_lines_that_another_program_wrote_are_read_too(
    tmp_path: Path, other: bytes, point: MetricPoint, place: int
) -> None:
    points = [point._replace(step=point.step + 1000) for point in drawn(30, 2)]
    lines = list(map(line, points))
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\n".join([*lines[:place], other, *lines[place:], b""]))
    assert_read(path, [*points[:place], point, *points[place:]])


def test_no_points(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    assert journal.read(path) == ([], 0) and journal.read_step(path, 1) == []
    assert journal.read_curves(path, NAMES) == {} and journal.read_last(path) is None
    path.write_bytes(b"")
    assert_read(path, [])


def test_the_last_point_is_found_from_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = drawn(200, 3)
    path = tmp_path / "m.jsonl"
    journal.rewrite(path, points)
    read, offsets = journal.read, []
    monkeypatch.setattr(journal, "_BLOCK", 500)
    monkeypatch.setattr(journal, "read", lambda path, offset: offsets.append(offset) or read(path, offset))
    assert journal.read_last(path) == points[-1]
    assert offsets == [path.stat().st_size - 500]
    with path.open("ab") as file:
        file.write(b"\0" * 600 + b"\n")
    assert journal.read_last(path) == points[-1], "beyond a damaged end"
