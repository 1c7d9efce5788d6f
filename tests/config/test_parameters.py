"""Annotations of parameters, read from source that is not imported."""

from pathlib import Path

import pytest

from runner.config.parameters import BoundedParameter, find_text_parameters, read_bounds
from runner.util.ranges import COUNT, Choice, Range

SOURCE = """
raise SystemExit("it was imported")

class Model:
    def __init__(self, a: str, b: "str | None", c: Optional[str], d: str | int, e: float | str, f, g: list[str]): ...

def load(path: Path | None = None, *, name: typing.Union[str, None] = None, size: int = 1): ...
"""


def test_annotations_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unloved").mkdir()
    (tmp_path / "unloved" / "__init__.py").write_text("raise SystemExit")
    (tmp_path / "unloved" / "mine.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    assert find_text_parameters("unloved.mine.Model") == {"a": False, "b": False, "c": False, "d": True}
    assert find_text_parameters("unloved.mine.load") == {"path": False, "name": False}


BOUNDED = """
raise SystemExit("it was imported")
from typing import Annotated
from runner.util import ranges
from runner.util.ranges import COUNT, Choice as OneOf, Range
from elsewhere import PROBABILITY

class Model:
    def __init__(
        self,
        width: Annotated[int, COUNT],
        rate: "Annotated[float | None, Range(0, 1, open_high=True)]" = None,
        sizes: Annotated[list[int], ranges.COUNT] = (1,),
        either: Annotated[int | list[int], COUNT] = 3,
        mode: Annotated[str, OneOf(("a", "b"))] = "a",
        depth: Annotated[int, COUNT] | None = None,
        share: Annotated[float, PROBABILITY] = 0.5,
        size: Annotated[int, Range(limit)] = 1,
        bare: int = 1,
    ): ...
"""


def test_bounds_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bounded.py").write_text(BOUNDED)
    monkeypatch.syspath_prepend(tmp_path)
    assert read_bounds("bounded.Model") == {
        "width": BoundedParameter(COUNT, optional=False, is_list=False),
        "rate": BoundedParameter(Range(0, 1, open_high=True), optional=True, is_list=False),
        "sizes": BoundedParameter(COUNT, optional=False, is_list=True),
        "either": BoundedParameter(COUNT, optional=False, is_list=True, or_one=True),
        "mode": BoundedParameter(Choice(("a", "b")), optional=False, is_list=False),
        "depth": BoundedParameter(COUNT, optional=True, is_list=False),
    }


@pytest.mark.parametrize("target", ["nowhere.Model", "runner.nothing", "torch.optim.SGD", "math.sqrt", "x"])
def test_targets_without_python_source_have_no_annotations(target: str) -> None:
    assert find_text_parameters(target) == read_bounds(target) == {}
