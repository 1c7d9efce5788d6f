"""Which parameters are texts, read from source that is not imported."""

from pathlib import Path

import pytest

from runner.config.text_parameters import text_parameters

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
    assert text_parameters("unloved.mine.Model") == {"a": False, "b": False, "c": False, "d": True}
    assert text_parameters("unloved.mine.load") == {"path": False, "name": False}


@pytest.mark.parametrize("target", ["nowhere.Model", "runner.nothing", "torch.optim.SGD", "math.sqrt", "x"])
def test_what_has_no_such_source_has_no_texts(target: str) -> None:
    assert text_parameters(target) == {}
