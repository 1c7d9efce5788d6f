"""`hydra/sweeper=optuna`: each trial is chosen by the results of the earlier ones, and pruned if it is not promising.

The engine is Optuna (Akiba et al., 2019, arXiv:1907.10902), through ask and tell: a free slot asks for the next trial
at once. The study is saved in a journal file in the sweep's folder, or in a database, and grows to `n_trials` whenever
the sweep is resumed. While its storage is away the jobs continue: their results wait here, and in their folders.
"""

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import optuna
from omegaconf import DictConfig
from optuna.trial import Trial, TrialState

from runner.comparison.objectives import Objective
from runner.errors import ConfigError, Problem, first_line
from runner.rundir import journal, layout
from runner.sweeps.jobs import Job, JobOutcome
from runner.sweeps.plan.optuna_plots import draw_study
from runner.sweeps.plan.optuna_space import SearchedAxis, distributions_of, probe_points, typed_values
from runner.sweeps.plan.optuna_study import (
    FOLDER,
    STUDY,
    check_stored,
    count_remaining,
    open_study,
    truncate_partial_line,
)
from runner.sweeps.plan.optuna_trials import RepeatedTrial, TrialSource
from runner.sweeps.plan.patience import Away, OutageLog, Patience
from runner.sweeps.plan.plan import job_at, make_jobs
from runner.sweeps.plan.search import Search
from runner.sweeps.plan.seeds import with_value
from runner.sweeps.plan.space import Space

log = logging.getLogger("runner")

Result = TypeVar("Result")


