"""Bounds on the shape of arguments and files: just below it is composed, just above it is refused."""

from pathlib import Path

import pytest

from helpers.problems import problem_of
from runner.config.compose import Composer
from runner.config.nesting import MAX_DEPTH, MAX_EXPANDED, check_argument, check_file


def lists(depth: int) -> str:
    return f"{'[' * depth}1{']' * depth}"


@pytest.mark.parametrize("argument", [f"a={lists(33)}", f"a={'{x:' * 33}1{'}' * 33}", f"{'a.' * 32}b=1"])
def test_an_argument_above_the_bound_is_refused(argument: str) -> None:
    problem = problem_of(lambda: check_argument(argument))
    assert (problem.key, problem.topic) == (argument.partition("=")[0], "range")


@pytest.mark.parametrize(
    "argument", [f"a={lists(32)}", f"{'a.' * 31}b=1", f"a='{'(' * 99}'", f'a="\\"{"[" * 99}"', "a"]
)
def test_an_argument_up_to_the_bound_is_taken_and_so_are_brackets_in_quotes(argument: str) -> None:
    check_argument(argument)


def test_values_at_the_bound_are_composed(here: Path) -> None:
    values = [f"tracking.tags={'{a:' * (MAX_DEPTH - 1)}1{'}' * (MAX_DEPTH - 1)}", f"+data.deep={lists(MAX_DEPTH)}"]
    cfg, problems = Composer().compose(values)
    assert cfg is not None and problems == []
    assert str(cfg.data.deep).count("[") == MAX_DEPTH


def aliases(*counts: int) -> str:
    """A file of anchors, each with the one before `count` times: a0 stands for 1 + 9 values, *a0 for 10."""
    lines = [f"a0: &a0 [{', '.join('1' * 9)}]"]
    for number, count in enumerate(counts):
        lines.append(f"a{number + 1}: &a{number + 1} [{', '.join([f'*a{number}'] * count)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text", [aliases(10, 9, 9), aliases(), "a: &a {b: 1}\nc: {<<: *a, d: *a}", "a: *unknown", "[a"]
)
def test_aliases_of_few_values_are_taken(text: str, tmp_path: Path) -> None:
    check_file(tmp_path / "a.yaml", text)


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        (aliases(10, 10, 10), 4, f"{MAX_EXPANDED:,}"),
        (aliases(*[9] * 60), 5, f"{MAX_EXPANDED:,}"),
        ("x: 1\na: &a [*a]", 2, "contains it"),
        ("x: &a {b: {c: *a}}", 1, "contains it"),
        (f"x: 1\ny: {lists(32)}", 2, "too deeply"),
        ("x: " + "{a: " * 40 + "1" + "}" * 40, 1, "too deeply"),
    ],
)
def test_other_files_are_refused_with_the_line(text: str, line: int, word: str, tmp_path: Path) -> None:
    problem = problem_of(lambda: check_file(tmp_path / "a.yaml", text))
    assert f"a.yaml, line {line}: " in problem.text and word in problem.text


def test_a_file_just_below_the_bound_composes(here: Path) -> None:
    """1,000 values by aliases; the bound is for the sum in a file, so that a fast machine is not needed here."""
    (here / "conf" / "model").mkdir(parents=True)
    (here / "conf" / "model" / "mine.yaml").write_text(f"_target_: runner.model.mlp.MLP\n{aliases(9, 9)}\n")
    cfg, problems = Composer(extra="conf").compose(["model=mine"])
    assert cfg is not None and problems == []
    assert str(cfg.model.a2).count("1") == 9 * 9 * 9
