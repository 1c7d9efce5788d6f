"""The plan of a sweep: grids, draws, names, refused axes, extensions."""

import json
import math
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from helpers.problems import about
from helpers.sweeping import start
from runner.comparison.log_axes import read_log_axes
from runner.config.compose import Composer
from runner.data.dataset_part import READ_TWICE
from runner.device import Device
from runner.errors import ConfigError, Problem
from runner.rundir import layout
from runner.sweeps.check import build_jobs, preflight
from runner.sweeps.check.preflight import explain
from runner.sweeps.jobs import Job
from runner.sweeps.plan import axes, grid, plan, random_search, seeds
from runner.sweeps.plan.job_configs import JobConfigs
from runner.sweeps.plan.plan import Plan
from runner.sweeps.plan.where import make_space


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer()


def names(found: Plan) -> list[str]:
    return [job.name for job in found.jobs]


class TestGrid:
    def test_every_combination_named_by_what_differs(self, composer: Composer) -> None:
        found = grid.plan(make_space(composer, ["optimizer.lr=0.1,0.01", "trainer.epochs=2", "data.batch_size=32,64"]))
        assert names(found) == [
            "lr=0.1 batch_size=32",
            "lr=0.1 batch_size=64",
            "lr=0.01 batch_size=32",
            "lr=0.01 batch_size=64",
        ]
        assert found.axes == {"optimizer.lr": "0.1,0.01", "data.batch_size": "32,64"}
        assert found.jobs[2].overrides == ("trainer.epochs=2", "optimizer.lr=0.01", "data.batch_size=32")
        assert [job.number for job in found.jobs] == [0, 1, 2, 3]

    @pytest.mark.parametrize(
        ("argument", "values"),
        [
            ("optimizer.lr=choice(0.1,0.2)", ["0.1", "0.2"]),
            ("trainer.epochs=range(1,6,2)", ["1", "3", "5"]),
            ("model.hidden=[4],[8,8]", ["[4]", "[8,8]"]),
            ("experiment=glob(tiny_*)", ["tiny_relu", "tiny_sigmoid"]),
            ("data.path='a b.csv',c.csv", ["a b.csv", "c.csv"]),
        ],
    )
    def test_hydra_s_grammar(self, composer: Composer, argument: str, values: list[str]) -> None:
        (key,) = {argument.partition("=")[0]}
        assert [job.point[key] for job in grid.plan(make_space(composer, [argument])).jobs] == values

    def test_keys_that_end_alike_are_named_in_full(self, composer: Composer) -> None:
        found = grid.plan(make_space(composer, ["model.weights=a,b", "data.augment.crop=0,1", "scheduler.period=1,2"]))
        assert names(found)[0] == "weights=a crop=0 period=1"
        found = grid.plan(make_space(composer, ["+model.name=a,b", "device.name=cpu,auto"]))
        assert names(found)[:2] == ["model.name=a device.name=cpu", "model.name=a device.name=auto"]

    def test_what_does_not_differ_is_not_in_the_name(self, composer: Composer) -> None:
        assert names(grid.plan(make_space(composer, ["seed=choice(1)", "optimizer.lr=1,2"]))) == ["lr=1", "lr=2"]
        assert names(grid.plan(make_space(composer, ["optimizer.lr=1"]))) == ["job 0"]

    def test_of_two_with_one_key_the_last_counts_and_the_config_s_own_come_last(self, composer: Composer) -> None:
        found = grid.plan(make_space(composer, ["seed=1,2", "seed=3,4"], {"seed": "5,6", "optimizer.lr": "1,2"}))
        assert sorted({job.point["seed"] for job in found.jobs}) == ["3", "4"]
        assert found.axes == {"optimizer.lr": "1,2", "seed": "3,4"}

    @pytest.mark.parametrize(
        ("argument", "topic", "suggestion"),
        [
            ("tracking=off,local", "conflict", "tracking=off"),
            ("tracking.experiment=a,b", "conflict", "tracking.experiment=a"),
            ("sweep.jobs=1,2", "conflict", "sweep.jobs=1"),
            ("sweep.metric=val/loss,test/loss", "conflict", "sweep.metric=[val/loss,test/loss]"),
            ("hydra.job.num=1,2", "conflict", "leave it out"),
            ("optimizer.lr=interval(0.1,1)", "conflict", "optimizer.lr=0.1,1"),
        ],
    )
    def test_what_cannot_be_an_axis_of_a_grid(
        self, composer: Composer, argument: str, topic: str, suggestion: str
    ) -> None:
        with pytest.raises(ConfigError) as raised:
            grid.plan(make_space(composer, [argument]))
        assert about(raised) == [(argument.partition("=")[0], topic)]
        assert suggestion in raised.value.problems[0].suggestion

    def test_a_grid_has_at_most_ten_thousand_jobs(self, composer: Composer) -> None:
        with pytest.raises(ConfigError) as raised:
            grid.plan(make_space(composer, ["seed=range(0,20000)"]))
        assert about(raised) == [("", "range")] and "10,000" in str(raised.value)
        assert len(grid.plan(make_space(composer, ["seed=range(0,10000)"])).jobs) == 10_000

    def test_what_may_differ_in_tracking(self, composer: Composer) -> None:
        assert names(grid.plan(make_space(composer, ["tracking.log_model=true,false"]))) == [
            "log_model=true",
            "log_model=false",
        ]


