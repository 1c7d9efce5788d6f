"""`hydra/sweeper=halving`: the jobs are a grid, or points drawn at random or by a sampler of Optuna's."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from runner.config.compose import Composer
from runner.config.overrides import key_of, last_value
from runner.config.zipped import is_zip, parse_zip
from runner.errors import ConfigError, Problem
from runner.sweeps.plan import grid, random_search
from runner.sweeps.plan.axes import check_whole_number
from runner.sweeps.plan.halving import Halving, rungs_between
from runner.sweeps.plan.plan import Plan
from runner.sweeps.plan.seeds import first_of_each
from runner.sweeps.plan.space import Space
from runner.sweeps.plan.where import make_space

EPOCHS = "trainer.epochs"


def plan(
    composer: Composer,
    arguments: Sequence[str],
    params: Mapping[str, str],
    *,
    eta: int,
    min_epochs: int,
    max_epochs: int,
    asynchronous: bool,
    n_trials: int | None,
    seed: int,
    sampler: Any = None,
    where: str | None = None,
) -> Plan:
    """Plan the jobs, each composed for all epochs, so that its schedule of the learning rate keeps its length.

    Args:
        composer: parses the arguments.
        arguments: as typed.
        params: axes from the config itself.
        eta: of so many jobs one goes on.
        min_epochs: of each job.
        max_epochs: of the best one.
        asynchronous: see `Halving`.
        n_trials: number of points to draw; None: every combination.
        seed: of the draws.
        sampler: of Optuna, which draws them; None draws each axis independently.
        where: an expression; points for which it is false are left out, or drawn again.

    Raises:
        ConfigError: a setting is not valid, an axis has no list of values, or no point is left.
    """
    problems = [
        *check_whole_number("eta", eta, 2),
        *check_whole_number("min_epochs", min_epochs, 1),
        *check_whole_number("max_epochs", max_epochs, 1),
        *(check_whole_number("n_trials", n_trials, 2) if n_trials is not None else []),
    ]
    if not isinstance(asynchronous, bool):
        text = f"hydra.sweeper.asynchronous={asynchronous} is neither true nor false"
        problems.append(Problem("hydra.sweeper.asynchronous", text, "write true or false", topic="type"))
    if not problems and max_epochs < min_epochs * eta:
        text = f"hydra.sweeper.max_epochs={max_epochs} leaves no rung above min_epochs={min_epochs} with eta={eta}"
        instead = f"write hydra.sweeper.max_epochs={min_epochs * eta**3}"
        problems.append(Problem("hydra.sweeper.max_epochs", text, instead, topic="range"))
    if sampler is not None and n_trials is None:
        text = "hydra.sweeper.sampler needs the number of points to draw"
        problems.append(Problem("hydra.sweeper.n_trials", text, "write hydra.sweeper.n_trials=27", topic="missing"))
    problems += _check_epochs([*(f"{key}={value}" for key, value in params.items()), *arguments], max_epochs)
    if problems:
        raise ConfigError(*problems)
    params = {key: value for key, value in params.items() if key != EPOCHS}
    arguments = [*(text for text in arguments if key_of(text) != EPOCHS), f"{EPOCHS}={max_epochs}"]
    halving = Halving(eta, rungs_between(min_epochs, max_epochs, eta), asynchronous)
    points = _draw(make_space(composer, arguments, params, where), n_trials, seed, sampler)
    if (count := len(first_of_each(points.jobs))) < eta:
        text = f"hydra/sweeper=halving: of {count} configuration{'s' * (count != 1)} none is left out"
        instead = f"add values: at least {eta} configurations are needed with eta={eta}"
        raise ConfigError(Problem("hydra/sweeper", text, instead, topic="range"))
    return replace(points, method=halving)


def _check_epochs(arguments: Sequence[str], max_epochs: int) -> list[Problem]:
    """Check that no argument trains jobs for another number of epochs."""
    typed = [text for text in arguments if EPOCHS in _keys(text)]
    epochs = last_value(typed, EPOCHS)
    if not typed or epochs == str(max_epochs):
        return []
    text = f"{typed[-1]}: with hydra/sweeper=halving hydra.sweeper.max_epochs={max_epochs} says how long to train"
    is_number = epochs is not None and epochs.isdecimal()
    instead = f"write hydra.sweeper.max_epochs={epochs} in its place" if is_number else f"leave out {EPOCHS}"
    return [Problem(EPOCHS, text, instead, topic="conflict")]


def _keys(argument: str) -> list[str]:
    return list(map(key_of, parse_zip(argument).members if is_zip(argument) else [argument]))


def _draw(space: Space, n_trials: int | None, seed: int, sampler: Any) -> Plan:
    if n_trials is None:
        for axis in space.axes:
            if axis.interval is not None:
                text = f"{axis.key}={axis.text}: points of an interval are drawn"
                instead = "add hydra.sweeper.n_trials=27"
                raise ConfigError(Problem("hydra.sweeper.n_trials", text, instead, topic="missing"))
        return grid.plan(space)
    if sampler is None:
        return random_search.plan(space, n_trials, seed)
    from runner.sweeps.plan import optuna_points  # late: not every installation has Optuna

    return optuna_points.plan(space, n_trials, sampler)
