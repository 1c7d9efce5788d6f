"""The few `key=value` options of the small commands, in Hydra's grammar and without importing it."""

import sys
from collections.abc import Mapping, Sequence

from runner.errors import ConfigError, did_you_mean


def parse(argv: Sequence[str], usage: str, known: Mapping[str, str]) -> dict[str, str]:
    """Read `key=value` arguments; `--help` and `--cfg job` answer and end the program.

    Args:
        argv: the arguments, without the program's name.
        usage: the command in one line, and what it does.
        known: each option's key and its meaning.

    Raises:
        ConfigError: unknown options or arguments that are none, all of them.
    """
    if "--help" in argv or "-h" in argv:
        width = max(map(len, known))
        print(usage, *(f"  {key:<{width}}  {meaning}" for key, meaning in known.items()), sep="\n")
        sys.exit(0)
    values: dict[str, str] = {}
    problems: list[str] = []
    words = [word for word in argv if word not in ("--cfg", "-c", "job")]
    for word in words:
        key, equals, value = word.partition("=")
        if key not in known:
            problems.append(f"{key} is no option of this command: {did_you_mean(key, known)}")
        elif not equals:
            problems.append(f"{key} needs a value: {key}=...")
        else:
            values[key] = _unquote(value)
    if problems:
        raise ConfigError(*problems)
    if len(words) < len(argv):
        print(*(f"{key}: {values.get(key, 'null')}" for key in known), sep="\n")
        sys.exit(0)
    return values


def _unquote(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value