@dataclass
class OptunaSearch(Search):
    """The search that proposes the jobs.

    A trial is a configuration: it has a job for each seed, and its values are the means over them.

    Attributes:
        space: the axes, what all jobs share, and which points are trials.
        axes: the search space, by key.
        n_trials: number of trials of the study.
        sampler: Optuna's.
        pruner: Optuna's.
        storage: address of a database; None for a file in the sweep's folder.
        study_name: in the storage; None for the name of the sweep's folder.
        patience: waits for the storage.
    """

    space: Space
    axes: dict[str, SearchedAxis]
    n_trials: int
    sampler: Any
    pruner: Any
    storage: str | None = field(repr=False)
    study_name: str | None
    patience: Patience
    _folder: Path = field(default_factory=Path)
    _objectives: Sequence[Objective] = ()
    _study: Any = None
    _source: TrialSource = field(init=False, repr=False)
    _repetitions: list[dict[str, str]] = field(default_factory=lambda: [{}])
    _trials: dict[int, RepeatedTrial] = field(default_factory=dict)
    _queue: list[tuple[RepeatedTrial, int]] = field(default_factory=list)
    _offsets: dict[int, int] = field(default_factory=dict)
    _unreported: list[tuple[Job, JobOutcome, Sequence[float] | None]] = field(default_factory=list)
    _outage: OutageLog = field(init=False)

    def __post_init__(self) -> None:
        self._outage = OutageLog(self.patience)

    def probes(self, first: int) -> list[Job]:
        """Return jobs to check only: together they have every value, and both ends of each interval.

        Of the points that `sweep.where` leaves out, other ones are drawn instead.

        Args:
            first: the first one's number.

        Raises:
            ConfigError: `sweep.where` leaves none.
        """
        jobs = make_jobs(replace(self.space, where=None), probe_points(self.space, self.axes))
        jobs = [replace(job, number=first + job.number) for job in jobs]
        return [self._repeated(job, 0) for job in jobs]

    def repeat(self, key: str, values: Sequence[str]) -> None:
        """Make a job of each trial for each of these seeds or folds; a second call, for each combination."""
        self._repetitions = [known | {key: value} for known in self._repetitions for value in values]

    @property
    def repetitions(self) -> int:
        """Jobs of each trial."""
        return len(self._repetitions)

    def _repeated(self, job: Job, place: int) -> Job:
        """Return the job of a trial that is one of its repetitions."""
        for key, value in self._repetitions[place].items():
            job = with_value(job, key, value)
        return job

    def check_storage(self, objectives: Sequence[Objective], resumed: bool = False) -> None:
        """Check the database, and its study of that name, before anything is created.

        Args:
            objectives: of the sweep.
            resumed: the study of a resumed sweep may be complete, and its database is waited for.

        Raises:
            ConfigError: the database cannot be used, or its study is complete or of another kind.
        """
        if self.storage is None:
            return
        distributions = distributions_of(self.axes)
        trials = check_stored(
            self.storage, self.study_name, objectives, distributions, self.patience.seconds, known=resumed
        )
        if trials and not resumed and count_remaining(trials, self.n_trials) == 0:
            count, key = len(trials), "hydra.sweeper.n_trials"
            text = f"hydra.sweeper.study_name={self.study_name}: the study already has {count} trials"
            suggestion = f"write {key}={count + self.n_trials}, or another hydra.sweeper.study_name"
            raise ConfigError(Problem(key, text, suggestion, topic="conflict"))

    def notes(self, jobs: Sequence[Job], objectives: Sequence[Objective], config: DictConfig) -> list[str]:
        """Return a remark if the pruner has no effect."""
        pruned = not isinstance(self.pruner, optuna.pruners.NopPruner)
        return ["no pruning: Optuna prunes by one objective, not by two"] if pruned and len(objectives) > 1 else []

    def open(self, folder: Path, objectives: Sequence[Objective], jobs: int = 0) -> None:
        """Open the study, or create it.

        Args:
            folder: of the sweep.
            objectives: of the sweep.
            jobs: number of jobs that the sweep already has.

        Raises:
            ConfigError: the storage cannot be used, or its study of that name has other directions.
        """
        self._folder, self._objectives = folder, objectives
        seconds = 0.0 if self.storage is None else self.patience.seconds
        self._study = open_study(self.storage, self.study_name, folder, objectives, self.sampler, self.pruner, seconds)
        if self._study.get_trials(deepcopy=False):
            self._study.sampler.reseed_rng()  # with its seed it would draw the first points again
        self._source = TrialSource(self._study, self.space, self.axes, self.n_trials, folder)
        for trial, first in self._source.take_over(jobs, is_shared=self.storage is not None):
            self._take_over(trial, first, jobs)

    def _take_over(self, trial: Trial, first: int, jobs: int) -> None:
        """Go on with a trial that has started; the sweep may have been killed before it had all of its jobs."""
        repeated = RepeatedTrial(trial, first, typed_values(trial, self.axes))
        self._trials |= dict.fromkeys(range(first, min(first + self.repetitions, jobs)), repeated)
        self._queue += [(repeated, place) for place in range(jobs - first, self.repetitions)]

    @property
    def remaining(self) -> int:
        """Jobs that are still to be run, besides those that exist already; the last known number."""
        if self.patience.due and not self._source.is_exhausted:
            try:
                with self.patience.attempt():
                    self._source.count()
            except Exception as error:  # of the storage; `ask` reports it
                log.debug("the study cannot be read: %s", first_line(error))
        return self._source.remaining * self.repetitions + sum(repeated.over is None for repeated, _ in self._queue)

    @property
    def unreported(self) -> int:
        """Results that the study does not have yet, as its storage is away."""
        return len(self._unreported)

    @property
    def is_waiting(self) -> bool:
        """Whether the storage is away, and the search still waits for it."""
        return not self._outage.has_given_up and (self.patience.away or bool(self._unreported))

    def ask(self, number: int) -> Job | None:
        """Return the next trial as the job of that number; None if the study is complete, or its storage away."""
        self.catch_up()
        if self._unreported or self._outage.has_given_up or (self.patience.away and self._trials):
            return None
        while self._queue:
            repeated, place = self._queue.pop(0)
            if repeated.over is None:
                self._trials[number] = repeated
                return self._repeated(job_at(number, self.space, repeated.values), place)
        return self._try(lambda: self._ask(number), None)

    def _ask(self, number: int) -> Job | None:
        started = self._source.start(number)
        if started is None:
            return None
        repeated = self._trials[number] = RepeatedTrial(started[0], number, started[1])
        self._queue += [(repeated, place) for place in range(1, self.repetitions)]
        return self._repeated(job_at(number, self.space, repeated.values), 0)

    def _try(self, action: Callable[[], Result], otherwise: Result) -> Result:
        """Call a function that uses the study; return `otherwise` while its storage is away."""
        if not self.patience.due:
            return otherwise
        try:
            if self.storage is None and self.patience.away:
                truncate_partial_line(self._folder / STUDY)
            with self.patience.attempt():
                return action()
        except Away:
            return otherwise

    def catch_up(self) -> None:
        """Report waiting results if the storage is back; log when it goes away, is back, or stays away too long."""
        if self.patience.away and self._trials and not self._unreported:  # a read alone does not show that it is back
            trial = next(iter(self._trials.values())).trial
            self._try(lambda: trial.set_user_attr(FOLDER, str(self._folder)), None)
        reported = True
        while self._unreported and reported:
            reported = self._try(lambda: self._tell(*self._unreported[0]), False)
            if reported:
                del self._unreported[0]
        self._outage.log(self._folder)

    def watch(self, job: Job) -> str | None:
        """Report a running job's new values; return why to prune it, or None."""
        return None if self.patience.away else self._try(lambda: self._watch(job), None)

    def _watch(self, job: Job) -> str | None:
        repeated = self._trials.get(job.number)
        if repeated is None or repeated.over is not None:
            return None if repeated is None else repeated.over
        if len(self._objectives) > 1 or job.number != repeated.first:
            return None
        trial = repeated.trial
        metric, path = self._objectives[0].metric, self._folder / str(job.number) / layout.JOURNAL
        points, offset = journal.read(path, self._offsets.get(job.number, 0), names=(metric,))
        measured = [point for point in points if math.isfinite(point.value)]
        with warnings.catch_warnings():  # after a resume, it already has some of them
            warnings.simplefilter("ignore", UserWarning)
            for point in measured:
                trial.report(point.value, point.step)
        pruned = bool(measured) and trial.should_prune()
        self._offsets[job.number] = offset  # only now: if the storage goes away earlier, all are reported again
        return f"pruned after epoch {measured[-1].step}" if pruned else None

    def tell(self, job: Job, outcome: JobOutcome, values: Sequence[float] | None) -> None:
        """Report the result of a trial to the study when its last job ends, at once or when its storage is back.

        A job that will be resumed is not reported yet.

        Args:
            job: that has ended.
            outcome: how it ended.
            values: of the objectives; None unless all were measured.
        """
        if not outcome.by_request and job.number in self._trials:
            self._unreported.append((job, outcome, values))
            self.catch_up()

    def _tell(self, job: Job, outcome: JobOutcome, values: Sequence[float] | None) -> bool:
        repeated = self._trials[job.number]
        if repeated.over is None:
            self._watch(job)  # its last values
            repeated.results[job.number] = values if outcome.status == "FINISHED" else None
            is_pruned = outcome.pruned and job.number == repeated.first
            if is_pruned or len(repeated.results) == self.repetitions:
                means = None if is_pruned else repeated.means
                state = TrialState.PRUNED if is_pruned else TrialState.COMPLETE if means else TrialState.FAIL
                # If only the answer to an earlier attempt was lost, the study already has the result.
                self._study.tell(repeated.trial, means, state=state, skip_if_finished=True)
                repeated.over = outcome.reason
        del self._trials[job.number]
        return True

    def draw(self, folder: Path) -> list[str]:
        """Draw the history of the search, and the importance of the axes, if there are enough values.

        Returns:
            The names of the files, below `folder`.
        """
        return [] if self.patience.away else draw_study(self._study, self._objectives, len(self.axes), folder)
