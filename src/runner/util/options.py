"""The `key=value` options of the small commands, in Hydra's grammar and without importing it."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence

from runner.errors import ConfigError, Problem, StoreError, TrainingError, describe_error, did_you_mean, to_one_line
from runner.util import advice
from runner.util.streams import OutputError, ReaderGone, print_result
from runner.util.uri import expand_home, redact

COMMON = {"runner.verbose": "true: print tracebacks of errors"}
"""What every command takes."""

EXIT_FAILED = 1
EXIT_CONFIG = 2
EXIT_SIGNAL = 128  # and the number of the signal
EXIT_INTERRUPTED = 130


def run_with_options(
    argv: Sequence[str] | None,
    usage: str,
    known: Mapping[str, str],
    work: Callable[[dict[str, str]], int],
    refuse: Callable[[str], str | None] = lambda key: None,
) -> int:
    """Read the options and do the work; whatever goes wrong becomes a line on standard error.

    Args:
        argv: the arguments; None are those of the process.
        usage: see `parse_options`.
        known: see `parse_options`.
        work: is given the options, and gives the exit code.
        refuse: see `parse_options`.

    Returns:
        The exit code: 1 if the work failed, 2 for a wrong option.
    """
    argv = sys.argv[1:] if argv is None else argv
    if os.environ.get("RUNNER_OUTPUTS") == "":  # set to nothing is not set
        del os.environ["RUNNER_OUTPUTS"]
    try:
        return work(parse_options(argv, usage, {**known, **COMMON}, refuse))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except ReaderGone:  # `... | head`: the reader has what it wanted
        return 0
    except OutputError as error:
        print_errors(str(error))
        return EXIT_FAILED
    except Exception as error:
        if is_verbose(argv):
            show_traceback()
        if isinstance(error, ConfigError):
            return print_errors(*error.problems)
        if isinstance(error, StoreError):
            return print_errors(str(error))
        expected = isinstance(error, TrainingError) or (isinstance(error, OSError) and error.filename)
        line = describe_error(error)
        print_errors(line if expected else f"{line}; runner.verbose=true shows where")
        return EXIT_FAILED


def is_verbose(argv: Sequence[str]) -> bool:
    """Whether tracebacks are wanted; asked of the arguments as they were typed, which may be what is wrong."""
    typed = [re.fullmatch(r"\+{0,2}runner\.verbose=(true|yes|on|1)", word, re.IGNORECASE) for word in argv]
    return any(typed) or os.environ.get("HYDRA_FULL_ERROR") == "1"


def show_traceback() -> None:
    """Print the traceback of the exception that is handled."""
    print(redact(traceback.format_exc()), end="", file=sys.stderr)


def print_errors(*problems: Problem | str) -> int:
    """Print a line for each problem; returns the exit code of a wrong config."""
    print(*(f"error: {to_one_line(redact(str(problem)))}" for problem in problems), sep="\n", file=sys.stderr)
    return EXIT_CONFIG


def parse_options(
    argv: Sequence[str],
    usage: str,
    known: Mapping[str, str],
    refuse: Callable[[str], str | None] = lambda key: None,
) -> dict[str, str]:
    """Read `key=value` arguments; `--help` and `--cfg job` answer and end the program.

    Quotes around a value are removed, `~` is expanded, and `null` means the same as leaving the option out.

    Args:
        argv: the arguments, without the program's name.
        usage: the command in one line, and what it does.
        known: each option's key and its meaning.
        refuse: returns why an unknown key is not an option, if there is a better reason than that it is unknown.

    Raises:
        ConfigError: unknown options, or arguments that are not options; all of them.
    """
    if "--help" in argv or "-h" in argv:
        width = max(map(len, known))
        print_result(usage, *(f"  {key:<{width}}  {meaning}" for key, meaning in known.items()))
        sys.exit(0)
    values: dict[str, str] = {}
    problems: list[Problem] = []
    words = [word for word in argv if word not in ("--cfg", "-c", "job")]
    for word in words:
        key, equals, value = word.partition("=")
        key = key.lstrip("+")
        if key in known and equals:
            values[key] = expand_home(_unquote(value))
        elif key in known:
            problems.append(Problem(key, f"{key} needs a value", f"write {key}=<value>", topic="missing"))
        elif equals and (why := refuse(key)):
            problems.append(Problem(key, f"{word}: {why}", topic="conflict"))
        elif equals:
            hint = did_you_mean(key, known)
            problems.append(Problem(key, f"{key} is not an option of this command", hint, topic="unknown"))
        else:
            hint = did_you_mean(key, known)
            problems.append(Problem(key, f"{word}: options are written key=value", hint, topic="syntax"))
    for key in ("runner.verbose", "runner.quiet"):
        if values.get(key, "true").lower() not in ("true", "false", "null"):
            problems.append(Problem(key, f"{key}={values[key]} is not valid", "write true or false", topic="type"))
    if problems:
        raise ConfigError(*problems)
    if len(words) < len(argv):
        print_result(*(f"{key}: {values.get(key, 'null')}" for key in known))
        sys.exit(0)
    return {key: value for key, value in values.items() if value != "null"}


def required_option(options: Mapping[str, str], key: str, meaning: str) -> str:
    """The value of an option that cannot be left out.

    Args:
        options: those that were typed.
        key: of the option.
        meaning: its value in words, for the suggestion.

    Raises:
        ConfigError: it is left out.
    """
    if key not in options:
        raise ConfigError(Problem(key, f"{key}= is missing", f"write {key}=<{meaning}>; see --help", topic="missing"))
    return options[key]


def choice_option(options: Mapping[str, str], key: str, choices: Sequence[str], default: str) -> str:
    """The value of an option that has a few choices.

    Raises:
        ConfigError: it is not one of them.
    """
    value = options.get(key, default)
    if value not in choices:
        hint = advice.for_choice(key, value, choices)
        raise ConfigError(Problem(key, f"{key}={value} is not a choice", hint, topic="choice"))
    return value


def is_true(options: Mapping[str, str], key: str) -> bool:
    """Whether a switch is on; left out, it is off."""
    return options.get(key, "false").lower() == "true"


def _unquote(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value
