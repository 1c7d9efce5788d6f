"""The plan of a sweep: its points as jobs, each with a number, a name and the overrides to compose it from."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.comparison.log_axes import read_recorded
from runner.config.compose import Composer
from runner.config.keys import ADDRESSES, format_value
from runner.config.overrides import key_of, last_value
from runner.config.zipped import is_zip, parse_zip
from runner.errors import ConfigError, Problem
from runner.rundir import layout
from runner.sweeps.jobs import Job
from runner.sweeps.plan.method import PLANNED, Method
from runner.sweeps.plan.space import Space, is_shared
from runner.util.files import load_json_or_empty, write_redacted
from runner.util.redaction import redact_all
from runner.util.uri import absolute_uri, strip_credentials

NOT_SAVED = ("sweep.resume", "sweep.extend", "sweep.dry_run", "hydra.sweep.dir")
"""Keys that count for one start of the sweep only."""

MAX_JOBS = 10_000

MAX_LENGTH = 60
"""Characters of a list of values in a message."""

GridPoint = Mapping[str, str]
"""Values of a job by key, as typed."""


@dataclass(frozen=True)
class Plan:
    """All jobs of a sweep.

    Attributes:
        axes: the values, or the interval, of each varied key, as typed.
        jobs: in the order of their numbers.
        note: a remark for the user.
        log_axes: the keys tagged `log`: plots over them have a logarithmic axis.
        method: chooses which of them run, how far they train, and which are added.
        old_rules: whether version 0.1.0 started the sweep; then all jobs read their data by its rules.
    """

    axes: dict[str, str]
    jobs: list[Job]
    note: str = ""
    log_axes: tuple[str, ...] = ()
    method: Method = PLANNED
    old_rules: bool = False
    _lines: list[str] = field(default_factory=list, init=False, repr=False, compare=False)
    """The first jobs as `save` writes them: a search saves the plan after each job that it adds."""

    def become(self, other: "Plan") -> None:
        """Take the axes and jobs of another plan, in place: all that runs by this one follows."""
        self.axes.clear()
        self.axes.update(other.axes)
        self.jobs[:] = other.jobs
        self._lines.clear()

    def save(self, folder: Path, arguments: Sequence[str], config: Mapping[str, str | None]) -> None:
        """Write the plan into the sweep's folder, without credentials, with everything that a resume needs.

        Args:
            folder: of the sweep.
            arguments: of the command line.
            config: location of the configs: `config_path`, `config_name` and `config_dir`.
        """
        saved = [_without_credentials(text) for text in arguments if key_of(text) not in NOT_SAVED]
        content: dict[str, Any] = {"arguments": saved, "config": dict(config), "axes": self.axes}
        content |= {"log_axes": list(self.log_axes), "old_rules": self.old_rules}
        self._lines.extend(map(json.dumps, redact_all([_to_dict(job) for job in self.jobs[len(self._lines) :]])))
        jobs = "[]" if not self._lines else "[\n    " + ",\n    ".join(self._lines) + "\n  ]"
        head = json.dumps(redact_all(content), indent=2).removesuffix("\n}")
        write_redacted(folder / layout.SWEEP_PLAN, f'{head},\n  "jobs": {jobs}\n}}\n', private=True)


def _to_dict(job: Job) -> dict[str, Any]:
    content = {"number": job.number, "name": job.name, "point": job.point, "overrides": list(job.overrides)}
    content |= {"added": True} if job.added else {}
    return content if job.own == len(job.point) else content | {"own": job.own}


def _from_dict(content: Mapping[str, Any]) -> Job:
    point, overrides = dict(content["point"]), tuple(content["overrides"])
    own, added = content.get("own", len(point)), bool(content.get("added"))
    return Job(content["number"], content["name"], point, overrides, own, added)


def load(folder: Path) -> tuple[Plan, list[str], dict[str, str | None]]:
    """Read a plan that `Plan.save` has written.

    Returns:
        The plan, the arguments of the command line, and the location of the configs.

    Raises:
        ConfigError: the file is missing or damaged.
    """
    content = load_json_or_empty(folder / layout.SWEEP_PLAN)
    try:
        jobs = [_from_dict(job) for job in content["jobs"]]
        old_rules = bool(content.get("old_rules", "log_axes" not in content))  # 0.1.0 wrote neither
        plan = Plan(dict(content["axes"]), jobs, log_axes=read_recorded(content), old_rules=old_rules)
        return plan, list(content["arguments"]), dict(content["config"])
    except (KeyError, TypeError) as error:
        text = f"{folder} is not a sweep's folder: it has no {layout.SWEEP_PLAN} that can be read"
        raise ConfigError(Problem("sweep.resume", text, topic="run")) from error


def _without_credentials(argument: str) -> str:
    """Remove credentials from an argument; an address of a file becomes absolute."""
    key = key_of(argument)
    address = last_value([argument], key) if key in ADDRESSES else None
    return argument if address is None else f"{key}={absolute_uri(strip_credentials(address))}"


def make_jobs(space: Space, points: Iterable[Sequence[str]]) -> list[Job]:
    """Number and name the points that are jobs.

    Args:
        space: of the sweep.
        points: a value for each axis.

    Raises:
        ConfigError: there are more than 10,000, or none.
    """
    chosen = list(itertools.islice(space.kept(points), MAX_JOBS + 1))
    if len(chosen) > MAX_JOBS:
        text = f"this sweep has more than {MAX_JOBS:,} jobs"
        raise ConfigError(Problem("", text, "use fewer axes, or fewer values", topic="range"))
    varied = [axis.key for place, axis in enumerate(space.axes) if len({point[place] for point in chosen}) > 1]
    names = short_names(varied)
    return [_job(number, space, values, names) for number, values in enumerate(chosen)]


def job_at(number: int, space: Space, values: Sequence[str]) -> Job:
    """Return a single job, named by its whole point.

    Args:
        number: of the job.
        space: of the sweep.
        values: one for each axis.
    """
    return _job(number, space, values, short_names([axis.key for axis in space.axes]))


def _job(number: int, space: Space, values: Sequence[str], names: Mapping[str, str]) -> Job:
    point = dict(zip((axis.key for axis in space.axes), values, strict=True))
    name = " ".join(f"{short}={_unquoted(point[key])}" for key, short in names.items())
    own = space.overrides(values)
    plain = {key_of(key): value for key, value in point.items()}
    return Job(number, name or f"job {number}", plain, (*space.fixed, *own), own=len(own))


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return a short name for each key: `lr` for `optimizer.lr`, unless another key ends in it."""
    leaves = [key_of(key).rpartition(".")[2] for key in keys]
    return {key: leaf if leaves.count(leaf) == 1 else key_of(key) for key, leaf in zip(keys, leaves, strict=True)}


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def canonical(composer: Composer, job: Job) -> GridPoint:
    """Return a job's values in one notation, so that equal jobs compare equal: `0.10` becomes `0.1`."""
    point = {}
    for text in job.overrides:
        override = composer.reader.parse(text)
        if not is_shared(override.key_or_group):
            point[text.partition("=")[0].lstrip("+")] = format_value(override.value())
    return point


