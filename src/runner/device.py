"""The device of the computation: `device=auto|cpu|cuda|mps|xpu|...`, resolved before anything is built.

Devices besides these three are those that torch reports as its accelerator: of a build, as `xpu`, or of a package that
torch imports by itself, as `tpu`.
"""

import contextlib
import ctypes
import gc
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import psutil
import torch

from runner.errors import ConfigError, Problem
from runner.util import advice, cgroup, energy, memory
from runner.util.accelerators import available
from runner.util.energy import Counter

ACCELERATORS = {
    "xpu": "a build of torch for Intel GPUs",
    "tpu": "the package torch_tpu, which torch imports by itself (torch_xla is not used)",
    "hpu": "the package habana_frameworks, for Intel Gaudi",
    "npu": "the package torch_npu, for Huawei Ascend",
}
"""What adds an accelerator to torch."""

TRIED = ("cpu", "cuda")
"""Devices that runner was run on."""

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


@dataclass(frozen=True)
class Device:
    """An available device.

    Attributes:
        requested: the name in the config.
        torch: the device of the tensors.
        threads: CPU threads per operation; recorded, because the last bits of sums depend on it.
        evaluation_threads: CPU threads per operation in evaluation; None: `threads`.
    """

    requested: str
    torch: torch.device
    threads: int
    evaluation_threads: int | None = None

    def __str__(self) -> str:
        """Return requested and actual device: `auto -> cpu (2 threads)`."""
        if self.torch.type == "cuda":
            effective = f"{self.torch} ({torch.cuda.get_device_name(self.torch)})"
        elif self.torch.type == "cpu":
            effective = f"cpu ({self.threads} thread{'s' if self.threads > 1 else ''})"
        else:
            effective = str(self.torch)
        return effective if self.requested == effective.split(" ")[0] else f"{self.requested} -> {effective}"

    def with_threads(self, count: int) -> "Device":
        """Set the number of CPU threads of this process, and return the device with it."""
        torch.set_num_threads(count)
        return replace(self, threads=count)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Use the threads of evaluation, whose batches are larger than those of training."""
        count = self.threads if self.evaluation_threads is None else self.evaluation_threads
        if self.torch.type != "cpu" or count == self.threads:
            yield
            return
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(self.threads)

    def untried(self) -> str | None:
        """Return a warning if runner was never run on such a device."""
        return None if self.torch.type in TRIED else f"runner was not tried on {self.torch.type}"

    def gpu(self) -> dict[str, str]:
        """Describe the GPU and its libraries for the record; empty for a CPU, without a call to CUDA."""
        if self.torch.type != "cuda":
            return {}
        return {
            "gpu": torch.cuda.get_device_name(self.torch),
            "cuda": str(torch.version.cuda or torch.version.hip),
            "cudnn": str(torch.backends.cudnn.version()),
        }

    def energy_counters(self) -> list[Counter]:
        """Return the energy counters of this process on the device, which start now.

        Raises:
            UnreadableError: there are none, or they cannot be read.
        """
        is_nvidia = self.torch.type == "cuda" and torch.version.hip is None
        uuid = str(torch.cuda.get_device_properties(self.torch).uuid) if is_nvidia else None
        return energy.counters(self.torch.type, uuid)

    def synchronize(self) -> None:
        """Wait until all queued work of the device is done, so that clocks measure it."""
        if self.torch.type == "cuda":
            torch.cuda.synchronize(self.torch)
        elif self.torch.type == "mps":
            torch.mps.synchronize()
        elif self.torch.type != "cpu":
            torch.accelerator.synchronize(self.torch)

    def check_compiler(self) -> None:
        """Check that `torch.compile` can generate code for this device.

        Raises:
            ConfigError: a compiler or a package is missing.
        """
        key, without = "trainer.compile", "write trainer.compile=false"
        if self.torch.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
            text = "trainer.compile=true requires a C++ compiler, and g++ is not installed"
            raise ConfigError(Problem(key, text, f"install g++, or {without}", topic="unavailable"))
        if self.torch.type == "cuda" and importlib.util.find_spec("triton") is None:
            text = "trainer.compile=true requires the package triton, and it is not installed"
            raise ConfigError(Problem(key, text, f"install triton, or {without}", topic="unavailable"))

    def release_memory(self) -> None:
        """Free what only an error still refers to, and let the allocator give back what it keeps of freed tensors."""
        gc.collect()
        if self.torch.type == "cpu":
            give_back_memory()
        else:
            torch.accelerator.memory.empty_cache()

    def reset_peak_memory(self) -> None:
        """Start the peak of `peak_memory` again."""
        if self.torch.type == "cpu":
            memory.reset_peak()
        else:
            with contextlib.suppress(RuntimeError):  # a backend that does not count
                torch.accelerator.memory.reset_peak_memory_stats(self.torch)

    def peak_memory(self) -> int | None:
        """Return the most bytes that tensors had on the device; on a CPU, that the process had in memory.

        Returns:
            None if the device does not count them.
        """
        if self.torch.type == "cpu":
            return memory.peak()
        with contextlib.suppress(RuntimeError):
            return torch.accelerator.memory.max_memory_allocated(self.torch) or None
        return None

    def free_memory(self) -> int:
        """Return the bytes that are free for tensors."""
        if self.torch.type == "cuda":
            return torch.cuda.mem_get_info(self.torch)[0]
        if self.torch.type not in ("cpu", "mps"):  # the memory of an Apple GPU is that of its computer
            with contextlib.suppress(RuntimeError):  # a backend that does not say it
                return torch.accelerator.memory.get_memory_info(self.torch)[0]
        return free_host_memory()


def free_host_memory() -> int:
    """Return the bytes that are free for tensors on the CPU: of the machine, and of a container or job with a limit."""
    free, of_group = psutil.virtual_memory().available, cgroup.free_memory()
    return free if of_group is None else min(free, of_group)


def set_deterministic(enabled: bool) -> None:
    """Refuse operations whose result differs from call to call, or allow them.

    On a CPU runner itself uses none; on a GPU convolutions and some gradients are non-deterministic.
    """
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first use of cuBLAS
    if torch.are_deterministic_algorithms_enabled() != enabled:  # it imports the compiler, which takes a second
        torch.use_deterministic_algorithms(enabled)


def resolve(name: str, index: int = 0, threads: int = 1) -> Device:
    """Find the device, and set the number of CPU threads of this process.

    Before the number of threads is known, one thread computes: statistics of the data and initial weights are then the
    same on all machines.

    Raises:
        ConfigError: the device is not available, and why. There is no silent fallback.
    """
    resolved = name
    if name == "auto":
        resolved = next(iter(available()), "cpu")
    if resolved == "cuda":
        _check_cuda(index)
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    elif resolved == "mps":
        _check_mps()
        device = torch.device("mps")
    elif resolved != "cpu":
        _check_accelerator(resolved, index)
        torch.accelerator.set_device_index(index)
        device = torch.device(resolved, index)
    else:
        device = torch.device("cpu")
        keep_freed_memory()
    # torch.set_flush_denormal is not used: it changes results, and an epoch of MNIST's MLP and CNN takes 0.96 and 1.02
    # times as long with it on two cores, which is noise.
    return Device(requested=name, torch=device, threads=threads).with_threads(threads)


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors for new ones.

    By default it returns large blocks to the system, which then has to provide empty pages again: for the MNIST CNN
    that takes as long as its arithmetic. Microseconds per sample on two cores, with and without: training with batches
    of 64, 390 and 519; of 512, 378 and 560; validation, then with batches of 1,024, 105 and 215. The MLP's batches are
    too small for a difference.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another system, another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_memory() -> None:
    """Return the memory that glibc keeps to the system, where the next tensors have other sizes."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _check_cuda(index: int) -> None:
    if torch.cuda.is_available():
        _check_index("CUDA", index, torch.cuda.device_count())
        return
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.version.cuda is None and torch.version.hip is None:
        reason, fix = "this torch is a CPU-only build", "install a CUDA build of torch"
    elif hidden is not None and hidden.strip() in ("", "-1"):
        reason, fix = f"CUDA_VISIBLE_DEVICES={hidden!r} hides all devices", "unset CUDA_VISIBLE_DEVICES"
    elif not _has_driver():
        reason, fix = "no NVIDIA driver is installed", "install the driver"
    else:
        reason, fix = "the NVIDIA driver reports no usable device", "see nvidia-smi"
    raise _unavailable("cuda", reason, fix)


