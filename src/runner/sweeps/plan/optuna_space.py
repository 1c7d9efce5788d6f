"""The axes of a search, as Optuna's distributions, and their values, as they are typed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial

from runner.config.compose import Composer
from runner.errors import ConfigError
from runner.sweeps.plan.axes import DIGITS, interval_of


@dataclass(frozen=True)
class Axis:
    """A key that is searched.

    Attributes:
        distribution: of its values.
        words: a value as it is typed.
        probes: typed values that stand for all of them.
    """

    distribution: BaseDistribution
    words: Callable[[Any], str]
    probes: list[str]


def axis_of(made: Composer, override: Override) -> Axis:
    """The axis that an override is.

    Raises:
        ConfigError: it cannot be searched.
    """
    value = override.value()
    if isinstance(value, IntervalSweep):
        i = interval_of(override)
        if i.whole:
            whole = IntDistribution(int(i.low), int(i.high), log=i.log)
            return Axis(whole, str, [str(int(i.low)), str(int(i.high))])
        return Axis(FloatDistribution(i.low, i.high, log=i.log), _number, [_number(i.low), _number(i.high)])
    texts = made.values(override)
    if isinstance(value, RangeSweep) and len(texts) > 1:
        numbers = [int(text) for text in texts] if all(_is_whole(text) for text in texts) else []
        steps = {after - before for before, after in pairwise(numbers)}
        if len(steps) == 1 and (step := steps.pop()) > 0:
            return Axis(IntDistribution(numbers[0], numbers[-1], step=step), str, texts)
    return Axis(CategoricalDistribution(texts), str, texts)


def _is_whole(text: str) -> bool:
    return text.lstrip("-").isdigit()


def _number(value: float) -> str:
    return f"{value:.{DIGITS}g}"


def check_same_space(study: Any, trials: Sequence[FrozenTrial], space: Mapping[str, BaseDistribution]) -> None:
    """See that a study searches these axes.

    Raises:
        ConfigError: its last trial was chosen from others.
    """
    before = next((trial.distributions for trial in reversed(trials) if trial.distributions), dict(space))
    if before != space:
        keys = [key for key in dict.fromkeys([*before, *space]) if before.get(key) != space.get(key)]
        was, now = (", ".join(f"{key}={_values(of.get(key))}" for key in keys) for of in (before, space))
        raise ConfigError(
            f"hydra.sweeper.study_name={study.study_name}: the study searches {was}, and not {now}: write these, or"
            " another hydra.sweeper.study_name"
        )


def _values(distribution: BaseDistribution | None) -> str:
    """An axis as it is typed."""
    if isinstance(distribution, CategoricalDistribution):
        return ",".join(map(str, distribution.choices))
    if isinstance(distribution, IntDistribution) and distribution.step != 1:
        return f"range({distribution.low},{distribution.high + 1},{distribution.step})"
    if isinstance(distribution, IntDistribution | FloatDistribution):
        interval = f"interval({distribution.low},{distribution.high})"
        interval = f"tag(log,{interval})" if distribution.log else interval
        return f"int({interval})" if isinstance(distribution, IntDistribution) else interval
    return "one value"


def suggest(trial: Trial, name: str, d: BaseDistribution) -> None:
    """Choose a value of a trial, if it has none of that name yet."""
    if isinstance(d, FloatDistribution):
        trial.suggest_float(name, d.low, d.high, log=d.log)
    elif isinstance(d, IntDistribution):
        trial.suggest_int(name, d.low, d.high, step=d.step, log=d.log)
    elif isinstance(d, CategoricalDistribution):
        trial.suggest_categorical(name, d.choices)
