import pytest

from helpers.problems import about, problem_of
from runner.util.patterns import matches, select

NAMES = [
    "stem.weight",
    "blocks.0.norm.weight",
    "blocks.0.norm.bias",
    "blocks.10.norm.weight",
    "head.weight",
    "head.bias",
]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("head.*", ["head.weight", "head.bias"]),
        ("head", ["head.weight", "head.bias"]),
        ("head.bias", ["head.bias"]),
        ("*.bias", ["blocks.0.norm.bias", "head.bias"]),
        ("blocks.[0-9].*", ["blocks.0.norm.weight", "blocks.0.norm.bias"]),
        ("blocks.1", []),
        ("*.norm", ["blocks.0.norm.weight", "blocks.0.norm.bias", "blocks.10.norm.weight"]),
        ("blocks.?", ["blocks.0.norm.weight", "blocks.0.norm.bias"]),
        ("HEAD", []),
        ("*", NAMES),
    ],
)
def test_a_pattern_is_that_of_a_shell_or_the_name_of_a_module(pattern: str, found: list[str]) -> None:
    assert [name for name in NAMES if matches(pattern, name)] == found


def test_names_are_selected_in_their_own_order_and_once() -> None:
    assert select("model.freeze", ["head", "*.bias", "stem"], NAMES) == [NAMES[0], NAMES[2], *NAMES[4:]]


@pytest.mark.parametrize(
    ("pattern", "suggestion"),
    [
        ("haed.*", "write model.freeze=[stem,head.*]"),
        ("norm.*", "write model.freeze=[stem,blocks.0.norm.*]"),
        ("head.bais", "write model.freeze=[stem,head.bias]"),
        ("transformer", "the names begin with stem, blocks, head"),
    ],
)
def test_a_pattern_that_matches_nothing_is_answered_with_what_is_near(pattern: str, suggestion: str) -> None:
    problem = problem_of(lambda: select("model.freeze", ["stem", pattern], NAMES))
    assert about([problem]) == [("model.freeze", "unknown")]
    assert pattern in problem.text and problem.suggestion == suggestion


def test_a_single_pattern_is_suggested_as_it_is_typed() -> None:
    key = "optimizer.groups.head.params"
    assert problem_of(lambda: select(key, ["haed.*"], NAMES, several=False)).suggestion == f"write {key}=head.*"
