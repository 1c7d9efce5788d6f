"""Whether the first row of a table is a header, and which names columns have."""

from collections.abc import Collection, Mapping
from itertools import pairwise

import numpy as np

from runner.data.columns import MISSING, NO, NUMBER, YES, Column
from runner.data.listing import list_names
from runner.data.table_cells import Cells
from runner.data.table_index import INDEX, names_rows

NO_NAMES = (*MISSING, *YES, *NO, "?", "-", ".", "*")
"""Words that are not names of columns."""


def parse_columns(cells: Cells, has_header: bool) -> tuple[list[str], list[Column]]:
    """Return names and columns. Without a header names are 0, 1, ...; a first column without a name is `INDEX`."""
    first = cells.head[0]
    if not has_header:
        return [str(number) for number in range(len(first))], cells.with_first()
    return [first[0] or INDEX, *first[1:]], cells.below


def detect_header(first: list[str], below: list[Column], known: Collection[str]) -> tuple[bool | None, str]:
    """Detect whether the first row is a header.

    Text above numbers is a name; so is every cell of a row that is all text. If each cell has the kind of its column
    below, the row is a sample. The exception is 0, 1, 2, ..., with which pandas numbers columns without names.

    Args:
        first: the cells of the first row.
        below: the columns below it.
        known: names that a header has.

    Returns:
        True, False, or None if the row may be either; and a note or the reason, which may be empty.
    """
    import pyarrow.compute as compute

    cells = [cell.strip() for cell in first]
    shown = list_names(cell for cell in cells if cell)
    if any(cell in known and not NUMBER.fullmatch(cell) for cell in cells):
        return True, ""
    unnamed = not cells[0]  # as above an index
    numbers = {place: float(cell) for place, cell in enumerate(cells) if NUMBER.fullmatch(cell)}
    text = [place for place, cell in enumerate(cells) if place not in numbers and cell not in NO_NAMES]
    if text and len(text) + unnamed == len(cells):
        return True, ""
    whole = all(cells[place].isdecimal() for place in numbers)
    if any(below[place].kind != "text" for place in text):
        if whole:
            return True, f"the first row is the header: {shown}" if numbers else ""
        return None, f"the first row ({shown}) has text above numbers, and numbers that look like values"
    # From here on the row may be a sample: one of its cells is a number, or is true, false or missing.
    repeated = any(compute.any(compute.equal(below[place].text, first[place])).as_py() for place in text)
    if repeated or len(numbers) + len(text) + unnamed < len(cells) or len(below[0].text) == 0:
        return False, ""  # a repeated text is a class; a name is not missing
    labels = list(numbers.values())
    numbered = labels == [place - unnamed for place in numbers]
    above_index = unnamed and names_rows(below[0]) is not None
    if whole and (above_index or (numbered and (len(labels) > 1 or unnamed))):
        return True, f"the first row is the header: {shown}"
    steps = {round(after - before, 9) for before, after in pairwise(labels)}
    regular = len(steps) == 1 and min(steps) > 0 and (len(labels) > 3 or (steps == {1} and len(labels) + len(text) > 2))
    # Labels differ from each other and, unlike a sample, from the values below them.
    unlike = whole and len(set(labels)) == len(labels) and (text or _differ(numbers, below))
    if above_index or regular or unlike:
        return None, f"the first row ({shown}) may be names or a sample"
    return False, ""


def _differ(labels: Mapping[int, float], below: list[Column]) -> bool:
    """Whether each number is outside the range of its column, or the only one without decimals."""
    columns = {place: below[place].values for place in labels}
    if any(values is None or not np.isfinite(values).any() for values in columns.values()):
        return False
    finite = {place: values[np.isfinite(values)] for place, values in columns.items() if values is not None}
    outside = all(not finite[place].min() <= label <= finite[place].max() for place, label in labels.items())
    return outside or all((values % 1 != 0).any() for values in finite.values())
