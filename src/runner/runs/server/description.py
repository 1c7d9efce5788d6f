"""What a model takes and returns: for people, for programs (`/metadata`), and as OpenAPI."""

import math
from collections.abc import Sequence
from typing import Any

from runner.data.tabular.cells import ISO
from runner.runs.predictor import Predictor
from runner.runs.server import content
from runner.runs.server.answers import CSV, JSON, AnyPredictor
from runner.runs.server.limits import Limits
from runner.runs.server.reader import IMAGE, TEXT, Reader
from runner.saved.input_spec import InputSpec, Leaf
from runner.saved.run import SavedRun

MOST_VALUES = 4096
"""The largest sample that is shown as an example, in numbers."""

Schema = dict[str, Any]


def describe_input(reader: Reader) -> Schema:
    """Return what a model takes: its shape, its columns, or its inputs by name, and an example."""
    spec = reader.spec
    described: Schema = {"kind": kind_of(reader), "content_types": list(map(_media_type, reader.kinds))}
    if reader.writes_texts:
        described["parameters"] = ["max_new_tokens", "temperature", "seed"]
    elif reader.columns is not None:
        described["columns"] = _columns(reader)
    elif spec.inputs is not None:
        described["inputs"] = [_leaf(leaf) for leaf in spec.inputs]
        described["ragged"] = spec.ragged
    else:
        described["shape"] = list(spec.input_shape)
        described["values"] = values_of(spec)
    example = make_example(reader)
    return described if example is None else {**described, "example": example}


def kind_of(reader: Reader) -> str:
    """Return the kind of samples, in a word; the page has a form for each."""
    if reader.writes_texts:
        return "text"
    if reader.columns is not None:
        return "table"
    return "image" if reader.takes_images else "arrays"


def values_of(spec: InputSpec) -> str:
    """Return which numbers a single tensor holds, in words."""
    if spec.dtype == "uint8":
        return f"integers from 0 to {spec.scale:g}, or the same as floats from 0 to 1"
    if spec.value_range is not None:
        low, high = spec.value_range
        return f"numbers as in training, which went from {low:g} to {high:g}"
    return "numbers as in training"


def _leaf(leaf: Leaf) -> Schema:
    seen = {} if leaf.low is None else {"low": leaf.low, "high": leaf.high}
    return {"name": leaf.name, "shape": leaf.shape, "dtype": leaf.dtype, **seen}


def _columns(reader: Reader) -> list[Schema]:
    if reader.encoder is None:
        return [{"name": name, "kind": "number"} for name in reader.columns or []]
    texts = iter(reader.encoder.categories)
    columns = []
    for column in reader.encoder.columns:
        described: Schema = {"name": column.name, "kind": column.kind}
        if column.kind == "category":
            described["categories"] = next(texts)
        columns.append(described)
    return columns


def make_example(reader: Reader) -> Schema | None:
    """Return the JSON of a request with one sample; None if it would be long."""
    spec = reader.spec
    if reader.writes_texts:
        return {content.INPUTS: [(spec.classes or ["a"])[-1]], content.PARAMS: {"max_new_tokens": 20}}
    if reader.columns is not None:
        return {content.INPUTS: [_example_row(reader)]}
    if spec.values > MOST_VALUES:
        return None
    if spec.inputs is None:
        low = 0 if spec.value_range is None else min(max(0, spec.value_range[0]), spec.value_range[1])
        return {content.INPUTS: [_filled(spec.input_shape, low)]}
    named = {leaf.name: [_filled(leaf.shape, leaf.low or 0)] for leaf in spec.inputs}
    return {content.INPUTS: named[""] if list(named) == [""] else named}


def _filled(shape: Sequence[int], value: float) -> Any:
    if not shape:
        return int(value) if value == int(value) else value
    return [_filled(shape[1:], value)] * max(1, shape[0])


def _example_row(reader: Reader) -> Schema:
    """Return a row of a table, near the mean of the training rows."""
    if reader.encoder is None:
        mean, names = reader.spec.mean, reader.columns or []
        means = mean if isinstance(mean, list) else [mean] * len(names)
        return {name: _short(value) for name, value in zip(names, means, strict=True)}
    row, place, texts = dict[str, Any](), 0, iter(reader.encoder.categories)
    for column in reader.encoder.columns:
        if column.kind == "category":
            row[column.name] = next(iter(next(texts)), "")
            continue
        row[column.name] = _mean_cell(column, float(reader.encoder.scaler.mean_[place]))
        place += len(column.numbers)
    return row


