"""`data.folds`: each point of a sweep becomes a job for each fold, whose results together are its own."""

from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from runner.errors import ConfigError, Problem
from runner.sweeps.plan.plan import MAX_JOBS, Plan, zip_keys
from runner.sweeps.plan.seeds import FOLD, with_value

FOLDS = "data.folds"
"""The number of folds; `FOLD` is the one that a run validates on."""


def folds_of(config: DictConfig) -> int | None:
    """Return the number of folds that a config asks to validate on, one after another; None if it does not."""
    folds, fold = (OmegaConf.select(config, key) for key in (FOLDS, FOLD))
    return folds if isinstance(folds, int) and folds > 1 and fold is None else None


def check(config: DictConfig) -> list[Problem]:
    """Find what a sweep over folds does not go with.

    Args:
        config: of the sweep, with Hydra's node.
    """
    if folds_of(config) is None:
        return []
    choices = config.hydra.runtime.choices
    conflicts: list[tuple[str, Any, str, str]] = [
        ("hydra/sweeper", "halving", choices.get("hydra/sweeper"), "a job that pauses has no part in its folds' mean"),
        ("hydra/launcher", "stacked", choices.get("hydra/launcher"), "folds differ in their samples"),
        ("sweep.seeds", "auto", OmegaConf.select(config, "sweep.seeds"), "its looks are at seeds, not at folds"),
    ]
    instead = {"hydra/sweeper": "grid", "hydra/launcher": "local", "sweep.seeds": "null"}
    return [
        Problem(key, f"{key}={value}: {why}", f"write {key}={instead[key]}, or {FOLDS}=null", topic="conflict")
        for key, value, chosen, why in conflicts
        if chosen == value
    ]


def over_folds(plan: Plan, folds: int | None) -> Plan:
    """Make a job for each fold of each job of a plan.

    Args:
        plan: the points; a search makes the jobs itself.
        folds: their number; None leaves the plan as it is.

    Raises:
        ConfigError: the folds are varied already, or there are too many jobs.
    """
    axes = {key: key for key in plan.axes} | {key: name for name, keys in zip_keys(plan.axes).items() for key in keys}
    if FOLDS in axes:
        text = f"{axes[FOLDS]}={plan.axes[axes[FOLDS]]}: all jobs of a sweep share one {FOLDS}"
        raise ConfigError(Problem(FOLDS, text, f"write {FOLDS}=5, for example", topic="conflict"))
    if folds is None:
        return plan
    if FOLD in axes:
        text = f"{axes[FOLD]}={plan.axes[axes[FOLD]]}: {FOLDS}={folds} makes a job for each fold"
        raise ConfigError(Problem(FOLD, text, f"leave out {FOLD}", topic="conflict"))
    if len(plan.jobs) * folds > MAX_JOBS:
        text = f"this sweep has more than {MAX_JOBS:,} jobs"
        raise ConfigError(Problem("", text, "use fewer folds, axes, or values", topic="range"))
    values = [str(fold) for fold in range(folds)]
    plan.method.repeat(FOLD, values)
    jobs = [
        replace(with_value(job, FOLD, value), number=job.number * folds + fold)
        for job in plan.jobs
        for fold, value in enumerate(values)
    ]
    return replace(plan, axes=plan.axes | {FOLD: ",".join(values)}, jobs=jobs)
