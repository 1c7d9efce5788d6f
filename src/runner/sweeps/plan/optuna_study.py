"""An Optuna study in its storage: a journal file in the sweep's folder, or a database."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from runner.comparison.objectives import Objective
from runner.errors import ConfigError, Problem, first_line
from runner.rundir.lock import is_locked
from runner.rundir.ownership import named_folder
from runner.sweeps.plan.optuna_space import check_same_space
from runner.sweeps.plan.patience import wait_until_open
from runner.tracking.trouble import password_refused
from runner.util.driver import check_driver, engine_options
from runner.util.files import PRIVATE, open_to_append
from runner.util.store_address import check_sqlite
from runner.util.tags import FOLDER_TAG

KEY = "hydra.sweeper.storage"
STUDY = "study.log"
DIRECTIONS: dict[str, Literal["minimize", "maximize"]] = {"min": "minimize", "max": "maximize"}
FOLDER, NUMBER, REJECTED = FOLDER_TAG, "runner.job", "runner.left_out"
"""Attributes of a trial: the sweep that runs it, its job's number there, and whether `sweep.where` leaves it out."""


def open_study(
    address: str | None,
    name: str | None,
    folder: Path,
    objectives: Sequence[Objective],
    sampler: Any,
    pruner: Any,
    seconds: float,
) -> Any:
    """Open a study, or create it.

    Args:
        address: of a database; None for a journal file in the folder.
        name: of the study; None for the folder's name.
        folder: of the sweep.
        objectives: of the sweep.
        sampler: Optuna's.
        pruner: Optuna's.
        seconds: to wait for a storage that has gone away since it was checked.

    Raises:
        ConfigError: the storage cannot be used, or its study of that name has other directions.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def create() -> Any:
        return optuna.create_study(
            storage=_open_journal(folder) if address is None else database(address),
            study_name=name or folder.name,
            sampler=sampler,
            pruner=pruner,
            directions=[DIRECTIONS[objective.direction] for objective in objectives],
            load_if_exists=True,
        )

    try:
        study = wait_until_open(create, seconds, known=True)
    except Exception as error:  # of SQLAlchemy, of a missing driver, of the file system
        raise _cannot_open(error, KEY if address else str(folder / STUDY)) from error
    _check_directions(study, objectives)
    return study


def check_stored(
    address: str,
    name: str | None,
    objectives: Sequence[Objective],
    space: Mapping[str, BaseDistribution],
    seconds: float = 0.0,
    known: bool = False,
) -> list[FrozenTrial]:
    """Check a database, and its study of that name if there is one, before anything is created.

    Args:
        address: of the database.
        name: of the study.
        objectives: of the sweep.
        space: of the search.
        seconds: see `wait_until_open`.
        known: see `wait_until_open`.

    Returns:
        The trials of the study; empty if it does not exist.

    Raises:
        ConfigError: the database cannot be used, or the study has other directions or another space.
    """
    if problem := check_driver(KEY, address) or check_sqlite(KEY, address, creates=not known):
        raise ConfigError(problem)
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def load() -> Any:
        storage = optuna.storages.get_storage(database(address))
        exists = name in optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=name, storage=storage) if exists else None

    try:
        study = wait_until_open(load, seconds, known)
    except Exception as error:  # of SQLAlchemy, of a missing driver
        raise _cannot_open(error, KEY) from error
    if study is None:
        return []
    _check_directions(study, objectives)
    trials = study.get_trials(deepcopy=False)
    check_same_space(study, trials, space)
    return list(trials)


def _cannot_open(error: Exception, place: str) -> ConfigError:
    problem = password_refused(error, KEY) or Problem(KEY, first_line(error), topic="store")
    return ConfigError(replace(problem, text=f"{place}: cannot open the study: {problem.text}"))


def _check_directions(study: Any, objectives: Sequence[Objective]) -> None:
    """Check that a study has the directions of these objectives.

    Raises:
        ConfigError: it does not.
    """
    directions = [direction.name.lower() for direction in study.directions]
    own = [DIRECTIONS[objective.direction] for objective in objectives]
    if directions == own:
        return
    asked = " and ".join(f"{way} {o.metric}" for way, o in zip(own, objectives, strict=True))
    text = f"the study {study.study_name} was created to {' and '.join(directions)}; this sweep is to {asked}"
    suggestion = "keep its sweep.metric and sweep.direction, or start a new sweep with another hydra.sweeper.study_name"
    raise ConfigError(Problem("sweep.direction", text, suggestion, topic="conflict"))


def database(address: str) -> BaseStorage:
    """Return the storage at an address; a host that is down is noticed within seconds."""
    return optuna.storages.get_storage(RDBStorage(address, engine_kwargs=engine_options(address)))


def _open_journal(folder: Path) -> BaseStorage:
    truncate_partial_line(folder / STUDY)
    os.close(open_to_append(folder / STUDY, PRIVATE))
    return JournalStorage(JournalFileBackend(str(folder / STUDY)))


def truncate_partial_line(log: Path) -> None:
    """Remove an incomplete line at the end of a log, as a full disk leaves it: the next write would be added to it.

    Args:
        log: that no other process has open; it may not exist.
    """
    if log.exists():
        content = log.read_bytes()
        with log.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def count_remaining(trials: Sequence[FrozenTrial], n_trials: int) -> int:
    """Count the trials that a study lacks; one that failed before it became a job does not count as a trial."""
    never_jobs = sum(trial.state is TrialState.FAIL and NUMBER not in trial.user_attrs for trial in trials)
    return max(0, n_trials - len(trials) + never_jobs)


def is_abandoned(trial: FrozenTrial) -> bool:
    """Return whether the process that ran a trial is gone, if this machine can see that."""
    folder = named_folder(str(trial.user_attrs.get(FOLDER)))
    if folder is None:  # maybe on another machine, or of another user of the study
        return False
    return not is_locked(folder) and not is_locked(folder / Path(str(trial.user_attrs.get(NUMBER))).name)
