"""Before the first job starts: every one of them is composed and checked, and all problems are told at once."""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace

from omegaconf import DictConfig, open_dict, read_write

from runner.assembly.problems import names_and_values
from runner.config import schema
from runner.config.compose import Composer
from runner.config.overrides import key_of
from runner.errors import ConfigError, Problem
from runner.sweeps.check.compose_jobs import numbered, with_values
from runner.sweeps.jobs import Job, JobInfo
from runner.sweeps.launchers import forkserver
from runner.sweeps.plan.plan import short_names

SHOWN_JOBS = 4
"""Numbers of jobs that a sentence lists."""


def compose(
    made: Composer, jobs: Sequence[Job], of_the_sweep: Sequence[str] = (), old_rules: bool = False
) -> tuple[dict[int, DictConfig], dict[int, list[Problem]]]:
    """Compose every job.

    Args:
        made: the composer.
        jobs: those to run.
        of_the_sweep: arguments that every job is composed with, and that are not its own.
        old_rules: leave out the keys that decide how data are read and that version 0.1.0 did not have, unless they
            are typed: without them a config is read by its rules.

    Returns:
        The configs, with Hydra's node, and the problems, both by the number of the job.
    """
    configs: dict[int, DictConfig] = {}
    problems: dict[int, list[Problem]] = {}
    bases: dict[tuple[str, ...], DictConfig | None] = {}  # without the plain values that the jobs differ in
    for job in jobs:
        varied = set(job.overrides[-len(job.point) :]) if job.point else set()
        values = [text for text in job.overrides if text in varied and made.is_value(made.parse(text))]
        rest = tuple(text for text in job.overrides if text not in values)
        if rest not in bases:
            base, found = made.compose([*of_the_sweep, *rest, numbered(job.number)])
            bases[rest] = None if found else base
        base = bases[rest]
        cfg = with_values(made, base, values, job.number) if base is not None else None
        found = []
        if cfg is None:
            cfg, found = made.compose([*of_the_sweep, *job.overrides, numbered(job.number)])
        problems[job.number] = found
        if cfg is not None:
            configs[job.number] = _as_in_0_1_0(cfg, job) if old_rules else cfg
    return configs, problems


def _as_in_0_1_0(cfg: DictConfig, job: Job) -> DictConfig:
    typed = {key_of(text) for text in job.overrides}
    with read_write(cfg.data), open_dict(cfg.data):
        for key in (*schema.NEW_DATA_KEYS, *schema.NEW_TABLE_KEYS):
            if f"data.{key}" not in typed:
                cfg.data.pop(key, None)
    return cfg


def one_by_one(jobs: Sequence[Job]) -> list[Job]:
    """The first job, and those that differ from it in a single value: every value is in one of them."""
    first = jobs[0].point.items()
    return [job for job in jobs if len(job.point.items() - first) <= 1]


def check(
    jobs: Sequence[Job], configs: Mapping[int, DictConfig], problems: dict[int, list[Problem]], elsewhere: bool = False
) -> dict[int, JobInfo]:
    """Build what every job needs, in a process beside this one.

    Args:
        jobs: those to run.
        configs: by the number of the job.
        problems: what is known already.
        elsewhere: they will compute on other machines, whose devices are not asked for here.

    Returns:
        What is known of the jobs, by number.

    Raises:
        ConfigError: with the problems of all jobs, each with the jobs and the overrides that have it.
    """
    found = problems | {number: names_and_values(cfg, problems[number]) for number, cfg in configs.items()}
    if any(found.values()):
        raise ConfigError(*explain(jobs, found))
    pickled = {number: pickle.dumps(cfg) for number, cfg in configs.items()}
    built, found = forkserver.call("runner.sweeps.check.build_jobs:build_all", pickled, found, elsewhere)
    if any(found.values()):
        raise ConfigError(*explain(jobs, found))
    return dict(built)


def explain(jobs: Sequence[Job], found: Mapping[int, Sequence[Problem]]) -> list[Problem]:
    """Name each problem once, with the jobs that have it: `jobs 1, 3 (lr=-1): optimizer.lr=-1 is out of range`."""
    having: dict[Problem, list[Job]] = {}
    for job in jobs:
        for problem in found.get(job.number, ()):
            having.setdefault(problem, []).append(job)
    problems = []
    for problem, concerned in having.items():
        if len(concerned) == len(jobs):
            problems.append(problem)
            continue
        numbers = ", ".join(str(job.number) for job in concerned[:SHOWN_JOBS])
        more = f" and {len(concerned) - SHOWN_JOBS} more" if len(concerned) > SHOWN_JOBS else ""
        of = f"job{'s' * (len(concerned) > 1)} {numbers}{more}"
        causes = causing(jobs, concerned)
        prefix = f"{of} ({causes})" if causes else of
        problems.append(replace(problem, text=f"{prefix}: {problem.text}"))
    return problems


def causing(jobs: Sequence[Job], concerned: Sequence[Job]) -> str:
    """The values that all concerned jobs have, and no other job has all of; or those that they alone have.

    Empty if there are none.
    """
    shared = set(concerned[0].point.items()).intersection(*(job.point.items() for job in concerned))
    others = [set(job.point.items()) for job in jobs if job not in concerned]
    alone = [pair for pair in shared if not any(pair in point for point in others)]
    names = short_names(list(concerned[0].point))
    if not alone and any(shared <= point for point in others):
        values = {key: {job.point[key]: None for job in concerned} for key in names}
        theirs = {key: {job.point[key] for job in jobs if job not in concerned} for key in names}
        return " ".join(
            f"{names[key]}={','.join(values[key])}" for key in names if not theirs[key] & values[key].keys()
        )
    told = dict(alone or shared)
    return " ".join(f"{names[key]}={told[key]}" for key in concerned[0].point if key in told)
