"""The space of a sweep: axes of several keys (zip), and the points that `sweep.where` keeps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from helpers.problems import about
from runner.config.compose import Composer
from runner.config.overrides import quote_texts
from runner.config.zipped import is_zip, parse_zip
from runner.errors import ConfigError
from runner.sweeps.check import preflight
from runner.sweeps.plan import grid, plan, random_search
from runner.sweeps.plan.expression import Expression, ExpressionError
from runner.sweeps.plan.job_configs import JobConfigs
from runner.sweeps.plan.plan import Plan
from runner.sweeps.plan.where import make_space

PAIR = "pair=zip(model=[mlp,cnn],optimizer.lr=[0.1,0.01])"
GRID = ("optimizer.lr=0.1,0.01", "model=mlp,cnn", "data.batch_size=32,64")


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer()


def refused(
    composer: Composer, arguments: Sequence[str], where: str | None = None
) -> pytest.ExceptionInfo[ConfigError]:
    with pytest.raises(ConfigError) as raised:
        grid.plan(make_space(composer, arguments, where=where))
    return raised


class TestZip:
    def test_it_is_one_axis_and_its_jobs_have_plain_overrides(self, composer: Composer) -> None:
        found = grid.plan(make_space(composer, [PAIR, "seed=1,2"]))
        assert found.axes == {"pair": PAIR.partition("=")[2], "seed": "1,2"}
        assert [job.point["pair"] for job in found.jobs] == ["(mlp,0.1)"] * 2 + ["(cnn,0.01)"] * 2
        assert found.jobs[2].overrides == ("model=cnn", "optimizer.lr=0.01", "seed=1")
        assert found.jobs[2].name == "pair=(cnn,0.01) seed=1"

    @pytest.mark.parametrize(
        ("members", "rows"),
        [
            ("model.hidden=[[64],[64,64]],seed=[1,2]", ["([64],1)", "([64,64],2)"]),
            ("seed=range(1,3), data.batch_size = choice( 8 , 16 )", ["(1,8)", "(2,16)"]),
            ("data.path=['a,(b.csv',c.csv],seed=[1,2]", ["(a,(b.csv,1)", "(c.csv,2)"]),
            ("+model.extra=[{a:1},{a:2}],trainer.clip_norm=[null,1]", ["({a:1},null)", "({a:2},1)"]),
        ],
    )
    def test_members_take_any_value_that_a_list_takes(self, composer: Composer, members: str, rows: list[str]) -> None:
        assert [job.point["p"] for job in grid.plan(make_space(composer, [f"p=zip({members})"])).jobs] == rows

    def test_in_a_preset_and_typed_over_it(self, composer: Composer) -> None:
        params = {"pair": PAIR.partition("=")[2]}
        assert len(grid.plan(make_space(composer, [], params)).jobs) == 2
        typed = grid.plan(make_space(composer, ["pair=zip(seed=[1,2,3],optimizer.lr=[1,2,3])"], params))
        assert [job.overrides[0] for job in typed.jobs] == ["seed=1", "seed=2", "seed=3"]

    def test_a_random_search_draws_whole_rows(self, composer: Composer) -> None:
        found = random_search.plan(make_space(composer, [PAIR, "model.dropout=interval(0,0.5)"]), 20, 0)
        assert {job.overrides[:2] for job in found.jobs} == {
            ("model=mlp", "optimizer.lr=0.1"),
            ("model=cnn", "optimizer.lr=0.01"),
        }

    @pytest.mark.parametrize(
        ("typed", "problem"),
        [
            (["p=zip(model=[mlp,cnn])"], ("p", "syntax")),
            (["p=zip()"], ("p", "syntax")),
            (["p=zip(model=[mlp,cnn],seed=[1])"], ("p", "range")),
            (["seed=zip(model=[mlp,cnn],optimizer.lr=[1,2])"], ("seed", "syntax")),
            (["model=zip(model=[mlp,cnn],optimizer.lr=[1,2])"], ("model", "syntax")),
            (["status=zip(model=[mlp,cnn],seed=[1,2])"], ("status", "syntax")),
            (["p.q=zip(model=[mlp,cnn],seed=[1,2])"], ("p.q", "syntax")),
            (["p=zip(model=[mlp,cnn],seed=1)"], ("p", "syntax")),
            (["p=zip(model=[mlp,cnn],seed=shuffle(1,2))"], ("p", "syntax")),
            (["p=zip(model=[mlp,cnn],optimizer.lr=interval(1,2))"], ("p", "type")),
            (["p=zip(model=[mlp,cnn],model=[cnn,mlp])"], ("p", "syntax")),
            (["p=zip(model=[mlp,cnn],seed=[1,2]"], ("p", "syntax")),
            (["p=zip(model=[mlp,cnn] seed=[1,2])"], ("p", "syntax")),
            (["p=zip(model=choice(mlp,cnn) seed=[1,2],data.limit=[1,2])"], ("p", "syntax")),
            (["p=zip(model=[mlp,cnn],q=zip(a=[1,2],b=[1,2]))"], ("p", "syntax")),
            (["p=zip(model=[mlp,cnn],sweep.jobs=[1,2])"], ("sweep.jobs", "conflict")),
            ([PAIR, "model=mlp,cnn"], ("model", "conflict")),
            ([PAIR, "model=mlp"], ("model", "conflict")),
        ],
    )
    def test_what_is_wrong_is_one_problem(self, composer: Composer, typed: list[str], problem: tuple[str, str]) -> None:
        raised = refused(composer, typed)
        assert about(raised) == [problem] and raised.value.problems[0].suggestion

    def test_a_missing_comma_is_named(self, composer: Composer) -> None:
        (problem,) = refused(composer, ["p=zip(model=[mlp,cnn] seed=[1,2])"]).value.problems
        assert problem.text.endswith("model=[mlp,cnn] seed=[1,2] is not a key and its values")
        assert problem.suggestion == "put a comma between keys"

    def test_what_only_looks_like_one(self) -> None:
        assert not is_zip("data.path=a.zip") and not is_zip("run=zip(a=[1])")

    def test_what_hydra_gets(self) -> None:
        assert parse_zip("a=zip(b=[1],c=['x)'])").members == ("b=choice(1)", "c=choice('x)')")
        assert parse_zip(" a = zip( b=[1,2], c=[null,3] ) ").members == ("b=1,2", "c=null,3")

    def test_an_unknown_key_of_a_member_is_one_problem(self, composer: Composer) -> None:
        jobs = grid.plan(make_space(composer, ["pair=zip(model=[mlp,cnn],optimizer.lrr=[0.1,0.01])"])).jobs
        _, problems = preflight.compose(JobConfigs(composer), jobs)
        (problem,) = preflight.explain(jobs, problems)
        assert about([problem]) == [("optimizer.lrr", "unknown")] and problem.suggestion == "did you mean optimizer.lr?"

    def test_more_rows_extend_it(self, composer: Composer, tmp_path: Path) -> None:
        first = grid.plan(make_space(composer, [PAIR]))
        first.save(tmp_path, [PAIR], composer.options)
        saved = plan.load(tmp_path)[0]
        assert saved == first
        more = grid.plan(make_space(composer, ["pair=zip(model=[mlp,cnn,mlp],optimizer.lr=[0.1,0.01,1])"]))
        new, missing = plan.difference(composer, saved, more)
        both = plan.extended(composer, saved, more, new)
        assert not missing and both.axes == {"pair": "zip(model=[mlp,cnn,mlp],optimizer.lr=[0.1,0.01,1])"}
        assert [job.point for job in both.jobs] == [{"pair": row} for row in ("(mlp,0.1)", "(cnn,0.01)", "(mlp,1)")]


VALUES = {"a": 3, "b.c": 0.5, "text": "mlp", "items": [8, 16], "nothing": None, "flag": True}


class TestExpression:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("a == 3 and b.c < 1", True),
            ("0.1 < b.c <= 0.5 < a", True),
            ("a > 3 or not flag", False),
            ("text in ['cnn', 'mlp'] and text != 'cnn'", True),
            ("a not in [1, 2] and 8 in items", True),
            ("nothing == null and flag == true", True),
            ("a * 2 - 1 == 5 and a / 2 == 1.5 and a // 2 == 1 and a % 2 == 1 and a ** 2 == 9", True),
            ("len(items) == 2 and max(items) == 16 and min(a, 5) == 3 and abs(-a) == +a", True),
            ("items[0] == 8 and items[-1] == 16 and items == [8, 16]", True),
            ("'lp' in text", True),
            ("true", True),
            ("text == 'cnn' and unknown > 3", False),
        ],
    )
    def test_what_it_computes(self, text: str, value: bool) -> None:
        assert Expression(text).is_true(VALUES.__getitem__) is value

    @pytest.mark.parametrize(
        "text",
        [
            "__import__('os').system('true')", "open('x') == 1", "().__class__ == 1", "[x for x in items]", "lambda: 1",
            "a if flag else 2", "f'{a}' == '3'", "a := 3", "items[0:1] == [8]", "a is null", "{'a': 1} == a", "",
            "a << 99999999 > 1", "b'x' == text", "1j == a", "len(*items) == 1", "max(items, key=a) == 1", "a = 3", "(",
            "a" * 1001, "a & 1 == 1", "(" * 300, "-" * 900 + "a > 1", "not " * 200 + "flag", "\0", "print(a) == 1",
        ],
    )  # fmt: skip
    def test_what_it_cannot_have(self, text: str) -> None:
        with pytest.raises(ExpressionError):
            Expression(text)

    @pytest.mark.parametrize(
        ("text", "topic"),
        [
            ("text > 3", "type"), ("text", "type"), ("a", "type"), ("not text", "type"), ("a and flag", "type"),
            ("a / 0 > 1", "range"), ("a % (a - 3) == 0", "range"), ("9 ** 9 ** 9 > 1", "range"),
            ("2.0 ** 5000 > 1", "range"), ("(-a) ** 0.5 > 1", "type"), ("text + 'x' == 'mlpx'", "type"),
            ("text * 999999999 == text", "type"), ("items * 9 == items", "type"), ("'%9999d' % a == text", "type"),
            ("a in 3", "type"), ("3 in text", "type"), ("len(a) == 1", "type"), ("max(a) == 1", "type"),
            ("max(text, a) == a", "type"), ("items[2] == 1", "range"), ("a[0] == 1", "type"), ("flag + 1 == 2", "type"),
            ("nothing < 3", "type"), ("abs(items) == 1", "type"), ("len() == 1", "type"),
        ],
    )  # fmt: skip
    def test_what_it_cannot_compute(self, text: str, topic: str) -> None:
        with pytest.raises(ExpressionError) as raised:
            Expression(text).is_true(VALUES.__getitem__)
        assert raised.value.topic == topic and raised.value.suggestion


class TestWhere:
    @pytest.mark.parametrize(
        ("where", "count"),
        [
            ("optimizer.lr * data.batch_size <= 3.2", 6),
            ("model == 'cnn' or 0.05 < optimizer.lr", 6),
            ("trainer.epochs < 1000 and model != 'cnn'", 4),  # the same for all jobs
            (
                "model == 'mlp' and len(model.hidden) == 2 and model.hidden[0] == 128",
                4,
            ),  # as the choice of a group says
            ("data.limit == null and data.augment.mixup.alpha == 0 and data == 'digits'", 8),
        ],
    )
    def test_what_a_grid_keeps(self, composer: Composer, where: str, count: int) -> None:
        found = grid.plan(make_space(composer, GRID, where=where))
        assert len(found.jobs) == count and [job.number for job in found.jobs] == list(range(count))
        everything = [job.overrides for job in grid.plan(make_space(composer, GRID)).jobs]
        assert [o for o in everything if o in {job.overrides for job in found.jobs}] == [
            j.overrides for j in found.jobs
        ]

    def test_it_looks_at_so_many_points_at_most(self, composer: Composer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("runner.sweeps.plan.space.MOST_POINTS", 7)
        assert about(refused(composer, GRID, "false")) == [("sweep.where", "range")]

    def test_values_that_other_values_change_are_those_of_the_composed_job(self, composer: Composer) -> None:
        arguments = ["data.batch_size=${seed}", "seed=8,16,32", "data.augment=[flip],[{crop:2}]"]
        found = grid.plan(make_space(composer, arguments, where="data.batch_size > 8 and data.augment.crop == 2"))
        assert [job.point["seed"] for job in found.jobs] == ["16", "32"]

    def test_members_of_a_zip_are_values_too(self, composer: Composer) -> None:
        space = make_space(composer, [PAIR, "seed=1,2"], where="optimizer.lr < 0.1")
        assert [job.name for job in grid.plan(space).jobs] == [
            "seed=1",
            "seed=2",
        ]

    @pytest.mark.parametrize(
        ("where", "topic", "suggestion"),
        [
            ("optimizer.lrr > 1", "unknown", "did you mean optimizer.lr?"),
            ("optimizer.lr > 0 or optimizer.lrr > 1", "unknown", "did you mean optimizer.lr?"),
            ("model == cnn", "unknown", "write a text in quotes: 'cnn'"),
            ("modle == 'cnn'", "unknown", "did you mean model?"),
            ("lr < 0.1", "unknown", "did you mean optimizer.lr?"),
            ("data.limit is null", "syntax", "compare by == and !="),
            ("model.channels == [8]", "unknown", "write model == '<choice>' and ... before it"),
            ("model > 3", "type", "compare numbers"),
            ("optimizer.lr > 1", "conflict", "weaker"),
            ("optimizer.lr / 0 > 1", "range", "another number"),
            ("import os", "syntax", "write it as in optimizer.lr < 0.1"),
        ],
    )
    def test_what_is_wrong_is_one_problem(self, composer: Composer, where: str, topic: str, suggestion: str) -> None:
        raised = refused(composer, GRID, where)
        assert about(raised) == [("sweep.where", topic)] and suggestion in raised.value.problems[0].suggestion

    def test_a_random_search_draws_again(self, composer: Composer) -> None:
        arguments = ["optimizer.lr=tag(log,interval(1e-4,1))", "data.batch_size=8,64"]

        def draw(n: int, where: str | None) -> Plan:
            return random_search.plan(make_space(composer, arguments, where=where), n, 0)

        where = "optimizer.lr * data.batch_size < 0.1"
        few, many = draw(10, where), draw(30, where)
        assert len(many.jobs) == 30 and not many.note
        assert [job.point for job in few.jobs] == [job.point for job in many.jobs[:10]]
        assert [job.point for job in draw(5, "true").jobs] == [job.point for job in draw(5, None).jobs]
        assert draw(3, "data.batch_size == 8 and optimizer.lr > 0.99").note.endswith("sweep.where leaves no more")
        with pytest.raises(ConfigError) as raised:
            draw(3, "optimizer.lr > 2")
        assert about(raised) == [("sweep.where", "conflict")]

    def test_it_need_not_be_quoted_for_hydra(self, composer: Composer) -> None:
        for text in (
            "optimizer.lr * 2 < 0.1 and model in ['mlp', 'cnn']",
            "'cnn' == model",
            "a\\b == 'x'",
            "seed in [1,2]",
        ):
            assert composer.reader.parse(quote_texts(f"sweep.where={text}", sweeping=True)).value() == text
        assert quote_texts('sweep.where="seed < 3"') == 'sweep.where="seed < 3"'
        cfg, problems = composer.compose(["sweep.where=optimizer.lr < 0.1, 3"])
        assert cfg is not None and not problems and cfg.sweep.where == "optimizer.lr < 0.1, 3"


def test_jobs_are_composed_as_from_all_of_their_overrides(composer: Composer) -> None:
    arguments = [*GRID, "trainer.epochs=3", "data.limit=null,5", "tracking.run_name='r ${seed}'"]
    jobs = grid.plan(make_space(composer, arguments)).jobs
    configs, problems = preflight.compose(JobConfigs(composer), jobs)
    assert not any(problems.values())
    composed: Any
    expected: Any
    for job in (jobs[0], jobs[-1]):
        whole: Any = composer.compose([*job.overrides, f"hydra.job.num={job.number}"])[0]
        composed, expected = (OmegaConf.to_container(cfg) for cfg in (configs[job.number], whole))
        for plain in (composed, expected):  # the order of the overrides is another
            plain["hydra"]["overrides"]["task"].sort()
            del plain["hydra"]["overrides"]["hydra"]  # the number of the job, which is in the node itself
        assert composed == expected


def test_a_value_that_breaks_a_reference_is_found(composer: Composer) -> None:
    arguments = ["trainer.epochs=${data.batch_size}", "data.batch_size=8,0", "seed=1,2"]
    jobs = grid.plan(make_space(composer, arguments)).jobs
    _, problems = preflight.compose(JobConfigs(composer), jobs)
    assert [bool(problems[job.number]) for job in jobs] == [False, False, True, True]
