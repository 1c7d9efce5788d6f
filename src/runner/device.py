"""Where to compute: `device=auto|cpu|cuda|mps`, resolved before anything is built."""

import contextlib
import ctypes
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import psutil
import torch

from runner.errors import ConfigError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


@dataclass(frozen=True)
class Device:
    """A device that is there.

    Attributes:
        requested: what the config asked for.
        torch: the device tensors go to.
        threads: CPU threads of one operation; sums depend on it in the last bits, so it is recorded.
        evaluation_threads: the same while no weights are trained; None: as many.
    """

    requested: str
    torch: torch.device
    threads: int
    evaluation_threads: int | None = None

    def __str__(self) -> str:
        """`auto -> cpu (2 threads)`."""
        if self.torch.type == "cuda":
            effective = f"{self.torch} ({torch.cuda.get_device_name(self.torch)})"
        elif self.torch.type == "cpu":
            effective = f"cpu ({self.threads} thread{'s' if self.threads > 1 else ''})"
        else:
            effective = str(self.torch)
        return effective if self.requested == effective.split(" ")[0] else f"{self.requested} -> {effective}"

    def with_threads(self, count: int) -> "Device":
        """The same device, with so many CPU threads in this process from here on."""
        torch.set_num_threads(count)
        return replace(self, threads=count)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Compute with the threads that evaluation has: its batches are larger than those of training."""
        count = self.threads if self.evaluation_threads is None else self.evaluation_threads
        if self.torch.type != "cpu" or count == self.threads:
            yield
            return
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(self.threads)

    def gpu(self) -> dict[str, str]:
        """For the record, which GPU it is and by what it computes; nothing of a CPU, where CUDA is not asked."""
        if self.torch.type != "cuda":
            return {}
        return {
            "gpu": torch.cuda.get_device_name(self.torch),
            "cuda": str(torch.version.cuda or torch.version.hip),
            "cudnn": str(torch.backends.cudnn.version()),
        }

    def synchronize(self) -> None:
        """Wait until the device has done what it was told, so that a clock read next is true."""
        if self.torch.type == "cuda":
            torch.cuda.synchronize(self.torch)
        elif self.torch.type == "mps":
            torch.mps.synchronize()

    def check_compiler(self) -> None:
        """See that `torch.compile` can generate code for this device.

        Raises:
            ConfigError: what it needs is missing.
        """
        without = "install it, or write trainer.compile=false"
        if self.torch.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
            raise ConfigError(f"trainer.compile=true needs a C++ compiler, and there is no g++ here: {without}")
        if self.torch.type == "cuda" and importlib.util.find_spec("triton") is None:
            raise ConfigError(f"trainer.compile=true needs the package triton, which is not there: {without}")

    def free_memory(self) -> int:
        """Bytes that tensors could still take."""
        if self.torch.type == "cuda":
            return torch.cuda.mem_get_info(self.torch)[0]
        return free_host_memory()


def free_host_memory() -> int:
    """Bytes that tensors on the CPU could still take."""
    return psutil.virtual_memory().available


def set_deterministic(wanted: bool) -> None:
    """Refuse operations that give another result each time, or allow them.

    On a CPU nothing that runner does itself is of that kind; on a GPU convolutions and some gradients are.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA's cuBLAS is first used
    if torch.are_deterministic_algorithms_enabled() != wanted:  # importing the compiler, as this does, takes a second
        torch.use_deterministic_algorithms(wanted)


def resolve(name: str, index: int = 0, threads: int = 1) -> Device:
    """Find the device and set the number of CPU threads of this process.

    What is computed before the number of threads is known, one computes: statistics of the data and first weights are
    the same on all machines then.

    Raises:
        ConfigError: the device is not there; the sentence says why. There is no silent fallback.
    """
    if name == "auto":
        name_found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    else:
        name_found = name
    if name_found == "cuda":
        _check_cuda(index)
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    elif name_found == "mps":
        _check_mps()
        device = torch.device("mps")
    else:
        device = torch.device("cpu")
        keep_freed_memory()
    # Two cores, an epoch of MNIST's MLP and CNN: flushing denormals (torch.set_flush_denormal) takes 0.96 and 1.02,
    # which is noise, and changes results: it is left alone.
    return Device(requested=name, torch=device, threads=threads).with_threads(threads)


def keep_freed_memory() -> None:
    """Have the C library keep the memory of tensors that are gone for those to come, where it is glibc.

    By itself it gives large blocks back to the system, which hands out empty pages again: that takes the MNIST CNN as
    long as its arithmetic. Two cores, microseconds a sample, with and without: training in batches of 64, 390 and 519;
    of 512, 378 and 560; validation, then in batches of 1,024, 105 and 215. The MLP's batches are too small to matter.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another system, another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_memory() -> None:
    """Have the C library give back what it keeps, where the tensors to come are others than those that are gone."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _check_cuda(index: int) -> None:
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        if index >= count:
            raise ConfigError(
                f"device.index={index}: this machine shows {count} CUDA device(s); write 0 to {count - 1}"
            )
        return
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.version.cuda is None and torch.version.hip is None:
        why = "this torch is a CPU-only build: install a CUDA build of torch"
    elif hidden is not None and hidden.strip() in ("", "-1"):
        why = f"CUDA_VISIBLE_DEVICES={hidden!r} hides every device: unset it"
    elif not _driver_found():
        why = "no NVIDIA driver is installed"
    else:
        why = "the NVIDIA driver shows no usable device (see nvidia-smi)"
    raise ConfigError(f"device=cuda is not available: {why}; or write device=auto or device=cpu")


def _driver_found() -> bool:
    """Whether the NVIDIA driver's own library is on this machine."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _check_mps() -> None:
    if torch.backends.mps.is_available():
        return
    if sys.platform != "darwin":
        why = "it is the GPU of an Apple computer, and this is none"
    elif not torch.backends.mps.is_built():
        why = "this torch was built without it"
    else:
        why = "it needs macOS 14 or later and an Apple GPU"
    raise ConfigError(f"device=mps is not available: {why}; or write device=auto or device=cpu")
