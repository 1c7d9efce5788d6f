"""The jobs of a sweep: its points, each with a number, a name, and what to compose it from."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from runner.comparison.log_axes import recorded, tagged
from runner.config.compose import Composer
from runner.config.keys import ADDRESSES, format_value
from runner.config.overrides import key_of, last_value
from runner.errors import ConfigError
from runner.rundir import layout
from runner.sweeps.jobs import Job
from runner.sweeps.plan.axes import check_axis
from runner.sweeps.plan.search import Search
from runner.util.files import load_json_or_empty, write_json
from runner.util.uri import absolute_uri, redact_all, strip_credentials

OF_THE_SWEEP = (
    "sweep.", "runner.", "tracking.uri", "hydra.sweep.dir", "hydra.sweeper.storage",
    "hydra/launcher", "hydra.launcher.",
)  # fmt: skip
"""Keys, and beginnings of keys, that are about how a sweep runs, and not about what its jobs are."""

OF_ONE_START = ("sweep.resume", "sweep.extend", "sweep.dry_run", "hydra.sweep.dir")
"""Those that are for one start of it alone."""

ONE_FOR_ALL = ("resume", "resume_mode", "runner", "sweep", "tracking", "hydra")
"""Keys, and groups of keys, that a sweep has once."""

MAY_DIFFER = ("tracking.log_model", "tracking.log_checkpoints", "tracking.run_name")
"""Keys of these groups that a job may have its own value of."""

MOST_JOBS = 10_000

MOST_WORDS = 60
"""Characters of a list of values in a sentence."""

GridPoint = Mapping[str, str]
"""What a job is composed from, by key, as it is typed."""


@dataclass(frozen=True)
class Plan:
    """All jobs of a sweep.

    Attributes:
        axes: the values, or the interval, of each varied key, in words.
        jobs: in the order of their numbers.
        note: what a person should know of them.
        log_axes: the keys tagged `log`: what is drawn over them has a logarithmic axis.
        search: where more of them come from, one after the other.
        old_rules: whether version 0.1.0 began it, by whose rules all of its jobs read their data.
    """

    axes: dict[str, str]
    jobs: list[Job]
    note: str = ""
    log_axes: tuple[str, ...] = ()
    search: Search | None = None
    old_rules: bool = False

    def save(self, folder: Path, arguments: Sequence[str], config: Mapping[str, str | None]) -> None:
        """Keep it in the sweep's folder, without credentials, and what it is to be gone on with.

        Args:
            folder: the sweep's.
            arguments: of the command line that it was made from.
            config: where its configs are: `config_path`, `config_name` and `config_dir`.
        """
        kept = [_kept(text) for text in arguments if key_of(text) not in OF_ONE_START]
        jobs = [{**asdict(job), "overrides": list(job.overrides)} for job in self.jobs]
        content: dict[str, Any] = {"arguments": kept, "config": dict(config), "axes": self.axes, "jobs": jobs}
        content |= {"log_axes": list(self.log_axes), "old_rules": self.old_rules}
        write_json(folder / layout.SWEEP_PLAN, redact_all(content))


def load(folder: Path) -> tuple[Plan, list[str], dict[str, str | None]]:
    """Read back what `Plan.save` kept.

    Raises:
        ConfigError: there is nothing that can be read.
    """
    content = load_json_or_empty(folder / layout.SWEEP_PLAN)
    try:
        jobs = [Job(j["number"], j["name"], dict(j["point"]), tuple(j["overrides"])) for j in content["jobs"]]
        old_rules = bool(content.get("old_rules", "log_axes" not in content))  # 0.1.0 wrote neither
        plan = Plan(dict(content["axes"]), jobs, log_axes=recorded(content), old_rules=old_rules)
        return plan, list(content["arguments"]), dict(content["config"])
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder} is no sweep's folder: there is no {layout.SWEEP_PLAN} in it that can be read"
        ) from error


def log_axes(axes: Mapping[str, Override]) -> tuple[str, ...]:
    """The keys of the axes that are tagged `log`; by their texts, as Hydra's casts drop the tags of a choice."""
    return tagged(f"{key}={override.get_value_string()}" for key, override in axes.items())


def _kept(argument: str) -> str:
    """An argument without credentials, that names the same database from any folder."""
    key = key_of(argument)
    address = last_value([argument], key) if key in ADDRESSES else None
    return argument if address is None else f"{key}={absolute_uri(strip_credentials(address))}"


def is_of_the_sweep(argument: str) -> bool:
    """Whether an argument says nothing of what the jobs are."""
    return key_of(argument).startswith(OF_THE_SWEEP)


def _is_once(key: str) -> bool:
    """Whether a sweep has a key, or a group's choice, once."""
    return key.partition(".")[0].partition("/")[0] in ONE_FOR_ALL and key not in MAY_DIFFER


