"""Errors for the user: what is wrong, and what to write instead."""

import errno
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from traceback import walk_tb
from typing import Literal

from runner.util.users_code import is_users

MAX_TEXT, MAX_SUGGESTION, MAX_WORD = 240, 360, 60
"""The longest description of a problem and the longest suggestion that are printed in full, in characters; in longer
ones, the longest word."""


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
        key: the config key, group or option that is wrong: `optimizer.lr`, `data`, `--cfg`; empty if there is none.
        text: the description of the problem.
        suggestion: the solution; anything to type appears in it exactly as it is typed.
        topic: the kind of problem.
    """

    key: str
    text: str
    suggestion: str = ""
    topic: Topic = field(kw_only=True)

    def __str__(self) -> str:
        return f"{self.text}; {self.suggestion}" if self.suggestion else self.text


class ConfigError(Exception):
    """Problems of a config, or of the machine that it asks for. Nothing has been started.

    Attributes:
        problems: all problems, in the order in which they were found.
    """

    def __init__(self, *problems: Problem | str) -> None:
        self.problems = [as_problem(problem) for problem in problems or ("",)]
        super().__init__("\n".join(map(str, self.problems)))

    def _render_traceback_(self) -> list[str]:  # of IPython: the lines that a cell shows
        return [f"error: {problem}" for problem in self.problems]


def as_problem(problem: object) -> Problem:
    """Make a problem of a sentence, which a user's class or function may raise; its key is what it begins with."""
    if isinstance(problem, Problem):
        return problem
    text = str(problem) or "an error without a text"
    return Problem(re.split(r"[=: ]", text.lstrip("+~"), maxsplit=1)[0], text, topic="code")


class TrainingError(Exception):
    """Training cannot continue, for example after a non-finite loss; the run ends as FAILED with this message."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out; torch reports that with several exceptions."""
    return isinstance(error, MemoryError) or any(sign in _text(error) for sign in ("allocate memory", "out of memory"))


def _text(error: BaseException) -> str:
    """Return an exception's text; empty if its `__str__`, which may be the user's, fails."""
    try:
        return str(error)
    except Exception:
        return ""


def first_line(error: BaseException) -> str:
    """Return the first non-empty line of an exception's text, or the name of its type."""
    if size := re.search(r"can't allocate memory: you tried to allocate (\d+) bytes", _text(error)):
        return f"out of memory: could not allocate {int(size[1]) / 1e9:.1f} GB"
    if size := re.search(r"(\w+) out of memory\. Tried to allocate ([\d.]+ \w+)", _text(error)):
        return f"{size[1]} out of memory: could not allocate {size[2]}"
    return next((line.strip() for line in _text(error).splitlines() if line.strip()), type(error).__name__)


WRONG_PATHS = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EEXIST, errno.ENXIO,
)  # fmt: skip
"""Errors of a path that another path would not have; a full disk is none."""


def path_problem(error: BaseException) -> Problem | None:
    """Make a problem of the error of a file or folder that cannot be used; None of any other error."""
    if not isinstance(error, OSError) or not error.filename or error.errno not in WRONG_PATHS:
        return None
    return Problem("", describe_error(error), "name one that exists and that this user may use", topic="file")


def describe_error(error: BaseException) -> str:
    """Describe an error in one line, to be printed after `error: `."""
    if isinstance(error, SystemExit):
        return f"sys.exit({'' if error.code is None else error.code}) was called{user_frame_suffix(error)}"
    if isinstance(error, TrainingError | ConfigError):
        return first_line(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if "\nOriginal Traceback" in (text := _text(error)):  # from a DataLoader worker, which passes it as text
        return text.splitlines()[-1]
    return f"{type(error).__name__}: {first_line(error)}{user_frame_suffix(error)}"


def user_frame(error: BaseException) -> str | None:
    """Find the innermost frame of the user's code in a traceback.

    Returns:
        `net.py, line 12, in forward`; None if the traceback has no such frame.
    """
    innermost = None
    for frame, line in walk_tb(error.__traceback__):
        module, file = str(frame.f_globals.get("__name__")), frame.f_code.co_filename
        is_ours = Path(file).is_relative_to(Path(__file__).parent)  # also as `__main__`
        if is_users(module, file) and not is_ours:
            innermost = f"{Path(file).name}, line {line}, in {frame.f_code.co_name}"
    return innermost


def user_frame_suffix(error: BaseException) -> str:
    """Format `user_frame` in brackets, to end a message; empty if there is no such frame."""
    location = user_frame(error)
    return f" ({location})" if location else ""


def abbreviate(text: str, longest: int = MAX_TEXT) -> str:
    """Shorten a long message: its long words first, as what is wrong may stand between them; then its middle.

    Secrets are to be redacted before: half a secret would not be recognised.
    """
    if len(text) <= longest:
        return text
    text = re.sub(rf"\S{{{MAX_WORD + 1},}}", lambda word: _without_middle(word[0], MAX_WORD), text)
    return _without_middle(text, longest)


def _without_middle(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    return f"{text[: longest // 2]}... ({len(text):,} characters) ...{text[-longest // 4 :]}"


def to_one_line(text: str) -> str:
    """Write a text in one line: a line break in a path, or a byte that is not UTF-8, becomes an escape."""
    controls = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"
    return escape_undecodable(re.sub(controls, lambda match: ascii(match[0])[1:-1], text))


def escape_undecodable(name: str) -> str:
    """Make a text encodable: bytes of a file's name that are not UTF-8 become escapes (backslash, x, e9)."""
    name = re.sub("[\ud800-\udc7f\udd00-\udfff]", lambda match: ascii(match[0])[1:-1], name)  # no bytes: of a message
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Suggest the choice that a word resembles, `did you mean cnn?`; list the choices if it resembles none."""
    names = sorted(choices)
    if close := close_match(word, names):
        return f"did you mean {close}?"
    return f"choose from {', '.join(names)}" if names else "there are no choices"


def close_match(word: str, choices: Iterable[str]) -> str | None:
    """Find the choice that a word resembles most; None if it resembles none."""
    close = max(sorted(choices), key=lambda name: _similarity(word, name), default="")
    return close if _similarity(word, close) >= 0.6 else None


def _similarity(word: str, name: str) -> float:
    """Rate the similarity of two words from 0 to 1, ignoring case; anagrams count as similar (0.9)."""
    word, name = word.lower(), name.lower()
    return 0.9 if word != name and sorted(word) == sorted(name) else SequenceMatcher(None, name, word).ratio()


class StoreError(Exception):
    """The tracking store refuses a request or cannot be reached; the message is one sentence without credentials."""
