"""The one exception a user's mistake becomes, and the words that help to mend it."""

import re
import sys
from collections.abc import Iterable
from difflib import SequenceMatcher
from pathlib import Path
from traceback import walk_tb

OTHERS = {"hydra", "hydra_plugins", "mlflow", "numpy", "omegaconf", "pandas", "runner", "torch", "torchvision"}
"""Packages whose code is not the user's, beside Python's own."""

LONGEST = 120
"""Characters of an argument that a sentence still repeats."""


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


def describe_error(error: BaseException) -> str:
    """What an error says in one line, to be printed behind `error: `."""
    if isinstance(error, TrainingError):
        return first_line(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if "\nOriginal Traceback" in str(error):  # raised in a worker of a DataLoader, which tells it as a text
        return str(error).splitlines()[-1]
    return f"{type(error).__name__}: {first_line(error)}{at(error)}"


def place(error: BaseException) -> str | None:
    """Where in the user's own code an exception was raised: `net.py, line 12, in forward`; None if it was not."""
    found = None
    for frame, line in walk_tb(error.__traceback__):
        module, file = str(frame.f_globals.get("__name__")).partition(".")[0], frame.f_code.co_filename
        foreign = module in OTHERS or module in sys.stdlib_module_names or file.startswith("<")
        if not foreign and not Path(file).is_relative_to(Path(__file__).parent):  # `__main__` may be runner's
            found = f"{Path(file).name}, line {line}, in {frame.f_code.co_name}"
    return found


def at(error: BaseException) -> str:
    """The same in brackets, to be put behind a sentence; empty if there is nothing to say."""
    where = place(error)
    return f" ({where})" if where else ""


def brief(text: str) -> str:
    """An argument or a value as a sentence repeats it."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 20]}... ({len(text)} characters)"


def printable(text: str) -> str:
    """The text in one line: a line break in a path, or a byte that is not UTF-8, becomes an escape."""
    controls = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"
    return as_unicode(re.sub(controls, lambda found: ascii(found[0])[1:-1], text))


def as_unicode(name: str) -> str:
    """The name of a file as text that can be encoded: bytes that are not UTF-8 become escapes (backslash, x, e9)."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Say which of the choices the word resembles, or list them: `did you mean cnn?`."""
    names = sorted(choices)
    close = max(names, key=lambda name: _likeness(word, name), default="")
    if _likeness(word, close) >= 0.6:
        return f"did you mean {close}?"
    return f"choose from {', '.join(names)}" if names else "there is nothing to choose from"


def _likeness(word: str, name: str) -> float:
    """From 0 to 1, whatever the case; words of the same letters in another order are alike."""
    word, name = word.lower(), name.lower()
    return 0.9 if word != name and sorted(word) == sorted(name) else SequenceMatcher(None, name, word).ratio()


class StoreError(Exception):
    """The tracking store can't take what it is given; the message is one sentence without credentials."""
