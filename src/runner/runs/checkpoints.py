"""Make the checkpoints of a run, as its strategy needs them."""

from collections.abc import Callable
from pathlib import Path

from runner.assembly.experiment import Experiment
from runner.rundir import layout
from runner.rundir.checkpoint import Checkpoints


def make_checkpoints(
    experiment: Experiment,
    folder: Path,
    before: Callable[[], None] = lambda: None,
    kind: type[Checkpoints] = Checkpoints,
) -> Checkpoints:
    """Make the checkpoints of a run; each rank calls it where the weights are divided, else rank 0 alone.

    Args:
        experiment: the experiment.
        folder: of the run.
        before: see `Checkpoints`.
        kind: those of weights that are not divided.
    """
    place, keep = folder / layout.CHECKPOINTS, experiment.trainer.keep_checkpoints
    if not experiment.strategy.divides:
        return kind(place, keep, before)
    from runner.rundir.sharded import ShardedCheckpoints  # importing torch's takes half a second

    uploaded = bool(experiment.config["tracking"]["log_checkpoints"])
    return ShardedCheckpoints(place, keep, before, whole=experiment.strategy.plain, in_one_file=uploaded)
