"""Names that MLflow accepts: it refuses `@ [ ] = ,`, and names that look like a path to a parent folder."""

import re
import zlib
from collections.abc import Iterable, Mapping

_ILLEGAL = re.compile(r"[^\w./: -]", re.ASCII)
_MAX_LENGTH = 250

KEY_TAG = "runner.key"
"""The tag with the run's key. It identifies a run even before MLflow has assigned an id."""

FOLDER_TAG = "runner.folder"
"""The tag with the run's folder."""

COPY_TAG = "runner.copy_of"
"""The tag of a run that goes on in a copy of another run's folder: the id of that run, or its folder."""

OWNER_TAG = "runner.owner"
"""The tag with the owner of a run: a word that a folder chooses when it was moved, and no copy of it has."""

SUCCESSOR_PARAM = "runner.owner_after."
"""Prefix of the parameters that let one folder follow a former owner, and no second one."""

DATA_TAG = "runner.data_fingerprint"
"""The tag with a hash of the samples."""

CODE_TAG = "runner.code"
"""The tag with a hash of the record of the code."""

RESUMED_CODE_TAG = "runner.resumed_code"
"""The tag of a run that was resumed with other code than it was started with: the files that differ."""

WRITABLE_TAG = "runner.writable"
"""The tag by which an upload finds out that a store takes tags of a run, after it has refused something else."""

TEST_TAG = "runner.test_digest"
"""The tag of a registered version with a hash of the test samples."""

WEIGHTS_TAG = "runner.weights"
"""The tag of a registered version with a hash of its weights."""

CHAMPION_TAG = "runner.champion"
"""The tag of a registered version: whether it became the champion, and why."""

LOOKS_TAG = "runner.looks."
"""Prefix of the tags of a registered model that list the versions that were judged by a test part, by its hash."""

LOOK_TAG = "runner.test_look"
"""The tag of a run whose model was judged by its test part for a registered model: `rundir.looks.Look` reads it."""

REGISTERED_TAG = "runner.registered"
"""The tag of a run: the version that its best model is in the registry."""

MICRO_BATCH_TAG = "runner.micro_batch_size"
"""The tag of a run whose memory ran out with a whole batch: the most samples that were computed at once then."""

BEST_JOB_TAG = "runner.best_job"
"""The tag of a sweep: the number of its best job."""

PRUNED = "pruned"
"""The tag of a pruned trial; its value is the reason."""

PAUSED = "paused"
"""The tag of a run that pauses, which is KILLED in MLflow; its value says since when."""

NAME_LENGTH, PARAM_LENGTH, TAG_LENGTH = 500, 6000, 8000
"""MLflow's limits for an experiment's name, a parameter's value and a tag's value, in characters."""


def is_key(text: str) -> bool:
    """Whether a text can be the key of a run, as whoever may write to a store can set any."""
    return re.fullmatch("[0-9a-f]{32}", text) is not None


def legal_name(name: str, taken: Iterable[str] = ()) -> str:
    """Make a name legal in MLflow: `accuracy@5` becomes `accuracy_5`.

    Args:
        name: the name of a metric, a parameter or a tag.
        taken: legal names already in use; a clash gets a suffix computed from the name.
    """
    parts = [part for part in _ILLEGAL.sub("_", name).split("/") if part not in ("", ".", "..")]
    key = "/".join(parts) or "_"
    if len(key) > _MAX_LENGTH or key in taken:
        suffix = f"_{zlib.crc32(name.encode()):08x}"
        key = key[: _MAX_LENGTH - len(suffix)] + suffix
    return key


def with_legal_names(values: Mapping[str, str]) -> dict[str, str]:
    """Return a mapping's values under legal names."""
    legal: dict[str, str] = {}
    for name, value in values.items():
        legal[legal_name(name, legal)] = str(value)
    return legal


def reserved_for(tag: str) -> str | None:
    """Return the name of the program that a tag's name is reserved for, `MLflow` or `runner`; None if it is free."""
    if tag.startswith("mlflow."):
        return "MLflow"
    return "runner" if tag.startswith(("runner.", "resumed.", "git.")) or tag in (PRUNED, PAUSED) else None


_OF_MODELS = str.maketrans({".": ",", "/": "-", ":": "-", "%": None, '"': None, "'": None})


def legal_model_name(run_name: str) -> str:
    """Make a logged model's name from its run's; MLflow refuses some characters: `lr=0.1` becomes `lr=0,1`."""
    return run_name.translate(_OF_MODELS).strip() or "model"


REGISTERED_LENGTH = 200
"""The longest name of a registered model that every database takes."""


def legal_registered_name(name: str) -> str:
    """Make a name legal for a registered model: MLflow refuses `/` and `:`, reads `@`, and does not find quotes."""
    legal = re.sub(r"[/:@%'\"`\\\x00-\x1f]+", "-", name).strip(" .")[:REGISTERED_LENGTH]
    return legal or "model"
