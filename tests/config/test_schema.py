import math
import sys
import types
from typing import Any

import pytest
from omegaconf import OmegaConf

from runner.cli import without_hydra
from runner.config import schema
from runner.config.compose import Composer
from runner.config.keys import format_value, select
from runner.config.schema import check, expected
from runner.util.ranges import Range


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    cfg, problems = Composer().compose([])
    assert cfg is not None and problems == []
    return OmegaConf.to_container(without_hydra(cfg), resolve=True)


def put(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy with one value changed."""
    head, _, rest = key.partition(".")
    return config | {head: put(config.get(head, {}), rest, value) if rest else value}


def test_the_defaults_have_no_problem(config: dict[str, Any]) -> None:
    assert check(config) == []


@pytest.mark.parametrize(
    ("allowed", "inside", "outside"),
    [
        (Range(1, whole=True), [1, 10**9], [0, 1.0, True, "1", None, [1]]),
        (Range(0, 1, open_high=True), [0, 0.5, 0.999], [1, -0.1, math.nan, "0.5"]),
        (Range(0, open_low=True), [1e-12, 3], [0, -1, math.inf, -math.inf, math.nan]),
    ],
)
def test_a_range_has_its_ends_and_nothing_that_is_no_finite_number(allowed: Range, inside: list, outside: list) -> None:
    assert [value in allowed for value in inside] == [True] * len(inside)
    assert [value in allowed for value in outside] == [False] * len(outside)


def test_a_range_says_what_to_write() -> None:
    assert str(Range(1, whole=True)) == "a whole number at least 1"
    assert str(Range(0, 1, open_high=True)) == "a number at least 0 and below 1"
    assert str(Range(0, open_low=True)) == "a number above 0"


@pytest.mark.parametrize("key", [*schema.RANGES])
def test_every_range_is_watched(key: str, config: dict[str, Any]) -> None:
    (problem,) = check(put(config, key, -1e30))
    assert problem.startswith(f"{key}=-1e+30 is ") and f"write {expected(key)}" in problem


@pytest.mark.parametrize("key", [*schema.CHOICES])
def test_every_choice_is_watched(key: str, config: dict[str, Any]) -> None:
    assert any(f"{key}=nonsense is not a choice: " in problem for problem in check(put(config, key, "nonsense")))


@pytest.mark.parametrize("key", schema.NEEDED)
def test_null_where_there_must_be_a_value(key: str, config: dict[str, Any]) -> None:
    assert check(put(config, key, None)) == [f"{key}=null is not allowed: write {expected(key)}"]


def test_true_is_no_number_and_one_is_not_true(config: dict[str, Any]) -> None:
    assert check(put(config, "data.batch_size", True)) and check(put(config, "data.in_memory", 1))


def test_what_is_missing_is_passed_over(config: dict[str, Any]) -> None:
    assert check(put(config, "seed", "???")) == [] and select({"a": "???"}, "a") is None


@pytest.mark.parametrize(
    ("name", "uri", "right"),
    [
        ("local", None, True),
        ("local", "sqlite:////tmp/x.db", True),
        ("local", "postgresql+psycopg2://host/db", True),
        ("local", "http://host", False),
        ("local", "mlruns", False),
        ("server", "http://host:5000", True),
        ("server", "https://host", True),
        ("server", "sqlite:///x.db", False),
        ("server", "", False),
        ("off", "whatever", True),
    ],
)
def test_the_store_fits_the_kind_of_tracking(
    name: str, uri: str | None, right: bool, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", types.ModuleType("psycopg2"))  # as if it were installed
    problems = check(put(put(config, "tracking.name", name), "tracking.uri", uri))
    assert (problems == []) is right
    assert all("write tracking" in problem for problem in problems)


@pytest.mark.parametrize(
    ("uri", "module", "package"),
    [
        ("postgresql://ada@host/db", "psycopg", "'psycopg[binary]'"),
        ("postgresql+psycopg2://host/db", "psycopg2", "psycopg2-binary"),
        ("postgresql+pg8000://host/db", "pg8000", "pg8000"),
        ("mysql://host/db", "MySQLdb", "mysqlclient"),
        ("mysql+pymysql://host/db", "pymysql", "pymysql"),
        ("mssql+pyodbc://host/db", "pyodbc", "pyodbc"),
    ],
)
def test_a_database_whose_driver_is_not_installed(
    uri: str, module: str, package: str, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    problems = check(put(config, "tracking.uri", uri))
    assert problems == [f"tracking.uri={uri}: the driver {module} is not installed: write pip install {package}"]
    assert check(put(put(config, "tracking.uri", uri), "tracking.name", "off")) == []


def test_values_are_shown_as_they_are_typed() -> None:
    shown = [format_value(value) for value in (None, True, 0.1, 1e-8, "a b", [1, [2, None]], {"a": {"b": [False]}})]
    assert shown == ["null", "true", "0.1", "1e-08", "a b", "[1,[2,null]]", "{a:{b:[false]}}"]


def test_what_is_expected_says_whether_null_may_be_written() -> None:
    assert expected("trainer.max_steps") == "a whole number at least 1, or null"
    assert expected("trainer.epochs") == "a whole number at least 1"
    assert expected("device.threads") == "auto or a whole number at least 1 and at most 1024"
    assert expected("runner.quiet") == "true or false"
    assert expected("tracking.run_name") == "a text, or null"
    assert expected("model.whatever") is None