class TestSeeds:
    def test_each_point_gets_all_seeds_from_that_of_the_config_on(self, composer: Composer) -> None:
        cfg, _ = composer.compose(["sweep.seeds=3", "seed=7"])
        assert cfg is not None and seeds.seeds_of(cfg) == ["7", "8", "9"]
        found = seeds.over_seeds(grid.plan(make_space(composer, ["optimizer.lr=1,2", "seed=7"])), seeds.seeds_of(cfg))
        assert names(found)[:4] == ["lr=1 seed=7", "lr=1 seed=8", "lr=1 seed=9", "lr=2 seed=7"]
        assert found.jobs[4].overrides == ("optimizer.lr=2", "seed=8") and found.jobs[4].number == 4
        assert found.axes == {"optimizer.lr": "1,2", "seed": "7,8,9"} and seeds.are_repeated(found)
        alone = seeds.over_seeds(grid.plan(make_space(composer, [])), ["0", "1"])
        assert names(alone) == ["seed=0", "seed=1"]

    def test_a_random_search_draws_configurations_and_repeats_each(self, composer: Composer) -> None:
        found = random_search.plan(make_space(composer, ["optimizer.lr=interval(0,1)", "seed=0,1"]), 3, 0)
        assert len(found.jobs) == 6 and len({job.point["optimizer.lr"] for job in found.jobs}) == 3
        assert [job.point["seed"] for job in found.jobs] == ["0", "1"] * 3

    @pytest.mark.parametrize("axis", ["seed=0,1", "pair=zip(seed=[0,1],optimizer.lr=[1,2])"])
    def test_both_ways_exclude_each_other(self, composer: Composer, axis: str) -> None:
        with pytest.raises(ConfigError) as raised:
            seeds.over_seeds(grid.plan(make_space(composer, [axis])), ["0", "1", "2"])
        assert about(raised) == [("sweep.seeds", "conflict")]

    @pytest.mark.parametrize(
        ("saved", "axis", "count", "key", "suggestion"),
        [
            ("seed=0,1,2", "seed=0,1,2", 5, "sweep.seeds", "leave out sweep.seeds, and write seed=0,1,2,3,4"),
            ("seed=0,1,2", "seed=0,1,2", 12, "sweep.seeds", "leave out sweep.seeds, and write 'seed=range(0,12)'"),
            ("seed=0,1,2", "seed=0,1,2", 3, "sweep.seeds", "leave out sweep.seeds"),
            ("pair=zip(seed=[0,1],optimizer.lr=[1,2])",) * 2 + (5, "sweep.seeds", "leave out sweep.seeds"),
            ("sweep.seeds=3", "seed=0,1,2,3,4", 3, "seed", "leave out seed"),
        ],
    )
    def test_a_sweep_that_is_resumed_gets_more_seeds_as_it_got_the_first(
        self, composer: Composer, tmp_path: Path, saved: str, axis: str, count: int, key: str, suggestion: str
    ) -> None:
        points = grid.plan(make_space(composer, [axis]))
        points.save(tmp_path, [saved], {})
        with pytest.raises(ConfigError) as raised:
            seeds.over_seeds(points, list(map(str, range(count))), tmp_path)
        (problem,) = raised.value.problems
        assert (problem.key, problem.topic, problem.suggestion) == (key, "conflict", suggestion)

    @pytest.mark.parametrize(
        ("axis", "count", "expected"),
        [
            ("0,1,2", 5, "seed=0,1,2,3,4"),
            ("3,1", 4, "seed=3,1,4,5"),
            ("2,3", 12, "seed=range(2,14)"),
            ("2,3", 2, ""),
            ("interval(0,9)", 20, ""),
        ],
    )
    def test_more_seeds_follow_those_that_are_there(self, axis: str, count: int, expected: str) -> None:
        assert seeds.more_seeds(axis, count) == expected

    @pytest.mark.parametrize(
        ("typed", "asked"),
        [
            (["seed=0,1,2"], ["seed=0,1,2,3,4,5", "sweep.extend=true"]),
            (["sweep.seeds=3"], ["sweep.seeds=6", "sweep.extend=true"]),
            (["sweep.seeds=auto"], ["sweep.max_seeds=6", "sweep.extend=true"]),
            (["pair=zip(seed=[0,1],optimizer.lr=[1,2])"], []),
        ],
    )
    def test_what_to_type_for_more(self, composer: Composer, typed: list[str], asked: list[str]) -> None:
        config, _ = composer.compose([text for text in typed if text.startswith("sweep.")])
        assert config is not None
        space = make_space(
            composer, ["optimizer.momentum=0,0.5", *(text for text in typed if not text.startswith("sweep."))]
        )
        points = seeds.over_seeds(grid.plan(space), seeds.seeds_of(config))
        assert seeds.arguments_for_more(points, config, 6) == asked
        assert seeds.arguments_for_more(points, config, 9_000) == [], "too many jobs"

    def test_what_is_repeated(self, composer: Composer) -> None:
        def repeated(*arguments: str, old_rules: bool = False) -> bool:
            return seeds.are_repeated(replace(grid.plan(make_space(composer, arguments)), old_rules=old_rules))

        assert repeated("seed=0,1") and repeated("seed=0,1", "optimizer.lr=1,2") and repeated("data.fold=0,1")
        assert not repeated("optimizer.lr=1,2") and not repeated("seed=0,1", old_rules=True)
        drawn = ["seed=int(interval(0,99))", "optimizer.lr=interval(0,1)"]
        assert not seeds.are_repeated(random_search.plan(make_space(composer, drawn), 3, 0))


