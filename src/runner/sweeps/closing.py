"""The end of a sweep, however it came: the results are reported, and MLflow has them."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from runner.errors import ConfigError, describe_error
from runner.rundir.folders import shell_path
from runner.sweeps.prepared import PreparedSweep
from runner.sweeps.report import log_links, report, report_late_ids
from runner.sweeps.results import folds, table
from runner.sweeps.results.parent_run import ParentRun, add_looks
from runner.sweeps.schedules.schedule import Schedule
from runner.util import terminal
from runner.util.options import EXIT_FAILED, EXIT_SIGNAL
from runner.util.stopping import Stop

log = logging.getLogger("runner")

STOPPED_SECONDS = 3.0
"""Time for the delivery to finish after a signal."""


@dataclass
class Closing:
    """Closes a sweep whose jobs have ended.

    Attributes:
        folder: of the sweep.
        prepared: the sweep.
        schedule: of its jobs.
        parent_run: in MLflow; None without tracking.
        stop: the signals that have come.
    """

    folder: Path
    prepared: PreparedSweep
    schedule: Schedule
    parent_run: ParentRun | None
    stop: Stop

    def close(self, run_now: Collection[int], seconds: float, is_late: bool) -> int:
        """Report the results to the user and to MLflow. A second Ctrl-C ends only the waiting.

        Args:
            run_now: the numbers of the jobs that this start of the sweep has run.
            seconds: that it took.
            is_late: whether it was too late to start a job.

        Returns:
            The exit code.
        """
        prepared, schedule = self.prepared, self.schedule
        result = table.read(schedule.jobs, self.folder, prepared.objectives, prepared.plan.old_rules)
        left = schedule.count_left(result) if is_late and not self.stop.requested else 0
        complete = schedule.is_complete(result, left)
        if over_folds := folds.has_folds(result):
            complete = complete and self._combine_folds(result)
        stopped = self.stop.requested and not complete
        written, conclusion = report(result, self.folder, run_now, seconds, schedule.draw, prepared)
        if over_folds:
            for line in folds.describe(self.folder, prepared.config.trainer.monitor):
                log.info("%s", line)
        ended = self._end_parent_run(result, seconds, complete and written, stopped)
        recorded = written and ended
        complete = complete and recorded
        if not complete and not left and (not recorded or schedule.resumes(result)):
            log_how_to_resume(self.folder)
        elif complete and prepared.hint:
            log.info("%s", prepared.hint)
        if prepared.notifier is not None:  # before the upload, which may take long
            status = "KILLED" if stopped else "FINISHED" if complete else "FAILED"
            prepared.notifier.end(status, conclusion)
        delivered = False
        try:
            self.stop.release()
            delivered = self.parent_run is None or self._deliver(self.parent_run, result, stopped)
            if self.parent_run is not None and not stopped:
                self._register(self.parent_run, prepared.config.tracking)
        except KeyboardInterrupt:
            stopped = True
        if not delivered:
            command = f"python -m runner.sync run={shell_path(self.folder)}"
            log.warning("upload to MLflow incomplete; finish with: %s", command)
        if left:
            log.info("not run    %d job%s, as sweep.max_time is over", left, "s" * (left > 1))
            log_how_to_resume(self.folder)
        if prepared.notifier is not None:
            prepared.notifier.close()
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

    def _register(self, parent_run: ParentRun, tracking: DictConfig) -> None:
        """Register the model of the best job; the verdict counts its look at the test part."""
        if tracking.register is not None:
            from runner.runs.champion import register_due  # late: it imports torch

            if register_due(self.folder, tracking.uri, locked=True) and add_looks(self.folder):
                parent_run.deliver_again(float(tracking.wait))


def log_how_to_resume(folder: Path) -> None:
    """Log the command that resumes a sweep."""
    log.info("resume     python -m runner --multirun sweep.resume=%s", shell_path(folder))
