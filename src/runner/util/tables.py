"""Tables as text: aligned columns, or CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any


def align(columns: Sequence[Sequence[str]]) -> list[str]:
    """Format columns as lines; a column whose heading begins with `>` is aligned to the right."""
    right = [column[0].startswith(">") for column in columns]
    cells = [[column[0].removeprefix(">"), *column[1:]] for column in columns]
    widths = [max(map(len, column)) for column in cells]
    lines = []
    for line in zip(*cells, strict=True):
        padded = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(line, widths, right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return lines


def setting_column(name: str, cells: Sequence[str]) -> list[str]:
    """Return the column of a setting for `align`: numbers are aligned to the right."""
    known = [cell for cell in cells if cell]
    return [f">{name}" if known and all(map(_is_number, known)) else name, *cells]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows with the same keys as CSV with a header line; a cell without a value is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def format_duration(seconds: float) -> str:
    """Format seconds with three digits, in ms, s, min or h."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.3g} min" if minutes < 120 else f"{minutes / 60:.3g} h"


def shorten(text: str, length: int) -> str:
    """Cut a text to a length; a cut text ends in dots."""
    return text if len(text) <= length else text[: length - 3] + "..."
