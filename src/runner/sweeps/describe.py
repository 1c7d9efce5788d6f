"""What a sweep says of itself before its first job starts."""

from runner.sweeps.jobs import Job
from runner.sweeps.plan.plan import Plan
from runner.sweeps.prepared import PreparedSweep
from runner.util.tables import align

AXES_LENGTH = 100
"""Characters of the axes in the first line that is printed."""


def describe(prepared: PreparedSweep) -> list[str]:
    """Describe a sweep, with remarks for the user, in lines."""
    plan = prepared.plan
    notes = ["its jobs read their data by the rules of version 0.1.0, which started it"] if plan.old_rules else []
    notes += [*plan.method.notes(plan.jobs, prepared.objectives, prepared.config), plan.note]
    return [f"sweep      {describe_plan(plan)}", *(f"           {note}" for note in notes if note)]


def describe_plan(plan: Plan) -> str:
    """Describe a plan in one line: `4 jobs: optimizer.lr=0.1,0.01  data.batch_size=32,64`."""
    trials = plan.method.trials
    size, unit = (len(plan.jobs), "job") if trials is None else (trials, "trial")
    count = f"{size} {unit}{'s' * (size != 1)}"
    axes = "  ".join(f"{key}={values}" for key, values in plan.axes.items())
    return f"{count}: {axes if len(axes) <= AXES_LENGTH else axes[: AXES_LENGTH - 3] + '...'}" if axes else count


def list_jobs(prepared: PreparedSweep) -> list[str]:
    """Return the jobs as a table, for a dry run."""
    jobs: list[Job] = prepared.plan.jobs
    resumed = prepared.settings.resume is not None
    columns = [
        [">#", *(str(job.number) for job in jobs)],
        *([key, *(job.point.get(key, "") for job in jobs)] for key in prepared.plan.axes),
        *([["to do", *(prepared.actions[job.number].value for job in jobs)]] if resumed else []),
    ]
    count = len(prepared.slots)
    if not jobs:
        return [f"each trial depends on the earlier ones, {count} at a time; sweep.dry_run=true starts none"]
    return [*align(columns), f"all can run, {count} at a time; sweep.dry_run=true starts none"]
