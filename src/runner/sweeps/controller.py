"""A sweep on its way: its jobs are run, and whatever becomes of them, the table comes."""

import logging
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from runner.comparison.objectives import Objective
from runner.config import store_variable
from runner.config.settings import SweepSettings, TrackingSettings
from runner.errors import ConfigError, describe_error, first_line
from runner.rundir import layout
from runner.rundir.folders import display_path, shell_path
from runner.sweeps.check.compose_jobs import without_credentials
from runner.sweeps.display import Display
from runner.sweeps.jobs import Job, JobOutcome, JobProgress, JobSpec
from runner.sweeps.launchers.launcher import Launcher
from runner.sweeps.launchers.pool import Pool
from runner.sweeps.launchers.slots import Slot
from runner.sweeps.launchers.supervisor import BEGUN, END
from runner.sweeps.plan.plan import Plan
from runner.sweeps.results import resume, table
from runner.sweeps.results.parent_run import ParentRun, complete_ids, write_files
from runner.sweeps.results.resume import ResumeAction
from runner.sweeps.results.table import Table
from runner.tracking.process import DeliveryProcess
from runner.util import cores, terminal
from runner.util.options import EXIT_FAILED, EXIT_SIGNAL
from runner.util.stopping import Stop
from runner.util.tables import format_duration
from runner.util.uri import strip_credentials

log = logging.getLogger("runner")

STOPPED_SECONDS = 3.0
LEAST_GAIN = 1.05
"""How much faster than one job after the other is worth a word: the jobs share caches and memory."""

MOST_OF_FRONT = 10
"""Jobs of a Pareto front that are named at the end; the table marks all."""


@dataclass
class PreparedSweep:
    """A sweep that can start.

    Attributes:
        plan: all its jobs.
        config: of the sweep, with Hydra's node.
        settings: of the sweep.
        objectives: by which the jobs are judged.
        slots: that they run in.
        courses: what is to be done with each job, by number.
        configs: of those to run, with Hydra's node, by number.
        check: composes and builds a job that has come later.
        keep: keeps the plan in the sweep's folder, with the jobs that have come later.
        options: where the configs are: `config_path` and `config_dir`.
        engine: runs the jobs.
        typed: the arguments of the command line, without credentials.
    """

    plan: Plan
    config: DictConfig
    settings: SweepSettings
    objectives: list[Objective]
    slots: list[Slot]
    courses: dict[int, ResumeAction]
    configs: dict[int, DictConfig]
    options: Mapping[str, Any]
    engine: Launcher
    check: Callable[[Job], DictConfig]
    keep: Callable[[Path], None]
    typed: Sequence[str] = ()


