"""How MLflow is told of a sweep: a parent run, a child run a job, and one process that delivers them all."""

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from runner import __version__
from runner.comparison import log_axes
from runner.comparison.objectives import Objective
from runner.comparison.runs import from_folder
from runner.comparison.table import compare
from runner.config.invocation import cut, describe_command, format_description, format_tags, with_date
from runner.config.settings import TrackingSettings
from runner.rundir import layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.folders import outputs
from runner.rundir.journal import Journal
from runner.rundir.lock import lock
from runner.rundir.manifest import ERROR, NOTE, Manifest, has_manifest, manifest_of, mark_killed
from runner.sweeps.jobs import Job, JobOutcome
from runner.sweeps.plan import plan as plans
from runner.sweeps.plan.plan import Plan, short_names
from runner.sweeps.results import table as tables
from runner.sweeps.results.links import links
from runner.sweeps.results.outcome import fate_of
from runner.sweeps.results.table import Row, Table
from runner.tracking.deliver import outstanding
from runner.tracking.environment import git_tags
from runner.tracking.pages import run_page, sweep_view
from runner.tracking.process import DeliveryProcess
from runner.tracking.store import resolve_store, ui_command, ui_of
from runner.util.files import load_json_or_empty, write_atomically
from runner.util.tags import FOLDER_TAG, PRUNED
from runner.util.uri import redact, strip_credentials

STORE_SECONDS = 20.0
"""For so long the first job waits for the store to be made, and the parent run in it."""

NOTE_ROWS = 20
AXIS_WORDS = 30
"""Characters of the values of one axis in a name."""

COMMANDS = "runner.commands"
"""Tag of a sweep's run: the command that began it, and those that resumed it, a line each."""

DESCRIPTION = "runner.description"
"""Tag of a sweep's run: what the user says of it."""

PICTURE = f"{layout.PLOTS}/sweep.png"
FRONT = f"{layout.PLOTS}/front.png"


class ParentRun:
    """The sweep's own run in MLflow, and those of its jobs.

    Args:
        folder: the sweep's.
        plan: its jobs.
        sweeper: what has chosen them.
        tracking: of the sweep; no `uri` is the store of the outputs folder.
        typed: the arguments of its command line, without credentials.
        delivery: the process that tells MLflow, started before.
        said: behind the store's address, where that was not given.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        sweeper: str,
        tracking: TrackingSettings,
        typed: Sequence[str],
        delivery: DeliveryProcess,
        said: str = "",
    ) -> None:
        self._said, self._log_axes = said, plan.log_axes
        self.folder, self._delivery, self._axes = folder, delivery, list(plan.axes)
        self._uri, self._artifact_root = resolve_store(tracking.uri, outputs())
        before = has_manifest(folder)
        commands = [*(_commands(Manifest.load(folder)) if before else []), describe_command(typed)]
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
        )
        self._manifest = Manifest.load(folder).resumed(new) if before else new
        self._manifest.save(folder)
        delivery.deliver(folder)

    @property
    def run_id(self) -> str | None:
        """The parent's id in MLflow, as far as is known."""
        return DeliveryState.load(self.folder).run_id

    @property
    def experiment_id(self) -> str | None:
        """The id of the experiment, as far as is known."""
        return DeliveryState.load(self.folder).experiment_id

    @property
    def location(self) -> str:
        """Where the sweep is recorded, for people."""
        return f"{strip_credentials(self._uri)}, experiment {self._manifest.experiment}{self._said}"

    def links(self) -> list[str]:
        """How the sweep is looked at in the MLflow UI, a line each; its table must be written by now."""
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
        """Wait for the parent run to be there, so that the jobs can be told its id; not if the store is away."""
        self._delivery.settle(STORE_SECONDS)

    def deliver_rest(self, folder: Path) -> None:
        """Complete what an interruption has kept from MLflow."""
        fate, manifest = fate_of(folder), manifest_of(folder)
        if fate is not None and fate.pruned and manifest is not None and PRUNED not in manifest.tags:
            self.job_ended(folder, fate)
        elif outstanding(folder):
            with lock(folder):
                self._record_here(folder)
                mark_killed(folder)
            self._delivery.deliver(folder)

    def follow(self, folder: Path) -> None:
        """Have what a job measures delivered that goes on without having been asked to."""
        self._delivery.deliver(folder)

    def archive_attempt(self, folder: Path) -> None:
        """Tell MLflow that a failed attempt is no job of the sweep's any more."""
        if has_manifest(folder):
            self._record_here(folder)
            self._delivery.deliver(folder)

    def create_child_run(self, job: Job, folder: Path) -> None:
        """Have a job's run made before the job starts, as a child of the sweep's."""
        if has_manifest(folder):  # it goes on: until it says so itself, nothing of it is to be completed
            self._record_here(folder)
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
        self._delivery.deliver(folder)

    def _record_here(self, folder: Path) -> None:
        """Have a job that an earlier start recorded go on in the sweep's store: both may have been moved since."""
        manifest, uri = manifest_of(folder), strip_credentials(self._uri)
        if manifest is not None and manifest.uri != uri:
            replace(manifest, uri=uri, artifact_root=self._artifact_root).save(folder)

    def job_ended(self, folder: Path, fate: JobOutcome) -> None:
        """See that a job's run tells the truth about its end, and have it delivered."""
        with lock(folder):
            if fate.pruned:
                manifest = Manifest.load(folder)
                tags = {key: value for key, value in manifest.tags.items() if key != ERROR} | {PRUNED: fate.why}
                replace(manifest, tags=tags).ended("FINISHED").save(folder)
            elif fate.status == "FAILED" and Manifest.load(folder).status == "RUNNING":
                manifest = Manifest.load(folder)  # it did not come to train, or its process broke down
                manifest.tags[ERROR] = fate.why
                manifest.ended("FAILED").save(folder)
            else:
                mark_killed(folder, fate.why)
        self._delivery.deliver(folder)

    def end(self, status: str, table: Table, seconds: float) -> None:
        """Tell how the sweep ended, and which job is the best; the files of its folder must be written by now."""
        self._manifest.tags["runner.seconds"] = f"{seconds:.1f}"
        if table.best is not None and table.best.value is not None:
            log_best(self.folder, table.metric, table.best.value, table.count("FINISHED"))
        _describe(self._manifest, table, self.folder, self._axes)
        self._manifest = self._manifest.ended(status)
        self._manifest.save(self.folder)

    def close(self, seconds: float) -> bool:
        """Wait for the delivery to finish; whether MLflow has everything."""
        return self._delivery.close(seconds)