def split(made: Composer, arguments: Sequence[str], params: Mapping[str, str]) -> tuple[list[str], dict[str, Override]]:
    """Tell what is the same for all jobs from what is varied.

    Args:
        made: to read the arguments with.
        arguments: as they were typed; of two with the same key the last counts.
        params: axes that the config itself names.

    Returns:
        The arguments that all jobs have, but for those about the sweep, and the axes by key.

    Raises:
        ConfigError: an axis is one that a sweep has once, or has no values, or too many.
    """
    typed = {made.parse(text).key_or_group: text for text in arguments}
    texts = [*(f"{key}={value}" for key, value in params.items() if key not in typed), *typed.values()]
    fixed: list[str] = []
    axes: dict[str, Override] = {}
    problems = []
    for text in texts:
        override = made.parse(text)
        if not override.is_sweep_override():
            fixed += [] if is_of_the_sweep(text) else [text]
        elif _is_once(override.key_or_group):
            two = ", or two as sweep.metric=[one,other]" if override.key_or_group == "sweep.metric" else ""
            problems.append(f"{text}: a sweep has one {override.key_or_group} for all of its jobs; choose one{two}")
        elif found := check_axis(text, override):
            problems += map(str, found)
        else:
            axes[text.partition("=")[0]] = override
    if problems:
        raise ConfigError(*problems)
    return fixed, axes


def make_jobs(fixed: Sequence[str], keys: Sequence[str], points: Iterable[Sequence[str]]) -> list[Job]:
    """Number and name the points.

    Args:
        fixed: the arguments that all jobs have.
        keys: of the axes.
        points: a value for each axis.

    Raises:
        ConfigError: there are more than anybody can want.
    """
    chosen = list(itertools.islice(points, MOST_JOBS + 1))
    if len(chosen) > MOST_JOBS:
        raise ConfigError(f"this sweep has more than {MOST_JOBS:,} jobs: leave out an axis, or some of its values")
    varied = [key for axis, key in enumerate(keys) if len({point[axis] for point in chosen}) > 1]
    names = short_names(varied)
    return [_job(number, fixed, dict(zip(keys, values, strict=True)), names) for number, values in enumerate(chosen)]


def named(number: int, fixed: Sequence[str], point: GridPoint) -> Job:
    """A job by itself, named by all of its point.

    Args:
        number: of the job.
        fixed: the arguments that all jobs have.
        point: a value for each axis.
    """
    return _job(number, fixed, point, short_names(list(point)))


def _job(number: int, fixed: Sequence[str], point: GridPoint, names: Mapping[str, str]) -> Job:
    name = " ".join(f"{short}={_unquoted(point[key])}" for key, short in names.items())
    overrides = (*fixed, *(f"{key}={value}" for key, value in point.items()))
    plain = {key_of(key): value for key, value in point.items()}
    return Job(number, name or f"job {number}", plain, overrides)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """What a person calls each key: `lr` for `optimizer.lr`, unless another key ends in it."""
    leaves = [key_of(key).rpartition(".")[2] for key in keys]
    return {key: leaf if leaves.count(leaf) == 1 else key_of(key) for key, leaf in zip(keys, leaves, strict=True)}


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def canonical(made: Composer, job: Job) -> GridPoint:
    """What a job computes, written such that two that are the same are told to be: `0.10` as `0.1`."""
    point = {}
    for text in job.overrides:
        if not _is_once(made.parse(text).key_or_group):
            point[text.partition("=")[0].lstrip("+")] = format_value(made.parse(text).value())
    return point


def difference(made: Composer, saved: Plan, wanted: Plan) -> tuple[list[Job], list[Job]]:
    """The jobs that only the wanted plan has, and those that only the saved one has."""
    there, asked = ([frozenset(canonical(made, job).items()) for job in plan.jobs] for plan in (saved, wanted))
    new = [job for job, point in zip(wanted.jobs, asked, strict=True) if point not in set(there)]
    return new, [job for job, point in zip(saved.jobs, there, strict=True) if point not in set(asked)]


def describe_difference(made: Composer, saved: Plan, wanted: Plan) -> str:
    """The difference of two plans: `its optimizer.lr is 0.1,0.01, and not 0.1,0.5`."""
    there, asked = ([canonical(made, job) for job in plan.jobs] for plan in (saved, wanted))
    told = []
    for key in dict.fromkeys(key for point in (*there, *asked) for key in point):
        had, has = ({point.get(key): None for point in points} for points in (there, asked))
        if had.keys() != has.keys():
            old, new = (",".join(value or "left out" for value in values) for values in (had, has))
            told.append(f"its {key} is {_cut(old)}, and not {_cut(new)}")
    return "; ".join(told) or "its points are other combinations of the same values"


def _cut(text: str) -> str:
    return text if len(text) <= MOST_WORDS else f"{text[:MOST_WORDS]}..."


def extended(made: Composer, saved: Plan, new: Sequence[Job]) -> Plan:
    """The saved plan and the new points behind it, numbered on; what now differs is an axis, and in the new names."""
    jobs = [*saved.jobs, *new]
    points = [canonical(made, job) for job in jobs]
    keys = dict.fromkeys(key for job in jobs for key in job.point)
    keys |= dict.fromkeys(key for point in points for key in point)
    varied = [key for key in keys if len({point.get(key) for point in points}) > 1]
    axes = {key: ",".join(dict.fromkeys(point[key] for point in points if key in point)) for key in varied}
    names = short_names(varied)
    made_anew = []
    for number, (job, point) in enumerate(zip(jobs, points, strict=True)):
        values = {key: job.point.get(key, point.get(key, "")) for key in varied}
        name = " ".join(f"{names[key]}={_unquoted(value)}" for key, value in values.items() if value)
        made_anew.append(Job(number, job.name if number < len(saved.jobs) else name, values, job.overrides))
    return Plan(axes, made_anew)
