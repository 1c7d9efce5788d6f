import math
import sys
import types
from functools import cache
from typing import Any

import pytest
from omegaconf import OmegaConf

from helpers.problems import about
from runner.config import schema
from runner.config.compose import Composer
from runner.config.hydra_job import without_hydra
from runner.config.keys import format_value, select
from runner.config.limits import collect_limits
from runner.config.schema import check_config, describe_expected
from runner.util.ranges import Bound, Choice, Range


@cache
def composed(*overrides: str) -> dict[str, Any]:
    cfg, problems = Composer().compose(overrides)
    assert cfg is not None and problems == []
    return OmegaConf.to_container(without_hydra(cfg), resolve=True)


@pytest.fixture
def config() -> dict[str, Any]:
    return composed()


def put(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Copy a config with one value changed."""
    head, _, rest = key.partition(".")
    return config | {head: put(config.get(head, {}), rest, value) if rest else value}


def test_the_defaults_have_no_problem(config: dict[str, Any]) -> None:
    assert check_config(config) == []


@pytest.mark.parametrize(
    ("allowed", "inside", "outside"),
    [
        (Range(1, whole=True), [1, 10**9], [0, 1.0, True, "1", None, [1]]),
        (Range(0, 1, open_high=True), [0, 0.5, 0.999], [1, -0.1, math.nan, "0.5"]),
        (Range(0, open_low=True), [1e-12, 3], [0, -1, math.inf, -math.inf, math.nan]),
    ],
)
def test_a_range_contains_its_ends_and_only_finite_numbers(allowed: Range, inside: list, outside: list) -> None:
    assert [value in allowed for value in inside] == [True] * len(inside)
    assert [value in allowed for value in outside] == [False] * len(outside)


def test_a_range_describes_itself() -> None:
    assert str(Range(1, whole=True)) == "a whole number at least 1"
    assert str(Range(0, 1, open_high=True)) == "a number at least 0 and below 1"
    assert str(Range(0, open_low=True)) == "a number above 0"


def limited(config: dict[str, Any], kind: type[Bound]) -> list[str]:
    return [key for key, limit in collect_limits(config, schema.Config).items() if isinstance(limit.bound, kind)]


@pytest.mark.parametrize(
    ("choices", "keys"),
    [
        ([], "seed data.batch_size data.val_fraction data.limit data.num_workers data.scale data.augment.crop"),
        ([], "data.augment.randaugment.operations data.augment.randaugment.magnitude data.augment.mixup.alpha"),
        ([], "data.augment.mixup.probability data.augment.cutmix.alpha data.augment.cutmix.probability"),
        ([], "data.augment.rotation data.augment.erasing model.dropout optimizer.lr optimizer.momentum"),
        ([], "optimizer.weight_decay loss.label_smoothing scheduler.min_lr scheduler.period device.index"),
        ([], "device.threads device.evaluation_threads trainer.epochs trainer.max_steps trainer.max_time"),
        ([], "trainer.grad_accumulation trainer.clip_norm trainer.ema_decay trainer.validate_every_epochs"),
        ([], "trainer.validate_every_steps trainer.log_every_epochs trainer.log_every_steps trainer.keep_checkpoints"),
        ([], "trainer.checkpoint_every_epochs trainer.checkpoint_every_steps trainer.checkpoint_every_seconds"),
        ([], "trainer.profile_steps trainer.early_stopping.patience trainer.early_stopping.min_delta tracking.wait"),
        ([], "sweep.jobs sweep.jobs_per_gpu sweep.job_timeout"),
        (["optimizer=adam"], "optimizer.eps"),
        (["optimizer=rmsprop"], "optimizer.alpha"),
        (["optimizer=muon"], "optimizer.lr optimizer.momentum optimizer.eps optimizer.adamw_lr optimizer.ns_steps"),
        (["scheduler=cosine"], "scheduler.min_lr"),
        (["scheduler=step"], "scheduler.step_size scheduler.gamma"),
        (["scheduler=plateau"], "scheduler.factor scheduler.patience scheduler.threshold scheduler.min_lr"),
        (["scheduler=warmup_cosine"], "scheduler.warmup_epochs scheduler.min_lr"),
        (["scheduler=onecycle"], "scheduler.pct_start scheduler.div_factor scheduler.final_div_factor"),
        (["scheduler=onecycle"], "scheduler.base_momentum"),
        (["model=cnn"], "model.dropout model.kernel_size"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_every_range_is_checked(choices: list[str], keys: str) -> None:
    config = composed(*choices)
    assert {*keys.split()} <= {*limited(config, Range)}
    for key in keys.split():
        limit = collect_limits(config, schema.Config)[key]
        (problem,) = check_config(put(config, key, -1e30))
        assert (problem.key, problem.topic in ("range", "type")) == (key, True)
        assert problem.text.startswith(f"{key}=-1e+30 is ") and problem.suggestion == f"write {limit}"


@pytest.mark.parametrize(
    ("choices", "key"),
    [
        ([], "model.hidden"),
        (["model=cnn"], "model.channels"),
        (["model=cnn"], "model.strides"),
        (["model=cnn"], "model.kernel_size"),
        (["optimizer=adamw"], "optimizer.betas"),
    ],
)
def test_each_number_of_a_list_is_checked(choices: list[str], key: str) -> None:
    assert about(check_config(put(composed(*choices), key, [1e30, -3]))) == [] or key == "optimizer.betas"
    assert about(check_config(put(composed(*choices), key, [1, -3]))) == [(key, "range")]


@pytest.mark.parametrize(
    "key",
    [
        "resume_mode", "data.in_memory", "data.augment.flip", "data.header", "data.target_type", "data.scale_targets",
        "precision.name", "trainer.on_nonfinite", "tracking.name", "sweep.on_failure", "sweep.direction",
        "sweep.artifacts", "trainer.on_oom",
    ],
)  # fmt: skip
def test_every_choice_is_checked(key: str) -> None:
    config = composed("data=csv", "data.path=table.csv")
    assert key in limited(config, Choice)
    assert (key, "choice") in about(check_config(put(config, key, "nonsense")))


@pytest.mark.parametrize("key", ["data.batch_size", "data.in_memory", "data.num_workers", "data.scale"])
def test_null_where_there_must_be_a_value(key: str, config: dict[str, Any]) -> None:
    (problem,) = check_config(put(config, key, None))
    assert (problem.key, problem.topic) == (key, "missing") and problem.suggestion == f"write {describe_expected(key)}"


def test_true_is_not_a_number_and_one_is_not_true(config: dict[str, Any]) -> None:
    assert check_config(put(config, "data.batch_size", True)) and check_config(put(config, "data.in_memory", 1))


def test_missing_values_are_skipped(config: dict[str, Any]) -> None:
    assert check_config(put(config, "seed", "???")) == [] and select({"a": "???"}, "a") is None


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
    problems = check_config(put(put(config, "tracking.name", name), "tracking.uri", uri))
    assert (problems == []) is right
    assert all("write tracking" in problem.suggestion for problem in problems)


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
    (problem,) = check_config(put(config, "tracking.uri", uri))
    assert about([problem]) == [("tracking.uri", "unavailable")] and module in problem.text
    assert problem.suggestion == f"write pip install {package}"
    assert check_config(put(put(config, "tracking.uri", uri), "tracking.name", "off")) == []


def test_values_are_shown_as_they_are_typed() -> None:
    shown = [format_value(value) for value in (None, True, 0.1, 1e-8, "a b", [1, [2, None]], {"a": {"b": [False]}})]
    assert shown == ["null", "true", "0.1", "1e-08", "a b", "[1,[2,null]]", "{a:{b:[false]}}"]


def test_what_is_expected_says_whether_null_may_be_written() -> None:
    assert describe_expected("trainer.max_steps") == "a whole number at least 1, or null"
    assert describe_expected("trainer.epochs") == "a whole number at least 1"
    assert describe_expected("device.threads") == "auto or a whole number at least 1 and at most 1024"
    assert describe_expected("runner.quiet") == "true or false"
    assert describe_expected("tracking.run_name") == "a text, or null"
    assert describe_expected("model.whatever") is None
