"""A running sweep: runs its jobs, and reports their results however they end."""

import logging
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from runner.comparison.objectives import Objective
from runner.config import store_variable
from runner.config.settings import SweepSettings, TrackingSettings
from runner.errors import ConfigError, describe_error
from runner.rundir import layout
from runner.rundir.folders import display_path, shell_path
from runner.rundir.manifest import PAUSE
from runner.sweeps.check.compose_jobs import without_credentials
from runner.sweeps.display import Display
from runner.sweeps.jobs import Job, JobOutcome, JobProgress, JobSpec
from runner.sweeps.launchers.launcher import Launcher
from runner.sweeps.launchers.pool import NOT_STARTED, Pool
from runner.sweeps.launchers.slots import Slot
from runner.sweeps.launchers.supervisor import NODE, STOP
from runner.sweeps.plan.halving import Halving
from runner.sweeps.plan.plan import Plan
from runner.sweeps.plan.seeds import are_repeated, configuration_of, first_of_each
from runner.sweeps.report import log_links, report, report_late_ids
from runner.sweeps.results import folds, resume, table
from runner.sweeps.results.best import BestSoFar
from runner.sweeps.results.parent_run import ParentRun
from runner.sweeps.results.resume import ResumeAction
from runner.tracking.process import DeliveryProcess
from runner.util import cores, terminal
from runner.util.options import EXIT_FAILED, EXIT_SIGNAL
from runner.util.stopping import Stop
from runner.util.uri import strip_credentials

log = logging.getLogger("runner")

STOPPED_SECONDS = 3.0
"""Time for the delivery to finish after a signal."""


@dataclass
class PreparedSweep:
    """A sweep that can start.

    Attributes:
        plan: all its jobs.
        config: of the sweep, with Hydra's node.
        settings: of the sweep.
        objectives: by which the jobs are ranked.
        slots: that the jobs run in.
        actions: what to do with each job, by number.
        configs: of the jobs to run, with Hydra's node, by number.
        options: location of the configs: `config_path` and `config_dir`.
        launcher: runs the jobs.
        check: composes and builds a job that a search has added.
        save_plan: writes the plan into the sweep's folder, with the jobs that a search has added.
        typed: the arguments of the command line, without credentials.
        hint: a line for the end of the sweep; empty if there is none.
    """

    plan: Plan
    config: DictConfig
    settings: SweepSettings
    objectives: list[Objective]
    slots: list[Slot]
    actions: dict[int, ResumeAction]
    configs: MutableMapping[int, DictConfig]
    options: Mapping[str, Any]
    launcher: Launcher
    check: Callable[[Job], DictConfig]
    save_plan: Callable[[Path], None]
    typed: Sequence[str] = ()
    hint: str = ""


