"""The sentences that say what is wrong with a config, collected to be reported together.

There are two rounds: names, types and ranges, and, if all of these are right, whatever needs torch to be judged.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Self, TypeVar

from omegaconf import DictConfig

from runner.config import schema
from runner.config.hydra_job import plain, without_hydra
from runner.errors import ConfigError, describe_error

T = TypeVar("T")
Names = Collection[str]


def names_and_values(cfg: DictConfig, problems: Sequence[str]) -> list[str]:
    """What is wrong with names, types and ranges, for which torch is not needed.

    Args:
        cfg: composed, with Hydra's own node.
        problems: what composing has found.
    """
    found = ProblemCollector(problems)
    found += schema.check(plain(without_hydra(cfg)))
    return found.sentences


class ProblemCollector:
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

    def stage(
        self, group: str, make: Callable[..., T], *arguments: Any, needs: Names = (), but: Names = ()
    ) -> T | None:
        """Make something of a group, if all that it takes is there; what is raised becomes a problem.

        Args:
            group: that it is of.
            make: called with the arguments.
            *arguments: if one of them is None, as what makes it has failed, nothing is called.
            needs: other groups that nothing may be wrong with.
            but: keys of these groups that may be wrong.

        Returns:
            What was made; None if it was not called, or raised something.
        """
        if any(argument is None for argument in arguments) or not self.none_of(group, *needs, but=but):
            return None
        from runner.data import fetch  # late: names and values are looked at without it

        try:
            return make(*arguments)
        except fetch.Forbidden:
            pass
        except ConfigError as error:
            self += error.problems
            self.cause = self.cause or error
        except Exception as error:  # it may have called code of the user's
            self += [f"{group}: {describe_error(error)}; runner.verbose=true shows where"]
            self.cause = self.cause or error
        return None


def _subject(sentence: str) -> str:
    """The key or group a sentence is about: `optimizer.lr` of `+optimizer.lr=x: write a number`."""
    return re.split(r"[=: ]", sentence.lstrip("+~"), maxsplit=1)[0]
