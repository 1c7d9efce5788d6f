"""`runner.dry_run=true`: check a run, and print what is trained and how much memory it needs, without starting it."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext

from omegaconf import DictConfig

from runner.assembly.experiment import Experiment
from runner.errors import first_line
from runner.runs import report, start
from runner.util.ranks import Ranks

log = logging.getLogger("runner")


def dry_run(cfg: DictConfig, choices: Mapping[str, str], ranks: int | None) -> int:
    """Build a run, print its head and the memory that it needs, and start nothing.

    Args:
        cfg: composed and checked, with Hydra's own node.
        choices: the chosen member of each group.
        ranks: those that this process would start; None: it would train itself.

    Returns:
        The exit code.

    Raises:
        ConfigError: with all problems of the run.
    """
    with first_of(ranks) if ranks is not None and Ranks.here() is None else nullcontext():
        experiment, _ = start.build_run(cfg, choices)
    with closing(experiment.loaders):
        report.log_experiment(experiment)
        log.info(describe(experiment))
    log.info("dry run    nothing was started")
    return 0


@contextmanager
def first_of(ranks: int) -> Iterator[None]:
    """Let what is built within the block be that of the first of some ranks, of which there is no other."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    before = dict(os.environ)
    os.environ.update({name: str(ranks) if "SIZE" in name else "0" for name in names}, MASTER_ADDR="none")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def describe(experiment: Experiment) -> str:
    """Describe the most memory that training will need."""
    from runner.training.footprint import predict  # late: nothing else needs its imports

    try:
        predicted = predict(experiment)
    except Exception as error:  # the user's code may do anything with tensors that have no values
        return f"peak memory: not predicted, as a step on tensors without values fails: {first_line(error)}"
    beside = ", beside Python and its libraries" if experiment.device.torch.type == "cpu" else ""
    return f"peak memory: {predicted}{beside}"
