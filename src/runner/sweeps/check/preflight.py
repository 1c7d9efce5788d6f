"""The check before the first job starts: composes and builds every job, and reports all problems at once."""

import pickle
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import replace

from omegaconf import DictConfig, open_dict, read_write

from runner.assembly.problems import names_and_values
from runner.config import schema
from runner.config.overrides import key_of
from runner.errors import ConfigError, Problem
from runner.sweeps.jobs import Job, JobInfo
from runner.sweeps.launchers import forkserver
from runner.sweeps.plan.job_configs import JobConfigs
from runner.sweeps.plan.plan import short_names

SHOWN_JOBS = 4
"""Job numbers that a problem lists."""


class Configs(MutableMapping[int, DictConfig]):
    """The configs of jobs by number, each as bytes: as objects, ten thousand would take more than a gigabyte.

    Attributes:
        pickled: the bytes.
    """

    def __init__(self) -> None:
        self.pickled: dict[int, bytes] = {}

    def __getitem__(self, number: int) -> DictConfig:
        cfg: DictConfig = pickle.loads(self.pickled[number])
        return cfg

    def __setitem__(self, number: int, cfg: DictConfig) -> None:
        self.pickled[number] = pickle.dumps(cfg)

    def __delitem__(self, number: int) -> None:
        del self.pickled[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self.pickled)

    def __len__(self) -> int:
        return len(self.pickled)


def compose(
    job_configs: JobConfigs, jobs: Sequence[Job], old_rules: bool = False, problems: Sequence[Problem] = ()
) -> tuple[Configs, dict[int, list[Problem]]]:
    """Compose every job, and check names and values.

    Args:
        job_configs: composes them.
        jobs: to compose.
        old_rules: remove the keys for reading data that version 0.1.0 did not have, unless they are typed: a config
            without them is read by its rules.
        problems: that all jobs share.

    Returns:
        The configs, with Hydra's node, and the problems, both by the number of the job.
    """
    configs, by_job = Configs(), dict[int, list[Problem]]()
    for job in jobs:
        cfg, of_job = job_configs.compose(job.overrides, job.own_overrides, job.number)
        by_job[job.number] = list(dict.fromkeys([*problems, *of_job]))
        if cfg is not None:
            configs[job.number] = cfg = _as_in_0_1_0(cfg, job) if old_rules else cfg
            by_job[job.number] = names_and_values(cfg, by_job[job.number])
    return configs, by_job


def _as_in_0_1_0(cfg: DictConfig, job: Job) -> DictConfig:
    typed = {key_of(text) for text in job.overrides}
    with read_write(cfg.data), open_dict(cfg.data):
        for key in (*schema.NEW_DATA_KEYS, *schema.NEW_TABLE_KEYS):
            if f"data.{key}" not in typed:
                cfg.data.pop(key, None)
    return cfg


def one_by_one(jobs: Sequence[Job]) -> list[Job]:
    """Return the first job, and those that differ from it in a single value: together they have every value."""
    first = jobs[0].point.items()
    return [job for job in jobs if len(job.point.items() - first) <= 1]


def check(
    jobs: Sequence[Job],
    configs: Configs,
    problems: Mapping[int, list[Problem]],
    is_remote: bool = False,
    stacks: bool = False,
) -> dict[int, JobInfo]:
    """Build every job, in another process.

    Args:
        jobs: to check.
        configs: by the number of the job.
        problems: found so far, by the number of the job.
        is_remote: the jobs will run on other machines, whose devices are not checked here.
        stacks: find out which jobs can be trained as one program.

    Returns:
        Facts about the jobs, by number.

    Raises:
        ConfigError: with the problems of all jobs, each with the jobs and the values that have it.
    """
    if any(problems.values()):
        raise ConfigError(*explain(jobs, problems))
    build_all = "runner.sweeps.check.build_jobs:build_all"
    infos, by_job = forkserver.call(build_all, configs.pickled, problems, is_remote, stacks)
    if any(by_job.values()):
        raise ConfigError(*explain(jobs, by_job))
    return dict(infos)


def explain(jobs: Sequence[Job], by_job: Mapping[int, Sequence[Problem]]) -> list[Problem]:
    """Return each problem once, with the jobs that have it: `jobs 1, 3 (lr=-1): optimizer.lr=-1 is out of range`.

    An unknown key is one problem, whatever its values.
    """
    having: dict[Problem, list[Job]] = {}
    unknown: dict[tuple[str, str], Problem] = {}
    for job in jobs:
        for problem in by_job.get(job.number, ()):
            if problem.topic == "unknown":
                problem = unknown.setdefault((problem.key, problem.suggestion), problem)
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
    """Return the values that explain why these jobs, and no others, have a problem; empty if there are none.

    These are the values that all of them share, and no other job has all of; or else those that only they have.
    """
    shared = set(concerned[0].point.items()).intersection(*(job.point.items() for job in concerned))
    numbers = {job.number for job in concerned}
    rest = [job for job in jobs if job.number not in numbers]
    others = [set(job.point.items()) for job in rest]
    alone = [pair for pair in shared if not any(pair in point for point in others)]
    names = short_names(list(concerned[0].point))
    if not alone and any(shared <= point for point in others):
        values = {key: {job.point[key]: None for job in concerned} for key in names}
        others_values = {key: {job.point[key] for job in rest} for key in names}
        return " ".join(
            f"{names[key]}={','.join(values[key])}" for key in names if not others_values[key] & values[key].keys()
        )
    causes = dict(alone or shared)
    return " ".join(f"{names[key]}={causes[key]}" for key in concerned[0].point if key in causes)