class Sweep:
    """Runs what is ready.

    Args:
        folder: its own, locked by this process.
        ready: what to run.
        delivery: who tells MLflow, if anybody.
    """

    def __init__(self, folder: Path, ready: PreparedSweep, delivery: DeliveryProcess | None) -> None:
        self.folder, self.ready = folder, ready
        self.stop = Stop()
        self.left = [job for job in ready.plan.jobs if ready.courses[job.number] is not ResumeAction.SKIP]
        config = ready.config
        self.record = None
        if delivery is not None:
            sweeper, tracking = config.hydra.runtime.choices["hydra/sweeper"], OmegaConf.to_object(config.tracking)
            assert isinstance(tracking, TrackingSettings)
            said = store_variable.describe_source(config.tracking._get_node("uri")._value(), tracking.name)
            self.record = ParentRun(self.folder, ready.plan, sweeper, tracking, ready.typed, delivery, said)
        self.search = ready.plan.search
        self.running: dict[int, Job] = {}
        self.under_way = 0
        self.trained: set[int] = set()
        if self.search is not None:
            for job in ready.plan.jobs:
                if (
                    ready.courses[job.number] is ResumeAction.SKIP
                ):  # it may have ended when nobody was there to tell of it
                    row = table.read_row(job, folder / str(job.number), ready.objectives)
                    self.search.tell(job, JobOutcome(row.status, row.why, row.seconds or 0.0), row.measured)
        to_do = len(self.left) + self._to_come
        self.display = Display(self.folder, to_do, len(ready.slots), ready.objectives, bool(config.runner.quiet))

    def run(self) -> int:
        """Run the jobs, and tell what came of all.

        Returns:
            The exit code.
        """
        with terminal.log_to_file(self.folder / layout.LOG), self.stop.listening():
            self._head()
            started = time.monotonic()
            try:
                self.pool = self._pool()
                self.pool.run(self._jobs())
            except Exception as error:  # of the sweep's own: what has been measured is told all the same
                log.error("error: %s", describe_error(error))
                log.debug("", exc_info=True)
            self.display.close()
            return self._close(time.monotonic() - started)

    def _jobs(self) -> Iterator[Job | None]:
        """Those that are planned, and then those that a search asks for; None: not now, maybe later."""
        for job in list(self.left):
            self.under_way += 1
            yield job
        asked_all = False
        while self.search is not None:
            next_job = None if asked_all else self.search.ask(len(self.ready.plan.jobs))
            if next_job is not None:
                self.ready.plan.jobs.append(next_job)
                self.ready.courses[next_job.number] = ResumeAction.NEW
                self.ready.keep(self.folder)
                self.left.append(next_job)
                self.under_way += 1
            elif not self.search.waits:
                asked_all = True
                if not self.under_way:
                    return
            yield next_job

    @property
    def _to_come(self) -> int:
        """Trials that a search has not begun."""
        return self.search.left if self.search is not None else 0

    def _pool(self) -> Pool:
        settings = self.ready.settings
        stop_on_failure = settings.on_failure == "stop"
        return Pool(
            self.ready.engine, self.ready.slots, self.prepare, self, self.stop, settings.job_timeout, stop_on_failure
        )

    def _close(self, seconds: float) -> int:
        """Tell what came of the jobs, to the person and to MLflow; the exit code."""
        ready = self.ready
        result = table.read(ready.plan.jobs, self.folder, ready.objectives)
        untold = self.search.untold if self.search is not None else 0
        complete = result.count("FINISHED") == len(result.rows) and not self._to_come and not untold
        stopped = self.stop.requested and not complete
        self._report(result, seconds, complete)
        if self.record is not None:
            self.record.end("KILLED" if stopped else "FINISHED" if complete else "FAILED", result, seconds)
            seconds = float(ready.config.tracking.wait)
            if not self.record.close(min(seconds, STOPPED_SECONDS) if stopped else seconds):
                rest = f"python -m runner.sync run={shell_path(self.folder)}"
                log.warning("not all of it is in MLflow yet; deliver the rest by: %s", rest)
            self._complete(result)
        if stopped:
            return EXIT_SIGNAL + self.stop.signal
        return 0 if complete else EXIT_FAILED

    def prepare(self, job: Job, slot: Slot) -> JobSpec:
        """Make a job's folder ready, and say what its process is to do."""
        folder, course = self.folder / str(job.number), self.ready.courses[job.number]
        if course is ResumeAction.UNDER_WAY:
            if self.record is not None:
                self.record.follow(folder)
            return self._task(job, slot, folder)
        if course is ResumeAction.AGAIN:
            moved = resume.archive_attempt(folder)
            if self.record is not None:
                self.record.archive_attempt(moved)
        folder.mkdir(exist_ok=True)
        for name in (layout.JOB, BEGUN, END):
            (folder / name).unlink(missing_ok=True)
        if self.record is not None:
            self.record.create_child_run(job, folder)
        if job.number not in self.ready.configs:
            self.ready.configs[job.number] = self.ready.check(job)
        return self._task(job, slot, folder)

    def _task(self, job: Job, slot: Slot, folder: Path) -> JobSpec:
        config, engine = self.ready.configs[job.number], self.ready.engine
        environment = engine.environment(slot)
        refers = OmegaConf.is_interpolation(config.tracking, "uri")
        if engine.elsewhere:  # tasks lie in files there, and this process alone talks to MLflow
            if refers and (address := store_variable.read_value()) is not None:  # which may not be set there
                environment = {**environment, store_variable.NAME: strip_credentials(address)}
            config = without_credentials(config)
        return JobSpec(
            job.number,
            folder,
            None if self.ready.courses[job.number] is ResumeAction.GO_ON else pickle.dumps(config),
            where=str(Path.cwd()),
            environment=environment,
            uri=None if refers else config.tracking.uri,
            config_path=self.ready.options["config_path"],
            config_dir=self.ready.options["config_dir"],
            epochs=config.trainer.epochs,
        )

    def started(self, job: Job, slot: Slot) -> None:
        """A job begins in a slot."""
        self.running[job.number] = job
        self.display.started(job, slot)

    def progress(self, job: Job, progress: JobProgress) -> None:
        """A job is so far."""
        if progress.done >= progress.epochs:
            self.trained.add(job.number)
        self.display.progress(job, progress)

    def ended(self, job: Job, fate: JobOutcome) -> None:
        """A job is over: keep its fate, see that MLflow is told, and show it."""
        folder = self.folder / str(job.number)
        try:
            fate.save(folder, job.name)
            if self.record is not None:
                self.record.job_ended(folder, fate)
        # Somebody has the folder, the disk is full, its record is damaged: the others go on.
        except (ConfigError, OSError, ValueError) as error:
            log.warning("job %d: its end is not recorded: %s", job.number, first_line(error))
        self.running.pop(job.number, None)
        self.under_way -= 1
        if self.search is not None:
            self.search.tell(job, fate, table.read_row(job, folder, self.ready.objectives).measured)
        self.display.ended(job, fate)

    def tick(self) -> None:
        """A moment has passed."""
        if self.search is not None:
            self.search.catch_up()
            for job in list(self.running.values()):
                why = self.search.watch(job)
                if why is not None and job.number not in self.trained:  # of one that has, there is nothing to save
                    self.pool.prune(job.number, why)
        self.display.tick()

    def _head(self) -> None:
        if self.left or self.search is not None:
            log.info("slots      %s", self.ready.engine.words(self.ready.slots))
            if not self.ready.engine.elsewhere and (busy := cores.busy_message()):
                log.info("           %s", busy)
        log.info("folder     %s", display_path(self.folder))
        if self.record is not None:
            log.info("tracking   %s", self.record.location)
            self.record.wait()
            for job in self.ready.plan.jobs:
                if self.ready.courses[job.number] is ResumeAction.SKIP:
                    self.record.deliver_rest(self.folder / str(job.number))
        if skipped := len(self.ready.plan.jobs) - len(self.left):
            log.info("resumed    %d of %d jobs are finished already", skipped, len(self.ready.plan.jobs))
        if self.left or self.search is not None:
            log.info("")

    def _report(self, result: Table, seconds: float, complete: bool) -> None:
        """Print the table, and where everything lies."""
        for lines in (table.configurations_to_text(result), table.to_text(result)):
            if lines:
                log.info("")
            for line in lines:
                log.info(line)
        log.info("")
        files = self._write(result)
        for place, row in enumerate([result.best] if result.best else result.front[:MOST_OF_FRONT]):
            name = "" if place else "best" if result.best else "front"
            log.info(
                "%-10s job %d (%s): %s",
                name,
                row.job.number,
                row.job.name,
                table.values_in_words(row, result.objectives),
            )
            log.info("           %s%s", display_path(row.folder), f", run {row.run_id}" if row.run_id else "")
        self._time([row.seconds for row in result.rows if row.job in self.left and row.seconds], seconds)
        log.info("kept in    %s (a folder a job, by its number; %s)", display_path(self.folder), ", ".join(files))
        if self.record is not None:
            for line in self.record.links():
                log.info(line)
        if not complete:
            log.info("go on      python -m runner --multirun sweep.resume=%s", shell_path(self.folder))

    def _write(self, result: Table) -> list[str]:
        """Write the table and draw it; what cannot be, costs a warning."""
        try:
            return [*write_files(result, self.folder), *(self.search.draw(self.folder) if self.search else [])]
        except Exception as error:  # a full disk, and whatever matplotlib raises
            log.warning("not all of the table is written: %s: %s", type(error).__name__, first_line(error))
            log.debug("", exc_info=True)
            return []

    def _complete(self, result: Table) -> None:
        """Name the runs of a store that was away until the end."""
        try:
            late = complete_ids(result, self.folder)
        except (OSError, ValueError) as error:
            log.warning("the run ids of late deliveries are not in the table: %s", first_line(error))
            return
        if late and self.record is not None:
            log.info("jobs.csv and jobs.json have the run ids of what was delivered last")
            for line in self.record.links():
                log.info(line)

    def _time(self, each: Sequence[float], seconds: float) -> None:
        """How long it took, and how long it would have taken without slots."""
        if not each:
            return
        total = sum(each)
        gain = f"; {format_duration(total)} of work, {total / seconds:.1f}x faster than sequential"
        jobs = f"{len(each)} job{'s' * (len(each) > 1)}"
        log.info("time       %s in %s%s", jobs, format_duration(seconds), gain if total / seconds >= LEAST_GAIN else "")
