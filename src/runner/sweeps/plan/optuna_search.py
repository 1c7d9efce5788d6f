"""`hydra/sweeper=optuna`: each trial chosen by what came of those before it, and ended early where it has no prospects.

The engine is Optuna (Akiba et al., 2019, arXiv:1907.10902), by ask and tell: a free slot asks for the next trial at
once. The study is kept in a journal file in the sweep's folder, or in a database, and grows to `n_trials` whenever the
sweep is gone on with. While its storage is away the jobs go on: their results wait here, and in their folders.
"""

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from runner.comparison.objectives import Objective
from runner.config.compose import Composer
from runner.errors import ConfigError, first_line
from runner.rundir import journal, layout
from runner.rundir.folders import shell_path
from runner.rundir.lock import is_locked
from runner.sweeps.jobs import Job, JobOutcome
from runner.sweeps.plan.axes import not_whole
from runner.sweeps.plan.optuna_space import Axis, axis_of, check_same_space, suggest
from runner.sweeps.plan.patience import Away, Patience
from runner.sweeps.plan.plan import Plan, log_axes, make_jobs, named, split
from runner.tracking.store import password_refused
from runner.util.driver import check_driver, engine_options
from runner.util.tags import FOLDER_TAG

log = logging.getLogger("runner")

Result = TypeVar("Result")

STUDY = "study.log"
TIMEOUT = 300.0
"""Seconds that a storage is waited for, unless the config says otherwise."""
DIRECTIONS: dict[str, Literal["minimize", "maximize"]] = {"min": "minimize", "max": "maximize"}
FOLDER, NUMBER = FOLDER_TAG, "runner.job"
"""Attributes of a trial: the sweep that runs it, and the number of its job there."""


def plan(
    made: Composer,
    arguments: Sequence[str],
    params: Mapping[str, str],
    n_trials: int,
    sampler: Any,
    pruner: Any,
    storage: str | None,
    study_name: str | None,
    storage_timeout: float = TIMEOUT,
) -> Plan:
    """A sweep without jobs yet, and where they come from.

    Args:
        made: to read the arguments with.
        arguments: as they were typed.
        params: axes that the config itself names.
        n_trials: that the study is to have.
        sampler: Optuna's; None is its default.
        pruner: Optuna's; None prunes nothing.
        storage: address of a database; None is a file in the sweep's folder.
        study_name: in it; None is the name of the sweep's folder.
        storage_timeout: seconds that the study's storage is waited for when it goes away.

    Raises:
        ConfigError: there is nothing to search, an axis cannot be searched, or Optuna takes something else.
    """
    problems = [*not_whole("n_trials", n_trials, 1), *_not_seconds(storage_timeout)]
    fixed, overrides = split(made, arguments, params)
    if not overrides:
        problems.append("hydra/sweeper=optuna has nothing to search: write optimizer.lr=tag(log,interval(1e-4,1e-1))")
    axes: dict[str, Axis] = {}
    for key, override in overrides.items():
        try:
            axes[key] = axis_of(made, override)
        except ConfigError as error:
            problems += map(str, error.problems)
    if problems:
        raise ConfigError(*problems)
    pruner, patience = pruner or optuna.pruners.NopPruner(), Patience(storage_timeout)
    search = OptunaSearch(fixed, axes, n_trials, sampler, pruner, storage, study_name, patience)
    texts = {key.lstrip("+"): o.get_value_string() for key, o in overrides.items()}
    return Plan(texts, [], log_axes=log_axes(overrides), search=search)


def _not_seconds(value: Any) -> list[str]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and 0 <= value < math.inf:
        return []
    return [f"hydra.sweeper.storage_timeout={value}: write seconds, 300 for instance; 0 does not wait"]


