"""A `Training` from a composed config, without a command, a run folder or a tracker."""

from pathlib import Path

from helpers.training import Log, Silent, Stop
from runner.assembly import build, experiment
from runner.config.command_line import make_composer, parse_arguments
from runner.config.hydra_job import group_choices, without_hydra
from runner.rundir.checkpoint import Checkpoints
from runner.training.loop import fit
from runner.training.state import Training, make_training


def built(*overrides: str) -> experiment.Experiment:
    """Compose and build an experiment."""
    cfg, problems = make_composer(parse_arguments([])).compose(list(overrides))
    assert cfg is not None, problems
    return build.build(without_hydra(cfg), group_choices(cfg), problems)


def trained(folder: Path, *overrides: str) -> Training:
    """Compose, build and train; the metrics are in its `log`."""
    experiment = built(*overrides)
    state = make_training(experiment, Checkpoints(folder / "checkpoints"), Log(), Silent(), Stop())
    fit(state)
    return state


def accuracy(state: Training) -> float:
    """Return the validation accuracy after the last epoch."""
    assert isinstance(state.log, Log)
    measured = state.log.of("val/accuracy")
    return measured[max(measured)]
