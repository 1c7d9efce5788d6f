"""A sweep, from its folder: its table, its best run, and its verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.api import html
from runner.api.finished_run import Run, as_numbers
from runner.errors import ConfigError, Problem
from runner.rundir import layout
from runner.rundir.folders import display_path
from runner.rundir.lock import is_locked
from runner.util.files import load_json_or_empty

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS = 20
LEFT_OUT = ("name", "why", "seconds", "samples_per_second", "run_id", "folder")
"""Columns that a notebook's short table does not have."""


@dataclass(frozen=True)
class SweepVerdict:
    """Which configuration is surely better: `print(verdict)`, or its last line in a cell.

    Attributes:
        lines: in words.
        table: a row for each configuration, the best first: by how much the best is better, with the simultaneous 95 %
            interval from `low` to `high`, and the verdict in a word.
        folder: of the sweep.
    """

    lines: Sequence[str]
    table: "pd.DataFrame"
    folder: Path

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        columns = ["name", "mean", "sd", "n", "difference", "low", "high", "verdict"]
        rows = self.table[columns].itertuples(index=False)
        return html.lines(self.lines) + html.grid("differences to the best", columns, list(rows), self.folder)


class Sweep:
    """A sweep: what `sweep` and `load` return.

    Args:
        folder: of the sweep.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def _results(self) -> dict[str, Any]:
        return load_json_or_empty(self.folder / layout.JOBS)

    @property
    def status(self) -> str:
        """RUNNING in another process; FINISHED if all its jobs have; else KILLED or FAILED, as one of them."""
        if is_locked(self.folder):
            return "RUNNING"
        found = {run.status for run in self.runs} if self.runs else {"KILLED"}
        return next((status for status in ("FAILED", "KILLED", "PAUSED") if status in found), "FINISHED")

    @property
    def runs(self) -> list[Run]:
        """The runs of its jobs, in their order, as far as they have started."""
        from runner.comparison.find import jobs_of

        return [Run(folder) for folder in jobs_of(self.folder)]

    @property
    def table(self) -> "pd.DataFrame":
        """A row for each job by its number, the best first: its values, status and results."""
        import pandas as pd

        rows = self._results.get("jobs") or [
            {"job": int(run.folder.name), "status": run.status, "folder": str(run.folder)} for run in self.runs
        ]
        frame = pd.DataFrame(rows, columns=list(rows[0]) if rows else ["job"]).set_index("job")
        return as_numbers(frame)  # values of keys are texts in the file

    @property
    def best(self) -> Run:
        """The best run; of several seeds, the best one of the best configuration.

        Raises:
            ConfigError: no job has finished, or there are two objectives.
        """
        best = self._results.get("best")
        if best is None:
            text = f"{display_path(self.folder)} has no best job"
            raise ConfigError(Problem("sweep", text, "look at its table", topic="run"))
        return Run(self.folder / str(best))

    def verdict(self) -> SweepVerdict:
        """Judge which configuration is surely better, where each was run with several seeds.

        Raises:
            ConfigError: no configuration was, or they cannot be compared.
        """
        import pandas as pd

        from runner.comparison.find import find
        from runner.comparison.repeated_runs import find_objective, find_repetitions, find_settings
        from runner.comparison.results import are_comparable
        from runner.comparison.table import compare
        from runner.comparison.verdict import judge
        from runner.comparison.verdict_files import rows
        from runner.comparison.verdict_text import summarize

        compared = compare(find(None, str(self.folder), None))
        objective = find_objective(compared, self.folder)
        repetitions = find_repetitions(compared, objective.metric) if objective is not None else []
        if objective is None or not repetitions:
            text = f"{display_path(self.folder)}: a verdict needs several seeds of each configuration"
            raise ConfigError(
                Problem("sweep.seeds", text, "add sweep.seeds=5 to a sweep with one objective", topic="conflict")
            )
        if not are_comparable([run for run in compared.runs if run.config], objective.metric):
            text = f"{display_path(self.folder)}: the data or losses of its jobs differ"
            raise ConfigError(Problem("sweep", text, "compare jobs with the same ones", topic="conflict"))
        verdict = judge(repetitions, objective, **find_settings(self.folder))
        return SweepVerdict(summarize(verdict), pd.DataFrame(rows(verdict)), self.folder)

    def resume(self, *arguments: str | Mapping[str, Any], in_process: bool = False, **settings: Any) -> "Sweep":
        """Continue the sweep: finished jobs are kept, stopped ones continue from their checkpoints.

        Args:
            arguments: see `runner.sweep`.
            in_process: see `runner.sweep`.
            settings: see `runner.sweep`.

        Raises:
            ConfigError: see `runner.sweep`, as the others.
        """
        from runner.api.calls import sweep

        return sweep(f"sweep.resume={self.folder}", *arguments, in_process=in_process, **settings)

    def __repr__(self) -> str:
        return f"<Sweep {display_path(self.folder)}: {len(self.table)} jobs, {self.status}>"

    def _repr_html_(self) -> str:
        frame = self.table
        columns = [name for name in frame.columns if name not in LEFT_OUT]
        rows = list(frame[columns].head(MAX_ROWS).itertuples())
        more = f", the best {MAX_ROWS} of {len(frame)} jobs" if len(frame) > MAX_ROWS else f", {len(frame)} jobs"
        return html.grid(f"sweep {self.folder.name}{more}", ["job", *columns], rows, self.folder)
