"""What a `ConfigError` is about, for tests: keys and topics, which stay when sentences are reworded."""

from collections.abc import Callable, Iterable

import pytest

from runner.errors import ConfigError, Problem


def about(source: ConfigError | pytest.ExceptionInfo[ConfigError] | Iterable[Problem]) -> list[tuple[str, str]]:
    """The key and the topic of each problem."""
    if isinstance(source, pytest.ExceptionInfo):
        source = source.value
    problems = source.problems if isinstance(source, ConfigError) else source
    return [(problem.key, problem.topic) for problem in problems]


def problems_of(call: Callable[[], object]) -> list[Problem]:
    """The problems of the error that a call raises, each fit for a person: two lines at most, no traceback."""
    with pytest.raises(ConfigError) as caught:
        call()
    for problem in caught.value.problems:
        assert len(str(problem).splitlines()) <= 2
        assert "Traceback" not in str(problem)
    return caught.value.problems


def problem_of(call: Callable[[], object]) -> Problem:
    """The only problem of the error that a call raises."""
    (problem,) = problems_of(call)
    return problem
