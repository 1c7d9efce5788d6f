"""Bounds on the shape of arguments and files: just below it is composed, just above it is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from helpers.problems import problem_of
from runner.config.compose import Composer
from runner.config.expansion import check_references
from runner.config.nesting import MAX_DEPTH, MAX_EXPANDED, check_argument, check_file, load_saved


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


def test_a_saved_config_has_the_same_bound_and_may_be_deeper(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"{aliases(9)}\nx: {lists(MAX_DEPTH + 2)}\n")
    assert load_saved(file)["a1"] == [[1] * 9] * 9
    file.write_text(aliases(*[9] * 60))
    assert problem_of(lambda: load_saved(file)).text.startswith(f"{file}, line 5: its aliases")


def test_a_file_just_below_the_bound_composes(here: Path) -> None:
    """1,000 values by aliases; the bound is for the sum in a file, so that a fast machine is not needed here."""
    (here / "conf" / "model").mkdir(parents=True)
    (here / "conf" / "model" / "mine.yaml").write_text(f"_target_: runner.model.mlp.MLP\n{aliases(9, 9)}\n")
    cfg, problems = Composer(extra="conf").compose(["model=mine"])
    assert cfg is not None and problems == []
    assert str(cfg.model.a2).count("1") == 9 * 9 * 9


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ([1] * 10, lambda n: [f"${{d.a{n}}}"] * 10),
        ("x", lambda n: f"${{.a{n}}}${{d[a{n}]}}"),
        ("x", lambda n: f"${{oc.select:d.a{n}}} ${{oc.env:HOME,${{d.a{n}}}}}"),
    ],
)
def test_references_that_multiply_are_refused(first: Any, then: Callable[[int], Any]) -> None:
    values = {"a0": first} | {f"a{n + 1}": then(n) for n in range(60)}
    problem = problem_of(lambda: check_references(OmegaConf.create({"d": values})))
    assert problem.topic == "range" and problem.key.startswith("d.a") and f"{MAX_EXPANDED:,}" in problem.text


@pytest.mark.parametrize(
    "values",
    [
        {"a0": [1] * 10, "a1": ["${..a0}"] * 10, "a2": ["${a1}"] * 10, "a3": ["${a2}"] * 7, "a4": "${a1[0][1]}"},
        {"a": "${a}", "b": "${c}", "c": "${b}", "e": "${c.x}", "f": "${no.such}", "g": "${oc.env:HOME}"},
        {"a": {"b": r"\${a}", "c": "${hydra:job.name}", "d": None, "e": "???"}},
    ],
)
def test_other_references_are_taken_or_left_to_their_own_message(values: dict[str, Any]) -> None:
    check_references(OmegaConf.create(values))
