"""Problems with a config, collected to be reported together.

There are two rounds: names, types and ranges; and, if all of these are right, all that needs torch to be checked.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any, Self, TypeVar

from omegaconf import DictConfig

from runner.config import schema
from runner.config.hydra_job import plain_without_hydra
from runner.errors import ConfigError, Problem, Topic, describe_error, path_problem
from runner.util.stopping import is_from_signal

T = TypeVar("T")
Names = Collection[str]


def names_and_values(cfg: DictConfig, problems: Iterable[Problem]) -> list[Problem]:
    """Check names, types and ranges, for which torch is not needed.

    Args:
        cfg: composed, with Hydra's own node.
        problems: those of composing it.

    Returns:
        All problems, those of composing first.
    """
    collected = ProblemCollector(problems)
    collected += schema.check_config(plain_without_hydra(cfg))
    return collected.problems


class ProblemCollector:
    """The problems so far.

    Attributes:
        problems: each once, in the order in which they were found.
        cause: the first exception that became a problem; its traceback is shown on request.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(dict.fromkeys(problems))
        self.cause: BaseException | None = None

    def __iadd__(self, problems: Iterable[Problem]) -> Self:
        """Add problems, except for keys that an earlier stage has reported."""
        reported = self._keys()
        self.problems += [
            problem for problem in dict.fromkeys(problems) if "." not in problem.key or problem.key not in reported
        ]
        return self

    def none_of(self, *groups: str, but: Collection[str] = ()) -> bool:
        """Whether these groups have no known problem, except with some of their keys."""
        return not any(key.partition(".")[0] in groups for key in self._keys().difference(but))

    def stage(
        self, group: str, make: Callable[..., T], *arguments: Any, needs: Names = (), but: Names = ()
    ) -> T | None:
        """Make a part of the experiment if everything it takes exists; an exception becomes a problem.

        Args:
            group: the config group of the part.
            make: called with the arguments.
            *arguments: if one of them is None, because the stage that makes it has failed, nothing is called.
            needs: other groups that must have no problem.
            but: keys of these groups that may have one.

        Returns:
            The part; None if `make` was not called, or raised.
        """
        if any(argument is None for argument in arguments) or not self.none_of(group, *needs, but=but):
            return None
        from runner.data import fetch  # late: names and values are checked without it

        try:
            return make(*arguments)
        except fetch.Forbidden:
            pass
        except ConfigError as error:
            self += error.problems
            self.cause = self.cause or error
        except BaseException as error:  # `make` may call code of the user's, and that may call sys.exit()
            if isinstance(error, KeyboardInterrupt) and is_from_signal():
                raise
            problem = path_problem(error)
            suggestion = problem.suggestion if problem else "runner.verbose=true shows where"
            topic: Topic = problem.topic if problem else "code"
            self += [Problem(group, f"{group}: {describe_error(error)}", suggestion, topic=topic)]
            self.cause = self.cause or error
        return None

    def raise_if_any(self) -> None:
        """Report the problems together.

        Raises:
            ConfigError: there are some.
        """
        if self.problems:
            raise ConfigError(*self.problems) from self.cause

    def _keys(self) -> set[str]:
        return {problem.key for problem in self.problems}
