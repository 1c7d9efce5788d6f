"""What a sweep's folder says of its jobs: which one is probably meant, and whether its table lacks their run ids."""

from pathlib import Path

from runner.errors import Problem
from runner.rundir import layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.folders import shell_path
from runner.util.files import load_json_or_empty

JOBS_NAMED = 3


def is_sweep(folder: Path) -> bool:
    """Whether this is the folder of a sweep."""
    return (folder / layout.SWEEP_PLAN).is_file()


def lacks_run_ids(folder: Path) -> bool:
    """Whether jobs of a sweep have got their runs in MLflow after its table was written."""
    jobs = load_json_or_empty(folder / layout.JOBS).get("jobs", [])
    without = [str(job["job"]) for job in jobs if job.get("run_id") is None]
    return any(DeliveryState.load(folder / number).run_id is not None for number in without)


def not_a_run(folder: Path, key: str, value: str) -> Problem:
    """Describe that an option names a sweep; the suggestion is its best job, or how to resume it.

    Args:
        folder: the sweep's.
        key: the option.
        value: as typed: the folder, or the sweep's run id in MLflow.
    """
    return Problem(key, f"{key}={value} is a sweep, not a run", _instead(folder, key), topic="run")


def _instead(folder: Path, key: str) -> str:
    if key == "resume":
        return f"write --multirun sweep.resume={shell_path(folder)}"
    results = load_json_or_empty(folder / layout.JOBS)
    best, what = ([results["best"]], "its best job") if results.get("best") is not None else ([], "")
    if not best:
        best, what = results.get("front", []), "jobs of its Pareto front"
    jobs = [folder / str(number) for number in best]
    if not jobs:
        jobs, what = sorted((path.parent for path in folder.glob(f"*/{layout.CONFIG}")), key=_number), "its jobs"
    named = " or ".join(f"{key}={shell_path(job)}" for job in jobs[:JOBS_NAMED])
    if named and (folder / layout.FOLDS).is_file() and (folder / layout.MODEL).is_dir():
        model = shell_path(folder / layout.MODEL)
        return (
            f"write {named}, {what}; the ensemble of its folds: runner.predict, or mlflow.pyfunc.load_model('{model}')"
        )
    return f"write {named}, {what}" if named else "write the folder of one of its jobs"


def _number(job: Path) -> tuple[int, str]:
    return (int(job.name) if job.name.isdecimal() else -1, job.name)
