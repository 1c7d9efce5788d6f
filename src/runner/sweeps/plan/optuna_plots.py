"""Plots of an Optuna study: its history, and the importance of the axes."""

import math
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from runner.comparison.objectives import Objective
from runner.sweeps.plan.optuna_study import REJECTED


def draw_study(study: Any, objectives: Sequence[Objective], axes: int, folder: Path) -> list[str]:
    """Draw the history of a study, and the importance of its axes, if there are enough values.

    Args:
        study: Optuna's.
        objectives: of the sweep; there is a history for one only.
        axes: the number of them.
        folder: of the sweep.

    Returns:
        The names of the files, below `folder`.
    """
    from runner.plots.search import draw_history, draw_importances

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not any(map(math.isfinite, (value for trial in complete for value in trial.values))):
        return []
    first, files = objectives[0], []
    if len(objectives) == 1:
        files.append(draw_history(_history(study), first.metric, first.direction == "min", folder))
    if len(complete) > 1 and axes > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            importances = optuna.importance.get_param_importances(
                study, evaluator=evaluator, target=lambda trial: trial.values[0]
            )
        files.append(draw_importances(importances, first.metric, folder))
    return [file.relative_to(folder).as_posix() for file in files]


def _history(study: Any) -> Iterable[tuple[int, float | None, str]]:
    for trial in (trial for trial in study.get_trials(deepcopy=False) if REJECTED not in trial.user_attrs):
        value = trial.value if trial.value is not None and math.isfinite(trial.value) else None
        yield trial.number, value, trial.state.name.lower()
