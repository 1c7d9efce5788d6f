"""The filter `sweep.where`: an expression over a job's values, and where these values come from.

Most are values of axes, or the same for all jobs with the same choices of groups; then no job has to be composed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from runner.config.compose import Composer
from runner.config.keys import GROUPS
from runner.config.messages import suggest_key
from runner.errors import ConfigError, Problem, close_match
from runner.sweeps.plan.expression import Expression, ExpressionError
from runner.sweeps.plan.job_configs import Base, JobConfigs, with_values
from runner.sweeps.plan.space import Space, is_of_the_sweep, split

KEY = "sweep.where"

_ABSENT = object()


def make_space(
    composer: Composer, arguments: Sequence[str], params: Mapping[str, str] | None = None, where: str | None = None
) -> Space:
    """Make the space of a sweep.

    Args:
        composer: parses the arguments.
        arguments: as typed; of two with the same key the last counts.
        params: axes from the config itself; None: there are none.
        where: the expression of `sweep.where`; None keeps all points.

    Raises:
        ConfigError: an axis is wrong, or the expression cannot be read.
    """
    fixed, axes = split(composer, arguments, params or {})
    if where is None:
        return Space(fixed, axes)
    return Space(fixed, axes, Where(composer, [text for text in arguments if is_of_the_sweep(text)], fixed, where))


class Where:
    """Keeps the points for which an expression is true.

    Args:
        composer: composes the jobs where that is needed.
        of_the_sweep: arguments about the sweep.
        fixed: arguments that all jobs share.
        text: the expression.

    Raises:
        ConfigError: it cannot be read.
    """

    def __init__(self, composer: Composer, of_the_sweep: Sequence[str], fixed: Sequence[str], text: str) -> None:
        self._composer, self._fixed, self._text = composer, list(fixed), text
        self._configs = JobConfigs(composer, of_the_sweep)
        self._parsed: dict[str, _Parsed] = {}
        self._bases: dict[tuple[str, ...], Base] = {}
        try:
            self._expression = Expression(text)
        except ExpressionError as error:
            raise self._error(error) from error
        self._unseen = set(self._expression.names)

    def keeps(self, overrides: Sequence[str]) -> bool:
        """Return whether the expression is true for the point with these overrides.

        Raises:
            ConfigError: it cannot be computed, or has an unknown name.
        """
        point = _Point(self, overrides)
        for name in list(self._unseen):  # also those that `and` and `or` skip must exist in some job
            if point.find(name) is not _ABSENT:
                self._unseen.discard(name)
        try:
            return self._expression.is_true(point.lookup)
        except ExpressionError as error:
            raise self._error(error) from error

    def close(self, tried: int, kept: int) -> None:
        """Check the filter, after it was asked for all points.

        Args:
            tried: the number of points.
            kept: the number of those that it has kept.

        Raises:
            ConfigError: it has kept none, or no job has one of its names.
        """
        if self._unseen:
            raise ConfigError(*(self.unknown(name) for name in self._expression.names if name in self._unseen))
        if not kept:
            text = f"{KEY}={self._text} keeps none of {tried:,} points"
            raise ConfigError(Problem(KEY, text, "write a weaker condition", topic="conflict"))

    def _error(self, error: ExpressionError) -> ConfigError:
        return ConfigError(Problem(KEY, f"{KEY}={self._text}: {error}", error.suggestion, topic=error.topic))

    def unknown(self, name: str, choice: str | None = None) -> Problem:
        """Return the problem of a name that is unknown.

        Args:
            name: of a key.
            choice: the choice of its group with which it is; other choices may have it.
        """
        known = [key for base in self._bases.values() for key in base.keys]
        suggestion = f"did you mean {close}?" if (close := close_match(name, [*known, *GROUPS])) else ""
        leaves = [key for key in known if key.rpartition(".")[2] == name]
        if "." in name:
            suggestion = suggest_key(name, known, {})
        elif leaves:
            suggestion = f"did you mean {' or '.join(dict.fromkeys(leaves[:3]))}?"
        elif not suggestion:
            suggestion = f"write a text in quotes: '{name}'"
        text = f"{KEY}={self._text}: unknown name {name}"
        if choice is not None:
            group = name.partition(".")[0]
            text += f" in a job with {group}={choice}"
            suggestion += (
                f" or write {group} == '<choice>' and ... before it"
                if "did" in suggestion
                else (f"write {group} == '<choice>' and ... before it")
            )
        return Problem(KEY, text, suggestion, topic="unknown")

    def parse(self, override: str) -> "_Parsed":
        """Parse an override of a job, once."""
        if override not in self._parsed:
            reader = self._composer.reader
            parsed = reader.parse(override)
            key, value = parsed.key_or_group, parsed.value()
            self._parsed[override] = _Parsed(key, value, reader.is_value(parsed), bool(reader.files.options(key)))
        return self._parsed[override]

    def base_of(self, overrides: Sequence[str]) -> Base:
        """Return the composed config that the jobs with the same choices of groups have in common.

        Raises:
            ConfigError: it has problems.
        """
        choices = tuple(text for text in overrides if not self.parse(text).is_plain)
        if choices not in self._bases:
            base, _ = self._configs.divide([*self._fixed, *overrides], overrides)
            if base is None:
                _, problems = self._configs.compose([*self._fixed, *overrides], (), 0)
                raise ConfigError(*problems)
            self._bases[choices] = base
        return self._bases[choices]

    def composed(self, base: Base, overrides: Sequence[str], name: str) -> Any:
        """Return a value of a job's composed config."""
        values = [text for text in overrides if self.parse(text).is_plain]
        cfg = with_values(self._composer, base, values)
        if cfg is None:
            cfg, problems = self._configs.compose([*self._fixed, *overrides], (), 0)
            if cfg is None or problems:
                raise ConfigError(*problems)
        if not _has(OmegaConf.to_container(cfg, resolve=False), name):
            return _ABSENT
        value = OmegaConf.select(cfg, name)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


