"""What a `ConfigError` is about, for tests: keys and topics, which stay when sentences are reworded."""

from collections.abc import Iterable

import pytest

from runner.errors import ConfigError, Problem


def about(source: ConfigError | pytest.ExceptionInfo[ConfigError] | Iterable[Problem]) -> list[tuple[str, str]]:
    """The key and the topic of each problem."""
    if isinstance(source, pytest.ExceptionInfo):
        source = source.value
    problems = source.problems if isinstance(source, ConfigError) else source
    return [(problem.key, problem.topic) for problem in problems]
