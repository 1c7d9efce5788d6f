"""The plan of `hydra/sweeper=optuna`: the axes that a search has, and no job yet."""

from typing import Any

import optuna

from runner.errors import ConfigError, Problem
from runner.sweeps.plan.axes import check_whole_number
from runner.sweeps.plan.optuna_search import OptunaSearch
from runner.sweeps.plan.optuna_space import searched_axes
from runner.sweeps.plan.patience import Patience, check_timeout
from runner.sweeps.plan.plan import Plan
from runner.sweeps.plan.seeds import over_seeds, pull_seeds
from runner.sweeps.plan.space import Space

TIMEOUT = 300.0
"""Seconds that a search waits for its storage by default."""


def plan(
    space: Space,
    n_trials: int,
    sampler: Any,
    pruner: Any,
    storage: str | None,
    study_name: str | None,
    storage_timeout: float = TIMEOUT,
) -> Plan:
    """Plan a sweep without jobs, and the search that proposes them.

    Args:
        space: of the sweep; points that it leaves out are no trials.
        n_trials: number of trials of the study.
        sampler: Optuna's; None for its default.
        pruner: Optuna's; None prunes nothing.
        storage: address of a database; None for a file in the sweep's folder.
        study_name: in the storage; None for the name of the sweep's folder.
        storage_timeout: seconds to wait for a storage that goes away.

    Raises:
        ConfigError: there is no axis, an axis cannot be searched, a setting is not valid, or no point is left.
    """
    problems = [*check_whole_number("n_trials", n_trials, 1), *check_timeout(storage_timeout)]
    space, seeds = pull_seeds(space)
    if not space.axes:
        text, instead = "hydra/sweeper=optuna has no axis to search", "add optimizer.lr=tag(log,interval(1e-4,1e-1))"
        problems.append(Problem("hydra/sweeper", text, instead, topic="missing"))
    axes, of_axes = searched_axes(space.axes)
    problems += of_axes
    if problems:
        raise ConfigError(*problems)
    pruner, patience = pruner or optuna.pruners.NopPruner(), Patience(storage_timeout)
    search = OptunaSearch(space, axes, n_trials, sampler, pruner, storage, study_name, patience)
    search.probes(0)  # there are some, or `where` leaves none
    return over_seeds(Plan(space.texts, [], log_axes=space.log_axes, method=search), seeds)
