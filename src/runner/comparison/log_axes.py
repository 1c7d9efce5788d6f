"""The keys of a sweep that are tagged `log`: plots over their values have a logarithmic axis."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from runner.rundir import layout
from runner.util.files import load_json_or_empty

TAG = "runner.log_axes"
"""Tag of the sweep's jobs in MLflow: the keys, separated by spaces."""

_TAGGED = re.compile(r"\btag\([^()]*\blog\b[^()]*,")


def find_tagged(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the tagged keys of axes as they are typed: `optimizer.lr=tag(log,interval(1e-4,1))`."""
    keys = (text.partition("=")[0].lstrip("+") for text in texts if _TAGGED.search(text))
    return tuple(dict.fromkeys(keys))


def read_recorded(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the tagged keys of a sweep's `sweep.json`; 0.1.0 recorded only the texts of the axes."""
    if "log_axes" in content:
        return tuple(content["log_axes"])
    return find_tagged([*content["arguments"], *(f"{key}={text}" for key, text in content["axes"].items())])


def read_log_axes(folder: Path) -> tuple[str, ...]:
    """Return the tagged keys of a sweep's folder; none if it is not a sweep's."""
    try:
        return read_recorded(load_json_or_empty(folder / layout.SWEEP_PLAN))
    except (KeyError, TypeError, AttributeError):
        return ()