def log_best(folder: Path, metric: str, value: float, finished: int) -> None:
    """Write the value of a sweep's best job into its journal.

    Args:
        folder: the sweep's.
        metric: that the sweep goes by.
        value: of the best job.
        finished: the jobs that it is the best of, as the step: with more of them, a later one counts in MLflow.
    """
    with closing(Journal(folder / layout.JOURNAL)) as writer:
        writer.write({f"best/{metric}": value}, finished)


def run_name(plan: Plan, folder: Path) -> str:
    """Name a sweep by its axes, and by when it began: `model=mlp,cnn lr=0.1,0.01 01-31_23-59-59`."""
    names = short_names(list(plan.axes))
    axes = (f"{name}={cut(plan.axes[key], AXIS_WORDS)}" for key, name in names.items())
    return with_date(" ".join(axes) or "sweep", folder)


def _commands(manifest: Manifest) -> list[str]:
    """The commands that began a sweep, and resumed it; 0.1.0 kept none."""
    return manifest.tags.get(COMMANDS, "").splitlines()


def _describe(manifest: Manifest, table: Table, folder: Path, axes: Sequence[str]) -> None:
    """Say in a sweep's manifest what came of it, as far as the ids of the runs are known."""
    tags = {f"runner.{name.lower()}": str(table.count(name)) for name in ("FINISHED", "FAILED", "KILLED")}
    told = (manifest.tags.get(DESCRIPTION), note(table, folder), format_description(None, _commands(manifest)))
    tags |= {
        "runner.metric": ",".join(o.metric for o in table.objectives),
        NOTE: "\n\n".join(part for part in told if part),
    }
    if best := table.best:
        tags |= {
            "runner.best_job": str(best.job.number),
            "runner.best_name": best.job.name,
            "runner.best_value": str(best.value),
            "runner.best_run_id": best.run_id or "",
        }
    elif table.front:
        tags |= {
            "runner.front_jobs": ",".join(str(row.job.number) for row in table.front),
            "runner.front_run_ids": ",".join(row.run_id or "" for row in table.front),
        }
    manifest.tags.update(tags)
    parent = DeliveryState.load(folder).run_id
    if parent is not None:
        name, start, ascending = manifest.run_name, manifest.start_time, table.objectives[0].direction == "min"
        stored = sweep_view(manifest.key, name, start, parent, table.metric, ascending, axes)
        manifest.experiment_tags.update([stored])