class TestRandom:
    ARGUMENTS = ("optimizer.lr=tag(log,interval(1e-4,1))", "data.batch_size=16,32,64", "trainer.epochs=2")

    def draw(self, composer: Composer, *arguments: str, n: int = 50, seed: int = 0) -> Plan:
        return random_search.plan(make_space(composer, arguments or self.ARGUMENTS), n, seed)

    def test_the_same_seed_draws_the_same_and_more_of_them(self, composer: Composer) -> None:
        few, many = self.draw(composer, n=10), self.draw(composer, n=30)
        assert [job.point for job in few.jobs] == [job.point for job in many.jobs[:10]]
        assert [job.point for job in few.jobs] != [job.point for job in self.draw(composer, n=10, seed=1).jobs]

    def test_another_axis_leaves_the_draws_of_this_one_alone(self, composer: Composer) -> None:
        alone = self.draw(composer, self.ARGUMENTS[0], n=5)
        assert [job.point["optimizer.lr"] for job in alone.jobs] == [
            job.point["optimizer.lr"] for job in self.draw(composer, n=5).jobs
        ]

    def test_a_log_interval_is_drawn_by_factors(self, composer: Composer) -> None:
        rates = [float(job.point["optimizer.lr"]) for job in self.draw(composer, n=400).jobs]
        assert all(1e-4 <= rate <= 1 for rate in rates)
        decades = [sum(10**low <= rate < 10 ** (low + 1) for rate in rates) for low in range(-4, 0)]
        assert all(60 < count < 140 for count in decades), decades

    def test_an_interval_is_drawn_evenly_and_whole_numbers_are_whole(self, composer: Composer) -> None:
        found = self.draw(composer, "model.dropout=interval(0,0.5)", "trainer.epochs=int(interval(1,3))", n=300)
        drops = [float(job.point["model.dropout"]) for job in found.jobs]
        assert abs(sum(drops) / 300 - 0.25) < 0.03 and max(drops) <= 0.5
        assert {job.point["trainer.epochs"] for job in found.jobs} == {"1", "2", "3"}
        whole = self.draw(composer, "data.batch_size=tag(log,int(interval(1,1000000)))", n=200)
        sizes = [int(job.point["data.batch_size"]) for job in whole.jobs]
        assert min(sizes) >= 1 and max(sizes) <= 1_000_000 and 60 < sum(size <= 1000 for size in sizes) < 140

    def test_no_point_twice_and_no_more_than_there_are(self, composer: Composer) -> None:
        found = self.draw(composer, "seed=1,2,3", "data.batch_size=8,16", n=20)
        assert len(found.jobs) == len({json.dumps(job.point) for job in found.jobs}) == 6

    @pytest.mark.parametrize(
        ("argument", "problem", "suggestion"),
        [
            ("optimizer.lr=interval(1,0.1)", ("optimizer.lr", "range"), "optimizer.lr=interval(0.1,1.0)"),
            ("optimizer.lr=tag(log,interval(1,0.1))", ("optimizer.lr", "range"), "tag(log,interval(0.1,1.0))"),
            ("seed=int(interval(9,2))", ("seed", "range"), "seed=int(interval(2,9))"),
            ("optimizer.lr=interval(1,1)", ("optimizer.lr", "range"), "optimizer.lr=interval(0.001,0.1)"),
            ("optimizer.lr=interval(1,inf)", ("optimizer.lr", "range"), "optimizer.lr=interval(0.001,0.1)"),
            ("optimizer.lr=tag(log,interval(0,1))", ("optimizer.lr", "range"), "optimizer.lr=interval(0.0,1.0)"),
            ("optimizer.lr=0.1", ("hydra/sweeper", "missing"), "optimizer.lr=interval(0.001,0.1)"),
        ],
    )
    def test_what_cannot_be_drawn(
        self, composer: Composer, argument: str, problem: tuple[str, str], suggestion: str
    ) -> None:
        with pytest.raises(ConfigError) as raised:
            self.draw(composer, argument)
        assert about(raised) == [problem]
        assert suggestion in raised.value.problems[0].suggestion

    def test_how_many_and_which(self, composer: Composer) -> None:
        with pytest.raises(ConfigError) as raised:
            random_search.plan(make_space(composer, self.ARGUMENTS), 0, -1)
        assert about(raised) == [("hydra.sweeper.n_trials", "range"), ("hydra.sweeper.seed", "range")]


