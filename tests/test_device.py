import dataclasses
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers.composed import built
from helpers.problems import about
from runner.device import Device, give_back_memory, resolve, set_deterministic
from runner.errors import ConfigError, Problem
from runner.runs.describe import describe_run
from runner.runs.reproduction import environment_changes
from runner.tracking.environment import environment

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


def test_threads_are_set_and_recorded() -> None:
    assert resolve("cpu", threads=1).threads == 1
    assert torch.get_num_threads() == 1
    device = resolve("cpu", threads=2)
    assert torch.get_num_threads() == device.threads == 2
    assert str(device) == "cpu (2 threads)"


@pytest.fixture(scope="module")
def fresh() -> list[str]:
    """What a fresh process prints of its CPU: whether it asks for CUDA, and what becomes of memory that is left."""
    code = (
        "import psutil, torch; from runner.device import give_back_memory, resolve\n"
        "print(resolve('cpu', threads=1).gpu(), torch.cuda.is_initialized())\n"
        "taken = psutil.Process().memory_info\n"
        "tensor = torch.ones(25_000_000)\n"
        "before = taken().rss\n"
        "del tensor\n"
        "kept = taken().rss\n"
        "give_back_memory()\n"
        "print(before - kept < 10_000_000, before - taken().rss > 90_000_000)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is only glibc that can be told to")
def test_memory_that_tensors_leave_is_kept_for_the_next_until_there_are_none(fresh: list[str]) -> None:
    assert fresh[1] == "True True"


def test_the_peak_of_memory_includes_what_was_freed_until_it_starts_again() -> None:
    device = resolve("cpu")
    give_back_memory()
    device.reset_peak_memory()
    before = device.peak_memory()
    tensor = torch.ones(50_000_000)
    del tensor
    assert device.peak_memory() - before > 190_000_000
    give_back_memory()
    device.reset_peak_memory()
    assert device.peak_memory() - before < 100_000_000


def test_which_gpu_it_was_is_recorded_and_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91900)
    device = Device("auto", torch.device("cuda", 0), threads=1)
    assert device.gpu() == {"gpu": "NVIDIA H100", "cuda": "13.0", "cudnn": "91900"}
    experiment = dataclasses.replace(built("data.limit=50"), device=device)
    manifest = describe_run(experiment, tmp_path)
    assert manifest is not None and manifest.tags["runner.device"] == "cuda:0"
    assert manifest.tags["runner.gpu"] == "NVIDIA H100" and manifest.tags["runner.cudnn"] == "91900"
    then = tmp_path / "environment.txt"
    then.write_text(environment(device.gpu() | {"cudnn": "91000"}), encoding="utf-8")
    assert environment_changes(then, device, deterministic=True) == ["cudnn was 91000, is 91900"]


def test_cuda_is_not_asked_of_a_cpu(fresh: list[str]) -> None:
    assert fresh[0] == "{} False"


@no_cuda
def test_auto_says_what_it_became() -> None:
    assert str(resolve("auto", threads=1)) == "auto -> cpu (1 thread)"


def unavailable(name: str) -> Problem:
    """Return the problem with a device that this machine lacks."""
    with pytest.raises(ConfigError) as error:
        resolve(name)
    assert about(error) == [("device", "unavailable")]
    (problem,) = error.value.problems
    assert f"device={name} " in problem.text and "device=auto or device=cpu" in problem.suggestion
    return problem


@no_cuda
class TestNoCuda:
    def test_a_cpu_only_build_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.version, "cuda", None)
        assert "install a CUDA build" in unavailable("cuda").suggestion

    def test_hidden_devices_are_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
        problem = unavailable("cuda")
        assert "CUDA_VISIBLE_DEVICES='-1'" in problem.text and "unset CUDA_VISIBLE_DEVICES" in problem.suggestion

    def test_a_missing_driver_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr("runner.device._has_driver", lambda: False)
        assert "install the driver" in unavailable("cuda").suggestion


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has mps")
def test_mps_says_why_it_is_not_there() -> None:
    assert "MPS" in unavailable("mps").text


@pytest.mark.parametrize(
    ("count", "suggested"), [(1, "write device.index=0"), (2, "device.index=0, or a number up to 1")]
)
def test_an_index_beyond_the_gpus_is_refused(count: int, suggested: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ConfigError) as error:
        resolve("cuda", index=count)
    assert about(error) == [("device.index", "range")]
    (problem,) = error.value.problems
    assert f"device.index={count}:" in problem.text and problem.suggestion.endswith(suggested)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(ConfigError) as error:
        resolve("cuda", index=99)
    assert about(error) == [("device.index", "range")]
    assert "device.index=99" in str(error.value) and "device.index=0" in error.value.problems[0].suggestion


BACKEND = """
import torch
from torch.utils import backend_registration
backend_registration._setup_privateuseone_for_python_backend("tpu")
"""
"""Registers an accelerator that torch reports, as a package of others does; it computes nothing."""

ON_IT = """
from runner.assembly.parts import make_strategy
from runner.device import resolve
from runner.errors import ConfigError
from runner.precision import Precision

for name in ("tpu", "auto"):
    device = resolve(name)
    empty = torch._C._acc.create_empty_tensor((2,), torch.float32)
    print(device, "|", device.untried(), "|", empty.device == device.torch)
device.reset_peak_memory()
print(device.peak_memory(), device.free_memory() > 0)
for attempt in (lambda: resolve("tpu", 1), lambda: resolve("xpu"), lambda: Precision("amp", device.torch),
                lambda: make_strategy({"name": "ddp", "find_unused_parameters": False}, device)):
    try:
        attempt()
    except ConfigError as error:
        print(error)
"""


def test_an_accelerator_that_torch_reports_is_accepted_by_its_name() -> None:
    done = subprocess.run([sys.executable, "-c", BACKEND + ON_IT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "tpu -> tpu:0 | runner was not tried on tpu | True",
        "auto -> tpu:0 | runner was not tried on tpu | True",
        "None True",
        "device.index=1: found 1 tpu device; write device.index=0",
        "device=xpu is not available: torch reports no such accelerator; install a build of torch for Intel GPUs, "
        "or write device=auto or device=cpu",
        "precision=amp is not available: tpu has no autocast in torch; write precision=fp32",
        "strategy=ddp works on cpu and cuda, the device is tpu; write strategy=single, or device=cpu",
    ]


def test_deterministic_refuses_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        set_deterministic(True)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        with pytest.raises(RuntimeError, match="deterministic"):
            torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
    finally:
        set_deterministic(False)
    torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
