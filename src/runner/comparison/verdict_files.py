"""A verdict as files: `verdict.csv`, `verdict.json`, `verdict.md`. `conclude` makes both."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from runner.comparison import paired
from runner.comparison.objectives import Objective
from runner.comparison.repetitions import Repetition
from runner.comparison.runs import ComparedRun
from runner.comparison.setting import find_setting
from runner.comparison.verdict import Standing, Verdict, judge
from runner.comparison.verdict_paper import to_markdown
from runner.comparison.verdict_text import describe
from runner.rundir import layout
from runner.util import tables
from runner.util.files import write_atomically


def conclude(
    repetitions: Sequence[Repetition],
    objective: Objective,
    runs: Sequence[ComparedRun],
    folder: Path,
    smallest_difference: float | None = None,
    max_seeds: int | None = None,
    private: bool = False,
) -> tuple[Verdict, list[str]]:
    """Judge configurations, and write the three files.

    Args:
        repetitions: see `judge`.
        objective: see `judge`.
        runs: the same runs; what they have in common is in `verdict.md`.
        folder: where the files go.
        smallest_difference: see `judge`.
        max_seeds: see `judge`.
        private: whether only the owner may read the files.

    Returns:
        The verdict, for `verdict_text.to_text` and `plots.verdict.draw_verdict`, and the names of the files.

    Raises:
        OSError: a file cannot be written.
    """
    looks = sorted((run.look for run in runs if run.look), key=lambda look: (look.model, look.looks))
    verdict = replace(judge(repetitions, objective, smallest_difference, max_seeds), looks=tuple(looks))
    texts = {
        layout.VERDICT_TABLE: to_csv(verdict),
        layout.VERDICT: to_json(verdict),
        layout.VERDICT_TEXT: to_markdown(verdict, find_setting(runs)),
    }
    for name, text in texts.items():
        write_atomically(folder / name, text, private=private)
    return verdict, list(texts)


def rows(verdict: Verdict) -> list[dict[str, Any]]:
    """Return a mapping per configuration with unrounded figures; None where there is none."""
    keys = list(dict.fromkeys(key for standing in verdict.standings for key in standing.point))
    return [_row(standing, keys) for standing in verdict.standings]


def _row(standing: Standing, keys: Sequence[str]) -> dict[str, Any]:
    gap = standing.gap
    (low, high), (plain_low, plain_high) = gap.interval or (None, None), gap.plain_interval or (None, None)
    mean_low, mean_high = standing.interval or (None, None)
    return {
        "name": standing.name,
        **{key: standing.point.get(key, "") for key in keys},
        "mean": standing.mean,
        "sd": standing.sd,
        "n": standing.n,
        "mean_low": mean_low,
        "mean_high": mean_high,
        "difference": gap.difference,
        "low": low,
        "high": high,
        "uncorrected_low": plain_low,
        "uncorrected_high": plain_high,
        "p": gap.p,
        "p_corrected": gap.p_corrected,
        "behind_by_more_than": gap.at_least,
        "smallest_difference": gap.smallest,
        "seeds_needed": gap.seeds_needed,
        "verdict": str(standing.outcome),
    }


def to_csv(verdict: Verdict) -> str:
    """Return the rows as CSV with a header line.

    `difference` is by how much the best is better, with the simultaneous interval `low` to `high`; a cell without a
    value is empty.
    """
    return tables.to_csv(rows(verdict))


def to_json(verdict: Verdict) -> str:
    """Return the verdict as JSON: how it was found, and the rows with the values by seed."""
    best = verdict.best
    content = {
        **asdict(verdict.objective),
        "best": best.name if best else None,
        "reason": verdict.reason,
        "seeds": verdict.seeds,
        "max_seeds": verdict.max_seeds,
        "smallest_difference": verdict.smallest_difference,
        "test": "sign flip" if verdict.sign_flip else "paired t",
        "error": paired.ERROR,
        "pairs": verdict.pairs,
        "error_of_a_pair": verdict.level,
        "test_looks": [{**asdict(look), "words": look.warn() or look.count()} for look in verdict.looks],
        "configurations": [
            {**row, "values": standing.values, "words": describe(standing, verdict)}
            for row, standing in zip(rows(verdict), verdict.standings, strict=True)
        ],
    }
    return json.dumps(content, indent=2) + "\n"
