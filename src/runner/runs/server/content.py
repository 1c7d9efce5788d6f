"""The JSON of a request: what MLflow's scoring server takes, or the samples alone."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.errors import did_you_mean
from runner.runs.server.refusal import Refusal

INPUTS, INSTANCES, SPLIT, RECORDS = "inputs", "instances", "dataframe_split", "dataframe_records"
WRAPPERS = (INPUTS, INSTANCES, SPLIT, RECORDS)
"""The keys of MLflow's requests, one of which holds the samples."""

PARAMS = "params"
BESIDE = (PARAMS, "signature_name")
"""Keys that may stand beside them; the second is of TensorFlow's clients, and changes nothing."""


@dataclass(frozen=True)
class Content:
    """What a request holds.

    Attributes:
        samples: as JSON has them.
        columns: of rows that are lists; None if the rows name theirs, or there are none.
        is_rows: whether the samples were sent as the rows of a table.
        params: for the model.
    """

    samples: Any
    columns: list[str] | None = None
    is_rows: bool = False
    params: Mapping[str, Any] = field(default_factory=dict)


def parse(body: bytes, names: Collection[str] = ()) -> Content:
    """Parse the body of a request.

    Args:
        body: JSON.
        names: of the inputs or columns of the model, which an object may have in place of the keys of MLflow.

    Raises:
        Refusal: it is not JSON, or has other keys.
    """
    try:
        value = DECODER.decode(body.decode())
    except (ValueError, RecursionError) as error:
        text = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Refusal(400, f"the body is not JSON: {text}") from error
    if not isinstance(value, dict):
        return Content(value)
    wrappers = [key for key in WRAPPERS if key in value]
    others = [key for key in value if key not in BESIDE and key not in wrappers]
    if len(wrappers) != 1 or any(key in names for key in others):
        if names and any(key in names for key in value):
            return Content(value)
        if len(wrappers) > 1:
            raise Refusal(422, f"the body has {' and '.join(wrappers)}; send one of them")
        wanted = f"an object with one of {', '.join(WRAPPERS)}"
        hint = did_you_mean(next(iter(value)), [*WRAPPERS, *names]) if value else ""
        raise Refusal(422, f"the body has none of the keys that hold samples; send {wanted}{hint and '; '}{hint}")
    if others:
        raise Refusal(422, f"unknown key {others[0]}; {did_you_mean(others[0], [*WRAPPERS, PARAMS])}")
    params = value.get(PARAMS) or {}
    if not isinstance(params, dict):
        raise Refusal(422, f"{PARAMS} is not an object; send names and values")
    (key,) = wrappers
    if key != SPLIT:
        return Content(value[key], None, key == RECORDS, params)
    return _split(value[key], params)


def _split(table: Any, params: Mapping[str, Any]) -> Content:
    is_table = isinstance(table, dict) and isinstance(table.get("data"), list)
    columns = table.get("columns") if is_table else None
    if not is_table or not (columns is None or (isinstance(columns, list) and all(map(_is_name, columns)))):
        raise Refusal(422, f'{SPLIT} is not a table; send {{"columns": ["a", "b"], "data": [[1, 2]]}}')
    return Content(table["data"], None if columns is None else [str(name) for name in columns], True, params)


def _is_name(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not a number of JSON; write null for a blank cell")


DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