class TestSaved:
    def test_a_plan_is_read_back_as_it_was_written(self, composer: Composer, tmp_path: Path) -> None:
        found = grid.plan(make_space(composer, ["optimizer.lr=0.1,0.01", "trainer.epochs=2"]))
        found.save(tmp_path, ["optimizer.lr=0.1,0.01"], composer.options)
        assert plan.load(tmp_path) == (found, ["optimizer.lr=0.1,0.01"], composer.options)

    def test_a_search_saves_each_job_that_it_adds_and_formats_no_other_again(
        self, composer: Composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        formatted: list[int] = []
        monkeypatch.setattr(plan, "_to_dict", lambda job, of=plan._to_dict: formatted.append(job.number) or of(job))
        space = make_space(composer, ["data.path='über\\'", "optimizer.lr=interval(0,1)"], {})
        found = Plan(space.texts, [])
        for number in range(4):
            found.save(tmp_path, ["optimizer.lr=interval(0,1)"], composer.options)
            assert plan.load(tmp_path)[0] == found and len(found.jobs) == number
            found.jobs.append(plan.job_at(number, space, [f"0.{number}"]))
        assert formatted == [0, 1, 2]

    @pytest.mark.parametrize(
        ("arguments", "params", "keys"),
        [
            (["optimizer.lr=tag(log,choice(0.1,0.01))", "seed=1,2"], {}, ("optimizer.lr",)),
            (
                ["optimizer.lr=tag(rates,log,range(1,4))", "+model.x=tag(log,choice(1,2))"],
                {},
                ("optimizer.lr", "model.x"),
            ),
            (["optimizer.lr=float(tag(log, choice(1,2)))"], {}, ("optimizer.lr",)),
            (["seed=1,2"], {"optimizer.lr": "tag(log,choice(0.1,0.01))"}, ("optimizer.lr",)),
            (["optimizer.lr=tag(rates,choice(0.1,0.01))", "data.path=log,choice"], {}, ()),
        ],
    )
    def test_axes_tagged_log_are_recorded(
        self, composer: Composer, tmp_path: Path, arguments: list[str], params: dict[str, str], keys: tuple[str, ...]
    ) -> None:
        found = grid.plan(make_space(composer, arguments, params))
        assert found.log_axes == random_search.plan(make_space(composer, arguments, params), 4, 0).log_axes == keys
        found.save(tmp_path, arguments, composer.options)
        assert plan.load(tmp_path)[0] == found and read_log_axes(tmp_path) == keys

    def test_an_interval_that_is_tagged_log_is_recorded(self, composer: Composer) -> None:
        arguments = ["optimizer.lr=tag(log,interval(1e-4,1))", "data.batch_size=tag(log,int(interval(1,64)))"]
        found = random_search.plan(make_space(composer, [*arguments, "model.dropout=interval(0,0.5)"]), 4, 0)
        assert found.log_axes == ("optimizer.lr", "data.batch_size")

    def test_of_a_sweep_of_0_1_0_the_texts_tell_which_axes_are_logarithmic(
        self, composer: Composer, tmp_path: Path
    ) -> None:
        for planned, argument in (
            (grid.plan, "optimizer.lr=tag(log,choice(0.1,0.01))"),
            (lambda space: random_search.plan(space, 3, 0), "optimizer.lr=tag(log, interval(0.1,1))"),
        ):
            arguments = [argument, "seed=log,1", "data.path='tag(log'"]
            planned(make_space(composer, arguments)).save(tmp_path, arguments, composer.options)
            content = json.loads((tmp_path / layout.SWEEP_PLAN).read_text())
            del content["log_axes"]
            (tmp_path / layout.SWEEP_PLAN).write_text(json.dumps(content))
            assert read_log_axes(tmp_path) == plan.load(tmp_path)[0].log_axes == ("optimizer.lr",)
        assert read_log_axes(tmp_path / "nowhere") == ()

    @pytest.mark.parametrize("content", ["", "{}", '{"jobs": 3}', "[]"])
    def test_a_file_that_is_not_a_plan(self, tmp_path: Path, content: str) -> None:
        (tmp_path / layout.SWEEP_PLAN).write_text(content)
        with pytest.raises(ConfigError) as raised:
            plan.load(tmp_path)
        assert about(raised) == [("sweep.resume", "run")]

    def test_the_same_grid_in_other_words(self, composer: Composer) -> None:
        one = grid.plan(make_space(composer, ["optimizer.lr=0.1,0.01", "seed=1,2", "trainer.epochs=2", "sweep.jobs=1"]))
        other_words = ["seed=2,1", "trainer.epochs=2", "optimizer.lr=0.10,1e-2", "sweep.jobs=2"]
        other = grid.plan(make_space(composer, other_words))
        assert plan.difference(composer, one, other) == ([], [])

    def test_what_another_grid_adds_and_lacks(self, composer: Composer) -> None:
        one, other = (grid.plan(make_space(composer, [f"optimizer.lr={values}"])) for values in ("1,2", "2,3,4"))
        new, missing = plan.difference(composer, one, other)
        assert [job.name for job in new] == ["lr=3", "lr=4"] and [job.name for job in missing] == ["lr=1"]
        both = plan.extended(composer, one, other, new)
        assert [(job.number, job.name) for job in both.jobs] == [(0, "lr=1"), (1, "lr=2"), (2, "lr=3"), (3, "lr=4")]

    def test_a_new_axis_is_in_the_names_of_the_new_jobs(self, composer: Composer) -> None:
        one = grid.plan(make_space(composer, ["optimizer.lr=1,2"]))
        other = grid.plan(make_space(composer, ["optimizer.lr=1,2", "data.batch_size=8,16"]))
        new, missing = plan.difference(composer, one, other)
        both = plan.extended(composer, one, other, new)
        assert len(missing) == 2 and both.jobs[2].name == "lr=1 batch_size=8"
        assert both.axes == {"optimizer.lr": "1,2", "data.batch_size": "8,16"}

    def test_a_changed_value_of_all_jobs_becomes_an_axis(self, composer: Composer) -> None:
        one, other = (grid.plan(make_space(composer, ["seed=1,2", f"trainer.epochs={epochs}"])) for epochs in (3, 5))
        both = plan.extended(composer, one, other, plan.difference(composer, one, other)[0])
        assert [job.point["trainer.epochs"] for job in both.jobs] == ["3", "3", "5", "5"]
        assert [job.name for job in both.jobs] == ["seed=1", "seed=2", "seed=1 epochs=5", "seed=2 epochs=5"]

    def test_what_is_about_the_sweep_is_in_no_job_and_credentials_are_nowhere(
        self, composer: Composer, tmp_path: Path
    ) -> None:
        arguments = ["seed=1,2", "tracking.uri=http://a:b@host:1", "sweep.metric=val/loss", "sweep.dry_run=true"]
        found = grid.plan(make_space(composer, arguments))
        assert {job.overrides for job in found.jobs} == {("seed=1",), ("seed=2",)}
        found.save(tmp_path, arguments, composer.options)
        assert plan.load(tmp_path)[1] == ["seed=1,2", "tracking.uri=http://host:1", "sweep.metric=val/loss"]


NO_MODEL = Problem("model", "model=cnnn is not a choice", "did you mean cnn?", topic="choice")
BAD_RATE = Problem("optimizer.lr", "optimizer.lr=-1 is out of range", topic="range")


class TestProblems:
    def jobs(self, composer: Composer) -> Plan:
        return grid.plan(make_space(composer, ["optimizer.lr=0.1,-1", "model=mlp,cnnn", "data.batch_size=8,16"]))

    def test_a_problem_is_reported_once_with_its_jobs_and_the_value_that_has_it(self, composer: Composer) -> None:
        jobs = self.jobs(composer).jobs
        by_job = {
            job.number: ([NO_MODEL] if job.point["model"] == "cnnn" else [])
            + ([BAD_RATE] if job.point["optimizer.lr"] == "-1" else [])
            for job in jobs
        }
        problems = explain(jobs, by_job)
        assert about(problems) == about([NO_MODEL, BAD_RATE])
        assert [problem.suggestion for problem in problems] == [NO_MODEL.suggestion, ""]
        assert self.prefixes(problems) == ["jobs 2, 3, 6, 7 (model=cnnn)", "jobs 4, 5, 6, 7 (lr=-1)"]

    def test_a_problem_of_all_is_no_job_s(self, composer: Composer) -> None:
        jobs = self.jobs(composer).jobs
        assert explain(jobs, {job.number: [NO_MODEL] for job in jobs}) == [NO_MODEL]

    def test_two_values_that_only_together_are_wrong(self, composer: Composer) -> None:
        jobs = self.jobs(composer).jobs
        assert self.prefixes(explain(jobs, {7: [NO_MODEL]})) == ["job 7 (lr=-1 model=cnnn batch_size=16)"]

    def test_several_values_that_are_wrong_in_the_same_way(self, composer: Composer) -> None:
        jobs = grid.plan(make_space(composer, ["experiment=a,b,c", "seed=1,2"])).jobs
        by_job = {job.number: [NO_MODEL] for job in jobs if job.point["experiment"] != "b"}
        assert self.prefixes(explain(jobs, by_job)) == ["jobs 0, 1, 4, 5 (experiment=a,c)"]

    def test_a_problem_that_no_value_explains(self, composer: Composer) -> None:
        jobs = self.jobs(composer).jobs
        assert self.prefixes(explain(jobs, {0: [NO_MODEL], 7: [NO_MODEL]})) == ["jobs 0, 7"]

    @staticmethod
    def prefixes(problems: list[Problem]) -> list[str]:
        """Return the jobs that are named before the text of each problem."""
        return [problem.text.partition(": ")[0] for problem in problems]


def test_the_numbers_drawn_are_written_with_six_digits() -> None:
    interval = axes.Interval(math.pi * 1e-5, math.e, log=False, whole=False)
    import random

    assert all(len(interval.draw(random.Random(seed)).replace("0.", "").lstrip("0")) <= 8 for seed in range(20))


COUNTED = """
import torch
from torch.utils.data import Dataset

from runner.data.source import Source


class Counted(Dataset):
    targets = [0, 1] * 50

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        with open("read", "a") as file:
            file.write(f"{index}\\n")
        return torch.full((8,), float(index % 2)), index % 2

    def fingerprint(self):
        return b"counted"


def samples():
    return Source("counted", train=Counted(), classes=["a", "b"])
"""


def test_the_check_brings_no_samples_into_memory_but_knows_whether_they_fit(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "counted.py").write_text(COUNTED)
    monkeypatch.syspath_prepend(here)
    (here / "my_conf" / "data").mkdir(parents=True)
    (here / "my_conf" / "data" / "counted.yaml").write_text("_target_: counted.samples\n")
    of_all = ("data=counted", "data.in_memory=true")
    jobs = [Job(number, f"job {number}", {}, (*of_all, f"model.hidden=[{4 + number}]")) for number in range(2)]
    configs, problems = preflight.compose(JobConfigs(Composer(extra=str(here / "my_conf"))), jobs)
    pickled = {number: pickle.dumps(cfg) for number, cfg in configs.items()}
    built, found = build_jobs.build_all(pickled, problems)
    assert found == {0: [], 1: []} and built[1].metrics[:2] == ["train/loss", "train/accuracy"]
    looked_at = len(set((here / "read").read_text().split()))  # for their shape, and for whether they are random
    assert looked_at < READ_TWICE + 5, "of a hundred"
    monkeypatch.setattr(Device, "free_memory", lambda self: 1000)
    _, found = build_jobs.build_all(pickled, problems)
    assert [about(problems)[0][0] for problems in found.values()] == ["data.in_memory"] * 2


@pytest.mark.parametrize(
    ("axis", "topic", "words"),
    [
        ("seed=range(0,5,0)", "range", "seed=range(0,5)"),
        ("optimizer.lr=range(0,1,0.0)", "range", "optimizer.lr=range(0,5)"),
        ("seed=sort(range(0,5,0))", "range", "seed=range(0,5)"),
        ("seed=range(5,0)", "range", "5 is not below 0"),
        ("seed=range(0,5,-1)", "range", "0 is not above 5"),
        ("seed=range(0,nan)", "range", "seed="),
        ("seed=range(0,inf)", "range", "100,000"),
        ("seed=shuffle(range(0,1000000000000))", "range", "100,000"),
        ("seed=shuffle()", "missing", "seed=a,b"),
        ("model=glob(zz*)", "missing", "model=a,b"),
        ("seed=choice(choice(1,2),3)", "syntax", "choice(...)"),
        ("seed=choice()", "syntax", "seed=choice(1,2)"),
        ("seed=range()", "syntax", "range()"),
        ("seed=sort(a,1)", "syntax", "sort()"),
        ("seed=tag(log)", "syntax", "tag()"),
        ("trainer.clip_norm=1,99999999999999999999999", "range", "99999999999999999999999"),
    ],
)
def test_an_axis_without_values_is_one_problem(axis: str, topic: str, words: str, composer: Composer) -> None:
    for planned in (
        lambda: grid.plan(make_space(composer, [axis])),
        lambda: random_search.plan(make_space(composer, [axis]), n_trials=2, seed=0),
        lambda: grid.plan(make_space(composer, [], dict([axis.split("=", 1)]))),  # of a preset
    ):
        with pytest.raises(ConfigError) as raised:
            planned()
        (problem,) = raised.value.problems
        assert about(raised) == [(axis.partition("=")[0], topic)] and words in str(problem)


FROM_1 = ("data=tensors", "data.inputs=[[1],[2],[3],[4]]", "data.targets=[1,2,1,2]", "data.val_fraction=0")


def as_version_0_1_0_wrote_it(folder: Path) -> None:
    """Remove from a sweep's record the keys that are new since then."""
    content = json.loads((folder / layout.SWEEP_PLAN).read_text())
    for key in ("log_axes", "old_rules"):
        content.pop(key, None)
    (folder / layout.SWEEP_PLAN).write_text(json.dumps(content))


def test_a_sweep_of_version_0_1_0_keeps_its_rules_however_often_it_is_resumed(
    composer: Composer, tmp_path: Path
) -> None:
    arguments = ["seed=0,1", *FROM_1]
    found = grid.plan(make_space(composer, arguments))
    found.save(tmp_path, arguments, {})
    assert not plan.load(tmp_path)[0].old_rules
    as_version_0_1_0_wrote_it(tmp_path)
    for _ in range(2):
        saved, arguments_then, options = plan.load(tmp_path)
        assert saved.old_rules and saved.jobs == found.jobs
        saved.save(tmp_path, arguments_then, options)  # as a resumed sweep does


def test_jobs_of_version_0_1_0_read_their_data_by_its_rules(composer: Composer) -> None:
    jobs = [Job(number, f"job {number}", {}, FROM_1) for number in range(2)]
    refused = build_all(composer, jobs, old_rules=False)
    assert len(about(refused[0])) == 1 and refused[0] == refused[1]
    assert build_all(composer, jobs, old_rules=True) == {0: [], 1: []}
    typed = [Job(0, "job 0", {}, (*FROM_1, "data.scale=none"))]  # to extend it by today's rules
    assert build_all(composer, typed, old_rules=True) == {0: refused[0]}


def build_all(composer: Composer, jobs: list[Job], old_rules: bool) -> dict[int, list[Problem]]:
    configs, problems = preflight.compose(JobConfigs(composer), jobs, old_rules=old_rules)
    return build_jobs.build_all({number: pickle.dumps(cfg) for number, cfg in configs.items()}, problems)[1]


@pytest.mark.soak
@pytest.mark.parametrize("sweeper", ["grid", "optuna"])
def test_an_unfinished_sweep_of_version_0_1_0_reads_its_data_as_it_did(here: Path, sweeper: str) -> None:
    rows = "".join(f"{i % 7},{i % 5},{1 + (i % 7 > i % 5)}\n" for i in range(60))
    (here / "t.csv").write_text(f"a,b,y\n{rows}")
    folder = here / "sweep"
    axis = "model.hidden=[4],[8]" if sweeper == "grid" else "model.hidden=choice([4],[8])"
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "sweep.jobs=1"] if sweeper == "optuna" else []
    fixed = ["data=csv", "data.path=t.csv", "data.target=y", "trainer.epochs=2", "tracking=off"]
    begun = start(here, axis, *search, *fixed, f"hydra.sweep.dir={folder}")
    assert begun.wait(120) == 0
    assert outputs_of(folder / "1") == 2
    shutil.rmtree(folder / "1")
    as_version_0_1_0_wrote_it(folder)
    more = ["hydra.sweeper.n_trials=3"] if search else []
    resumed = start(here, f"sweep.resume={folder}", *more)
    _, printed = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, printed
    assert "by the rules of version 0.1.0" in printed
    new = folder / ("2" if search else "1")
    assert outputs_of(new) == 3  # 0 to 2, as 0.1.0 counted classes
    assert "scale" not in yaml.safe_load((new / "config.yaml").read_text())["data"]  # as evaluate and resume read it


def outputs_of(job: Path) -> int:
    return json.loads((job / "samples.json").read_text())["num_outputs"]


def test_jobs_that_name_no_seed_have_had_the_first(composer: Composer) -> None:
    """Extending them by seeds trains the others alone."""
    saved = grid.plan(make_space(composer, ["optimizer.lr=0.1,0.01"]))
    planned = seeds.over_seeds(saved, ["0", "1"])
    new, missing = plan.difference(composer, seeds.with_seed(saved, "0"), planned)
    assert [job.name for job in new] == ["lr=0.1 seed=1", "lr=0.01 seed=1"] and not missing
    named = grid.plan(make_space(composer, ["optimizer.lr=0.1,0.01", "seed=5"]))
    assert seeds.with_seed(named, "0") == named
