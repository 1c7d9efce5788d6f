"""Successive halving: all jobs train for a few epochs, the best of them go on for `eta` times as many, up to the end.

A rung is an epoch after which jobs pause. Synchronously (Jamieson and Talwalkar, 2016, arXiv:1502.07943) a rung is over
when all its jobs are, and the best `1/eta` of them go on: who does depends on the values alone, not on which job ended
first. Asynchronously (Li et al., 2020, arXiv:1810.05934) a job goes on as soon as it is among the best `1/eta` of those
seen at its rung: no slot waits, and some go on that would not have, but at most half as many more.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from omegaconf import DictConfig

from runner.comparison.objectives import Objective
from runner.config.keys import PRESETS
from runner.errors import ConfigError, Problem
from runner.rundir import journal, layout
from runner.rundir.manifest import PAUSE
from runner.saved.run import read_result
from runner.sweeps.jobs import Job, JobOutcome
from runner.sweeps.plan.method import Method
from runner.sweeps.plan.seeds import first_of_each
from runner.util.files import load_json_or_empty, write_json

KEY = "hydra/sweeper"
MEASURED = ("val/", "train/")
"""The first characters of metrics that are measured while a job trains."""

NONE = math.inf
"""The cost of a job without a value: it does not go on."""


MORE = 1.5
"""Asynchronously at most so many times as many jobs go on, and epochs are trained.

