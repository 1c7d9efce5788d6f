"""Private names of torch and MLflow, and what runner does with them: tests/util/test_private.py checks each.

The modules of Hydra, OmegaConf and torch that have no public name either are imported where they are used.
"""

import contextlib
import re
import sys
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.module import _EXTRA_STATE_KEY_SUFFIX
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import _FlopCounterMode

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


class DispatchMode(TorchDispatchMode):
    """A mode that does not import torch's compiler when it is first used; see `without_compiler`."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def without_compiler() -> None:
    """Keep optimizers and the counter of FLOPs from importing torch's compiler (900 modules, 0.5 s).

    A model may be compiled; a step of an optimizer and a check of a model never are.

    torch 2.14 decorates their methods so that `torch.compile` leaves them out. The first call of each imports the
    compiler, and stores the function that is left out as an attribute of the method; each later call enters and leaves
    the compiler. With the method itself as that attribute neither happens. Nothing changes where the compiler is
    imported already, and if torch no longer looks for the attribute.
    """
    if "torch._dynamo" in sys.modules:
        return
    for method in [*vars(Optimizer).values(), *vars(_FlopCounterMode).values()]:
        if getattr(method, "__globals__", {}).get("__name__") == "torch._compile":
            method.__wrapped__.__dict__.setdefault("__dynamo_disable", method.__wrapped__)


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
