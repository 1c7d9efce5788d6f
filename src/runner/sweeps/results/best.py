"""The best results of a sweep so far: with `sweep.artifacts=best` a job that they beat has no plots and no saved model.

The sweep writes them into a file in its folder, and each job reads it at its end. The job that is the best in the end
is beaten by none before, in whatever order they end, so it has both. Where configurations are ranked by the mean over
their jobs, this is so among the jobs of each: which one is the best is known in the end.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from runner.comparison.objectives import SHOWN, Objective, pareto_front
from runner.errors import describe_error
from runner.rundir import layout
from runner.util.files import load_json_or_empty, write_json

log = logging.getLogger("runner")


class BestSoFar:
    """Keeps the file up to date.

    Args:
        folder: of the sweep.
        objectives: by which its jobs are ranked.
        values: of the jobs that have finished already, each with its group: only jobs of the same one are compared.
    """

    def __init__(
        self, folder: Path, objectives: Sequence[Objective], values: Iterable[tuple[str, Sequence[float]]]
    ) -> None:
        self._file, self._objectives = folder / layout.BEST_SO_FAR, objectives
        self._best: dict[str, list[tuple[float, ...]]] = {}
        for group, each in values:
            self._best[group] = self._front([*self._best.get(group, []), tuple(each)])
        self._write()

    def add(self, group: str, values: Sequence[float]) -> None:
        """Add the values of a job that has finished."""
        best = self._front([*self._best.get(group, []), tuple(values)])
        if best != self._best.get(group):
            self._best[group] = best
            self._write()

    def _front(self, values: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
        return sorted({values[place] for place in pareto_front(values, self._objectives)})

    def _write(self) -> None:
        content = {"objectives": [asdict(objective) for objective in self._objectives], "values": self._best}
        try:
            write_json(self._file, content, private=True)
        except OSError as error:  # a full disk: jobs go by the last file, and more of them have plots and model
            log.warning("note       %s is not written: %s", self._file.name, describe_error(error))


def is_best_so_far(
    folder: Path, group: str, metrics: Mapping[str, float], others: Sequence[tuple[str, Mapping[str, float]]] = ()
) -> bool:
    """Whether no job of its group that has finished beats one.

    Args:
        folder: of the sweep.
        group: of the job.
        metrics: of the job, at its end.
        others: a list of the groups and metrics of jobs that have ended in this process, to which these are added: the
            sweep may not know of them yet.

    Returns:
        Also true if nothing ranks the jobs, or the sweep's file is missing.
    """
    content = load_json_or_empty(folder / layout.BEST_SO_FAR)
    objectives = [Objective(**each) for each in content.get("objectives", ())]
    if all(objective.direction == SHOWN for objective in objectives):
        return True

    def values_of(measured: Mapping[str, float]) -> tuple[float, ...]:
        return tuple(measured.get(objective.metric, math.nan) for objective in objectives)

    if not all(map(math.isfinite, own := values_of(metrics))):
        return False
    of_group = [measured for other, measured in others if other == group]
    values = [*map(tuple, content["values"].get(group, ())), *map(values_of, of_group)]
    if isinstance(others, list):
        others.append((group, metrics))
    return len(values) in pareto_front([*values, own], objectives)