27 jobs that start with the worst would take 193 epochs."""


def rungs_between(min_epochs: int, max_epochs: int, eta: int) -> list[int]:
    """Return the epochs after which jobs pause, and the last: 1, 3, 9, 27."""
    rungs = [min_epochs]
    while rungs[-1] * eta < max_epochs:
        rungs.append(rungs[-1] * eta)
    return rungs if rungs[-1] == max_epochs else [*rungs, max_epochs]


@dataclass
class Halving(Method):
    """Decides which job trains next, and up to which rung.

    Attributes:
        eta: of so many jobs one goes on.
        rungs: epochs, ascending; the last is the end.
        asynchronous: whether a job goes on before all others of its rung are over.
        to_the_end: whether all paused jobs go on to the end.
    """

    suits_stacks = False
    extends_training = True

    eta: int
    rungs: list[int]
    asynchronous: bool = False
    to_the_end: bool = False
    _folder: Path = field(default_factory=Path)
    _objective: Objective = field(default_factory=lambda: Objective("", "min"))
    _jobs: list[int] = field(default_factory=list)
    _others: dict[int, list[int]] = field(default_factory=dict)
    """By job, those of its configuration with other seeds, which train only if it reaches the last rung."""
    _reached: list[dict[int, float]] = field(init=False)
    """The costs of the jobs that are over at each rung, by number."""
    _running: dict[int, int] = field(default_factory=dict)
    _followed: list[int] = field(default_factory=list)
    """Jobs that a cluster still runs, from an earlier start of the sweep."""

    def __post_init__(self) -> None:
        self._reached = [{} for _ in self.rungs]

    def describe(self, jobs: int, seeds: int = 1) -> str:
        """Describe what will be trained: `27 jobs to epoch 1, 9 to 3, 3 to 9, 1 to 27: 81 epochs instead of 729`.

        Args:
            jobs: with the first seed.
            seeds: of a configuration that reaches the last rung.
        """
        if self.to_the_end:
            return f"all go on to epoch {self.rungs[-1]}"
        steps, epochs = self._steps(jobs), self._epochs(jobs)
        texts = [f"{size} to {epoch}" for size, epoch in steps[1:]]
        last, some = steps[-1][0] * (seeds - 1), "about " if self.asynchronous else ""
        epochs += last * self.rungs[-1]
        if last:
            texts.append(f"{last} more to {self.rungs[-1]} with other seeds")
        return (
            f"{', '.join([f'{jobs} jobs to epoch {self.rungs[0]}', *texts])}:"
            f" {some}{epochs:,} epochs instead of {jobs * seeds * self.rungs[-1]:,}"
        )

    def _steps(self, jobs: int) -> list[tuple[int, int]]:
        """Return how many jobs train up to which epoch; one that is alone goes straight to the end."""
        steps, size = [], jobs
        for epoch in self.rungs:
            steps.append((size, epoch if size > 1 else self.rungs[-1]))
            if size == 1:
                break
            size = self._share(size)
        return steps

    def _epochs(self, jobs: int) -> int:
        """Return how many epochs are trained in all, synchronously."""
        return sum(size * (after - before) for (_, before), (size, after) in pairwise([(jobs, 0), *self._steps(jobs)]))

    def _share(self, jobs: int) -> int:
        return max(1, jobs // self.eta)

    def notes(self, jobs: Sequence[Job], objectives: Sequence[Objective], config: DictConfig) -> list[str]:
        """Return what will be trained, and what of the config that does not follow."""
        first = first_of_each(jobs)
        return [self.describe(len(first), 1 + max(map(len, first.values()))), self._describe_horizon(config)]

    def _describe_horizon(self, config: DictConfig) -> str:
        """Describe that a preset, which may ask for another number of epochs, does not decide it; empty without one."""
        epochs, asked, choices = self.rungs[-1], config.trainer.epochs, config.hydra.runtime.choices
        if asked == epochs or not any(choices.get(group) for group in PRESETS):
            return ""
        return f"trainer.epochs={asked} gives way to hydra.sweeper.max_epochs={epochs}"

    def check_jobs(
        self, objectives: Sequence[Objective], configs: Mapping[int, DictConfig], metrics: Collection[str]
    ) -> None:
        """Check that jobs can be compared at each rung.

        Args:
            objectives: of the sweep.
            configs: of its jobs.
            metrics: that they measure.

        Raises:
            ConfigError: there are two objectives, or none that is measured at the first rung.
        """
        metric = objectives[0].metric
        if len(objectives) > 1:
            text, instead = f"{KEY}=halving compares jobs by one metric, not by {len(objectives)}", metric
            raise ConfigError(Problem("sweep.metric", text, f"write sweep.metric={instead}", topic="conflict"))
        if not metric.startswith(MEASURED):
            text = f"sweep.metric={metric}: {KEY}=halving compares jobs while they train"
            measured = [name for part in MEASURED for name in metrics if name.startswith(part)]
            best = next((name for name in measured if name.endswith("/loss")), next(iter(measured), "val/loss"))
            raise ConfigError(Problem("sweep.metric", text, f"write sweep.metric={best}", topic="conflict"))
        key = "trainer.validate_every_epochs" if metric.startswith("val/") else "trainer.log_every_epochs"
        every = max((int(config.trainer[key.partition(".")[2]]) for config in configs.values()), default=1)
        if every > self.rungs[0]:
            text = f"hydra.sweeper.min_epochs={self.rungs[0]}: {key}={every} measures {metric} later"
            raise ConfigError(
                Problem("hydra.sweeper.min_epochs", text, f"write hydra.sweeper.min_epochs={every}", topic="conflict")
            )

    def resume(self, folder: Path, all_go_on: bool, has_new: bool) -> None:
        """Continue as an earlier start of the sweep has begun.

        Args:
            folder: of the sweep.
            all_go_on: whether all paused jobs go on to the end from now on.
            has_new: whether there are new jobs, which are compared with the others.

        Raises:
            ConfigError: it had other rungs.
        """
        saved = load_json_or_empty(folder / layout.HALVING)
        self.to_the_end = not has_new and (all_go_on or bool(saved.get("to_the_end")))
        for key, value in self._settings().items():
            if key in saved and saved[key] != value:
                text = f"sweep.resume={folder.name}: its halving has {key}={saved[key]}, and not {value}"
                raise ConfigError(Problem(KEY, text, "leave out what has changed", topic="conflict"))

    def _settings(self) -> dict[str, object]:
        return {"eta": self.eta, "rungs": self.rungs, "asynchronous": self.asynchronous}

    def open(
        self,
        folder: Path,
        objective: Objective,
        jobs: Sequence[int],
        others: Mapping[int, Sequence[int]] | None = None,
        again: Collection[int] = (),
        followed: Sequence[int] = (),
    ) -> None:
        """Start, or go on where an earlier start of the sweep has stopped.

        Args:
            folder: of the sweep.
            objective: by which jobs are compared.
            jobs: the numbers of those that are compared: one of each configuration.
            others: by such a job, those of its configuration with other seeds.
            again: those that start again though they have ended: they had failed, or lack plots and model.
            followed: those that a cluster still runs.
        """
        self._folder, self._objective, self._jobs = folder, objective, list(jobs)
        self._others = {number: list(numbers) for number, numbers in (others or {}).items()}
        saved = load_json_or_empty(folder / layout.HALVING).get("reached", [])
        for rung, costs in zip(self._reached, saved, strict=False):
            known = {int(number): cost for number, cost in costs.items() if cost is not None}
            rung.update({number: cost for number, cost in known.items() if number not in again})
        self._followed = list(followed)
        for number in self._with_others(self._jobs):
            if number not in again and number not in followed:
                self._note(number)  # it may have ended after the last note; and one that was killed goes on
        self._save()

    def next(self) -> int | None:
        """Return the job to start or to go on with; None if there is none now.

        There is none at all if no job is running either.
        """
        step = self._step()
        if step is None:
            return None
        number, rung = step
        self._running[number] = rung
        return number

    @property
    def is_over(self) -> bool:
        """Whether there is no job to start or to resume, and none runs."""
        return not self._running and self._step() is None

    def _step(self) -> tuple[int, int] | None:
        """Return the next job and its rung."""
        last = len(self.rungs) - 1
        if (number := next((number for number in self._followed if number not in self._running), None)) is not None:
            return number, next((rung for rung in range(last) if number not in self._reached[rung]), last)
        return self._rest() if self.to_the_end else self._seen() if self.asynchronous else self._whole_rungs()

    def pause_after(self, number: int) -> int | None:
        """Return the epoch after which a job that `next` has returned pauses; None if it trains to its end."""
        rung = self._running[number]
        return self.rungs[rung] if rung < len(self.rungs) - 1 else None

    def _with_others(self, jobs: Sequence[int]) -> list[int]:
        return [*jobs, *(other for number in jobs for other in self._others.get(number, ()))]

    @property
    def starts_left(self) -> int:
        """How many times jobs will be started, those that run not counted; about, if asynchronous."""
        if self.to_the_end:
            return self._free(self._with_others(self._jobs), len(self.rungs) - 1)
        jobs, left = self._jobs, 0
        for rung, (size, epoch) in enumerate(steps := self._steps(len(jobs))):
            up_to = self.rungs.index(epoch)
            if self.asynchronous:
                left += max(0, size - sum(self._is_at(number, up_to) for number in jobs))
                continue
            left += self._free(self._with_others(jobs) if up_to == len(self.rungs) - 1 else jobs, up_to)
            if any(number not in self._reached[rung] for number in jobs):  # it is not known yet who goes on
                more = steps[-1][0] * max(map(len, self._others.values()), default=0) if steps[rung + 1 :] else 0
                return left + sum(size for size, _ in steps[rung + 1 :]) + more
            jobs = self._promoted(rung, jobs)
        return left

    def _free(self, among: Sequence[int], rung: int) -> int:
        return sum(not self._is_at(number, rung) for number in among)

    def _is_at(self, number: int, rung: int) -> bool:
        """Return whether a job is over at a rung, or trains towards it."""
        return number in self._reached[rung] or self._running.get(number) == rung

    def tell(self, number: int, outcome: JobOutcome) -> None:
        """Take in how a job has ended. One that was stopped with the sweep goes on when that is resumed."""
        rung = self._running.pop(number)
        if number in self._followed:
            self._followed.remove(number)
        if outcome.by_request:
            return
        if outcome.as_planned:
            self._note(number)
            self._save()
        else:  # it failed, or was killed: the others need not wait for it
            for reached in self._reached[rung:]:
                reached[number] = NONE

    def _note(self, number: int) -> None:
        """Note the value of a job at each rung that it has reached: the best so far."""
        folder = self._folder / str(number)
        result = read_result(folder)
        if result.get("status") not in ("FINISHED", PAUSE):
            return
        points, _ = journal.read(folder / layout.JOURNAL, names=(self._objective.metric,))
        costs = [(point.step, self._objective.cost(point.value)) for point in points if math.isfinite(point.value)]
        for epoch, reached in zip(self.rungs, self._reached, strict=True):
            if number not in reached and (result["status"] == "FINISHED" or epoch <= int(result.get("epochs") or 0)):
                reached[number] = min((cost for step, cost in costs if step <= epoch), default=NONE)

    def _save(self) -> None:
        reached = [
            {str(number): None if cost == NONE else cost for number, cost in of_rung.items()}
            for of_rung in self._reached
        ]
        content = {**self._settings(), "to_the_end": self.to_the_end, "metric": self._objective.metric}
        content["reached"] = reached
        write_json(self._folder / layout.HALVING, content)

    def _best(self, rung: int, among: Sequence[int], count: int) -> list[int]:
        """Return the jobs with the best values at a rung; of two equal ones the first."""
        ranked = sorted((self._reached[rung][number], number) for number in among)
        return [number for cost, number in ranked[:count] if cost < NONE]

    def _startable(self, among: Sequence[int], rung: int) -> int | None:
        """Return the first job that is not over at a rung, and does not run."""
        free = (number for number in among if number not in self._reached[rung] and number not in self._running)
        return next(free, None)

    def _whole_rungs(self) -> tuple[int, int] | None:
        """Return the next job and its rung: one of the lowest rung that is not over."""
        jobs, last = self._jobs, len(self.rungs) - 1
        for rung in range(len(self.rungs)):
            up_to = rung if len(jobs) > 1 else last  # there is nothing to compare one alone with
            among = self._with_others(jobs) if up_to == last else jobs
            if (number := self._startable(among, up_to)) is not None:
                return number, up_to
            if up_to == last or any(number not in self._reached[rung] for number in jobs):  # they run
                return None
            jobs = self._promoted(rung, jobs)
        return None

    def _promoted(self, rung: int, jobs: Sequence[int]) -> list[int]:
        """Return the best jobs of a rung, which go on; if all of them have failed since, also the next one."""
        ranked, count = self._best(rung, jobs, len(jobs)), self._share(len(jobs))
        while count < len(ranked) and all(map(self._has_failed, ranked[:count])):
            count += 1
        return ranked[:count]

    def _has_failed(self, number: int) -> bool:
        return self._reached[-1].get(number) == NONE

    def _seen(self) -> tuple[int, int] | None:
        """Return the next job and its rung: one that can go on, from the highest rung down, or else a new one."""
        below = range(len(self.rungs) - 2, -1, -1)
        most = [len(self._jobs)]
        for _ in self.rungs:
            most.append(self._share(most[-1]))
        if (number := self._other_seed()) is not None:
            return number, len(self.rungs) - 1
        for rung in below:
            reached = [number for number in self._jobs if number in self._reached[rung]]
            above = sum(self._is_at(number, rung + 1) for number in self._jobs)
            if above >= math.ceil(MORE * most[rung + 1]) or not self._is_affordable(rung + 1):
                continue
            best = self._best(rung, reached, len(reached) // self.eta)
            if (number := self._startable(best, rung + 1)) is not None:
                return number, rung + 1
        if (number := self._startable(self._jobs, 0)) is not None:
            return number, 0
        if self._running:
            return None
        able = [number for number in self._jobs if not self._has_failed(number)]
        # Fewer than `eta` have reached it, or all that went on failed: the best goes on nevertheless
        for rung in below:
            reached = [number for number in able if number in self._reached[rung]]
            if any(self._reached[rung + 1].get(number, NONE) < NONE for number in able):
                return None
            if (number := self._startable(self._best(rung, reached, 1), rung + 1)) is not None:
                return number, rung + 1
        return None

    def _is_affordable(self, rung: int) -> bool:
        """Return whether one more job can go on to a rung, within `MORE` times the epochs of whole rungs."""
        levels = [sum(self._is_at(number, level) for number in self._jobs) for level in range(len(self.rungs))]
        levels[0] = len(self._jobs)
        levels[rung] += 1
        epochs = [after - before for before, after in pairwise([0, *self.rungs])]
        return sum(map(math.prod, zip(levels, epochs, strict=True))) <= MORE * self._epochs(len(self._jobs))

    def _other_seed(self) -> int | None:
        """Return a job of a configuration of which another one trains to the end, or has."""
        last = len(self.rungs) - 1
        ahead = [
            number
            for number in self._jobs
            if self._running.get(number) == last or self._reached[last].get(number, NONE) < NONE
        ]
        return self._startable([other for number in ahead for other in self._others.get(number, ())], last)

    def _rest(self) -> tuple[int, int] | None:
        """Return the next job that is not at its end."""
        last = len(self.rungs) - 1
        number = self._startable(self._with_others(self._jobs), last)
        return None if number is None else (number, last)
