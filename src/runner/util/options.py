"""The `key=value` options of the small commands. They look like Hydra's, but Hydra is not imported."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence

from runner.errors import (
    MAX_SUGGESTION,
    ConfigError,
    Problem,
    StoreError,
    TrainingError,
    abbreviate,
    describe_error,
    did_you_mean,
    path_problem,
    to_one_line,
)
from runner.util import advice, events
from runner.util.redaction import redact
from runner.util.stopping import INTERRUPT
from runner.util.store_address import check_address
from runner.util.streams import OutputError, ReaderGone, print_result
from runner.util.uri import expand_home

COMMON = {"runner.verbose": "true: print tracebacks of errors"}
"""Options that every command has."""

_REFERENCE = re.compile(r"\$\{oc\.env:(\w+)\}")

EXIT_FAILED = 1
EXIT_CONFIG = 2
EXIT_SIGNAL = 128  # plus the number of the signal


def run_with_options(
    argv: Sequence[str] | None,
    usage: str,
    known: Mapping[str, str],
    work: Callable[[dict[str, str]], int],
    refuse: Callable[[str], str | None] = lambda key: None,
) -> int:
    """Parse the options and run the command; print each error as a line on standard error.

    Args:
        argv: the arguments; by default those of the process.
        usage: see `parse_options`.
        known: see `parse_options`.
        work: the function that runs the command with the options and returns the exit code.
        refuse: see `parse_options`.

    Returns:
        The exit code: 1 if the work failed, 2 for a wrong option.
    """
    argv = sys.argv[1:] if argv is None else argv
    if os.environ.get("RUNNER_OUTPUTS") == "":  # an empty value means that it is not set
        del os.environ["RUNNER_OUTPUTS"]
    try:
        return work(parse_options(argv, usage, {**known, **COMMON}, refuse))
    except ReaderGone:  # `... | head`: the reader has all that it needs
        return 0
    except OutputError as error:
        print_errors(str(error))
        return EXIT_FAILED
    except Exception as error:
        INTERRUPT.check()
        if is_verbose(argv):
            show_traceback()
        if isinstance(error, ConfigError):
            return print_errors(*error.problems)
        if isinstance(error, StoreError):
            return print_errors(str(error))
        if problem := path_problem(error):
            return print_errors(problem)
        expected = isinstance(error, TrainingError) or (isinstance(error, OSError) and error.filename)
        line = describe_error(error)
        print_errors(line if expected else f"{line}; runner.verbose=true shows where")
        return EXIT_FAILED


def is_verbose(argv: Sequence[str]) -> bool:
    """Return whether to print tracebacks; reads the raw arguments, because parsing them may have failed."""
    matches = [re.fullmatch(r"\+{0,2}runner\.verbose=(true|yes|on|1)", word, re.IGNORECASE) for word in argv]
    return any(matches) or os.environ.get("HYDRA_FULL_ERROR") == "1"


def show_traceback() -> None:
    """Print the traceback of the current exception."""
    print(redact(traceback.format_exc()), end="", file=sys.stderr)


def print_errors(*problems: Problem | str) -> int:
    """Print a line for each problem, or send it to who listens; return the exit code of a wrong config."""
    if events.is_heard():
        events.send_problems(problems)
        return EXIT_CONFIG
    print(*(f"error: {_to_line(problem)}" for problem in problems), sep="\n", file=sys.stderr)
    return EXIT_CONFIG


def _to_line(problem: Problem | str) -> str:
    text, suggestion = (problem.text, problem.suggestion) if isinstance(problem, Problem) else (problem, "")
    parts = abbreviate(redact(text)), abbreviate(redact(suggestion), MAX_SUGGESTION)
    return to_one_line("; ".join(filter(None, parts)))


def parse_options(
    argv: Sequence[str],
    usage: str,
    known: Mapping[str, str],
    refuse: Callable[[str], str | None] = lambda key: None,
) -> dict[str, str]:
    """Parse `key=value` arguments. `--help` and `--cfg job` print an answer and exit.

    Quotes around a value are removed, `~` and `${oc.env:<variable>}` are expanded, and `null` has the same effect as
    leaving out the option.

    Args:
        argv: the arguments, without the program's name.
        usage: the command in one line, and its description.
        known: the description of each option, by key.
        refuse: returns a more specific reason why an unknown key is refused, or None.

    Raises:
        ConfigError: all unknown options, all that are written twice, all arguments that are not options, or
            a variable that is not set.
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
        if key in values and equals:
            instead = f"write it once; in a shell quote braces and brackets: '{key}={{...}}'"
            problems.append(Problem(key, f"{key}= is written twice", instead, topic="conflict"))
        elif key in known and equals:
            values[key] = expand_home(_unquote(value))
        elif key in known:
            problems.append(Problem(key, f"{key} needs a value", f"write {key}=<value>", topic="missing"))
        elif equals and (why := refuse(key)):
            problems.append(Problem(key, f"{word}: {why}", topic="conflict"))
        elif equals:
            hint = did_you_mean(key, known)
            problems.append(Problem(key, f"{key} is not an option of this command", hint, topic="unknown"))
        else:
            named = next((option for option in ("run", "runs") if option in known), None)
            hint = f"write {named}={word}" if named and os.path.exists(word) else did_you_mean(key, known)  # noqa: PTH110
            problems.append(Problem(key, f"{word}: options are written key=value", hint, topic="syntax"))
    for key in ("runner.verbose", "runner.quiet"):
        if values.get(key, "true").lower() not in ("true", "false", "null"):
            problems.append(Problem(key, f"{key}={values[key]} is not valid", "write true or false", topic="type"))
    if problems:
        raise ConfigError(*problems)
    if len(words) < len(argv):
        print_result(*(f"{key}: {values.get(key, 'null')}" for key in known))
        sys.exit(0)
    values = {key: resolve_variables(key, value) for key, value in values.items() if value != "null"}
    if (uri := values.get("tracking.uri")) and (problem := check_address("tracking.uri", uri)):
        raise ConfigError(problem)
    return values


def resolve_variables(key: str, value: str) -> str:
    """Replace each `${oc.env:<variable>}`, as a config has it in an address, by the value of the variable.

    Raises:
        ConfigError: a variable is not set.
    """
    if missing := [name for name in _REFERENCE.findall(value) if name not in os.environ]:
        text = f"{key}: the environment variable {missing[0]} is not set"
        raise ConfigError(Problem(key, text, f"set it, or write the value in {key}", topic="missing"))
    return _REFERENCE.sub(lambda match: os.environ[match[1]], value)


def required_option(options: Mapping[str, str], key: str, meaning: str) -> str:
    """Return the value of a required option.

    Args:
        options: the parsed options.
        key: the option's key.
        meaning: a description of its value, for the suggestion.

    Raises:
        ConfigError: the option is missing.
    """
    if key not in options:
        raise ConfigError(Problem(key, f"{key}= is missing", f"write {key}=<{meaning}>; see --help", topic="missing"))
    return options[key]


def choice_option(options: Mapping[str, str], key: str, choices: Sequence[str], default: str) -> str:
    """Return the value of an option with fixed choices.

    Raises:
        ConfigError: the value is not one of them.
    """
    value = options.get(key, default)
    if value not in choices:
        hint = advice.for_choice(key, value, choices)
        raise ConfigError(Problem(key, f"{key}={value} is not a choice", hint, topic="choice"))
    return value


def is_true(options: Mapping[str, str], key: str) -> bool:
    """Return whether a switch is on; by default it is off."""
    return options.get(key, "false").lower() == "true"


def _unquote(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value
