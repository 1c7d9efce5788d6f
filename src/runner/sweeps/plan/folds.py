"""`data.folds`: each point of a sweep becomes a job for each fold, whose results together are its own."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from runner.errors import ConfigError, Problem
from runner.sweeps.jobs import Job
from runner.sweeps.plan.plan import MAX_JOBS, Plan

FOLDS, FOLD = "data.folds", "data.fold"
"""The number of folds, and which of them a run validates on."""


def folds_of(config: DictConfig) -> int | None:
    """Return the number of folds that a config asks to validate on, one after another; None if it does not."""
    folds, fold = (OmegaConf.select(config, key) for key in (FOLDS, FOLD))
    return folds if isinstance(folds, int) and folds > 1 and fold is None else None


def check(config: DictConfig) -> list[Problem]:
    """Find what a sweep over folds does not go with.

    Args:
        config: of the sweep, with Hydra's node.
    """
    if (folds := folds_of(config)) is None:
        return []
    choices, typed = config.hydra.runtime.choices, f"{FOLDS}={folds}"
    conflicts: list[tuple[str, Any, str, str]] = [
        ("hydra/sweeper", "halving", choices.get("hydra/sweeper"), "a job that pauses has no part in its folds' mean"),
        ("hydra/sweeper", "optuna", choices.get("hydra/sweeper"), "a trial is a single job"),
        ("hydra/launcher", "stacked", choices.get("hydra/launcher"), "folds differ in their samples"),
        ("sweep.seeds", "auto", OmegaConf.select(config, "sweep.seeds"), "its looks are at seeds, not at folds"),
    ]
    instead = {"hydra/sweeper": "grid", "hydra/launcher": "local", "sweep.seeds": "null"}
    problems = [
        Problem(key, f"{key}={value}: {why}", f"write {key}={instead[key]}, or {FOLDS}=null", topic="conflict")
        for key, value, chosen, why in conflicts
        if chosen == value
    ]
    if (name := OmegaConf.select(config, "tracking.register")) is not None:
        text = f"tracking.register={name}: the model of {typed} is an ensemble, which is not registered"
        problems.append(Problem("tracking.register", text, "leave it out", topic="conflict"))
    return problems


def over_folds(plan: Plan, folds: int | None) -> Plan:
    """Make a job for each fold of each job of a plan.

    Args:
        plan: the points; without a search.
        folds: their number; None leaves the plan as it is.

    Raises:
        ConfigError: the folds are varied already, or there are too many jobs.
    """
    if (typed := plan.axes.get(FOLDS)) is not None:
        text, instead = f"{FOLDS}={typed}: all jobs of a sweep share one {FOLDS}", f"write {FOLDS}=5, for example"
        raise ConfigError(Problem(FOLDS, text, instead, topic="conflict"))
    if folds is None:
        return plan
    if (typed := plan.axes.get(FOLD)) is not None:
        text = f"{FOLD}={typed}: {FOLDS}={folds} makes a job for each fold"
        raise ConfigError(Problem(FOLD, text, "leave it out", topic="conflict"))
    if len(plan.jobs) * folds > MAX_JOBS:
        text = f"this sweep has more than {MAX_JOBS:,} jobs"
        raise ConfigError(Problem("", text, "use fewer folds, axes, or values", topic="range"))
    jobs = [job for each in plan.jobs for job in _of_each_fold(each, folds)]
    return replace(plan, axes=plan.axes | {FOLD: ",".join(map(str, range(folds)))}, jobs=jobs)


def _of_each_fold(job: Job, folds: int) -> Sequence[Job]:
    own = "" if job.name == f"job {job.number}" else f"{job.name} "
    return [
        replace(
            job,
            number=job.number * folds + fold,
            name=f"{own}fold={fold}",
            point=job.point | {FOLD: str(fold)},
            overrides=(*job.overrides, f"{FOLD}={fold}"),
            own=job.own + 1,
        )
        for fold in range(folds)
    ]
