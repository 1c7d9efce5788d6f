"""Private names of other packages that runner uses: each must exist in the installed versions."""

import ast
import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import _FlopCounterMode

import runner
from runner.util.private import (
    DispatchMode,
    is_extra_state,
    uncompiled,
    unwrapped_name,
    without_compiler,
    without_package_scan,
)

NAMES = (
    ("hydra._internal.callbacks", "Callbacks"),
    ("hydra._internal.config_loader_impl", "get_overrides_dirname"),
    ("hydra._internal.config_repository", "ConfigRepository"),
    ("hydra._internal.hydra", "Hydra"),
    ("hydra._internal.utils", "create_config_search_path"),
    ("hydra._internal.utils", "get_args_parser"),
    ("mlflow.utils.requirements_utils", "_MODULES_TO_PACKAGES"),
    ("multiprocessing.forkserver", "_forkserver"),
    ("omegaconf._utils", "get_yaml_loader"),
    ("torch._subclasses.fake_tensor", "FakeTensorMode"),
    ("torch.nn.modules.module", "_EXTRA_STATE_KEY_SUFFIX"),
    ("torch.optim.optimizer", "_global_optimizer_post_hooks"),
    ("torch.optim.optimizer", "_global_optimizer_pre_hooks"),
    ("torch.optim.optimizer", "_use_grad_for_differentiable"),
    ("torch.utils", "_pytree"),
    ("torch.utils._python_dispatch", "TorchDispatchMode"),
    ("torch.utils.flop_counter", "_FlopCounterMode"),
)
"""What modules of runner import from others, or read of other modules: module and name."""

ATTRIBUTES = (
    (nn.Module, "_buffers"),
    (nn.Module, "_parameters"),
    (nn.Module, "_non_persistent_buffers_set"),
    (Optimizer, "_optimizer_step_post_hooks"),
    (Optimizer, "_optimizer_step_pre_hooks"),
)
"""Private attributes of an object of a class."""


def imports() -> Iterator[tuple[str, str]]:
    """The private names that runner's modules import from other packages, or read of modules that they import."""
    for file in Path(runner.__file__).parent.rglob("*.py"):
        modules: dict[str, str] = {}
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith(("runner", "_")):
                for name in node.names:
                    modules[name.asname or name.name] = f"{node.module}.{name.name}"
                    if any(part.startswith("_") for part in (*node.module.split("."), name.name)):
                        yield node.module, name.name
        read = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
        for node in read:
            module = modules.get(node.value.id) if node.attr[0] == "_" != node.attr[1] else None
            if module is not None and _is_module(module):
                yield module, node.attr


@functools.cache
def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_each_private_name_exists(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


def test_no_other_private_name_is_imported() -> None:
    assert set(imports()) == set(NAMES)


@pytest.mark.parametrize(("kind", "name"), ATTRIBUTES)
def test_each_private_attribute_exists(kind: type, name: str) -> None:
    assert hasattr(kind([torch.zeros(1)], {}) if kind is Optimizer else kind(), name)


def test_the_wrapper_of_compile_is_removed() -> None:
    model = nn.Linear(2, 1)
    compiled = torch.compile(model)
    assert isinstance(compiled, nn.Module) and compiled is not model
    assert uncompiled(compiled) is model and uncompiled(model) is model
    assert [unwrapped_name(name) for name in compiled.state_dict()] == ["weight", "bias"]


def test_the_key_of_an_extra_state_is_known() -> None:
    class Counted(nn.Linear):
        def get_extra_state(self) -> int:
            return 3

    keys = nn.Sequential(Counted(2, 1)).state_dict()
    assert [name for name in keys if is_extra_state(name)] == ["0._extra_state"]


def test_mlflow_does_not_scan_the_packages() -> None:
    from mlflow.utils import requirements_utils

    assert hasattr(requirements_utils, "_MODULES_TO_PACKAGES"), "MLflow scans all packages when it saves a model"
    before = requirements_utils._MODULES_TO_PACKAGES
    requirements_utils._MODULES_TO_PACKAGES = None
    try:
        with without_package_scan():
            assert requirements_utils._MODULES_TO_PACKAGES == {}
        assert requirements_utils._MODULES_TO_PACKAGES is None
    finally:
        requirements_utils._MODULES_TO_PACKAGES = before


def test_methods_of_optimizers_call_themselves_instead_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """That a run then trains without the compiler is in tests/tracking/test_model_memory.py."""
    import torch._dynamo

    plain = Optimizer.zero_grad.__wrapped__  # type: ignore[attr-defined]
    monkeypatch.delitem(plain.__dict__, "__dynamo_disable", raising=False)
    without_compiler()
    assert not hasattr(plain, "__dynamo_disable")
    monkeypatch.delitem(sys.modules, "torch._dynamo")
    without_compiler()
    assert getattr(plain, "__dynamo_disable") is plain
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    torch.optim.SGD([weight]).zero_grad()
    assert weight.grad is None


def test_a_mode_of_runner_does_not_import_the_compiler() -> None:
    assert hasattr(TorchDispatchMode, "_should_skip_dynamo"), "torch wraps the methods of modes in another way"

    class Mode(DispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    class Wrapped(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    assert hasattr(Wrapped.__torch_dispatch__, "__wrapped__") and not hasattr(Mode.__torch_dispatch__, "__wrapped__")


def test_the_counter_of_flops_calls_itself_instead_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = _FlopCounterMode.__torch_dispatch__.__wrapped__  # type: ignore[attr-defined]
    monkeypatch.delitem(plain.__dict__, "__dynamo_disable", raising=False)
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    without_compiler()
    assert getattr(plain, "__dynamo_disable") is plain
