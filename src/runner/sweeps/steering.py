"""What `runner.steer` asks a running sweep for: it stops a job, goes on with one, or gets another one."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runner.errors import ConfigError, Problem, describe_error
from runner.rundir import requests
from runner.rundir.requests import STEERED
from runner.sweeps.jobs import Job, JobOutcome
from runner.sweeps.launchers.pool import Pool
from runner.sweeps.prepared import PreparedSweep
from runner.sweeps.results import table
from runner.sweeps.results.resume import ResumeAction, choose_action
from runner.sweeps.schedules.schedule import Schedule

log = logging.getLogger("runner")


class Steering:
    """Obeys the requests in the folder of a running sweep, and answers them.

    Args:
        folder: of the sweep.
        prepared: the sweep.
        schedule: of its jobs.
        pool: runs them.
    """

    def __init__(self, folder: Path, prepared: PreparedSweep, schedule: Schedule, pool: Pool) -> None:
        self._folder, self._prepared, self._schedule, self._pool = folder, prepared, schedule, pool
        requests.forget(folder)

    def obey(self) -> None:
        """Obey what was asked since the last call; a request that cannot be obeyed changes nothing."""
        for path, request in requests.waiting(self._folder):
            try:
                answer: dict[str, Any] = {"done": self._do(request)}
                log.info("steered    %s", answer["done"])
            except ConfigError as error:
                answer = {"problems": [vars(problem) for problem in error.problems]}
            except (ValueError, TypeError, OSError) as error:
                answer = {"problems": [vars(Problem("", f"not done: {describe_error(error)}", topic="file"))]}
            try:
                requests.answer(path, answer)
            except OSError as error:  # the disk is full
                log.warning("a request of runner.steer is not answered: %s", describe_error(error))

    def _do(self, request: Mapping[str, Any]) -> str:
        ways: dict[str, Callable[[Mapping[str, Any]], str]] = {
            "stop": lambda asked: self._stop(self._job(asked["stop"])),
            "go_on": lambda asked: self._go_on(self._job(asked["go_on"])),
            "clone": lambda asked: self._add(asked["overrides"], self._job(asked["clone"])),
            "add": lambda asked: self._add(asked["add"], None),
        }
        kind = next((name for name in ways if name in request), None)
        if kind is None:
            raise ConfigError(Problem("", "the request cannot be read", topic="syntax"))
        return ways[kind](request)

    def _job(self, number: object) -> Job:
        jobs = {job.number: job for job in self._schedule.jobs}
        if number not in jobs:
            text = f"the sweep has no job {number}"
            raise ConfigError(Problem("", text, f"write a number from 0 to {max(jobs)}", topic="unknown"))
        return jobs[int(str(number))]

    def _stop(self, job: Job) -> str:
        if self._prepared.launcher.stacks:
            text = f"job {job.number} is trained in one program with others, which stop together"
            raise ConfigError(Problem("stop", text, "press Ctrl-C in the sweep to stop all of them", topic="conflict"))
        if self._pool.stop(job.number):
            return f"job {job.number} writes a checkpoint and stops; go_on={job.number}, or a resume, goes on with it"
        if self._schedule.take_out(job.number):
            folder = self._folder / str(job.number)
            folder.mkdir(exist_ok=True)
            JobOutcome("KILLED", STEERED, 0.0).save(folder, job.name)
            return f"job {job.number} does not start"
        raise self._not(job, "stop")

    def _go_on(self, job: Job) -> str:
        if self._status(job) != "KILLED":
            raise self._not(job, "go_on")
        action = choose_action(self._folder / str(job.number), self._prepared.settings.artifacts)
        self._start(job, action)
        return f"job {job.number} goes on {action.value}"

    def _status(self, job: Job) -> str:
        """Return how a job stands: KILLED only if it has ended."""
        if self._pool.runs(job.number):
            return "RUNNING"
        return table.read_row(job, self._folder / str(job.number), self._prepared.objectives).status

    def _not(self, job: Job, key: str) -> ConfigError:
        status = self._status(job)
        what = {"RUNNING": "runs", "NOT STARTED": "has not started"}.get(status, f"has ended as {status}")
        needs = "runs, or waits for its turn" if key == "stop" else "was stopped"
        text, instead = f"{key}={job.number}: job {job.number} {what}", f"name a job that {needs}"
        return ConfigError(Problem(key, text, instead, topic="conflict"))

    def _add(self, overrides: object, like: Job | None) -> str:
        if not isinstance(overrides, list) or not all(isinstance(text, str) for text in overrides):
            raise ConfigError(Problem("add", "the request cannot be read", topic="syntax"))
        self._schedule.check_put_in()
        job = self._prepared.add(overrides, like)
        self._prepared.save_plan(self._folder)
        self._start(job, ResumeAction.START)
        return f"job {job.number} {job.name} is added"

    def _start(self, job: Job, action: ResumeAction) -> None:
        self._schedule.put_in(job)
        self._prepared.actions[job.number] = action
