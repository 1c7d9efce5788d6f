"""`data.augment` as a list of names: on the command line, in files, in sweeps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf

from conftest import REPOSITORY, Called
from helpers.problems import about, problems_of
from runner.config.augment_list import MAIN, NAMED, OFF, expand, expand_override
from runner.config.compose import Composer
from runner.sweeps.plan import grid
from runner.sweeps.plan.job_configs import Base, with_values
from runner.sweeps.plan.where import make_space


def composed(*overrides: str) -> dict[str, Any]:
    cfg, problems = Composer().compose(overrides)
    assert cfg is not None and not problems, problems
    node = OmegaConf.to_container(cfg.data.augment)
    assert isinstance(node, dict)
    return node


def test_what_is_off_is_as_in_the_defaults() -> None:
    assert OmegaConf.to_container(OmegaConf.load(REPOSITORY / "conf" / "config.yaml").data.augment) == OFF
    assert NAMED.keys() == OFF.keys() and all(MAIN[name] in OFF[name] for name in MAIN)


@pytest.mark.parametrize(
    ("typed", "on"),
    [
        (["data.augment=[mixup,cutmix,randaugment]"], {
            "mixup": {"alpha": 0.2, "probability": 1}, "cutmix": {"alpha": 1, "probability": 1},
            "randaugment": {"operations": 2, "magnitude": 9},
        }),
        (["data.augment=[{crop: 3},flip,{mixup: {probability: 0.5}}]"], {
            "crop": 3, "flip": True, "mixup": {"alpha": 0.2, "probability": 0.5},
        }),
        (["data.augment=flip"], {"flip": True}),
        (["data.augment=[{randaugment:14}]"], {"randaugment": {"operations": 2, "magnitude": 14}}),
        (["data.augment.crop=2", "data.augment=[flip]"], {"flip": True, "crop": 2}),  # in any order
        (["data.augment=[flip]", "data.augment.crop=2"], {"flip": True, "crop": 2}),
        (["data.augment={crop: 2}"], {"crop": 2}),
        (["data.augment=null"], {}),
        (["data.augment.flip=true", "data.augment=[]"], {"flip": True}),
        (["data.augment.mixup=0.4"], {"mixup": {"alpha": 0.4, "probability": 1}}),
        (["data.augment.mixup.alpha=0.4"], {"mixup": {"alpha": 0.4, "probability": 1}}),
        (["data.augment.mixup={probability:0.5}"], {"mixup": {"alpha": 0, "probability": 0.5}}),
    ],
)  # fmt: skip
def test_lists_and_keys_say_the_same(typed: list[str], on: dict[str, Any]) -> None:
    assert composed(*typed) == OFF | on


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["flp"], ("data.augment", "unknown")),
        ([{"mixup": {"alhpa": 1}}], ("data.augment", "unknown")),
        ([{"crop": {"pixels": 3}}], ("data.augment.crop", "type")),
        ([{"mixup": [1, 2]}], ("data.augment.mixup", "type")),
        (["flip", {"flip": False}], ("data.augment", "conflict")),
        ([3], ("data.augment", "unknown")),
    ],
)
def test_what_a_list_cannot_name(value: list[Any], expected: tuple[str, str]) -> None:
    assert about(problems_of(lambda: expand(value))) == [expected]


def test_all_wrong_names_are_reported_before_the_start(runner: Callable[..., Called]) -> None:
    called = runner("tracking=off", "data.augment=[flp,mixpu]", "seed=x")
    assert called.code == 2
    assert called.about == [("data.augment", "unknown"), ("data.augment", "unknown"), ("seed", "type")]


@pytest.mark.parametrize(
    ("typed", "about"),
    [
        ("data.augment=[{crop:-1}]", ("data.augment.crop", "range")),
        ("data.augment=[{mixup:much}]", ("data.augment.mixup.alpha", "type")),
        ("data.augment.cutmix.probability=2", ("data.augment.cutmix.probability", "range")),
        ("data.augment.randaugment.magnitude=31", ("data.augment.randaugment.magnitude", "range")),
    ],
)
def test_values_in_a_list_have_the_bounds_of_the_keys(
    typed: str, about: tuple[str, str], runner: Callable[..., Called]
) -> None:
    called = runner("tracking=off", typed)
    assert (called.code, called.about) == (2, [about])


def test_a_file_may_have_a_list_too(here: Path) -> None:
    for name, text in {
        "experiment/mine.yaml": "# @package _global_\ndata:\n  augment: [flip, {mixup: 0.3}]\n",
        "data/small.yaml": "defaults: [digits]\naugment: [{crop: 1}]\n",
        "data/wrong.yaml": "defaults: [digits]\naugment: [crip]\n",
    }.items():
        (here / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "own" / name).write_text(text)
    for typed, on in (("experiment=mine", {"flip": True, "mixup": {"alpha": 0.3, "probability": 1}}),
                      ("data=small", {"crop": 1})):  # fmt: skip
        cfg, problems = Composer(extra=str(here / "own")).compose([typed])
        assert cfg is not None and not problems
        assert OmegaConf.to_container(cfg.data.augment) == OFF | on
    _, problems = Composer(extra=str(here / "own")).compose(["data=wrong"])
    assert about(problems) == [("data.augment", "unknown")]


def test_other_arguments_and_sweeps_stay_as_they_are() -> None:
    for argument in ("data.augment.crop=3", "data.augment=[flip],[mixup]", "data.augment=", "optimizer.lr=0.1", "x"):
        assert expand_override(argument) == argument


def test_each_job_of_a_sweep_has_the_keys_of_its_list() -> None:
    composer = Composer()
    cfg, _ = composer.compose([], RunMode.MULTIRUN)
    assert cfg is not None
    planned = grid.plan(make_space(composer, ["data.augment=null,[flip],[{mixup:0.3}]"])).jobs
    jobs = [with_values(composer, Base(cfg), [f"data.augment={job.point['data.augment']}"]) for job in planned]
    on = [(job.data.augment.flip, job.data.augment.mixup.alpha) for job in jobs if job is not None]
    assert on == [(False, 0), (True, 0), (False, 0.3)]


def test_a_key_beside_the_lists_of_a_sweep_applies_to_each_job() -> None:
    composer, typed = Composer(), ["data.augment.crop=2", "data.augment=[flip]"]
    cfg, _ = composer.compose(typed[:1], RunMode.MULTIRUN)
    assert cfg is not None and with_values(composer, Base(cfg), typed[1:]) is None  # it would overwrite the key
    assert composed(*typed)["crop"] == 2


@pytest.mark.soak
def test_lists_are_the_values_of_a_sweep(runner: Callable[..., Called], here: Path) -> None:
    called = runner(
        "--multirun", "tracking=off", "trainer.epochs=1", "data.limit=40", "data.augment=null,[flip],[{mixup:0.3}]"
    )
    assert called.code == 0, called.err
    configs = sorted((here / "outputs/sweeps").glob("*/[0-9]/config.yaml"))
    saved = [OmegaConf.load(path).data.augment for path in configs]
    assert [(one.flip, one.mixup.alpha) for one in saved] == [(False, 0), (True, 0), (False, 0.3)]
