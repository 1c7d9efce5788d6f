"""The sentences that building an experiment finds, stage by stage, to be told all at once."""

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Self

from .data import fetch
from .errors import ConfigError, first_line


class Problems:
    """The sentences found so far, each beginning with the key or group it is about.

    Attributes:
        cause: the first exception that became a sentence, for those who want its traceback.
    """

    def __init__(self, sentences: Iterable[str]) -> None:
        self.sentences = list(dict.fromkeys(sentences))
        self.cause: Exception | None = None

    def __iadd__(self, sentences: Iterable[str]) -> Self:
        """Add sentences, but none about a key that an earlier stage has complained of."""
        subjects = {_subject(sentence) for sentence in self.sentences}
        self.sentences += [s for s in dict.fromkeys(sentences) if "." not in _subject(s) or _subject(s) not in subjects]
        return self

    def none_of(self, *groups: str, but: Collection[str] = ()) -> bool:
        """Whether nothing is known to be wrong with these groups, but for some of their keys."""
        subjects = {_subject(sentence) for sentence in self.sentences}
        return not any(subject.partition(".")[0] in groups for subject in subjects.difference(but))

    @contextmanager
    def collect(self, group: str) -> Iterator[None]:
        """Add what a stage raises, and go on; it may have called code of the user's."""
        try:
            yield
        except fetch.Forbidden:
            pass
        except ConfigError as error:
            self += error.problems
            self.cause = self.cause or error
        except Exception as error:
            self += [f"{group}: {type(error).__name__}: {first_line(error)}; runner.verbose=true shows where"]
            self.cause = self.cause or error


def _subject(sentence: str) -> str:
    """The key or group a sentence is about: `optimizer.lr` of `+optimizer.lr=x: write a number`."""
    return re.split(r"[=: ]", sentence.lstrip("+~"), maxsplit=1)[0]
