"""Energy counters: those of the CPU's packages (RAPL, by Linux's powercap) and that of an NVIDIA GPU (NVML).

Both count for the whole machine. A process gets the share of the packages' energy that it and its children have of the
CPU time of all processes, and of a GPU's energy an equal part with the other processes that compute on it.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import psutil

from runner.util import nvml

POWERCAP = Path("/sys/class/powercap")
PACKAGES = "intel-rapl:*"
"""Folders of counters, for AMD too. `intel-rapl-mmio:*` has the same packages again."""

JOULES_PER_KWH = 3.6e6
MAX_WATTS = 2_000.0
"""More than any package takes."""

_MICRO, _MILLI = 1e-6, 1e-3


class UnreadableError(Exception):
    """The energy cannot be measured.

    Attributes:
        why: the reason.
        instead: what to do about it; empty if nothing helps.
    """

    def __init__(self, why: str, instead: str = "") -> None:
        super().__init__(f"{why}; {instead}" if instead else why)
        self.why, self.instead = why, instead


class Counter(Protocol):
    """A counter of energy.

    Attributes:
        name: of what it counts.
    """

    name: str

    def joules(self) -> float:
        """Return the energy in joules that this process has used since the last call, or since the counter was made.

        Raises:
            UnreadableError: the counter cannot be read any more.
        """


def counters(device: str, uuid: str | None = None) -> list[Counter]:
    """Return the counters of a run on a device; they start now.

    On a CPU this is that of its packages. On a GPU it is the GPU's own, with the packages where they can be read.

    Args:
        device: torch's name of its type, such as `cpu`.
        uuid: of an NVIDIA GPU, as torch has it; None for other devices.

    Raises:
        UnreadableError: the device has no counter, or it cannot be read.
    """
    if device == "cpu":
        return [Packages()]
    if uuid is None:
        raise UnreadableError(f"runner knows no energy counter of a device {device} other than NVIDIA's")
    found: list[Counter] = [Gpu(uuid)]
    with suppress(UnreadableError):
        found.append(Packages())
    return found


class Packages:
    """The packages of the CPU: its cores and caches, and the graphics on it; not the memory, disks and fans.

    Parts of a package (`intel-rapl:0:0`) are in its own count, and the domain `psys`, the whole board, includes it.

    Raises:
        UnreadableError: see `Counter`.
    """

    name = "CPU"

    def __init__(self) -> None:
        folders = [folder for folder in sorted(POWERCAP.glob(PACKAGES)) if _is_package(folder)]
        if not folders:
            where = "virtual machines, most containers and systems other than Linux have none"
            raise UnreadableError(f"this machine shows no energy counter of its CPU in {POWERCAP} ({where})")
        self._ranges = {folder: _number(folder / "max_energy_range_uj") for folder in folders}
        self._process = psutil.Process()
        self._last, self._at = self._readings(), time.perf_counter()
        self._own, self._all = own_seconds(self._process), busy_seconds()

    def joules(self) -> float:
        """Return the packages' energy since the last call, times this process's share of the CPU time."""
        before, own_before, all_before = self._last, self._own, self._all
        self._last, self._own, self._all = self._readings(), own_seconds(self._process), busy_seconds()
        used = 0.0
        for folder, reading in self._last.items():
            ahead = reading - before[folder]
            used += ahead if ahead >= 0 else ahead + self._ranges[folder]  # it has started again at 0
        since, self._at = self._at, time.perf_counter()
        if used * _MICRO > MAX_WATTS * len(self._last) * max(1.0, self._at - since):
            raise UnreadableError("the energy counter of the CPU has jumped, as after a suspension of the machine")
        own = max(0.0, self._own - own_before)  # the time of a child that nobody waited for is lost with it
        everyone = max(own, self._all - all_before)  # which is counted in hundredths of a second
        return used * _MICRO * own / everyone if everyone else 0.0

    def _readings(self) -> dict[Path, int]:
        return {folder: _number(folder / "energy_uj") for folder in self._ranges}


def _is_package(folder: Path) -> bool:
    """Return whether a domain is a whole package: `package-0`, or one of its dies, `package-0-die-1`."""
    try:
        return folder.name.count(":") == 1 and (folder / "name").read_text().startswith("package")
    except (OSError, ValueError):  # hidden in a container
        return False


def _number(file: Path) -> int:
    try:
        return int(file.read_text())
    except PermissionError:
        allow = f"allow all users to read it until the next boot: sudo chmod a+r {POWERCAP}/{PACKAGES}/energy_uj"
        raise UnreadableError(f"only root can read {file}", allow) from None
    except (OSError, ValueError) as error:
        raise UnreadableError(f"{file} cannot be read ({getattr(error, 'strerror', None) or error})") from None


def own_seconds(process: psutil.Process) -> float:
    """Return the seconds of CPU time that this process and its children, at any depth, have used so far."""
    ended = os.times()
    seconds = time.process_time() + ended.children_user + ended.children_system
    for child in process.children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            seconds += sum(child.cpu_times()[:4])  # user and system, its own and its ended children's
    return seconds


def busy_seconds() -> float:
    """Return the seconds that all CPUs together have worked since the machine's start."""
    times = psutil.cpu_times()  # the time of guests is in `user` and `nice`
    return sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))


class Gpu:
    """An NVIDIA GPU, Volta or later; not a part of one (MIG).

    Args:
        uuid: of the GPU, as torch has it.

    Raises:
        UnreadableError: see `Counter`.
    """

    name = "GPU"

    def __init__(self, uuid: str) -> None:
        try:
            self._nvml = nvml.connect()
        except ImportError:
            install = "install it: pip install nvidia-ml-py"
            raise UnreadableError("the GPU's energy is read by nvidia-ml-py, which is missing", install) from None
        except Exception as error:  # the library of a driver may be missing, too old, or of another version
            raise UnreadableError(f"NVIDIA's driver does not tell the GPU's energy ({error})") from None
        self._handle = self._ask(nvml.handle_of, self._nvml, uuid)
        self._last = self._reading()

    def joules(self) -> float:
        """Return the GPU's energy since the last call, divided by the number of processes that compute on it."""
        before, self._last = self._last, self._reading()
        if self._last < before:
            raise UnreadableError("the GPU's energy counter has started again at 0, as the driver was loaded again")
        sharing = len(self._ask(self._nvml.nvmlDeviceGetComputeRunningProcesses, self._handle))
        return (self._last - before) * _MILLI / max(1, sharing)

    def _reading(self) -> int:
        return int(self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption, self._handle))

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._nvml.NVMLError as error:
            raise UnreadableError(f"this GPU does not tell its energy to NVML ({error})") from None