class Sweep:
    """Runs a prepared sweep.

    Args:
        folder: of the sweep, locked by this process.
        prepared: the sweep.
        delivery: delivers to MLflow; None without tracking.
    """

    def __init__(self, folder: Path, prepared: PreparedSweep, delivery: DeliveryProcess | None) -> None:
        self.folder, self.prepared = folder, prepared
        self.stop = Stop()
        self.remaining = [job for job in prepared.plan.jobs if not self._is_done(job)]
        self.parent_run = self._make_parent_run(delivery) if delivery is not None else None
        self.search, self.halving = prepared.plan.search, prepared.plan.halving
        self.stages = prepared.plan.stages
        self.is_repeated = are_repeated(prepared.plan)
        self.best = self._best_so_far() if prepared.settings.artifacts == "best" else None
        self.running: dict[int, Job] = {}
        self.under_way = 0
        self.trained: set[int] = set()
        self.seconds: dict[int, float] = {}
        if self.search is not None:
            for job in filter(self._is_done, prepared.plan.jobs):  # it may have ended while no sweep ran
                row = table.read_row(job, folder / str(job.number), prepared.objectives)
                self.search.tell(job, JobOutcome(row.status, row.reason, row.seconds or 0.0), row.measured)
        if self.halving is not None:
            others = first_of_each(prepared.plan.jobs)
            self.halving.open(folder, prepared.objectives[0], list(others), others)
            self.remaining = []
        if self.stages is not None:
            self.remaining = [job for job in self._asked() if not self._is_done(job)]
        starts = len(self.remaining) if self.halving is None else self.halving.starts_left
        jobs, quiet = starts + self._trials_left, bool(prepared.config.runner.quiet)
        self.display = Display(self.folder, jobs, len(prepared.slots), prepared.objectives, quiet)

    def _is_done(self, job: Job) -> bool:
        return self.prepared.actions[job.number] is ResumeAction.SKIP

    def _best_so_far(self) -> BestSoFar:
        jobs, objectives = filter(self._is_done, self.prepared.plan.jobs), self.prepared.objectives
        rows = [table.read_row(job, self.folder / str(job.number), objectives) for job in jobs]
        values = [(self._group(row.job), row.measured) for row in rows if row.ran_to_end and row.measured]
        return BestSoFar(self.folder, objectives, values)

    def _group(self, job: Job) -> str:
        """Return the name of a job's configuration, if configurations are ranked."""
        return str(configuration_of(job.point)) if self.is_repeated else ""

    def _make_parent_run(self, delivery: DeliveryProcess) -> ParentRun:
        config = self.prepared.config
        sweeper, tracking = config.hydra.runtime.choices["hydra/sweeper"], OmegaConf.to_object(config.tracking)
        assert isinstance(tracking, TrackingSettings)
        note = store_variable.describe_source(config.tracking._get_node("uri")._value(), tracking.name)
        return ParentRun(self.folder, self.prepared.plan, sweeper, tracking, self.prepared.typed, delivery, note)

    def run(self) -> int:
        """Run the jobs and report their results.

        Returns:
            The exit code.
        """
        with terminal.log_to_file(self.folder / layout.LOG), self.stop.listening():
            try:
                return self._run()
            except KeyboardInterrupt:  # a second Ctrl-C, but not while jobs run
                self._log_how_to_resume()
                return EXIT_SIGNAL + self.stop.signal

    def _run(self) -> int:
        self._log_start()
        settings = self.prepared.settings
        limits = settings.job_timeout, settings.on_failure == "stop", settings.max_time
        launcher, slots = self.prepared.launcher, self.prepared.slots
        self.pool = Pool(launcher, slots, self.prepare, self, self.stop, *limits)
        started = time.monotonic()
        try:
            self.pool.run(self._jobs())
        except Exception as error:  # a bug of the sweep itself: the results so far are reported all the same
            log.error("error: %s", describe_error(error))
            log.debug("", exc_info=True)
        self.stop.hold()
        self.display.close()
        return self._close(time.monotonic() - started)

    def _jobs(self) -> Iterator[Job | None]:
        """Yield the planned jobs, then those of a search; None if there is none now, but may be one later."""
        for job in list(self.remaining):
            self.under_way += 1
            yield job
        if self.halving is not None:
            yield from self._halved(self.halving)
        if self.stages is not None:
            yield from self._staged()
        asked_all = False
        while self.search is not None:
            next_job = None if asked_all else self.search.ask(len(self.prepared.plan.jobs))
            if next_job is not None:
                self.prepared.plan.jobs.append(next_job)
                self.prepared.actions[next_job.number] = ResumeAction.START
                self.prepared.save_plan(self.folder)
                self.remaining.append(next_job)
                self.under_way += 1
            elif not self.search.is_waiting:
                asked_all = True
                if not self.under_way:
                    return
            yield next_job

    def _halved(self, halving: Halving) -> Iterator[Job | None]:
        """Yield jobs to start or to go on with; None if there is none now, but may be one later."""
        started: set[int] = set()
        while (number := halving.next()) is not None or self.under_way:
            if number is None:
                yield None
                continue
            job, folder = self.prepared.plan.jobs[number], self.folder / str(number)
            if self.prepared.actions[number] is not ResumeAction.FOLLOW:
                self.prepared.actions[number] = resume.choose_action(folder, self.prepared.settings.artifacts)
            if number not in started:  # it is started once for each of its rungs
                started.add(number)
                self.remaining.append(job)
            self.under_way += 1
            yield job

    def _staged(self) -> Iterator[Job | None]:
        """Yield the jobs of further seeds, at each look those of all configurations that get more."""
        while True:
            while self.under_way:
                yield None
            before = {job.number for job in self.remaining}
            more = [job for job in self._asked() if job.number not in before and not self._is_done(job)]
            if not more:
                return
            self.remaining += more
            self.display.expect(len(self.remaining))
            for job in more:
                self.under_way += 1
                yield job

    def _asked(self) -> list[Job]:
        """Return the jobs that the sweep has: not those with further seeds that its results so far do not ask for."""
        jobs = self.prepared.plan.jobs
        if self.halving is not None:
            first = first_of_each(jobs)
            return [job for job in jobs if job.number in first or (self.folder / str(job.number)).exists()]
        if self.stages is None:
            return jobs
        objective = self.prepared.objectives[0]

        def gain(job: Job) -> float | None:
            row = table.read_row(job, self.folder / str(job.number), [objective])
            return -objective.cost(row.value) if row.ran_to_end and row.value is not None else None

        return self.stages.asked(gain)

    @property
    def _trials_left(self) -> int:
        """Trials that a search has not started."""
        return self.search.remaining if self.search is not None else 0

    def _close(self, seconds: float) -> int:
        """Report the results to the user and to MLflow; return the exit code. A second Ctrl-C ends only the waiting."""
        prepared, settings = self.prepared, self.prepared.settings
        result = table.read(self._asked(), self.folder, prepared.objectives, prepared.plan.old_rules)
        unreported = self.search.unreported if self.search is not None else 0
        left = self._jobs_left(result)
        complete = self._is_complete(result, left) and not unreported
        if over_folds := folds.has_folds(result):
            complete = complete and self._combine_folds(result)
        stopped = self.stop.requested and not complete
        smallest, stacks = settings.smallest_difference, prepared.launcher.stacks
        most = self.stages.max_seeds if self.stages is not None else None
        written = report(result, self.folder, self.remaining, seconds, self.search, stacks, smallest, most)
        if over_folds:
            for line in folds.describe(self.folder, prepared.config.trainer.monitor):
                log.info("%s", line)
        ended = self._end_parent_run(result, seconds, complete and written, stopped)
        recorded = written and ended
        complete = complete and recorded
        if not complete and not left and not (recorded and self._is_settled(result)):
            self._log_how_to_resume()
        elif complete and prepared.hint:
            log.info("%s", prepared.hint)
        delivered = False
        try:
            self.stop.release()
            delivered = self.parent_run is None or self._deliver(self.parent_run, result, stopped)
            if self.parent_run is not None and not stopped:
                self._register(self.prepared.config.tracking)
        except KeyboardInterrupt:
            stopped = True
        if not delivered:
            command = f"python -m runner.sync run={shell_path(self.folder)}"
            log.warning("upload to MLflow incomplete; finish with: %s", command)
        if left:
            log.info("not run    %d job%s, as sweep.max_time is over", left, "s" * (left > 1))
            self._log_how_to_resume()
        if stopped:
            return EXIT_SIGNAL + self.stop.signal
        return 0 if complete else EXIT_FAILED

    def _combine_folds(self, result: table.Table) -> bool:
        """Combine the folds of a sweep whose jobs have all finished; return whether that is done."""
        config, launcher = self.prepared.config, self.prepared.launcher
        saves_model = self.parent_run is not None and bool(config.tracking.log_model)
        try:
            with terminal.show_waiting("combining the folds ..."):
                return folds.combine(result, self.folder, saves_model, launcher.is_remote, lambda: self.stop.requested)
        except (ConfigError, OSError) as error:  # the process was killed, the disk is full
            log.error("error: the folds are not combined: %s", describe_error(error))
            return False

    def _jobs_left(self, result: table.Table) -> int:
        """Count the jobs that have not started because `sweep.max_time` is over."""
        if self.stop.requested or not self.pool.is_late:
            return 0
        return self._trials_left + (_not_started(result) if self.halving is None else self.halving.starts_left)

    def _is_complete(self, result: table.Table, left: int) -> bool:
        """Return whether all jobs have ended as planned, but for those left for a resume."""
        as_planned = result.count("FINISHED")
        if self.halving is not None and (left or not self.halving.starts_left):
            as_planned += result.count(PAUSE)
        if left:
            return as_planned + _not_started(result) == len(result.rows)
        return as_planned == len(result.rows) and not self._trials_left

    def _is_settled(self, result: table.Table) -> bool:
        """Return whether a resume would start no job: halving does not try again a job that has failed."""
        ended = sum(map(result.count, ("FINISHED", "FAILED", PAUSE)))
        return self.halving is not None and not self.halving.starts_left and ended == len(result.rows)

    def _deliver(self, parent_run: ParentRun, result: table.Table, stopped: bool) -> bool:
        """Wait until MLflow has everything, and log its pages; return whether it has."""
        seconds = float(self.prepared.config.tracking.wait)
        at_most = min(seconds, STOPPED_SECONDS) if stopped else None
        waits_for_ids = result.lacks_run_ids
        if not waits_for_ids:
            log_links(parent_run)
        delivered = parent_run.close(seconds if at_most is None else at_most, at_most)
        if report_late_ids(result, parent_run):  # MLflow has the table without them
            delivered = delivered and not stopped and parent_run.deliver_again(seconds)
        if waits_for_ids:
            log_links(parent_run)
        return delivered

    def _register(self, tracking: DictConfig) -> None:
        """Register the model of the best job."""
        if tracking.register is not None:
            from runner.runs.champion import register_due  # late: it imports torch

            register_due(self.folder, tracking.uri)

    def _log_how_to_resume(self) -> None:
        log.info("resume     python -m runner --multirun sweep.resume=%s", shell_path(self.folder))

    def _end_parent_run(self, result: table.Table, seconds: float, complete: bool, stopped: bool) -> bool:
        """Record the sweep's end; return whether it could be written."""
        if self.parent_run is None:
            return True
        try:
            self.parent_run.end("KILLED" if stopped else "FINISHED" if complete else "FAILED", result, seconds)
        except OSError as error:  # a full disk
            log.error("error: the sweep's end is not recorded: %s", describe_error(error))
            return False
        return True

    def prepare(self, job: Job, slot: Slot) -> JobSpec:
        """Prepare a job's folder, and return its spec."""
        folder, action = self.folder / str(job.number), self.prepared.actions[job.number]
        if action is ResumeAction.FOLLOW:
            if self.parent_run is not None:
                self.parent_run.follow(folder)
            return self._spec(job, slot, folder)
        if action is ResumeAction.RESTART:
            archived = resume.archive_attempt(folder)
            if self.parent_run is not None:
                self.parent_run.archive_attempt(archived)
        folder.mkdir(exist_ok=True)
        for name in (layout.JOB, NODE, STOP):
            (folder / name).unlink(missing_ok=True)
        if self.parent_run is not None:
            self.parent_run.create_child_run(job, folder)
        if job.number not in self.prepared.configs:
            self.prepared.configs[job.number] = self.prepared.check(job)
        return self._spec(job, slot, folder)

    def _spec(self, job: Job, slot: Slot, folder: Path) -> JobSpec:
        config, launcher = self.prepared.configs[job.number], self.prepared.launcher
        environment = launcher.environment(slot)
        refers = OmegaConf.is_interpolation(config.tracking, "uri")
        if launcher.is_remote:  # specs are in files there, and only this process talks to MLflow
            if refers and (address := store_variable.read_value()) is not None:  # which may not be set there
                environment = {**environment, store_variable.NAME: strip_credentials(address)}
            config = without_credentials(config)
        return JobSpec(
            job.number,
            folder,
            None if self.prepared.actions[job.number] is ResumeAction.RESUME else pickle.dumps(config),
            where=str(Path.cwd()),
            environment=environment,
            uri=None if refers else config.tracking.uri,
            config_path=self.prepared.options["config_path"],
            config_dir=self.prepared.options["config_dir"],
            epochs=config.trainer.epochs,
            artifacts=self.prepared.settings.artifacts,
            group=self._group(job),
            pause_after=self.halving.pause_after(job.number) if self.halving is not None else None,
        )

    def job_started(self, job: Job, slot: Slot) -> None:
        """Show that a job has started."""
        self.running[job.number] = job
        self.display.job_started(job, slot)

    def job_progressed(self, job: Job, progress: JobProgress) -> None:
        """Show a job's progress."""
        if progress.done >= progress.epochs:
            self.trained.add(job.number)
        self.display.job_progressed(job, progress)

    def job_ended(self, job: Job, outcome: JobOutcome) -> None:
        """Save a job's outcome, deliver it, report it to the search, and show it."""
        folder = self.folder / str(job.number)
        if self.halving is not None:  # of all its starts
            self.seconds[job.number] = self.seconds.get(job.number, 0.0) + outcome.seconds
            outcome = replace(outcome, seconds=self.seconds[job.number])
        try:
            outcome.save(folder, job.name)
            if self.parent_run is not None:
                self.parent_run.job_ended(folder, outcome)
        # The folder is locked, the disk is full, the manifest is damaged: the other jobs continue.
        except (ConfigError, OSError, ValueError) as error:
            log.warning("job %d: its end is not recorded: %s", job.number, describe_error(error))
        self.running.pop(job.number, None)
        self.under_way -= 1
        if self.search is not None or self.best is not None:
            row = table.read_row(job, folder, self.prepared.objectives)
            if self.best is not None and row.ran_to_end and row.measured:
                self.best.add(self._group(job), row.measured)
            if self.search is not None:
                self.search.tell(job, outcome, row.measured)
        if self.halving is not None:
            self.halving.tell(job.number, outcome)
        self.display.job_ended(job, outcome)

    def tick(self) -> None:
        """Prune jobs that the search has given up, and refresh the display."""
        if self.search is not None:
            self.search.catch_up()
            for job in list(self.running.values()):
                reason = self.search.watch(job)
                if reason is not None and job.number not in self.trained:  # pruning a trained job saves nothing
                    self.pool.prune(job.number, reason)
        self.display.tick()

    def _log_start(self) -> None:
        """Log where the jobs run and are recorded; deliver what an earlier start has not."""
        jobs, launcher = self.prepared.plan.jobs, self.prepared.launcher
        to_run = len(self.remaining) if self.halving is None else self.halving.starts_left
        runs_jobs = bool(to_run) or self.search is not None
        if runs_jobs:
            log.info("slots      %s", launcher.describe(self.prepared.slots))
            if not launcher.is_remote and (busy := cores.busy_message()):
                log.info("           %s", busy)
        log.info("folder     %s", display_path(self.folder))
        if self.parent_run is not None:
            log.info("tracking   %s", self.parent_run.location)
            self.parent_run.wait()
            for job in filter(self._is_done, jobs):
                self.parent_run.deliver_rest(self.folder / str(job.number))
        if skipped := sum(map(self._is_done, jobs)):
            log.info("resumed    %d of %d jobs are finished already", skipped, len(jobs))
        if runs_jobs:
            log.info("")


def _not_started(result: table.Table) -> int:
    """Count the jobs that have not started, also those that waited in the queue of a cluster."""
    return result.count("NOT STARTED") + sum(row.reason == NOT_STARTED for row in result.rows)
