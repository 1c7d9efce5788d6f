"""Private names of torch and MLflow, and what runner does with them: tests/util/test_private.py checks each.

The modules of Hydra, OmegaConf and torch that have no public name either are imported where they are used.
"""

import contextlib
import re
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.module import _EXTRA_STATE_KEY_SUFFIX

_WRAPPED = re.compile(r"^(?:module\.|_orig_mod\.)+|_orig_mod\.")
"""Prefixes of names by DataParallel and `torch.compile`."""


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the model without the wrapper of `torch.compile`."""
    return getattr(model, "_orig_mod", model)


def unwrapped_name(name: str) -> str:
    """Return the name of a tensor without the prefixes of DataParallel and `torch.compile`."""
    return _WRAPPED.sub("", name)


def is_extra_state(name: str) -> bool:
    """Whether a key of a `state_dict` has the value of a module's `get_extra_state`, of any type."""
    return name.rpartition(".")[2] == _EXTRA_STATE_KEY_SUFFIX


@contextlib.contextmanager
def without_package_scan() -> Iterator[None]:
    """Prevent MLflow from reading the file lists of all packages (1.7 s) to verify requirements that are installed.

    MLflow caches the lists in a variable that is None at first. If that variable is missing, nothing changes.
    """
    from mlflow.utils import requirements_utils

    unread = getattr(requirements_utils, "_MODULES_TO_PACKAGES", {}) is None
    if unread:
        requirements_utils._MODULES_TO_PACKAGES = {}
    try:
        yield
    finally:
        if unread:
            requirements_utils._MODULES_TO_PACKAGES = None
