"""The keys of a sweep that are tagged `log`: what is drawn over their values has a logarithmic axis."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from runner.rundir import layout
from runner.util.files import load_json_or_empty

TAG = "runner.log_axes"
"""Of the sweep's jobs in MLflow: the keys, separated by spaces."""

_TAGGED = re.compile(r"\btag\([^()]*\blog\b[^()]*,")


def tagged(texts: Iterable[str]) -> tuple[str, ...]:
    """Which keys are tagged, of axes as they are typed: `optimizer.lr=tag(log,interval(1e-4,1))`."""
    found = (text.partition("=")[0].lstrip("+") for text in texts if _TAGGED.search(text))
    return tuple(dict.fromkeys(found))


def recorded(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Which keys are tagged, of a sweep's `sweep.json`; 0.1.0 wrote only the texts of the axes."""
    if "log_axes" in content:
        return tuple(content["log_axes"])
    return tagged([*content["arguments"], *(f"{key}={text}" for key, text in content["axes"].items())])


def of_sweep(folder: Path) -> tuple[str, ...]:
    """Which keys are tagged, of a sweep's folder; none where the folder is not a sweep's."""
    try:
        return recorded(load_json_or_empty(folder / layout.SWEEP_PLAN))
    except (KeyError, TypeError, AttributeError):
        return ()
