"""A sweep in MLflow: a parent run, a child run per job, and one process that delivers them all."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from runner import __version__
from runner.comparison import log_axes
from runner.comparison.objectives import Objective
from runner.config.invocation import describe_command, format_description, format_tags, with_date
from runner.config.settings import TrackingSettings
from runner.rundir import layout
from runner.rundir.claim import claim
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.folders import outputs
from runner.rundir.journal import Journal
from runner.rundir.lock import lock
from runner.rundir.manifest import ERROR, NOTE, Manifest, has_manifest, manifest_of, mark_killed
from runner.sweeps.jobs import Job, JobOutcome
from runner.sweeps.plan import plan as plans
from runner.sweeps.plan.plan import Plan, short_names
from runner.sweeps.results import table as tables
from runner.sweeps.results.energy import log_energy
from runner.sweeps.results.files import with_late_ids, write_table
from runner.sweeps.results.folds import log_metrics
from runner.sweeps.results.links import links
from runner.sweeps.results.note import COMMANDS, DESCRIPTION, commands_of, record_results
from runner.sweeps.results.outcome import outcome_of
from runner.sweeps.results.table import Table
from runner.sweeps.results.verdict import conclude_sweep
from runner.tracking.deliver import outstanding
from runner.tracking.environment import git_tags
from runner.tracking.pages import run_page
from runner.tracking.process import DeliveryProcess
from runner.tracking.store import resolve_store, ui_command, ui_of
from runner.util.files import load_json_or_empty
from runner.util.redaction import redact
from runner.util.tables import shorten
from runner.util.tags import FOLDER_TAG, PRUNED
from runner.util.uri import strip_credentials

STORE_SECONDS = 20.0
"""Time that the first job waits for the store and the parent run in it to be created."""

AXIS_LENGTH = 30
"""Characters of the values of one axis in a run's name."""


