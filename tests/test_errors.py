import pytest
import torch

from helpers.problems import about
from runner.errors import ConfigError, Problem, close_match, first_line, to_one_line


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ConfigError(Problem("seed", "seed=x is not valid", "write 1", topic="type")), [("seed", "type")]),
        (ConfigError("model.width=3 is odd; write 4"), [("model.width", "code")]),
        (ConfigError("+data.x=1: no"), [("data.x", "code")]),
        (ConfigError(ValueError("inner text")), [("inner", "code")]),
        (ConfigError(""), [("an", "code")]),
        (ConfigError(), [("an", "code")]),
    ],
)
def test_what_a_user_s_class_raises_is_a_problem(raised: ConfigError, expected: list[tuple[str, str]]) -> None:
    assert about(raised) == expected
    assert str(raised) and all(problem.text for problem in raised.problems)


def test_a_problem_is_its_text_and_its_suggestion() -> None:
    assert str(Problem("a", "a=1 is wrong", "write a=2", topic="range")) == "a=1 is wrong; write a=2"
    assert str(Problem("a", "a=1 is wrong", topic="range")) == "a=1 is wrong"


def test_a_close_match_ignores_case_and_order_of_letters() -> None:
    assert close_match("Adam", ["adam", "sgd"]) == "adam" and close_match("sed", ["seed", "data"]) == "seed"
    assert close_match("xyz", ["seed", "data"]) is None and close_match("x", []) is None


def test_any_text_becomes_one_line_that_can_be_printed() -> None:
    name = b"\xe9t\xe9".decode("utf-8", "surrogateescape")  # a file's name that is not UTF-8
    assert to_one_line(f"{name}\n\x1b[31m\x00 \ud800 \udfff é") == r"\xe9t\xe9\n\x1b[31m\x00 \ud800 \udfff é"


def test_the_memory_that_could_not_be_allocated() -> None:
    text = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 139.00 GiB of which ..."
    assert first_line(torch.OutOfMemoryError(text)) == "CUDA out of memory: could not allocate 20.00 MiB"
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 50)
    assert first_line(error.value) == "out of memory: could not allocate 4503599.6 GB"
