"""What an exported file takes and gives: as text for the user, and as metadata in the file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runner.data.listing import list_names
from runner.runs.task_model import INPUTS
from runner.saved.input_spec import InputSpec

METADATA = "runner.json"
"""Of a .pt2 file, and of a .pt file of weights: the entry with what is known of it. Other files have it as metadata."""

COLUMNS_SHOWN = 40  # names of columns that are printed


@dataclass(frozen=True)
class Description:
    """What an exported file takes and gives.

    Attributes:
        inputs: their types and shapes, and what they are.
        outputs: the same.
        columns: the name of each number of a sample, in order, by the name of the input; empty if they have no names.
        classes: the names of the classes 0, 1, ...; None if there are none.
        target: the column that is predicted, a list of several; None without a table.
        encoder: of `data=table`: columns, means, scales and categories, from which its inputs are computed.
    """

    inputs: str
    outputs: str
    columns: Mapping[str, Sequence[str]]
    classes: Sequence[str] | None
    target: str | list[str] | None
    encoder: Mapping[str, object] | None

    def lines(self) -> list[str]:
        """Return the names of the columns as lines for the user."""
        several = len(self.columns) > 1
        return [
            f"{f'{name}: ' if several else ''}{', '.join(names[:COLUMNS_SHOWN])}"
            + (f", ... ({len(names):,} in all, listed in the file's metadata)" if len(names) > COLUMNS_SHOWN else "")
            for name, names in self.columns.items()
        ]

    def metadata(self) -> dict[str, Any]:
        """Return what is known, by name."""
        return {name: value for name, value in asdict(self).items() if value}


def describe_file(spec: InputSpec, inputs: str, outputs: str, logits: bool, is_normalized: bool = False) -> Description:
    """Describe a file.

    Args:
        spec: the inputs of the model.
        inputs: types and shapes of the file's inputs.
        outputs: types and shapes of the file's outputs, and what they are.
        logits: whether the outputs are those of the classes, in order.
        is_normalized: whether the file takes inputs that are normalized already.
    """
    columns = _table_columns(spec) if spec.table is not None else {INPUTS: spec.features} if spec.features else {}
    encoder = None if spec.table is None else spec.table["encoder"]
    of_classes = f" of {list_names(spec.classes)}" if logits and spec.classes else ""
    inputs = f"{inputs}, {_meaning(spec, is_normalized)}"
    return Description(inputs, f"{outputs}{of_classes}", columns, spec.classes, spec.target, encoder)


def _meaning(spec: InputSpec, is_normalized: bool) -> str:
    if spec.table is not None:
        return "the columns of the table, encoded"
    if spec.inputs is not None:
        return f"the raw values of data={spec.data}"
    what = "pixels from 0 to 1" if spec.dtype == "uint8" else f"the raw values of data={spec.data}"
    if spec.divided_by:
        what = f"pixels from 0 to 1 (the originals divided by {spec.divided_by:g})"
    return f"{what}, {'normalized by mean and std in the metadata' if is_normalized else 'not normalized'}"


def _table_columns(spec: InputSpec) -> dict[str, list[str]]:
    """Return the names of the encoded columns, in the order in which the file takes them."""
    from runner.data.tabular.encoder import Encoder

    assert spec.table is not None
    encoder = Encoder.from_state(spec.table["encoder"])
    numbers = [
        f"{name} ({'days since 1970, ' if column.kind == 'date' and not part else ''}scaled)"
        for column in encoder.columns
        for part, name in enumerate(column.numbers)
    ]
    others = [f"{name.removesuffix('=')} is blank" if name.endswith("=") else name for name in encoder.names()]
    vector = [*numbers, *others[len(numbers) :]]
    if not encoder.codes:
        return {INPUTS: vector}
    categories = [f"{column.name} (code)" for column in encoder.columns if column.kind == "category"]
    return {"numbers": vector, "categories": categories}
