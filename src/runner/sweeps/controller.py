"""A running sweep: runs the jobs that its schedule chooses, and takes in how they end."""

import logging
import pickle
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf

from runner.config import store_variable
from runner.config.credentials import without_credentials
from runner.config.settings import TrackingSettings
from runner.errors import ConfigError, describe_error
from runner.rundir import layout
from runner.rundir.folders import display_path
from runner.sweeps.closing import Closing, log_how_to_resume
from runner.sweeps.display import Display
from runner.sweeps.jobs import Job, JobOutcome, JobProgress, JobSpec
from runner.sweeps.launchers.pool import Pool
from runner.sweeps.launchers.slots import Slot
from runner.sweeps.launchers.supervisor import NODE, STOP
from runner.sweeps.plan.seeds import are_repeated, configuration_of
from runner.sweeps.prepared import PreparedSweep
from runner.sweeps.results import resume, table
from runner.sweeps.results.best import BestSoFar
from runner.sweeps.results.parent_run import ParentRun
from runner.sweeps.results.resume import ResumeAction
from runner.sweeps.schedules.schedule import Schedule
from runner.sweeps.steering import Steering
from runner.tracking.process import DeliveryProcess
from runner.util import cores, terminal
from runner.util.options import EXIT_SIGNAL
from runner.util.stopping import Stop
from runner.util.uri import strip_credentials

log = logging.getLogger("runner")


class Sweep:
    """Runs a prepared sweep.

    Args:
        folder: of the sweep, locked by this process.
        prepared: the sweep.
        schedule: decides which job is next.
        delivery: delivers to MLflow; None without tracking.
    """

    def __init__(
        self, folder: Path, prepared: PreparedSweep, schedule: Schedule, delivery: DeliveryProcess | None
    ) -> None:
        self.folder, self.prepared, self.schedule = folder, prepared, schedule
        self.stop = Stop()
        self.parent_run = self._make_parent_run(delivery) if delivery is not None else None
        self.is_repeated = are_repeated(prepared.plan)
        self.best = self._best_so_far() if prepared.settings.artifacts == "best" else None
        self.running: dict[int, Job] = {}
        self.under_way = 0
        self.trained: set[int] = set()
        self.seconds: dict[int, float] = {}
        """Of the jobs that this start of the sweep runs, by number, over all of their rungs."""
        quiet = bool(prepared.config.runner.quiet)
        self.display = Display(self.folder, schedule.expected, len(prepared.slots), prepared.objectives, quiet)

    def _best_so_far(self) -> BestSoFar:
        jobs, objectives = filter(self.prepared.is_done, self.prepared.plan.jobs), self.prepared.objectives
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
                log_how_to_resume(self.folder)
                return EXIT_SIGNAL + self.stop.signal

    def _run(self) -> int:
        self._log_start()
        settings = self.prepared.settings
        limits = settings.job_timeout, settings.on_failure == "stop", settings.max_time
        launcher, slots = self.prepared.launcher, self.prepared.slots
        self.pool = Pool(launcher, slots, self.prepare, self, self.stop, *limits)
        self.steering = Steering(self.folder, self.prepared, self.schedule, self.pool)
        started = time.monotonic()
        try:
            self.pool.run(self._jobs())
        except Exception as error:  # a bug of the sweep itself: the results so far are reported all the same
            log.error("error: %s", describe_error(error))
            log.debug("", exc_info=True)
        self.stop.hold()
        self.display.close()
        closing = Closing(self.folder, self.prepared, self.schedule, self.parent_run, self.stop)
        return closing.close(self.seconds, time.monotonic() - started, self.pool.is_late)

    def _jobs(self) -> Iterator[Job | None]:
        """Yield the jobs that the schedule chooses; None if there is none now, but may be one later."""
        while (job := self.schedule.next()) is not None or self.under_way or self.schedule.is_waiting:
            if job is not None:
                job = self.prepared.plan.jobs[job.number]  # its name and point may have got another axis
                self.under_way += 1
                self.seconds.setdefault(job.number, 0.0)
                self.display.expect(self.schedule.expected)
            yield job

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
            pause_after=self.schedule.pause_after(job),
            ranks=config.strategy.nproc_per_node if config.strategy.name != "single" else None,
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
        """Save a job's outcome, deliver it, report it to the schedule, and show it."""
        folder = self.folder / str(job.number)
        self.seconds[job.number] += outcome.seconds  # of all its starts
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
        if self.best is not None:
            row = table.read_row(job, folder, self.prepared.objectives)
            if row.ran_to_end and row.measured:
                self.best.add(self._group(job), row.measured)
        self.schedule.tell(job, outcome)
        self.display.expect(self.schedule.expected)
        self.display.job_ended(job, outcome)

    def tick(self) -> None:
        """Prune jobs that the schedule has given up, obey the user, and refresh the display."""
        for number, reason in self.schedule.give_up(list(self.running.values())).items():
            if number not in self.trained:  # pruning a trained job saves nothing
                self.pool.prune(number, reason)
        self.steering.obey()
        self.display.tick()

    def _log_start(self) -> None:
        """Log where the jobs run and are recorded; deliver what an earlier start has not."""
        jobs, launcher = self.prepared.plan.jobs, self.prepared.launcher
        runs_jobs = self.schedule.expected > 0
        if runs_jobs:
            log.info("slots      %s", launcher.describe(self.prepared.slots))
            if not launcher.is_remote and (busy := cores.busy_message()):
                log.info("           %s", busy)
        log.info("folder     %s", display_path(self.folder))
        if self.parent_run is not None:
            log.info("tracking   %s", self.parent_run.location)
            self.parent_run.wait()
            for job in filter(self.prepared.is_done, jobs):
                self.parent_run.deliver_rest(self.folder / str(job.number))
        asked = self.schedule.jobs
        if skipped := sum(map(self.prepared.is_done, asked)):
            log.info("resumed    %d of %d jobs are finished already", skipped, len(asked))
        if runs_jobs:
            log.info("")
