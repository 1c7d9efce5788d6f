"""Repetitions of a configuration: its jobs differ in nothing but their seed, or their fold.

`sweep.seeds=5` makes five jobs of each point of a sweep, with the seed of the config and those that follow it; an axis
`seed=0,1,2` makes three, with these.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from runner.config.overrides import key_of
from runner.errors import ConfigError, Problem
from runner.rundir.folders import for_shell
from runner.sweeps.jobs import Job
from runner.sweeps.plan.plan import MAX_JOBS, Plan, load, zip_keys
from runner.sweeps.plan.space import Space

SEED, SEEDS, FOLD = "seed", "sweep.seeds", "data.fold"

REPEATED = (SEED, FOLD)
"""Keys in which the jobs of a configuration differ."""

MOST_LISTED = 10
"""Seeds that a suggestion names one by one."""

Configuration = tuple[tuple[str, str], ...]
"""The values of a configuration by key."""


def configuration_of(point: Mapping[str, str]) -> Configuration:
    """Return the configuration that a job with these values of the axes belongs to."""
    return tuple((key, value) for key, value in point.items() if key not in REPEATED)


def repetition_of(point: Mapping[str, str]) -> tuple[str | None, ...]:
    """Return the seed and the fold of a job with these values; a search may have several with the same."""
    return tuple(point.get(key) for key in REPEATED)


def count_repetitions(points: Iterable[Mapping[str, str]]) -> int:
    """Return the largest number of repetitions of a configuration."""
    different = {(configuration_of(point), repetition_of(point)) for point in points}
    return max(Counter(configuration for configuration, _ in different).values(), default=1)


def are_repeated(plan: Plan) -> bool:
    """Return whether configurations are ranked, and not their jobs; those of version 0.1.0 keep their table by jobs."""
    if plan.old_rules:
        return False
    return count_repetitions(job.point for job in plan.jobs) > 1 or plan.method.repetitions > 1


def is_staged(config: DictConfig) -> bool:
    """Return whether seeds come in stages: see `stages.py`."""
    return bool(config.sweep.seeds == "auto")


def seeds_of(config: DictConfig) -> list[str]:
    """Return the seeds that `sweep.seeds` asks for: that of the config, and those that follow it; empty for null.

    For `auto` those that a configuration may get.
    """
    count = config.sweep.max_seeds if is_staged(config) else config.sweep.seeds
    whole = count if isinstance(count, int) else 0  # another text is refused with the other settings
    return [str(config.seed + place) for place in range(min(whole, MAX_JOBS + 1))]


def check(config: DictConfig) -> list[Problem]:
    """Find what `sweep.seeds` does not go with.

    Args:
        config: of the sweep, with Hydra's node.
    """
    seeds, sweeper = config.sweep.seeds, config.hydra.runtime.choices.get("hydra/sweeper")
    if is_staged(config) and sweeper == "optuna":
        text = f"{SEEDS}=auto: a trial of Optuna's ends with all of its seeds"
        return [Problem(SEEDS, text, f"write {SEEDS}=4", topic="conflict")]
    if not is_staged(config) or sweeper != "halving":
        return []
    text = f"{SEEDS}={seeds}: hydra/sweeper=halving decides itself what goes on"
    return [Problem(SEEDS, text, f"write {SEEDS}=4, or hydra/sweeper=grid", topic="conflict")]


def without_effect(plan: Plan, config: DictConfig, arguments: Iterable[str]) -> list[Problem]:
    """Find what is typed, and would change nothing in a sweep of these jobs: a config for all sweeps may have it.

    Args:
        plan: of the sweep.
        config: of the sweep.
        arguments: of the command line.
    """
    needs = {
        "sweep.max_seeds": (is_staged(config), "the number of seeds is fixed", f"add {SEEDS}=auto"),
        "sweep.smallest_difference": (
            are_repeated(plan) and FOLD not in plan.axes,
            "there is no verdict without several seeds of a configuration",
            f"add {SEEDS}=5",
        ),
    }
    return [
        Problem(key, f"{argument}: {why}", f"{instead}, or leave it out", topic="conflict")
        for argument in arguments
        for key, (has_effect, why, instead) in needs.items()
        if key_of(argument) == key and not has_effect
    ]


def by_configuration(jobs: Iterable[Job]) -> list[list[Job]]:
    """Return the jobs of each configuration; all in the order given."""
    groups: dict[Configuration, list[Job]] = {}
    for job in jobs:
        groups.setdefault(configuration_of(job.point), []).append(job)
    return list(groups.values())


def first_of_each(jobs: Iterable[Job]) -> dict[int, list[int]]:
    """Return the first job of each configuration, and the others of it, by their numbers."""
    return {first.number: [job.number for job in others] for first, *others in by_configuration(jobs)}


def more_seeds(axis: str, count: int) -> str:
    """Return what to type for more seeds than an axis has: `seed=0,1,2,3,4` for `0,1,2`; empty if that is not clear.

    Args:
        axis: the values of the seed.
        count: how many seeds there shall be.
    """
    values = axis.split(",")
    if len(values) >= count or not all(value.isdecimal() for value in values):
        return ""
    numbers = list(map(int, values))
    numbers += range(max(numbers) + 1, max(numbers) + 1 + count - len(numbers))
    first, are_in_turn = numbers[0], numbers == list(range(numbers[0], numbers[0] + count))
    is_long = count > MOST_LISTED and are_in_turn
    return f"{SEED}=range({first},{first + count})" if is_long else f"{SEED}={','.join(map(str, numbers))}"


def arguments_for_more(plan: Plan, config: DictConfig, count: int) -> list[str]:
    """Return what a resume of a sweep has to type so that its configurations have so many seeds.

    Args:
        plan: of the sweep.
        config: of the sweep, with Hydra's node.
        count: how many seeds there shall be.

    Returns:
        Empty if the sweep cannot have more: it would have too many jobs, or train others further too.
    """
    configurations = len({configuration_of(job.point) for job in plan.jobs})
    if plan.method.trials is not None or plan.method.extends_training or configurations * count > MAX_JOBS:
        return []
    if is_staged(config):
        asked = f"sweep.max_seeds={count}"
    elif config.sweep.seeds is not None:
        asked = f"{SEEDS}={count}"
    else:
        asked = more_seeds(plan.axes.get(SEED, ""), count)
    return [asked, "sweep.extend=true"] if asked else []


def over_seeds(plan: Plan, seeds: Sequence[str], resumed: Path | None = None) -> Plan:
    """Make a job for each seed of each job of a plan.

    Args:
        plan: the points; a search makes the jobs itself.
        seeds: empty leaves the plan as it is.
        resumed: the folder of a sweep that is resumed.

    Raises:
        ConfigError: the seed is varied already, or there are too many jobs.
    """
    if not seeds:
        return plan
    zipped = next((name for name, keys in zip_keys(plan.axes).items() if SEED in keys), SEED)
    if zipped in plan.axes:
        raise ConfigError(_conflict(zipped, plan.axes[zipped], len(seeds), resumed))
    if len(plan.jobs) * len(seeds) > MAX_JOBS:
        text = f"this sweep has more than {MAX_JOBS:,} jobs"
        raise ConfigError(Problem("", text, "use fewer seeds, axes, or values", topic="range"))
    plan.method.repeat(SEED, seeds)
    jobs = [
        replace(with_value(job, SEED, seed), number=job.number * len(seeds) + place)
        for job in plan.jobs
        for place, seed in enumerate(seeds)
    ]
    return replace(plan, axes=plan.axes | {SEED: ",".join(seeds)}, jobs=jobs)


def _conflict(axis: str, values: str, count: int, resumed: Path | None) -> Problem:
    """Return what is wrong with an axis that has the seed beside a number of seeds."""
    text = f"{SEEDS} and {axis}={values} exclude each other"
    if resumed is None:
        instead = f"write {SEEDS}=null, or " + ("seed=0" if axis == SEED else f"leave {SEED} out of {axis}")
        return Problem(SEEDS, text, instead, topic="conflict")
    if any(key_of(each) == SEEDS for each in load(resumed)[1]):
        return Problem(axis, text, f"leave out {axis}", topic="conflict")
    more = more_seeds(values, count) if axis == SEED else ""
    instead = f", and write {for_shell(more)}" if more else ""
    return Problem(SEEDS, text, f"leave out {SEEDS}{instead}", topic="conflict")


def pull_seeds(space: Space) -> tuple[Space, list[str]]:
    """Take the values of the seed out of a space of which points are drawn, as each of them gets all seeds.

    Returns:
        The other axes, and the seeds; none if the seed is the only axis, or has no values one by one.
    """
    seeds = next((list(axis.values) for axis in space.axes if axis.name == SEED), [])
    others = [axis for axis in space.axes if axis.name != SEED]
    return (replace(space, axes=others), seeds) if seeds and others else (space, [])


def with_seed(plan: Plan, seed: str) -> Plan:
    """Return a plan whose jobs name their seed: those that name none have had this one."""
    jobs = [job if _names_seed(job) else replace(with_value(job, SEED, seed), name=job.name) for job in plan.jobs]
    return replace(plan, jobs=jobs)


def _names_seed(job: Job) -> bool:
    return any(key_of(text) == SEED for text in job.overrides)


def with_value(job: Job, key: str, value: str) -> Job:
    """Return a job with a seed or a fold, which replaces one that all jobs share."""
    own = "" if job.name == f"job {job.number}" else f"{job.name} "
    overrides = (*(text for text in job.overrides if key_of(text) != key), f"{key}={value}")
    name, point = f"{own}{key.rpartition('.')[2]}={value}", job.point | {key: value}
    return replace(job, name=name, point=point, overrides=overrides, own=job.own + 1)
