"""What a notebook shows of a run or a sweep: a small table, and a link to the folder."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from runner.rundir.folders import display_path
from runner.util.metric_names import format_metric

PARTS = ("test/", "val/", "train/")


def final_metrics(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the final metrics of a `result.json`, as text: those of the test, the validation and the training."""
    names = [name for part in PARTS for name in result if name.startswith(part)]
    return {name: format_metric(name, result[name]).strip() for name in names if isinstance(result[name], int | float)}


def card(title: str, facts: Mapping[str, Any], folder: Path) -> str:
    """Return a table of facts, with a link to the folder."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(_text(value))}</td></tr>" for name, value in facts.items())
    return f"<table><caption>{escape(title)}</caption>{rows}</table>{link(folder)}"


def grid(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], folder: Path) -> str:
    """Return a table with a header, with a link to the folder."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(_text(cell))}</td>' for cell in row)}</tr>" for row in rows)
    table = f"<table><caption>{escape(title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"{table}{link(folder)}"


def lines(texts: Sequence[str]) -> str:
    """Return lines of text."""
    return f"<p>{'<br>'.join(map(escape, texts))}</p>"


def link(folder: Path) -> str:
    """Return a link to a folder; Jupyter opens those below the notebook's."""
    shown = display_path(folder)
    return f'<a href="{escape(quote(shown), quote=True)}">{escape(shown)}</a>'


def _text(value: Any) -> str:
    if value is None or value != value:  # a NaN
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
