"""Errors that a person is shown: what is wrong, and what to write instead."""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from traceback import walk_tb
from typing import Literal

OTHERS = {"hydra", "hydra_plugins", "mlflow", "numpy", "omegaconf", "pandas", "runner", "torch", "torchvision"}
"""Packages whose code is not the user's, beside Python's own."""

LONGEST = 120
"""Characters of an argument that a sentence still repeats."""


Topic = Literal[
    "syntax",  # Hydra's grammar, or YAML, cannot read it
    "unknown",  # no key, option, group member, column, metric or name like that
    "missing",  # a value that is needed
    "type",  # a value of the wrong type
    "range",  # a number outside its range, or a text that is too long
    "choice",  # not one of a fixed set of values
    "conflict",  # two settings, or a setting and the data, exclude each other
    "shape",  # tensors that do not fit
    "unavailable",  # a device, a library, a service or a right that this machine lacks
    "data",  # the content of a data set
    "file",  # a path that does not exist, or cannot be read or written
    "run",  # a saved run, sweep or checkpoint
    "store",  # the tracking store
    "code",  # a class or function of the user's
]
"""The kinds of problems."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        key: the config key, the group or the option that it is about: `optimizer.lr`, `data`, `--cfg`; empty if none.
        text: what is wrong.
        suggestion: what to do instead; what is to be typed stands in it as it is typed.
        topic: its kind.
    """

    key: str
    text: str
    suggestion: str = ""
    topic: Topic = field(kw_only=True)

    def __str__(self) -> str:
        return f"{self.text}; {self.suggestion}" if self.suggestion else self.text


class ConfigError(Exception):
    """The config, or the machine it asks for, has problems. Nothing has been started.

    Attributes:
        problems: all that were found.
    """

    def __init__(self, *problems: Problem | str) -> None:
        self.problems = [as_problem(problem) for problem in problems]
        super().__init__("\n".join(map(str, self.problems)))


def as_problem(problem: Problem | str) -> Problem:
    """A sentence as a problem: the key is what it begins with."""
    if isinstance(problem, Problem):
        return problem
    return Problem(re.split(r"[=: ]", problem.lstrip("+~"), maxsplit=1)[0], problem, topic="unknown")


class TrainingError(Exception):
    """Training cannot go on (a non-finite loss, say); the run ends FAILED with this sentence."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was too little memory, which torch tells in several ways."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in ("allocate memory", "out of memory"))


def first_line(error: BaseException) -> str:
    """The first line of an exception's text that says something, or its type where there is none."""
    if wanted := re.search(r"can't allocate memory: you tried to allocate (\d+) bytes", str(error)):
        return f"out of memory: {int(wanted[1]) / 1e9:.1f} GB were wanted"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def describe_error(error: BaseException) -> str:
    """What an error says in one line, to be printed behind `error: `."""
    if isinstance(error, TrainingError):
        return first_line(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if "\nOriginal Traceback" in str(error):  # raised in a worker of a DataLoader, which tells it as a text
        return str(error).splitlines()[-1]
    return f"{type(error).__name__}: {first_line(error)}{user_frame_suffix(error)}"


def user_frame(error: BaseException) -> str | None:
    """Where in the user's own code an exception was raised: `net.py, line 12, in forward`; None if it was not."""
    found = None
    for frame, line in walk_tb(error.__traceback__):
        module, file = str(frame.f_globals.get("__name__")).partition(".")[0], frame.f_code.co_filename
        foreign = module in OTHERS or module in sys.stdlib_module_names or file.startswith("<")
        if not foreign and not Path(file).is_relative_to(Path(__file__).parent):  # `__main__` may be runner's
            found = f"{Path(file).name}, line {line}, in {frame.f_code.co_name}"
    return found


def user_frame_suffix(error: BaseException) -> str:
    """The same in brackets, to be put behind a sentence; empty if there is nothing to say."""
    where = user_frame(error)
    return f" ({where})" if where else ""


def abbreviate(text: str) -> str:
    """An argument or a value as a sentence repeats it."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 20]}... ({len(text)} characters)"


def to_one_line(text: str) -> str:
    """The text in one line: a line break in a path, or a byte that is not UTF-8, becomes an escape."""
    controls = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"
    return escape_undecodable(re.sub(controls, lambda found: ascii(found[0])[1:-1], text))


def escape_undecodable(name: str) -> str:
    """The name of a file as text that can be encoded: bytes that are not UTF-8 become escapes (backslash, x, e9)."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Say which of the choices the word resembles, or list them: `did you mean cnn?`."""
    names = sorted(choices)
    if close := close_match(word, names):
        return f"did you mean {close}?"
    return f"choose from {', '.join(names)}" if names else "there is nothing to choose from"


def close_match(word: str, choices: Iterable[str]) -> str | None:
    """The choice that the word resembles most; None if it resembles none."""
    close = max(sorted(choices), key=lambda name: _likeness(word, name), default="")
    return close if _likeness(word, close) >= 0.6 else None


def _likeness(word: str, name: str) -> float:
    """From 0 to 1, whatever the case; words of the same letters in another order are alike."""
    word, name = word.lower(), name.lower()
    return 0.9 if word != name and sorted(word) == sorted(name) else SequenceMatcher(None, name, word).ratio()


class StoreError(Exception):
    """The tracking store can't take what it is given; the message is one sentence without credentials."""