def _check_index(name: str, index: int, count: int) -> None:
    if index >= count:
        text = f"device.index={index}: found {count} {name} device{'s' if count > 1 else ''}"
        suggestion = "write device.index=0" + (f", or a number up to {count - 1}" if count > 1 else "")
        raise ConfigError(Problem("device.index", text, suggestion, topic="range"))


def _check_accelerator(name: str, index: int) -> None:
    if name in available():
        _check_index(name, index, torch.accelerator.device_count())
    elif name in ACCELERATORS:
        raise _unavailable(name, "torch reports no such accelerator", f"install {ACCELERATORS[name]}")
    else:
        names = ("auto", "cpu", "cuda", "mps", *ACCELERATORS)
        suggestion = advice.for_choice("device", name, names)
        raise ConfigError(Problem("device", f"device={name} is not a choice", suggestion, topic="choice"))


def _unavailable(name: str, reason: str, fix: str = "") -> ConfigError:
    suggestion = "write device=auto or device=cpu"
    suggestion = f"{fix}, or {suggestion}" if fix else suggestion
    return ConfigError(Problem("device", f"device={name} is not available: {reason}", suggestion, topic="unavailable"))


def _has_driver() -> bool:
    """Return whether this machine has the library of the NVIDIA driver."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _check_mps() -> None:
    if torch.backends.mps.is_available():
        return
    if sys.platform != "darwin":
        raise _unavailable("mps", "MPS requires an Apple GPU")
    if not torch.backends.mps.is_built():
        raise _unavailable("mps", "this torch was built without MPS", "install a build of torch with MPS")
    raise _unavailable("mps", "MPS requires macOS 14 or later and an Apple GPU")
