"""The space of a sweep: its axes, the arguments that all jobs share, and which points `sweep.where` keeps."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep

from runner.comparison.log_axes import find_tagged
from runner.config.compose import Composer
from runner.config.overrides import key_of
from runner.config.zipped import EXAMPLE, Zip, is_zip, parse_zip
from runner.errors import ConfigError, Problem
from runner.sweeps.plan.axes import check_axis

OF_THE_SWEEP = (
    "sweep.", "runner.", "tracking.uri", "hydra.sweep.dir", "hydra.sweeper.storage",
    "hydra/launcher", "hydra.launcher.",
)  # fmt: skip
"""Keys, and beginnings of keys, that change how a sweep runs, and not its jobs."""

CHOOSES_JOBS = ("sweep.where", "sweep.seeds")
"""Keys of these that decide which jobs there are."""

ONE_FOR_ALL = ("resume", "resume_mode", "runner", "sweep", "tracking", "hydra")
"""Keys, and groups of keys, that all jobs of a sweep share."""

MAY_DIFFER = ("tracking.log_model", "tracking.log_checkpoints", "tracking.run_name")
"""Keys of these groups that may differ between jobs."""


def is_of_the_sweep(argument: str) -> bool:
    """Return whether an argument changes how the sweep runs, and not its jobs."""
    return key_of(argument).startswith(OF_THE_SWEEP)


def chooses_jobs(argument: str) -> bool:
    """Return whether an argument decides which jobs a sweep has, or what they are."""
    return key_of(argument) in CHOOSES_JOBS or not is_of_the_sweep(argument)


def is_shared(key: str) -> bool:
    """Return whether all jobs of a sweep share a key, or the choice of a group."""
    return key.partition(".")[0].partition("/")[0] in ONE_FOR_ALL and key not in MAY_DIFFER


MOST_POINTS = 200_000
"""That a filter looks at, which takes seconds."""


@dataclass(frozen=True)
class Axis:
    """An axis of a sweep.

    Attributes:
        key: as typed, with the `+` of a key that is added; or the name of several keys.
        text: the values, or the interval, as typed.
        values: one by one; none of an interval.
        override: as Hydra reads it; None for several keys.
        rows: for several keys, the overrides of each value.
        arguments: the axis, or that of each key, as Hydra takes it.
    """

    key: str
    text: str
    values: Sequence[str]
    override: Override | None = None
    rows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The key without its `+`."""
        return key_of(self.key)

    @property
    def interval(self) -> IntervalSweep | None:
        """The interval as Hydra reads it; None if there are values."""
        value = None if self.override is None else self.override.value()
        return value if isinstance(value, IntervalSweep) else None

    def overrides(self, value: str) -> tuple[str, ...]:
        """Return the overrides of a value."""
        return self.rows[value] if self.rows else (f"{self.key}={value}",)


class Filter(Protocol):
    """Decides which points are jobs."""

    def keeps(self, overrides: Sequence[str]) -> bool:
        """Return whether it keeps the point with these overrides.

        Raises:
            ConfigError: that cannot be decided.
        """

    def close(self, tried: int, kept: int) -> None:
        """Check the filter, after it was asked for all points.

        Raises:
            ConfigError: it has kept none, or no job has one of its names.
        """


@dataclass(frozen=True)
class Space:
    """The points of a sweep.

    Attributes:
        fixed: the arguments that all jobs share.
        axes: in the order typed, those of the config first.
        where: which points are kept; None for all.
    """

    fixed: list[str]
    axes: list[Axis]
    where: Filter | None = None

    @property
    def texts(self) -> dict[str, str]:
        """The values, or the interval, of each axis as typed."""
        return {axis.name: axis.text for axis in self.axes}

    @property
    def log_axes(self) -> tuple[str, ...]:
        """The keys tagged `log`; read from their texts, as Hydra's casts drop the tags of a choice."""
        return find_tagged(argument for axis in self.axes for argument in axis.arguments)

    def overrides(self, point: Iterable[str]) -> tuple[str, ...]:
        """Return the overrides of a point, which has a value for each axis."""
        return tuple(text for axis, value in zip(self.axes, point, strict=True) for text in axis.overrides(value))

    def keeps(self, point: Iterable[str]) -> bool:
        """Return whether a point is a job."""
        return self.where is None or self.where.keeps(self.overrides(point))

    def kept(self, points: Iterable[Sequence[str]]) -> Iterator[Sequence[str]]:
        """Iterate over the points that are jobs.

        Raises:
            ConfigError: see `Filter`.
        """
        if self.where is None:
            yield from points
            return
        tried = kept = 0
        for point in points:
            tried += 1
            if tried > MOST_POINTS:
                text = f"sweep.where has to look at more than {MOST_POINTS:,} points"
                raise ConfigError(Problem("sweep.where", text, "use fewer axes, or fewer values", topic="range"))
            if self.where.keeps(self.overrides(point)):
                kept += 1
                yield point
        self.where.close(tried, kept)