class ParentRun:
    """The sweep's own run in MLflow, and those of its jobs.

    Args:
        folder: of the sweep.
        plan: its jobs.
        sweeper: the name of the sweeper that has planned them.
        tracking: settings of the sweep; without a `uri` the store is that of the outputs folder.
        typed: the arguments of its command line, without credentials.
        delivery: the running delivery process.
        location_note: follows the store's address in `location`.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        sweeper: str,
        tracking: TrackingSettings,
        typed: Sequence[str],
        delivery: DeliveryProcess,
        location_note: str = "",
    ) -> None:
        self._location_note, self._log_axes = location_note, plan.log_axes
        self.folder, self._delivery, self._axes = folder, delivery, list(plan.axes)
        self._uri, self._artifact_root = resolve_store(tracking.uri, outputs())
        claim(folder)
        resumed = has_manifest(folder)
        commands = [*(commands_of(Manifest.load(folder)) if resumed else []), describe_command(typed)]
        new = Manifest(
            uri=self._uri,
            experiment=tracking.experiment,
            run_name=tracking.run_name or run_name(plan, folder),
            artifact_root=self._artifact_root,
            params=dict(plan.axes) | {"hydra/sweeper": sweeper},
            tags={
                **format_tags(tracking.tags),
                NOTE: format_description(tracking.description, commands),
                COMMANDS: "\n".join(commands),
                **({DESCRIPTION: redact(tracking.description)} if tracking.description else {}),
                "runner.version": __version__,
                FOLDER_TAG: str(folder),
                "runner.jobs": str(len(plan.jobs)),
                **git_tags(Path.cwd()),
            },
            log_model=False,
            register=tracking.register,
        )
        self._manifest = Manifest.load(folder).resumed(new) if resumed else new
        self._manifest.save(folder)
        delivery.deliver(folder)

    @property
    def run_id(self) -> str | None:
        """The parent's id in MLflow, if it is known yet."""
        return DeliveryState.load(self.folder).run_id

    @property
    def experiment_id(self) -> str | None:
        """The id of the experiment, if it is known yet."""
        return DeliveryState.load(self.folder).experiment_id

    @property
    def location(self) -> str:
        """The store and the experiment, for a reader."""
        return f"{strip_credentials(self._uri)}, experiment {self._manifest.experiment}{self._location_note}"

    def links(self) -> list[str]:
        """Return lines that say how to open the sweep in MLflow's UI; its table must be written before."""
        server = ui_of(self._uri)
        pages = links(self.folder, server) if server else links(self.folder)
        if not pages or self.run_id is None or self.experiment_id is None:
            return []
        if server:
            first = f"mlflow     {run_page(server, self.experiment_id, self.run_id)}"
        else:
            first = f"mlflow     run {self.run_id}: {ui_command(strip_credentials(self._uri))}, and then"
        return [first, *(f"{name:<10} {page}" for name, page in pages.items())]

    def wait(self) -> None:
        """Wait until the parent run exists, whose id the jobs need; at most 20 s if the store is away."""
        self._delivery.settle(STORE_SECONDS)

    def deliver_rest(self, folder: Path) -> None:
        """Deliver the rest of a finished job, if its delivery was interrupted."""
        claim(folder)
        outcome, manifest = outcome_of(folder), manifest_of(folder)
        if outcome is not None and outcome.pruned and manifest is not None and PRUNED not in manifest.tags:
            self.job_ended(folder, outcome)
        elif outstanding(folder):
            with lock(folder):
                self._move_to_store(folder)
                mark_killed(folder)
            self._delivery.deliver(folder)

    def follow(self, folder: Path) -> None:
        """Deliver the metrics of a job that an earlier start of the sweep has started."""
        claim(folder)
        self._delivery.deliver(folder)

    def archive_attempt(self, folder: Path) -> None:
        """Deliver that a failed attempt no longer belongs to the sweep."""
        if has_manifest(folder):
            self._move_to_store(folder)
            self._delivery.deliver(folder)

    def create_child_run(self, job: Job, folder: Path) -> None:
        """Create a job's run before the job starts, as a child of the sweep's."""
        claim(folder)
        if has_manifest(folder):  # it is resumed: its run stays open until the job itself ends it
            self._move_to_store(folder)
            replace(Manifest.load(folder), status="RUNNING", end_time=None).save(folder)
            self._delivery.deliver(folder)
            return
        Manifest(
            uri=self._uri,
            experiment=self._manifest.experiment,
            run_name=job.point.get("tracking.run_name", job.name),
            artifact_root=self._artifact_root,
            tags={
                "runner.sweep": self.folder.name,
                "runner.job": str(job.number),
                **({log_axes.TAG: " ".join(self._log_axes)} if self._log_axes else {}),
            },
            parent_run_id=self.run_id,
            parent_key=self._manifest.key,
            experiment_id=self.experiment_id,
        ).save(folder)
        self._delivery.deliver(folder, is_new=True)

    def _move_to_store(self, folder: Path) -> None:
        """Point the manifest of a job from an earlier start to the sweep's store: both may have moved since."""
        manifest, uri = manifest_of(folder), strip_credentials(self._uri)
        if manifest is not None and manifest.uri != uri:
            replace(manifest, uri=uri, artifact_root=self._artifact_root).save(folder)

    def job_ended(self, folder: Path, outcome: JobOutcome) -> None:
        """Record a job's outcome in its run, and deliver it."""
        with lock(folder):
            if outcome.pruned:
                manifest = Manifest.load(folder)
                tags = {key: value for key, value in manifest.tags.items() if key != ERROR} | {PRUNED: outcome.reason}
                replace(manifest, tags=tags).ended("FINISHED").save(folder)
            elif outcome.status == "FAILED" and Manifest.load(folder).status == "RUNNING":
                manifest = Manifest.load(folder)  # it failed before training, or its process crashed
                manifest.tags[ERROR] = outcome.reason
                manifest.ended("FAILED").save(folder)
            else:
                mark_killed(folder, outcome.reason)
        self._delivery.deliver(folder)

    def end(self, status: str, table: Table, seconds: float) -> None:
        """Record how the sweep ended, its best job and its energy; the files of its folder must be written before."""
        self._manifest.tags["runner.seconds"] = f"{seconds:.1f}"
        if table.best is not None and table.best.value is not None:
            best = table.best_configuration
            value = table.best.value if best is None or best.mean is None else best.mean
            log_best(self.folder, table.metric, value, table.count("FINISHED"))
        log_energy(self.folder, table)
        log_metrics(self.folder, table.count("FINISHED"))
        self._manifest.log_model = (self.folder / layout.MODEL).is_dir()
        record_results(self._manifest, table, self.folder, self._axes)
        self._manifest = self._manifest.ended(status)
        self._manifest.save(self.folder)

    def close(self, seconds: float, longest: float | None = None) -> bool:
        """Wait for the delivery to finish (see `DeliveryProcess.close`); return whether MLflow has everything."""
        return self._delivery.close(seconds, longest)

    def add_late_ids(self, table: Table) -> bool:
        """Write the table and the description again if jobs have got run ids since; called after `close`.

        Args:
            table: as it was written.

        Returns:
            Whether they were written.
        """
        completed = with_late_ids(table)
        if completed == table:
            return False
        write_results(self._manifest, completed, self.folder, self._axes)
        return True

    def deliver_again(self, seconds: float) -> bool:
        """Deliver the sweep's own run once more, after `close`; return whether MLflow has everything."""
        delivery = DeliveryProcess(self._uri)
        delivery.deliver(self.folder)
        return delivery.close(seconds)