@dataclass(frozen=True)
class _Parsed:
    """An override of a job.

    Attributes:
        key: of it.
        value: as Python has it.
        is_plain: it only sets the value of a key.
        is_choice: it chooses a member of a group.
    """

    key: str
    value: Any
    is_plain: bool
    is_choice: bool


class _Point:
    """A point, whose values are looked up.

    Args:
        where: the filter.
        overrides: of the point.
    """

    def __init__(self, where: Where, overrides: Sequence[str]) -> None:
        self._where, self._overrides = where, overrides
        self._own = {parsed.key: parsed for parsed in map(where.parse, overrides)}

    def lookup(self, name: str) -> Any:
        """Return the value of a name in the expression.

        Raises:
            ConfigError: the job has no such key.
        """
        value = self.find(name)
        if value is _ABSENT:
            own = self._own.get(name.partition(".")[0])
            raise ConfigError(self._where.unknown(name, str(own.value) if own is not None and own.is_choice else None))
        return value

    def find(self, name: str) -> Any:
        """Return the value of a name; `_ABSENT` if the job has no such key."""
        if own := self._own.get(name):
            if own.is_choice:
                return None if own.value is None else str(own.value)
            if not isinstance(own.value, dict) and not _refers(own.value):
                return own.value
        base = self._where.base_of(self._overrides)
        if name in GROUPS:
            return base.choices.get(name)
        plain, below = (own.key for own in self._own.values() if own.is_plain), f"{name}."
        changed = any(key == name or key.startswith(below) or name.startswith(f"{key}.") for key in plain)
        value = _get(base.plain, name)
        if changed or _refers(value):
            return self._where.composed(base, self._overrides, name)
        return value


def _get(node: Any, name: str) -> Any:
    """Return the value of a dotted key in plain containers, whatever lies above it; `_ABSENT` if there is none."""
    for word in name.split("."):
        if isinstance(node, str) and "${" in node:
            return node
        if not isinstance(node, dict) or word not in node:
            return _ABSENT
        node = node[word]
    return node


def _has(node: Any, name: str) -> bool:
    return _get(node, name) is not _ABSENT


def _refers(value: Any) -> bool:
    """Return whether a value has references, which only the composed config resolves."""
    if isinstance(value, dict):
        return any(map(_refers, value.values()))
    if isinstance(value, list):
        return any(map(_refers, value))
    return isinstance(value, str) and "${" in value