def split(composer: Composer, arguments: Sequence[str], params: Mapping[str, str]) -> tuple[list[str], list[Axis]]:
    """Separate the arguments that all jobs share from the axes.

    Args:
        composer: parses the arguments.
        arguments: as typed; of two with the same key the last counts.
        params: axes from the config itself.

    Returns:
        The shared arguments, without those about the sweep, and the axes.

    Raises:
        ConfigError: a key must not vary, has two sources of values, or an axis has no values, or too many.
    """
    typed = {_key(composer, text): text for text in arguments}
    texts = [*(f"{key}={value}" for key, value in params.items() if key not in typed), *typed.values()]
    fixed: list[str] = []
    axes: list[Axis] = []
    problems: list[Problem] = []
    for text in texts:
        try:
            if is_zip(text):
                axes.append(_zipped(composer, parse_zip(text)))
                continue
            override = composer.reader.parse(text)
            if override.is_sweep_override():
                axes.append(_axis(composer, text, override))
            elif not is_of_the_sweep(text):
                fixed.append(text)
        except ConfigError as error:
            problems += error.problems
    problems += _find_overlaps(axes, fixed)
    if problems:
        raise ConfigError(*problems)
    return fixed, axes


def _key(composer: Composer, text: str) -> str:
    return text.partition("=")[0].strip() if is_zip(text) else composer.reader.parse(text).key_or_group


def _axis(composer: Composer, text: str, override: Override) -> Axis:
    """Make the axis of a single key.

    Raises:
        ConfigError: the key must not vary, or its values are wrong.
    """
    if is_shared(override.key_or_group):
        raise ConfigError(_must_not_vary(composer, text, override))
    if problems := check_axis(text, override):
        raise ConfigError(*problems)
    key = text.partition("=")[0]
    values = composer.reader.values(override) if override.is_discrete_sweep() else []
    shown = override.get_value_string()
    return Axis(key, shown, values, override, arguments=(f"{key}={shown}",))


def _must_not_vary(composer: Composer, text: str, override: Override) -> Problem:
    key = override.key_or_group
    instead = "leave it out"
    if key.startswith(("sweep.", "tracking")) and override.is_discrete_sweep() and not check_axis(text, override):
        first, *others = composer.reader.values(override)
        two = f", or {key}=[{first},{others[0]}] for two" if key == "sweep.metric" and others else ""
        instead = f"write {key}={first}{two}"
    return Problem(key, f"{text}: all jobs of a sweep share one {key}", instead, topic="conflict")


def _zipped(composer: Composer, zipped: Zip) -> Axis:
    """Make the axis of several keys.

    Raises:
        ConfigError: the values of one are wrong, or there are different numbers of them.
    """
    if composer.files.options(zipped.name):
        text = f"{zipped.text}: the name {zipped.name} is that of a group"
        raise ConfigError(Problem(zipped.name, text, f"write pair={zipped.value}", topic="conflict"))
    values: dict[str, Sequence[str]] = {}
    for member in zipped.members:
        override = composer.reader.parse(member)
        swept = override.value()
        if not override.is_discrete_sweep() or (isinstance(swept, ChoiceSweep | RangeSweep) and swept.shuffle):
            key = override.get_key_element()
            text = f"{zipped.text}: {key} needs a list of values in a fixed order"
            raise ConfigError(Problem(zipped.name, text, f"write it as in pair={EXAMPLE}", topic="type"))
        axis = _axis(composer, member, override)
        values[axis.key] = axis.values
    lengths = {key_of(key): len(each) for key, each in values.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{count} of {key}" for key, count in lengths.items())
        text = f"{zipped.text}: the values of one zip go together, and these are {counts}"
        raise ConfigError(Problem(zipped.name, text, "write as many of each", topic="range"))
    rows = {f"({','.join(row)})": row for row in zip(*values.values(), strict=True)}
    overrides = {name: tuple(f"{k}={v}" for k, v in zip(values, row, strict=True)) for name, row in rows.items()}
    return Axis(zipped.name, zipped.value, list(rows), rows=overrides, arguments=zipped.members)


def _find_overlaps(axes: Sequence[Axis], fixed: Sequence[str]) -> list[Problem]:
    """Find the keys of a zip that have a value, or an axis, besides."""
    sources: dict[str, list[str]] = {}
    for argument in (*fixed, *(argument for axis in axes for argument in axis.arguments)):
        sources.setdefault(key_of(argument), []).append(argument)
    problems = []
    for axis in axes:
        for key in (key_of(argument) for argument in axis.arguments if axis.rows):
            if len(sources[key]) > 1:
                other = next((text for text in sources[key] if text not in axis.arguments), sources[key][-1])
                text = f"{axis.key}={axis.text}: {key} is set by {other} too"
                problems.append(Problem(key, text, f"leave out one of the two {key}=", topic="conflict"))
    return problems