@dataclass
class OptunaSearch:
    """Where the jobs of a search come from.

    Attributes:
        fixed: arguments that all jobs have.
        axes: what is searched, by key.
        n_trials: that the study is to have.
    """

    fixed: list[str]
    axes: dict[str, Axis]
    n_trials: int
    sampler: Any
    pruner: Any
    storage: str | None = field(repr=False)
    study_name: str | None
    patience: Patience = field(default_factory=lambda: Patience(TIMEOUT))
    _folder: Path = field(default_factory=Path)
    _objectives: Sequence[Objective] = ()
    _study: Any = None
    _trials: dict[int, Trial] = field(default_factory=dict)
    _orphans: list[Trial] = field(default_factory=list)
    _offsets: dict[int, int] = field(default_factory=dict)
    _untold: list[tuple[Job, JobOutcome, Sequence[float] | None]] = field(default_factory=list)
    _asked: Trial | None = None
    _cut_off: tuple[datetime, datetime] | None = None
    _known: int = 0
    _told_away: bool = False
    _gave_up: bool = False

    def probes(self, first: int) -> list[Job]:
        """Jobs that are only checked: every value that can be chosen, and both ends of each interval, once.

        Args:
            first: their first number.
        """
        keys, values = list(self.axes), [axis.probes for axis in self.axes.values()]
        longest = max(map(len, values))
        points = [[of_axis[min(place, len(of_axis) - 1)] for of_axis in values] for place in range(longest)]
        jobs = make_jobs(self.fixed, keys, points)
        return [Job(first + job.number, job.name, job.point, job.overrides) for job in jobs]

    def check(self, objectives: Sequence[Objective], resumed: bool = False) -> None:
        """See that the database is there, and has no other study by that name, before anything else is made.

        Args:
            objectives: what is to be as good as possible.
            resumed: of a sweep that is resumed, the study may be complete.

        Raises:
            ConfigError: the database cannot be used, or its study by that name is complete or of another kind.
        """
        if self.storage is None:
            return
        if problem := check_driver("hydra.sweeper.storage", self.storage):
            raise ConfigError(problem)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            storage = optuna.storages.get_storage(database(self.storage))
            there = self.study_name in optuna.get_all_study_names(storage)
            study = optuna.load_study(study_name=self.study_name, storage=storage) if there else None
        except Exception as error:  # of SQLAlchemy, of a driver that is missing
            reason = _reason(error)
            raise ConfigError(f"hydra.sweeper.storage: the study cannot be opened: {reason}") from error
        if study is None:
            return
        _same_directions(study, objectives)
        trials = study.get_trials(deepcopy=False)
        check_same_space(study, trials, self._space)
        if not resumed and _to_come(trials, self.n_trials) == 0:
            raise ConfigError(
                f"hydra.sweeper.study_name={study.study_name}: the study has {len(trials)} trials already: write"
                f" hydra.sweeper.n_trials=<more than {len(trials)}>, or another hydra.sweeper.study_name"
            )

    def note(self, objectives: Sequence[Objective]) -> str:
        """What a person should know of a search for these."""
        pruned = not isinstance(self.pruner, optuna.pruners.NopPruner)
        return (
            "no trial is pruned: Optuna does that by one metric, not by two" if pruned and len(objectives) > 1 else ""
        )

    def open(self, folder: Path, objectives: Sequence[Objective], jobs: int = 0) -> None:
        """Open the study, or make it.

        Args:
            folder: the sweep's.
            objectives: what is to be as good as possible.
            jobs: that the sweep has already.

        Raises:
            ConfigError: the storage cannot be used, or has a study of another direction by that name.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._folder, self._objectives = folder, objectives
        wanted = [DIRECTIONS[objective.direction] for objective in objectives]
        try:
            self._study = optuna.create_study(
                storage=self._open_storage(folder),
                study_name=self.study_name or folder.name,
                sampler=self.sampler,
                pruner=self.pruner,
                directions=wanted,
                load_if_exists=True,
            )
        except Exception as error:  # of SQLAlchemy, of a driver that is missing, of the file system
            where = "hydra.sweeper.storage" if self.storage else str(folder / STUDY)
            raise ConfigError(f"{where}: the study cannot be opened: {_reason(error)}") from error
        _same_directions(self._study, objectives)
        if self._study.get_trials(deepcopy=False):
            self._study.sampler.reseed_rng()  # by its seed it would draw the first points once more
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            number = trial.user_attrs.get(NUMBER, jobs)
            if self.storage is not None and FOLDER not in trial.user_attrs:  # killed while it was being asked for
                self._study.tell(trial.number, state=TrialState.FAIL)
            elif trial.user_attrs.get(FOLDER) == str(folder) and number < jobs:
                self._trials[number] = Trial(self._study, trial._trial_id)
            elif self.storage is None or trial.user_attrs.get(FOLDER) == str(folder):
                self._orphans.append(Trial(self._study, trial._trial_id))  # asked for, and killed before it was a job
            elif _is_left(trial):
                self._study.tell(trial.number, state=TrialState.FAIL)

    def _open_storage(self, folder: Path) -> str | BaseStorage:
        if self.storage is not None:
            return database(self.storage)
        cut_back(folder / STUDY)
        return JournalStorage(JournalFileBackend(str(folder / STUDY)))

    @property
    def _space(self) -> dict[str, BaseDistribution]:
        return {key.lstrip("+"): axis.distribution for key, axis in self.axes.items()}

    @property
    def left(self) -> int:
        """How many trials are still to be run, besides those that are jobs already; as last seen if that is unknown."""
        if self.patience.due:
            try:
                with self.patience.attempt():
                    trials = self._study.get_trials(deepcopy=False)
                    self._known = len(self._orphans) + _to_come(trials, self.n_trials)
            except Exception as error:  # of the storage: what it is, `ask` says
                log.debug("the study cannot be read: %s", first_line(error))
        return self._known

    @property
    def untold(self) -> int:
        """Results that the study has not got yet, as its storage is away."""
        return len(self._untold)

    @property
    def waits(self) -> bool:
        """Whether the storage is away, and is still waited for."""
        return not self._gave_up and (self.patience.away or bool(self._untold))

    def ask(self, number: int) -> Job | None:
        """The next trial as a job of that number; None if the study has all it is to have, or its storage is away."""
        self.catch_up()
        if self._untold or self._gave_up or (self.patience.away and self._trials):
            return None
        return self._reach(lambda: self._ask(number), None)

    def _ask(self, number: int) -> Job | None:
        if self._asked is None:
            trials = self._study.get_trials(deepcopy=False)
            self._find_cut_off(trials)
            self._known = len(self._orphans) + _to_come(trials, self.n_trials)
            if not self._known:
                return None
            self._asked = self._orphans.pop() if self._orphans else self._new_trial()
        trial = self._asked  # the same one in the next attempt, if the storage goes away in this one
        trial.set_user_attr(FOLDER, str(self._folder))
        for name, distribution in self._space.items():  # those that it has not come to
            suggest(trial, name, distribution)
        trial.set_user_attr(NUMBER, number)
        self._asked = None
        self._trials[number] = trial
        self._known -= 1
        point = {key: axis.words(trial.params[key.lstrip("+")]) for key, axis in self.axes.items()}
        return named(number, self.fixed, point)

    def _new_trial(self) -> Trial:
        began = datetime.now()
        try:
            trial: Trial = self._study.ask()
        except Exception:
            self._cut_off = (began, datetime.now())
            raise
        return trial

    def _find_cut_off(self, trials: Sequence[FrozenTrial]) -> None:
        """Take over the trial that the study has made, if its storage went away before it could say so."""
        if self._cut_off is not None:
            began, ended = self._cut_off
            for trial in trials:
                started = trial.datetime_start
                nobodys = trial.state is TrialState.RUNNING and FOLDER not in trial.user_attrs
                if nobodys and started is not None and began <= started <= ended:
                    self._orphans.append(Trial(self._study, trial._trial_id))
            self._cut_off = None

    def _reach(self, action: Callable[[], Result], otherwise: Result) -> Result:
        """Do something with the study; while its storage is away, the other value."""
        if not self.patience.due:
            return otherwise
        try:
            if self.storage is None and self.patience.away:
                cut_back(self._folder / STUDY)
            with self.patience.attempt():
                return action()
        except Away:
            return otherwise

    def catch_up(self) -> None:
        """Tell the study what waits, if its storage is back; say that it is away, is back, or is away for too long."""
        if self.patience.away and self._trials and not self._untold:  # that it can be read alone does not help
            trial = next(iter(self._trials.values()))
            self._reach(lambda: trial.set_user_attr(FOLDER, str(self._folder)), None)
        told = True
        while self._untold and told:
            told = self._reach(lambda: self._tell(*self._untold[0]), False)
            if told:
                del self._untold[0]
        if self.patience.away and not self._told_away and self.patience.seconds:
            self._told_away = True
            log.warning(
                "the study's storage is away (%s): the jobs go on, and their results wait for it, for"
                " hydra.sweeper.storage_timeout=%g s at most",
                self.patience.reason,
                self.patience.seconds,
            )
        elif not self.patience.away and self._told_away:
            self._told_away = False
            log.info("the study's storage is back: it has all results")
        if self.patience.over and not self._gave_up:
            self._gave_up = True
            log.error(
                "error: the study's storage is away (%s), for longer than hydra.sweeper.storage_timeout=%g s: no more"
                " trials are started; when it is back, go on by: python -m runner --multirun sweep.resume=%s",
                self.patience.reason,
                self.patience.seconds,
                shell_path(self._folder),
            )

    def watch(self, job: Job) -> str | None:
        """Report what a running job has measured since; why it is to end, if it has no prospects."""
        return None if self.patience.away else self._reach(lambda: self._watch(job), None)

    def _watch(self, job: Job) -> str | None:
        trial = self._trials.get(job.number)
        if trial is None or len(self._objectives) > 1:
            return None
        metric, path = self._objectives[0].metric, self._folder / str(job.number) / layout.JOURNAL
        points, offset = journal.read(path, self._offsets.get(job.number, 0))
        measured = [point for point in points if point.name == metric and math.isfinite(point.value)]
        with warnings.catch_warnings():  # of a resumed sweep, it has been told some of them before
            warnings.simplefilter("ignore", UserWarning)
            for point in measured:
                trial.report(point.value, point.step)
        pruned = bool(measured) and trial.should_prune()
        self._offsets[job.number] = offset  # only now: if the storage goes away before, all are reported once more
        return f"pruned after epoch {measured[-1].step}" if pruned else None

    def tell(self, job: Job, fate: JobOutcome, values: Sequence[float] | None) -> None:
        """Tell the study what came of a job, at once or when its storage is back.

        Of a job that is to be gone on with, it is told nothing yet.

        Args:
            job: that has ended.
            fate: how.
            values: of the objectives; None if they were not all measured.
        """
        if not fate.wanted and job.number in self._trials:
            self._untold.append((job, fate, values))
            self.catch_up()

    def _tell(self, job: Job, fate: JobOutcome, values: Sequence[float] | None) -> bool:
        trial = self._trials[job.number]
        self._watch(job)  # what it has measured last
        if fate.pruned:
            state, values = TrialState.PRUNED, None
        elif fate.status == "FINISHED" and values is not None:
            state = TrialState.COMPLETE
        else:
            state, values = TrialState.FAIL, None
        # The answer to an attempt may have been lost with the connection: then the study has it already.
        self._study.tell(trial, list(values) if values else None, state=state, skip_if_finished=True)
        del self._trials[job.number]
        return True

    def draw(self, folder: Path) -> list[str]:
        """Draw how the search went, and which keys mattered, as far as there is something to draw.

        Returns:
            The names of the files, below `folder`.
        """
        from runner.plots.search import draw_history, draw_importances

        if self.patience.away:
            return []
        complete = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not any(map(math.isfinite, (value for trial in complete for value in trial.values))):
            return []
        first, files = self._objectives[0], []
        if len(self._objectives) == 1:
            files.append(draw_history(self._history(), first.metric, first.direction == "min", folder))
        if len(complete) > 1 and len(self.axes) > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
                importances = optuna.importance.get_param_importances(
                    self._study, evaluator=evaluator, target=lambda trial: trial.values[0]
                )
            files.append(draw_importances(importances, first.metric, folder))
        return [file.relative_to(folder).as_posix() for file in files]

    def _history(self) -> Iterable[tuple[int, float | None, str]]:
        for trial in self._study.get_trials(deepcopy=False):
            value = trial.value if trial.value is not None and math.isfinite(trial.value) else None
            yield trial.number, value, trial.state.name.lower()


def database(address: str) -> BaseStorage:
    """The storage at an address; a host that is down is noticed within seconds."""
    return optuna.storages.get_storage(RDBStorage(address, engine_kwargs=engine_options(address)))


def cut_back(log: Path) -> None:
    """Take away half a line at the end of a log, as a full disk leaves it: what is appended would complete it.

    Args:
        log: which nobody else has open; it may not exist.
    """
    if log.exists():
        content = log.read_bytes()
        with log.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def _to_come(trials: Sequence[FrozenTrial], n_trials: int) -> int:
    """How many trials a study lacks; one that failed before it was a job does not count."""
    never_jobs = sum(trial.state is TrialState.FAIL and NUMBER not in trial.user_attrs for trial in trials)
    return max(0, n_trials - len(trials) + never_jobs)


def _same_directions(study: Any, objectives: Sequence[Objective]) -> None:
    """See that a study is for these objectives.

    Raises:
        ConfigError: it is not.
    """
    has = [direction.name.lower() for direction in study.directions]
    wanted = [DIRECTIONS[objective.direction] for objective in objectives]
    if has != wanted:
        asked = ", ".join(f"{way} {o.metric}" for way, o in zip(wanted, objectives, strict=True))
        raise ConfigError(
            f"the study {study.study_name} is to {' and '.join(has)}, and not to {asked}: leave sweep.metric and"
            " sweep.direction as they were, or begin another sweep, in a database with another hydra.sweeper.study_name"
        )


def _is_left(trial: FrozenTrial) -> bool:
    """Whether the process that ran a trial is gone, as far as can be told from here."""
    folder = trial.user_attrs.get(FOLDER)
    if folder is None or not Path(folder).is_dir():  # on another machine, maybe
        return False
    return not is_locked(Path(folder)) and not is_locked(Path(folder) / str(trial.user_attrs.get(NUMBER)))


def _reason(error: BaseException) -> str:
    return password_refused(error, "hydra.sweeper.storage") or first_line(error)
