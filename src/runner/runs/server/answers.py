"""Predictions as rows of JSON, or of CSV: with the names and the digits of `runner.predict`."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from runner.errors import escape_undecodable
from runner.loss.answers import SAMPLE
from runner.runs.folds_predictor import FoldsPredictor
from runner.runs.predictor import Predictions, Predictor
from runner.task.supervised import Supervised
from runner.util.trees import Tree, at, first_axis

JSON, CSV = "application/json", "text/csv"
NOT_NUMBERS = frozenset(("nan", "inf", "-inf"))
"""What JSON has no word for: null stands for them."""

AnyPredictor = Predictor | FoldsPredictor


class Answers:
    """Compute predictions, and write them.

    Args:
        predictor: of the model.
        size: the most samples that are computed at a time.
    """

    def __init__(self, predictor: AnyPredictor, size: int) -> None:
        self._predictor, self._size = predictor, size
        self.of_form: dict[str, Callable[[Any], Sequence[str]]] = {JSON: self.objects, CSV: self.lines}
        self.header: list[str] = []

    def objects(self, inputs: Tree) -> list[str]:
        """Return a JSON object for each sample."""
        return [text for outputs in self._outputs(inputs) for text in self._objects(outputs)]

    def lines(self, inputs: Tree) -> list[str]:
        """Return a line of CSV for each sample, without its number and without the end of the line.

        Raises:
            ConfigError: there would be too many columns.
        """
        lines: list[str] = []
        for outputs in self._outputs(inputs):
            self.header, rows = self._predictor.table(outputs)
            lines += _written(rows)
        return lines

    @staticmethod
    def of_texts(texts: Sequence[str]) -> list[str]:
        """Return a line of CSV for each text."""
        return _written([text] for text in texts)

    def names(self, inputs: Tree) -> list[str]:
        """Return the names in the objects of predictions."""
        return list(json.loads(self.objects(inputs)[0]))

    def _outputs(self, inputs: Tree) -> Iterable[Tensor | Predictions]:
        count = first_axis(inputs)
        if count <= self._size:
            return [self._predictor(inputs)]
        parts = (slice(first, first + self._size) for first in range(0, count, self._size))
        return (self._predictor(at(inputs, part)) for part in parts)

    def _objects(self, outputs: Tensor | Predictions) -> list[str]:
        if not isinstance(outputs, Tensor):
            arrays = {name: values.tolist() for name, values in self._predictor.arrays(outputs).items()}
            return [to_json(dict(zip(arrays, row, strict=True))) for row in zip(*arrays.values(), strict=True)]
        header, rows = self._predictor.table(outputs)
        keys = [f"{json.dumps(name)}: " for name in header]
        assert isinstance(self._predictor.task, Supervised)
        has_class = self._predictor.task.loss.probabilities(outputs) is not None  # the first column is a text
        return [_object(keys, row, has_class) for row in rows]


def _object(keys: Sequence[str], row: Sequence[Any], has_class: bool) -> str:
    values = ["null" if value in NOT_NUMBERS else value for value in row]
    if has_class:
        values[0] = json.dumps(row[0])
    return f"{{{', '.join(map(str.__add__, keys, values))}}}"


def _written(rows: Iterable[Sequence[Any]]) -> list[str]:
    """Write rows as CSV; a line break within quotes stays one."""
    lines, file = [], io.StringIO()
    writer = csv.writer(file, lineterminator="\n")  # with another one, a line break in a cell is not quoted
    for row in rows:
        writer.writerow([escape_undecodable(str(cell)) for cell in row])
        lines.append(file.getvalue()[:-1])
        file.seek(0)
        file.truncate()
    return lines


def to_json(value: Any) -> str:
    """Write a value as JSON; numbers that are not finite as null."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_body(objects: Sequence[str], notes: Sequence[str]) -> str:
    """Return the body of a response: `{"predictions": [{...}, ...]}`, as MLflow's server returns rows."""
    more = f', "notes": {json.dumps(list(notes))}' if notes else ""
    return f'{{"predictions": [{", ".join(objects)}]{more}}}'


def csv_body(header: Sequence[str], lines: Sequence[str]) -> str:
    """Return the body of a response: a table with a header, as `runner.predict` writes it."""
    first = _written([[SAMPLE, *header]])
    return "\n".join([*first, *(f"{number},{line}" for number, line in enumerate(lines)), ""])
