"""Names as MLflow takes them: it refuses `@ [ ] = ,` and whatever reads like a path outside."""

import re
import zlib
from collections.abc import Iterable, Mapping

_ILLEGAL = re.compile(r"[^\w./: -]", re.ASCII)
_LONGEST = 250

KEY_TAG = "runner.key"
"""The tag that every run of ours has: what tells it from all others, also before MLflow has given it an id."""

FOLDER_TAG = "runner.folder"
"""The tag with the run's folder."""

DATA_TAG = "runner.data_fingerprint"
"""The tag with a hash of the samples."""

PRUNED = "pruned"
"""The tag of a trial that its search has ended early; its value says why."""

NAME_LENGTH, PARAM_LENGTH, TAG_LENGTH = 500, 6000, 8000
"""Characters of an experiment's name, and of a parameter's and a tag's value, that MLflow takes."""


def legal_name(name: str, taken: Iterable[str] = ()) -> str:
    """Make a name legal in MLflow: `accuracy@5` becomes `accuracy_5`.

    Args:
        name: of a metric, a parameter or a tag.
        taken: legal names in use for something else; a clash gets a suffix made from the name itself.
    """
    parts = [part for part in _ILLEGAL.sub("_", name).split("/") if part not in ("", ".", "..")]
    key = "/".join(parts) or "_"
    if len(key) > _LONGEST or key in taken:
        suffix = f"_{zlib.crc32(name.encode()):08x}"
        key = key[: _LONGEST - len(suffix)] + suffix
    return key


def with_legal_names(values: Mapping[str, str]) -> dict[str, str]:
    """The values under the names that MLflow has for them."""
    named: dict[str, str] = {}
    for name, value in values.items():
        named[legal_name(name, named)] = str(value)
    return named


def reserved_for(tag: str) -> str | None:
    """Say whose a tag's name is, if it is not the user's: MLflow's, or ours."""
    if tag.startswith("mlflow."):
        return "MLflow"
    return "runner" if tag.startswith(("runner.", "resumed.", "git.")) or tag == "pruned" else None


_OF_MODELS = str.maketrans({".": ",", "/": "-", ":": "-", "%": None, '"': None, "'": None})


def legal_model_name(run_name: str) -> str:
    """Name a logged model like its run, without what MLflow refuses there: `lr=0.1 digits` becomes `lr=0,1 digits`."""
    return run_name.translate(_OF_MODELS).strip() or "model"
