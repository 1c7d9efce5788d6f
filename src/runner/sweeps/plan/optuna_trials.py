"""The trials of a study, as a sweep starts them, and the jobs of each."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

from runner.sweeps.plan.optuna_space import SearchedAxis, distributions_of, suggest, typed_values
from runner.sweeps.plan.optuna_study import FOLDER, NUMBER, REJECTED, count_remaining, is_abandoned
from runner.sweeps.plan.space import Space

log = logging.getLogger("runner")

REJECTED_IN_A_ROW = 500
"""Points that `sweep.where` leaves out one after the other, before a search ends."""


@dataclass
class RepeatedTrial:
    """A trial and its jobs, one for each seed.

    Attributes:
        trial: Optuna's.
        first: the number of its first job, which alone can be pruned; the others follow it.
        values: the chosen point.
        results: the values of the objectives by the number of the job, None if one has none.
        over: why it has ended before all jobs have; None if it has not.
    """

    trial: Trial
    first: int
    values: Sequence[str]
    results: dict[int, Sequence[float] | None] = field(default_factory=dict)
    over: str | None = None

    @property
    def means(self) -> list[float] | None:
        """The mean of each objective over the jobs; None if one of them has no values."""
        measured = [values for values in self.results.values() if values is not None]
        return list(map(fmean, zip(*measured, strict=True))) if len(measured) == len(self.results) else None


class TrialSource:
    """Hands out trials: those that were created before the sweep was killed, then new ones.

    All methods raise what the study's storage raises, and can be called again after that.

    Args:
        study: Optuna's.
        space: of the sweep.
        axes: its axes, as Optuna searches them.
        n_trials: number of trials of the study.
        folder: of the sweep.

    Attributes:
        remaining: trials that are still to be started, when they were last counted.
        is_exhausted: whether the sampler proposes nothing that `sweep.where` keeps.
    """

    def __init__(self, study: Any, space: Space, axes: Mapping[str, SearchedAxis], n_trials: int, folder: Path) -> None:
        self._study, self._space, self._axes, self._n_trials, self._folder = study, space, axes, n_trials, str(folder)
        self._unstarted: list[Trial] = []
        self._pending: Trial | None = None
        self._interrupted_ask: tuple[datetime, datetime] | None = None
        self.remaining, self.is_exhausted = 0, False

    def take_over(self, jobs: int, is_shared: bool) -> Iterator[tuple[Trial, int]]:
        """Iterate over the running trials that are jobs of the sweep already, each with the number of its first job.

        Others of this sweep are started later; those of a sweep that is gone have failed.

        Args:
            jobs: number of jobs that the sweep already has.
            is_shared: whether the study may have trials of other sweeps.
        """
        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            trial, number = Trial(self._study, frozen._trial_id), frozen.user_attrs.get(NUMBER, jobs)
            is_own = frozen.user_attrs.get(FOLDER) == self._folder
            if is_shared and FOLDER not in frozen.user_attrs:  # killed while it was created
                self._study.tell(frozen.number, state=TrialState.FAIL)
            elif is_own and number < jobs:
                yield trial, number
            elif is_own or not is_shared:
                self._unstarted.append(trial)  # created, and killed before it became a job
            elif is_abandoned(frozen):
                self._study.tell(frozen.number, state=TrialState.FAIL)

    def count(self) -> None:
        """Count the trials that remain."""
        self._count(self._study.get_trials(deepcopy=False))

    def _count(self, trials: Sequence[FrozenTrial]) -> None:
        self.remaining = len(self._unstarted) + count_remaining(trials, self._n_trials)

    def start(self, number: int) -> tuple[Trial, list[str]] | None:
        """Return the next trial, and its value of each axis; None if the study is complete.

        Args:
            number: of its first job.
        """
        for _ in range(REJECTED_IN_A_ROW):
            if self._pending is None:
                trials = self._study.get_trials(deepcopy=False)
                self._adopt_interrupted(trials)
                self._count(trials)
                if not self.remaining:
                    return None
                self._pending = self._unstarted.pop() if self._unstarted else self._new_trial()
            trial = self._pending  # stays pending if the storage goes away during this attempt
            trial.set_user_attr(FOLDER, self._folder)
            for name, distribution in distributions_of(self._axes).items():  # those that it does not have yet
                suggest(trial, name, distribution)
            values = typed_values(trial, self._axes)
            if self._space.keeps(values):
                trial.set_user_attr(NUMBER, number)
                self._pending = None
                self.remaining -= 1
                return trial, values
            trial.set_user_attr(REJECTED, True)
            self._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            self._pending = None
        log.warning("search     ended: the sampler proposed %d points in a row that sweep.where leaves out", _ + 1)
        self.is_exhausted, self.remaining = True, 0
        return None

    def _new_trial(self) -> Trial:
        began = datetime.now()
        try:
            trial: Trial = self._study.ask()
        except Exception:
            self._interrupted_ask = (began, datetime.now())
            raise
        return trial

    def _adopt_interrupted(self, trials: Sequence[FrozenTrial]) -> None:
        """Adopt the trial that the study has created, if its storage went away before it could answer."""
        if self._interrupted_ask is not None:
            began, ended = self._interrupted_ask
            for trial in trials:
                started = trial.datetime_start
                has_no_owner = trial.state is TrialState.RUNNING and FOLDER not in trial.user_attrs
                if has_no_owner and started is not None and began <= started <= ended:
                    self._unstarted.append(Trial(self._study, trial._trial_id))
            self._interrupted_ask = None