def _mean_cell(column: Any, mean: float) -> Any:
    if column.kind == "boolean":
        return mean >= 0.5
    if column.kind == "date":
        import pandas as pd

        day = pd.Timestamp(mean, unit="D").floor("s" if column.clock else "D")
        form = next(iter(column.formats), ISO)
        return day.strftime("%Y-%m-%d %H:%M:%S" if column.clock else "%Y-%m-%d") if form == ISO else day.strftime(form)
    return _short(mean)


def _short(value: float) -> float:
    return float(f"{value:.4g}") if math.isfinite(value) else 0.0


def _media_type(kind: str) -> str:
    return f"{kind}*" if kind == IMAGE else kind


def request_schema(reader: Reader, limits: Limits) -> Schema:
    """Return the body of a request in OpenAPI's words."""
    sample = _sample_schema(reader)
    samples: Schema = {"type": "array", "minItems": 1, "maxItems": limits.max_rows, "items": sample}
    if reader.spec.inputs is not None and not reader.writes_texts and sample["type"] == "object":
        arrays = {name: {"type": "array", "items": part} for name, part in sample["properties"].items()}
        samples = {"oneOf": [{**sample, "properties": arrays}, samples]}
    either = [{content.INPUTS: samples}, {content.INSTANCES: samples}]
    if not reader.writes_texts:
        table = {"columns": {"type": "array", "items": {"type": "string"}}, "data": {"type": "array"}}
        either += [{content.SPLIT: {"type": "object", "properties": table}}, {content.RECORDS: {"type": "array"}}]
    body: Schema = {
        "description": f"At most {limits.max_mb} MB.",
        "oneOf": [{"type": "object", "properties": one, "required": list(one)} for one in either],
    }
    example = make_example(reader)
    kinds: Schema = {JSON: {"schema": body, **({"example": example} if example is not None else {})}}
    if CSV in reader.kinds:
        kinds[CSV] = {"schema": {"type": "string", "description": "A table with a header, as for runner.predict."}}
    if reader.takes_images:
        kinds[f"{IMAGE}*"] = {"schema": {"type": "string", "format": "binary"}}
    if reader.writes_texts:
        kinds[TEXT] = {"schema": {"type": "string"}}
    return {"required": True, "content": kinds}


def _sample_schema(reader: Reader) -> Schema:
    spec = reader.spec
    if reader.writes_texts:
        return {"type": "string"}
    if reader.columns is not None:
        cells = {column["name"]: _cell_schema(column) for column in _columns(reader)}
        return {"type": "object", "properties": cells, "required": list(cells)}
    if spec.inputs is None:
        return _nested(spec.input_shape, {"type": "number", "description": values_of(spec)})
    parts = {
        leaf.name: _nested(
            [None] * len(leaf.shape) if spec.ragged else leaf.shape,
            {"type": "number" if leaf.kind.is_floating_point else "integer"},
        )
        for leaf in spec.inputs
    }
    return parts[""] if list(parts) == [""] else {"type": "object", "properties": parts, "required": list(parts)}


def _nested(shape: Sequence[int | None], values: Schema) -> Schema:
    for size in reversed(shape):
        sizes = {} if size is None else {"minItems": size, "maxItems": size}
        values = {"type": "array", "items": values, **sizes}
    return values


def _cell_schema(column: Schema) -> Schema:
    if column["kind"] == "category":
        return {"type": ["string", "null"], "description": f"Training had {len(column['categories'])} categories."}
    kinds = {"number": ["number", "null"], "boolean": ["boolean", "null"], "date": ["string", "null"]}
    return {"type": kinds[column["kind"]]}


def response_schema(names: Sequence[str]) -> Schema:
    """Return the body of a response in OpenAPI's words.

    Args:
        names: in the objects of predictions.
    """
    one = {"type": "object", "properties": {name: {} for name in names}}
    notes = {"type": "array", "items": {"type": "string"}}
    return {"type": "object", "properties": {"predictions": {"type": "array", "items": one}, "notes": notes}}


ERROR: Schema = {
    "type": "object",
    "properties": {"error_code": {"type": "string"}, "message": {"type": "string"}},
}
"""The body of a refusal."""


def about_run(run: SavedRun, predictor: AnyPredictor) -> Schema:
    """Return what a run is: its name, its id, the choices of its config; no path of this machine."""
    target = str(run.config["model"].get("_target_", "")).rpartition(".")[2]
    if isinstance(predictor, Predictor):
        weights = {"epoch": predictor.weights.epoch}
    else:
        weights = {"models": len(predictor.members)}
    return {
        "model": run.choices.get("model", target),
        "data": predictor.samples.data,
        "run": run.folder.name if run.folder is not None else run.name,
        "run_id": run.run_id,
        **weights,
    }