def complete(folder: Path) -> None:
    """Name what was not known when a sweep ended, as the store was away: the ids of its runs, and the links to them."""
    plan, _, _ = plans.load(folder)
    before = load_json_or_empty(folder / layout.JOBS)
    if not before:  # it was killed: a resume tells what comes of it
        return
    objectives = before.get("objectives") or [{name: before[name] for name in ("metric", "direction")}]
    table = tables.read(plan.jobs, folder, [Objective(**objective) for objective in objectives])
    write_table(table, folder)
    manifest = Manifest.load(folder)
    _describe(manifest, table, folder, list(plan.axes))
    manifest.save(folder)


def note(table: Table, folder: Path) -> str:
    """The description that the UI shows of the parent, in Markdown: best run, pages, picture, first rows.

    The links lead into whatever UI shows them.
    """
    state = DeliveryState.load(folder)
    lines = []
    for row in [table.best] if table.best else table.front:
        told = tables.values_in_words(row, table.objectives)
        lines += [f"{'Best' if table.best else 'On the front'}: {_link(row, state.experiment_id)}, {told}", ""]
    lines += [" · ".join(f"[{name}]({page.lstrip('/')})" for name, page in links(folder, "").items()), ""]
    for picture in (FRONT, PICTURE):
        if (folder / picture).is_file():
            lines += [f"![sweep](get-artifact?path={quote(picture, safe='')}&run_uuid={state.run_id})", ""]
    names = [objective.metric for objective in table.objectives]
    lines += [f"| job | {' | '.join(names)} | epoch | status |", "|---" * (len(names) + 3) + "|"]
    for row in table.rows[:NOTE_ROWS]:
        values = " | ".join(map(tables.cell, names, row.values))
        lines.append(f"| {_link(row, state.experiment_id)} | {values} | {row.epoch or ''} | {row.status} |")
    if len(table.rows) > NOTE_ROWS:
        lines += ["", f"The first {NOTE_ROWS} of {len(table.rows)}; all are in the artifact jobs.csv."]
    return "\n".join(lines)


def _link(row: Row, experiment_id: str | None) -> str:
    name = row.job.name.replace("|", "\\|")
    if row.run_id is None or experiment_id is None:
        return name
    return f"[{name}]({run_page('', experiment_id, row.run_id).lstrip('/')})"


def write_files(table: Table, folder: Path) -> list[str]:
    """Write the table as CSV and JSON, and draw the sweep.

    Returns:
        The names of the files in the folder.
    """
    write_table(table, folder)
    picture = draw(sorted(table.rows, key=lambda row: row.job.number), table.metric, folder)
    pictures = [*([picture] if picture else []), *draw_front(table, folder)]
    return [layout.JOBS_TABLE, layout.JOBS, *(file.relative_to(folder).as_posix() for file in pictures)]


def complete_ids(table: Table, folder: Path) -> bool:
    """Write the table once more if jobs have got other run ids since: MLflow was away until the sweep's end.

    Args:
        table: as it was written.
        folder: of the sweep.

    Returns:
        Whether it was written.
    """
    rows = [replace(row, run_id=DeliveryState.load(row.folder).run_id or row.run_id) for row in table.rows]
    if rows == table.rows:
        return False
    write_table(replace(table, rows=rows), folder)
    return True


def write_table(table: Table, folder: Path) -> None:
    """Write the table as CSV and JSON."""
    write_atomically(folder / layout.JOBS_TABLE, tables.to_csv(table))
    write_atomically(folder / layout.JOBS, tables.to_json(table))


def draw_front(table: Table, folder: Path) -> list[Path]:
    """Draw two metrics against each other, if the sweep goes by two."""
    rows = [row for row in table.rows if row.whole and row.measured]
    if len(table.objectives) < 2 or not rows:
        return []
    from runner.plots.search import draw_front  # matplotlib takes half a second to import

    points = [(row.job.number, row.measured or (), row in table.front) for row in rows]
    return [draw_front(points, table.objectives, folder / FRONT)]


def draw(rows: Sequence[Row], metric: str, folder: Path) -> Path | None:
    """Draw the metric over what was varied."""
    from runner.plots.sweep import draw_sweep  # matplotlib takes half a second to import

    compared = compare([from_folder(row.folder, row.job.number) for row in rows])
    file = folder / PICTURE
    file.parent.mkdir(exist_ok=True)
    drawn = draw_sweep(compared, file, metric)
    if drawn is None:
        file.unlink(missing_ok=True)  # of before it was resumed
        with suppress(OSError):  # somebody keeps something there
            file.parent.rmdir()
    return drawn