def difference(composer: Composer, saved: Plan, planned: Plan) -> tuple[list[Job], list[Job]]:
    """Return the jobs that only the new plan has, and those that only the saved one has, but for added ones."""
    before, after = ([frozenset(canonical(composer, job).items()) for job in plan.jobs] for plan in (saved, planned))
    had, has = set(before), set(after)
    new = [job for job, point in zip(planned.jobs, after, strict=True) if point not in had]
    missing = zip(saved.jobs, before, strict=True)
    return new, [job for job, point in missing if point not in has and not job.added]


def changed_values(composer: Composer, saved: Plan, planned: Plan) -> dict[str, str]:
    """Describe the values in which two plans differ, by key: `seed was 1,2, and is now 2,3`."""
    before, after = ([canonical(composer, job) for job in plan.jobs] for plan in (saved, planned))
    changed = {}
    for key in dict.fromkeys(key for point in (*before, *after) for key in point):
        old, new = ({point.get(key): None for point in points} for points in (before, after))
        if old.keys() != new.keys():
            was, now = (_shorten(",".join(value or "left out" for value in values)) for values in (old, new))
            changed[key] = f"{key} was {was}, and is now {now}"
    return changed


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}..."


def extended(composer: Composer, saved: Plan, planned: Plan, new: Sequence[Job]) -> Plan:
    """Append new points to a saved plan; a key that then differs becomes an axis, and part of the new names.

    Args:
        composer: parses the arguments.
        saved: the plan.
        planned: the plan that has the new points.
        new: the points.
    """
    jobs = [*saved.jobs, *new]
    zips = zip_keys(saved.axes) | zip_keys(planned.axes)
    all_points = [canonical(composer, job) for job in jobs]
    points = [_with_zips(job, point, zips) for job, point in zip(jobs, all_points, strict=True)]
    keys = dict.fromkeys(key for job in jobs for key in job.point)
    keys |= dict.fromkeys(key for point in points for key in point)
    varied = [key for key in keys if len({point.get(key) for point in points}) > 1]
    axes = {key: ",".join(dict.fromkeys(point[key] for point in points if key in point)) for key in varied}
    for name in axes.keys() & zips.keys():
        having = [point for job, point in zip(jobs, all_points, strict=True) if name in job.point]
        axes[name] = _zip_text(zips[name], having)
    names = short_names(varied)
    numbered = []
    for number, (job, point) in enumerate(zip(jobs, points, strict=True)):
        values = {key: job.point.get(key, point.get(key, "")) for key in varied}
        name = " ".join(f"{names[key]}={_unquoted(value)}" for key, value in values.items() if value)
        numbered.append(replace(job, number=number, name=job.name if number < len(saved.jobs) else name, point=values))
    return Plan(axes, numbered)


def zip_keys(axes: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the keys of each axis that has several."""
    typed = {name: f"{name}={text}" for name, text in axes.items()}
    return {name: list(map(key_of, parse_zip(text).members)) for name, text in typed.items() if is_zip(text)}


def _with_zips(job: Job, point: GridPoint, zips: Mapping[str, Sequence[str]]) -> GridPoint:
    """Return a point with the value of each axis of several keys in place of theirs."""
    own = {name: job.point[name] for name in zips if name in job.point}
    hidden = {key for name in own for key in zips[name]}
    return {key: value for key, value in point.items() if key not in hidden} | own


def _zip_text(keys: Sequence[str], points: Sequence[GridPoint]) -> str:
    rows = list(dict.fromkeys(tuple(point[key] for key in keys) for point in points))
    members = [f"{key}=[{','.join(column)}]" for key, column in zip(keys, zip(*rows, strict=True), strict=True)]
    return f"zip({','.join(members)})"
