"""A job that the user adds to a running sweep: a clone of another one with changes, or a point of its own."""

from collections.abc import Sequence

from runner.config.compose import Composer
from runner.config.overrides import key_of
from runner.errors import ConfigError, Problem
from runner.sweeps.jobs import Job
from runner.sweeps.plan.plan import Plan, difference, extended
from runner.sweeps.plan.seeds import FOLD
from runner.sweeps.plan.space import is_of_the_sweep, is_shared


def add_job(composer: Composer, plan: Plan, typed: Sequence[str], like: Job | None) -> Job:
    """Add a job to the end of a plan; a key in which it alone differs becomes an axis.

    Args:
        composer: parses the arguments.
        plan: of the sweep.
        typed: the arguments of the job that the others do not share.
        like: has the other arguments; None: those that all jobs share are all.

    Raises:
        ConfigError: an argument is not that of a job, has several values, or the sweep has this job.
    """
    if FOLD in plan.axes:
        text = "the folds of a sweep belong together: it gets no other job"
        raise ConfigError(Problem(FOLD, text, "start another sweep for the job", topic="conflict"))
    if problems := [problem for text in typed if (problem := _problem_with(composer, text)) is not None]:
        raise ConfigError(*problems)
    model = like or plan.jobs[0]
    keys = set(map(key_of, typed))
    kept = [text for text in model.own_overrides if like is not None and key_of(text) not in keys]
    own = (*kept, *typed)
    shared = model.overrides[: len(model.overrides) - model.own]
    job = Job(len(plan.jobs), "", {}, (*shared, *own), own=len(own), added=True)
    if not difference(composer, plan, Plan({}, [job]))[0]:
        text = f"the sweep has a job with {', '.join(own) or 'these values'} already"
        raise ConfigError(Problem("", text, "give it another value", topic="conflict"))
    plan.become(extended(composer, plan, plan, [job]))
    return plan.jobs[-1]


def _problem_with(composer: Composer, text: str) -> Problem | None:
    key = key_of(text)
    if is_of_the_sweep(text) or is_shared(key):
        return Problem(key, f"{text}: all jobs of a sweep share {key}", "leave it out", topic="conflict")
    if composer.reader.parse(text).is_sweep_override():
        return Problem(key, f"{text}: one job is added at a time", "write one value", topic="conflict")
    return None
