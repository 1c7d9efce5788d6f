"""Check that a resumed run ends as if it had never stopped: which settings may change, depending on its progress."""

from collections.abc import Mapping
from typing import Any

from runner.config.settings import TrainerSettings
from runner.data.part import Part
from runner.errors import Problem
from runner.training.attributes import held_generators

MAY_CHANGE = (
    "trainer.epochs", "trainer.max_steps", "trainer.max_time", "trainer.early_stopping.", "trainer.log_every_",
    "trainer.checkpoint_every_", "trainer.keep_checkpoints", "trainer.detect_anomaly",
    "trainer.profile_steps", "trainer.log_norms", "trainer.activation_checkpointing", "trainer.on_oom",
    "tracking.name", "tracking.uri", "tracking.log_", "tracking.wait",
    "tracking.tags", "tracking.description", "tracking.register", "tracking.notify", "runner.", "metrics",
    "data.root", "data.path", "data.val_path", "data.test_path", "data.num_workers", "data.in_memory",
    "data.cache", "strategy.nproc_per_node",
)  # fmt: skip
"""Keys, and prefixes of keys, that do not change the weights by a single bit."""

NEW_RUN = "resume_mode=warm_start for a new run from its weights"
WARM = f"write {NEW_RUN}"

PATIENCE, MIN_DELTA = "trainer.early_stopping.patience", "trainer.early_stopping.min_delta"
IN_MEMORY, NUM_WORKERS = "data.in_memory", "data.num_workers"


def _conflict(key: str, value: object, reason: str, suggestion: str = WARM) -> Problem:
    return Problem(key, f"{key}={value}: {reason}", suggestion, topic="conflict")


def check_keys(changed: Mapping[str, str], horizon: bool) -> list[Problem]:
    """Find the changes that no resumed run may have.

    Args:
        changed: the keys that differ, with their new values.
        horizon: whether the learning-rate schedule depends on the number of epochs and steps.
    """
    problems = []
    for key, value in changed.items():
        if key in ("tracking.experiment", "tracking.run_name"):
            problems.append(_conflict(key, value, "a resumed run stays the same MLflow run", "leave it out"))
        elif not key.startswith(MAY_CHANGE):
            problems.append(_conflict(key, value, "the resumed run would not be exact"))
        elif horizon and key in ("trainer.epochs", "trainer.max_steps"):
            problems.append(_conflict(key, value, "the learning-rate schedule depends on it"))
    return problems


def check_progress(
    progress: Mapping[str, Any], config: Mapping[str, Any], changed: Mapping[str, str], now: TrainerSettings
) -> list[Problem]:
    """Find the changes that this run may not have after its progress so far.

    Args:
        progress: the progress in the checkpoint.
        config: the saved config of the run.
        changed: the keys that differ, with their new values.
        now: the settings of the resumed run.
    """
    problems = []
    was = config["trainer"]["early_stopping"]["patience"]
    ended = isinstance(was, int) and progress["stale"] >= was
    if PATIENCE in changed and now.early_stopping.patience is not None:
        problems += _check_patience(progress, was, now.early_stopping.patience)
    if MIN_DELTA in changed and progress["reference"] is not None:
        problems.append(_conflict(MIN_DELTA, changed[MIN_DELTA], "earlier validations used the former value"))
    keys = ("trainer.epochs", "trainer.max_steps", "trainer.max_time", *([PATIENCE] if ended else []))
    longer = [key for key in keys if key in changed]
    if longer and not problems and (reason := _why_not_longer(progress, config["trainer"], longer[0])):
        problems.append(_conflict(longer[0], changed[longer[0]], reason))
    return problems


def _check_patience(progress: Mapping[str, Any], was: int | None, patience: int) -> list[Problem]:
    """Find out whether a run with this patience would have stopped earlier."""
    longest = progress.get("longest_stale")
    if longest is None:  # a checkpoint of 0.1.0: the least that the run must have had to get here
        longest = max(progress["stale"], was - 1 if was is not None else 0)
        if was is None and progress["reference"] is not None:
            reason = "its checkpoint does not record whether the run would have stopped earlier"
            return [_conflict(PATIENCE, patience, reason)]
    if patience > longest:
        return []
    reason = f"the run would have stopped earlier, after {patience} validations without improvement"
    return [_conflict(PATIENCE, patience, reason, f"write {PATIENCE}={longest + 1}, or more, or {NEW_RUN}")]


def _why_not_longer(progress: Mapping[str, Any], trainer: Mapping[str, Any], key: str) -> str:
    """Say why a longer training would not be exact, because of how it ended; empty if it would be."""
    if reason := progress.get("stop_reason"):
        return f"a callback has ended the run: {reason}"
    done, every = progress["epoch"] - 1, trainer["log_every_epochs"]
    if progress["cut_short"]:
        return f"epoch {progress['cut_short']} was cut short, and the rest of it is not trained"
    if progress["out_of_turn"]:
        return f"the last epoch, {progress['out_of_turn']}, had an extra validation (trainer.validate_every_epochs)"
    if key == PATIENCE and trainer["monitor"].startswith("train/") and done % every:
        return f"the last epoch, {done}, was logged in addition (trainer.log_every_epochs)"
    return ""


def check_reading(config: Mapping[str, Any], changed: Mapping[str, str], part: Part, in_memory: bool) -> list[Problem]:
    """Find the changes of how samples are read that would lead to other samples.

    Args:
        config: the saved config of the run.
        changed: the keys that differ, with their new values.
        part: the training part.
        in_memory: whether the samples are in memory now.
    """
    keys = [key for key in (IN_MEMORY, NUM_WORKERS) if key in changed]
    if part.tensors is not None or not keys:
        return []
    if part.streams:
        return [_conflict(key, changed[key], "the samples of a stream would come in another order") for key in keys]
    data_set = part.data_set
    if held_generators({"data": data_set}) or hasattr(data_set, "state_dict"):
        return [_conflict(key, changed[key], "the data set has a state, which would differ") for key in keys]
    if IN_MEMORY in changed and (config["data"]["in_memory"] is True) != in_memory and part.is_random():
        return [_conflict(IN_MEMORY, changed[IN_MEMORY], "a random data set in memory is drawn only once")]
    return []
