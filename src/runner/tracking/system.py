"""System metrics (`system/...`): the load of the machine during the run, with MLflow's names."""

import contextlib
import logging
import sys
import threading
from typing import Any

import psutil

from runner.rundir.journal import Journal
from runner.util import nvml

log = logging.getLogger("runner")

_MEGABYTE = 1e6
SYSTEM = "system/"
"""Prefix of the names of system metrics."""

_FIRST = f"{SYSTEM}cpu_utilization_percentage"


class SystemMetrics:
    """Samples the machine in a thread and writes to the journal; the step is the sample's number.

    Args:
        journal: the journal; in a resumed run the numbers continue where it ends.
        interval: seconds between two samples; there is one at the start and one at the end too.
    """

    def __init__(self, journal: Journal, interval: float = 10.0) -> None:
        self._journal = journal
        self._interval = interval
        self._step = journal.last_step(_FIRST) + 1
        self._process = psutil.Process()
        self._network = psutil.net_io_counters()
        self._gpus: _Gpus | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="runner-system-metrics", daemon=True)

    def start(self) -> None:
        """Start the thread, which takes the first sample at once."""
        psutil.cpu_percent()  # the first call only starts the interval that the next one measures
        self._thread.start()

    def stop(self) -> None:
        """Take the last sample and end."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._sample()
            while not self._stop.wait(self._interval):
                self._sample()
            self._sample()
        except OSError as error:  # the disk is full, or a counter is missing; training reports what matters
            log.info("system metrics stopped: %s", error)

    def _sample(self) -> None:
        memory = psutil.virtual_memory()
        disk = psutil.disk_usage(str(self._journal.path.parent))
        metrics = {
            _FIRST: psutil.cpu_percent(),
            "system/process_memory_usage_megabytes": self._process.memory_info().rss / _MEGABYTE,
            "system/system_memory_usage_megabytes": memory.used / _MEGABYTE,
            "system/system_memory_usage_percentage": memory.used / memory.total * 100,
            "system/disk_usage_percentage": disk.percent,
            "system/disk_usage_megabytes": disk.used / _MEGABYTE,
            "system/disk_available_megabytes": disk.free / _MEGABYTE,
        }
        network = psutil.net_io_counters()
        if network is not None and self._network is not None:
            received, sent = network.bytes_recv, network.bytes_sent
            metrics["system/network_receive_megabytes"] = (received - self._network.bytes_recv) / _MEGABYTE
            metrics["system/network_transmit_megabytes"] = (sent - self._network.bytes_sent) / _MEGABYTE
        self._gpus = self._gpus or _find_gpus()
        if self._gpus is not None:
            metrics |= self._gpus.sample()
        self._journal.write({name: round(value, 1) for name, value in metrics.items()}, self._step)
        self._step += 1


def _find_gpus() -> "_Gpus | None":
    """Find GPUs once torch uses one; this does not initialize CUDA or import torch."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is None or not getattr(cuda, "is_initialized", lambda: False)():
        return None
    return _Gpus(cuda)


class _Gpus:
    """The NVIDIA devices visible to torch; without NVML, only the memory that torch holds.

    `torch.cuda.mem_get_info` has more, but creates a context (hundreds of megabytes) on every device.
    """

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._nvml: Any = None
        with contextlib.suppress(Exception):  # not installed, or installed without the driver's library
            self._nvml = nvml.connect()

    def sample(self) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for index in range(self._cuda.device_count()):
            properties = self._cuda.get_device_properties(index)
            used, total = self._cuda.memory_reserved(index), properties.total_memory
            if self._nvml is not None:
                with contextlib.suppress(self._nvml.NVMLError):  # a partitioned GPU has no such values
                    handle = nvml.handle_of(self._nvml, properties.uuid)
                    used = self._nvml.nvmlDeviceGetMemoryInfo(handle).used
                    metrics |= _load(self._nvml, handle, f"system/gpu_{index}")
            metrics[f"system/gpu_{index}_memory_usage_megabytes"] = used / _MEGABYTE
            metrics[f"system/gpu_{index}_memory_usage_percentage"] = used / total * 100
        return metrics


def _load(library: Any, handle: Any, prefix: str) -> dict[str, float]:
    power, limit = library.nvmlDeviceGetPowerUsage(handle), library.nvmlDeviceGetEnforcedPowerLimit(handle)
    return {
        f"{prefix}_utilization_percentage": float(library.nvmlDeviceGetUtilizationRates(handle).gpu),
        f"{prefix}_power_usage_watts": power / 1000,
        f"{prefix}_power_usage_percentage": power / limit * 100,
    }
