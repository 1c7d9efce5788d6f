"""Whether a resumed run ends as if it had never stopped: what of its config may change, and after what course."""

from collections.abc import Mapping
from typing import Any

from runner.config.settings import TrainerSettings
from runner.data.parts import Part
from runner.training.attributes import held_generators

MAY_CHANGE = (
    "trainer.epochs", "trainer.max_steps", "trainer.max_time", "trainer.early_stopping.", "trainer.log_every_",
    "trainer.checkpoint_every_", "trainer.keep_checkpoints", "trainer.detect_anomaly",
    "trainer.profile_steps", "tracking.name", "tracking.uri", "tracking.log_", "tracking.wait", "tracking.tags",
    "tracking.description", "runner.",
    "data.root", "data.path", "data.val_path", "data.test_path", "data.num_workers", "data.in_memory",
)  # fmt: skip
"""Keys, and beginnings of keys, that leave the weights bit for bit what they would have been."""

WARM = "add resume_mode=warm_start for a new run from its weights"

PATIENCE, MIN_DELTA = "trainer.early_stopping.patience", "trainer.early_stopping.min_delta"
IN_MEMORY, NUM_WORKERS = "data.in_memory", "data.num_workers"


def check_keys(changed: Mapping[str, str], horizon: bool) -> list[str]:
    """The changes that no course of a run allows, a sentence each.

    Args:
        changed: the keys that are not as they were, with their new values.
        horizon: whether the schedule was made for the number of epochs and steps.
    """
    problems = []
    for key, value in changed.items():
        if key in ("tracking.experiment", "tracking.run_name"):
            problems.append(f"{key}={value}: a resumed run goes on in its own MLflow run; leave it out")
        elif not key.startswith(MAY_CHANGE):
            problems.append(f"{key}={value}: the resumed run would not be exact; {WARM}")
        elif horizon and key in ("trainer.epochs", "trainer.max_steps"):
            problems.append(f"{key}={value}: this scheduler's course depends on it; {WARM}")
    return problems


def check_progress(
    progress: Mapping[str, Any], config: Mapping[str, Any], changed: Mapping[str, str], now: TrainerSettings
) -> list[str]:
    """The changes that the course of this run does not allow.

    Args:
        progress: the checkpoint's.
        config: as the run had it until now.
        changed: the keys that are not as they were, with their new values.
        now: the settings to go on with.
    """
    problems = []
    was = config["trainer"]["early_stopping"]["patience"]
    ended = isinstance(was, int) and progress["stale"] >= was
    if PATIENCE in changed and now.early_stopping.patience is not None:
        problems += _of_patience(progress, was, now.early_stopping.patience)
    if MIN_DELTA in changed and progress["reference"] is not None:
        problems.append(
            f"{MIN_DELTA}={changed[MIN_DELTA]}: the run has compared its validations by the former one; {WARM}"
        )
    keys = ("trainer.epochs", "trainer.max_steps", "trainer.max_time", *([PATIENCE] if ended else []))
    longer = [key for key in keys if key in changed]
    if longer and not problems and (why := _of_its_end(progress, config["trainer"], longer[0], changed)):
        problems.append(why)
    return problems


def _of_patience(progress: Mapping[str, Any], was: int | None, wanted: int) -> list[str]:
    """Why a run with this patience would have ended before."""
    longest = progress.get("longest_stale")
    if longest is None:  # a checkpoint of 0.1.0: as long as it had to be for the run to get here
        longest = max(progress["stale"], was - 1 if was is not None else 0)
        if was is None and progress["reference"] is not None:
            return [f"{PATIENCE}={wanted}: whether the run would have ended before is not recorded in it; {WARM}"]
    if wanted > longest:
        return []
    return [
        f"{PATIENCE}={wanted}: the run would have ended before, after {wanted} validations without a better one;"
        f" write {longest + 1} or more, or {WARM}"
    ]


def _of_its_end(progress: Mapping[str, Any], trainer: Mapping[str, Any], key: str, changed: Mapping[str, str]) -> str:
    """Why training cannot be prolonged exactly after the way it ended; empty if it can."""
    done, every = len(progress["epoch_seconds"]), trainer["log_every_epochs"]
    if progress["cut_short"]:
        return f"{key}={changed[key]}: epoch {progress['cut_short']} was cut short, its rest is not trained; {WARM}"
    if progress["out_of_turn"]:
        return (
            f"{key}={changed[key]}: epoch {progress['out_of_turn']}, the last, was validated out of turn"
            f" (trainer.validate_every_epochs); {WARM}"
        )
    if key == PATIENCE and trainer["monitor"].startswith("train/") and done % every:
        return f"{key}={changed[key]}: epoch {done}, the last, was logged out of turn; {WARM}"
    return ""


def check_reading(config: Mapping[str, Any], changed: Mapping[str, str], part: Part, in_memory: bool) -> list[str]:
    """The changes in how samples are read that lead to other samples.

    Args:
        config: as the run had it until now.
        changed: the keys that are not as they were, with their new values.
        part: the training part.
        in_memory: whether samples are held in memory now.
    """
    keys = [key for key in (IN_MEMORY, NUM_WORKERS) if key in changed]
    if part.tensors is not None or not keys:
        return []
    data_set = part.data_set
    problems = []
    if held_generators({"data": data_set}) or hasattr(data_set, "state_dict"):
        problems = [f"{key}={changed[key]}: the data set has a state, which would be another; {WARM}" for key in keys]
    elif IN_MEMORY in changed and (config["data"]["in_memory"] is True) != in_memory and part.is_random():
        problems = [
            f"{IN_MEMORY}={changed[IN_MEMORY]}: the data set draws its samples at random, and held in memory they are"
            f" drawn once; {WARM}"
        ]
    return problems