def log_best(folder: Path, metric: str, value: float, finished: int) -> None:
    """Write the value of a sweep's best job, or the mean of its best configuration, into its journal.

    Args:
        folder: of the sweep.
        metric: of the objective.
        value: the best one.
        finished: the number of finished jobs, which is the step: MLflow takes the value of the highest step.
    """
    with closing(Journal(folder / layout.JOURNAL)) as writer:
        writer.write({f"best/{metric}": value}, finished)


def run_name(plan: Plan, folder: Path) -> str:
    """Name a sweep by its axes and the time of its start: `model=mlp,cnn lr=0.1,0.01 01-31_23-59-59`."""
    names = short_names(list(plan.axes))
    axes = (f"{name}={shorten(plan.axes[key], AXIS_LENGTH)}" for key, name in names.items())
    return with_date(" ".join(axes) or "sweep", folder)


def complete(folder: Path) -> None:
    """Add the run ids and links that were unknown when a sweep ended, as the store was away."""
    plan, _, _ = plans.load(folder)
    table = read_ended(folder, plan)
    if table is not None:
        write_results(Manifest.load(folder), table, folder, list(plan.axes))


def read_ended(folder: Path, plan: Plan) -> Table | None:
    """Read the table of a sweep that has ended, with the jobs that it had; None if it was killed before."""
    written = load_json_or_empty(folder / layout.JOBS)
    if not written:  # resuming it writes its results
        return None
    objectives = written.get("objectives") or [{name: written[name] for name in ("metric", "direction")}]
    listed = {row["job"] for row in written["jobs"]}  # with `sweep.seeds=auto` not all of the plan
    jobs = [job for job in plan.jobs if job.number in listed]
    return tables.read(jobs, folder, [Objective(**objective) for objective in objectives], plan.old_rules)


def add_looks(folder: Path) -> bool:
    """Write the verdict of a sweep again once its best model is registered, with the looks at its test part.

    Returns:
        Whether that changes it.
    """
    recorded, table = load_json_or_empty(folder / layout.VERDICT), None
    if recorded:
        table = read_ended(folder, plans.load(folder)[0])
    if table is None:
        return False
    conclude_sweep(table, folder, recorded.get("smallest_difference"), recorded.get("max_seeds"))
    return load_json_or_empty(folder / layout.VERDICT) != recorded


def write_results(manifest: Manifest, table: Table, folder: Path, axes: Sequence[str]) -> None:
    """Write the results of a sweep that has ended: its table, and the description of its run."""
    write_table(table, folder)
    record_results(manifest, table, folder, axes)
    manifest.save(folder)
