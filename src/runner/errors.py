"""The one exception a user's mistake becomes, and the words that help to mend it."""

import re
from collections.abc import Iterable
from difflib import get_close_matches


class ConfigError(Exception):
    """Something in the config (or the machine it asks for) is wrong; nothing has been started.

    Attributes:
        problems: one sentence each: what is wrong, and what to write instead.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


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


def in_words(error: BaseException) -> str:
    """What an error says in one line, to be printed behind `error: `."""
    if isinstance(error, TrainingError):
        return first_line(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if "\nOriginal Traceback" in str(error):  # raised in a worker of a DataLoader, which tells it as a text
        return str(error).splitlines()[-1]
    return f"{type(error).__name__}: {first_line(error)}"


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Say which of the choices the word resembles, or list them: `did you mean cnn?`."""
    names = sorted(choices)
    close = get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"choose from {', '.join(names)}" if names else "there is nothing to choose from"
