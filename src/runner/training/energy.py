"""Measure the energy of training: from its start, with the compilation, to its end, with validation and checkpoints.

What comes before and after, such as reading the data and the final test, does not count.
"""

import logging
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter

from runner.device import Device
from runner.rundir.energy import METRIC, save, spent
from runner.util.energy import JOULES_PER_KWH, Counter, UnreadableError

log = logging.getLogger("runner")

SAMPLE_SECONDS = 10.0
"""Between two readings of a thread, which also saves the sum: a kill loses at most so much. The counter of a package
starts again at 0 after five minutes at the earliest."""

LOG_SECONDS = 1.0
"""Between two readings for the log: one takes milliseconds, and an epoch of a tiny model takes less."""


class Energy:
    """The energy of a run in kilowatt-hours.

    Args:
        counters: of its device; without any, nothing is measured.
        folder: the run's folder.
        earlier: the energy of earlier starts, in kilowatt-hours; None if there are none, or it is unknown.

    Attributes:
        kwh: the energy as it was logged last, and in the end that of all training; None if it is not measured.
    """

    def __init__(self, counters: Sequence[Counter] = (), folder: Path = Path(), earlier: float | None = None) -> None:
        self._counters, self._folder, self._sum = list(counters), folder, earlier or 0.0
        self.kwh = earlier
        self._logged_at, self._logged_epoch = perf_counter(), 0
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="runner-energy", daemon=True)
        if self._counters:
            self._thread.start()

    def of_epoch(self, epoch: int) -> dict[str, float]:
        """Return the metric to log at an epoch: nothing without counters, or within a second of the last one."""
        if not self._counters or perf_counter() - self._logged_at < LOG_SECONDS:
            return {}
        self._logged_at, self._logged_epoch = perf_counter(), epoch
        return self._read()

    def close(self, epoch: int | None = None) -> dict[str, float]:
        """End the measurement; return the metric of the last epoch, unless it was logged. A second call does nothing.

        Args:
            epoch: the last one; None if training was stopped, or failed.
        """
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        more = self._read() if self._counters and epoch != self._logged_epoch else {}
        if self._counters:
            self._save(self._sum)
            self._counters.clear()
        return more if epoch is not None else {}

    def _read(self) -> dict[str, float]:
        self._sample()
        self.kwh = self._sum if self._counters else None
        return {METRIC: self.kwh} if self.kwh is not None else {}

    def _run(self) -> None:
        while self._counters and not self._stop.wait(SAMPLE_SECONDS):
            self._sample()
            if self._counters:
                self._save(self._sum)

    def _sample(self) -> None:
        """Add the energy since the last sample. A counter that fails ends the measurement: a part is not the sum."""
        with self._lock:
            try:
                self._sum += sum(counter.joules() for counter in self._counters) / JOULES_PER_KWH
            except UnreadableError as error:
                self._counters.clear()
                self.kwh = None
                self._save(None)
                log.info("energy     no longer measured: %s", error)

    def _save(self, kwh: float | None) -> None:
        with suppress(OSError):  # a full disk: training reports what matters
            save(self._folder, kwh)


def measure(device: Device, folder: Path, resumed: bool) -> Energy:
    """Start to measure the energy of a run. Where that is not possible, `run.log` says why, and nothing is measured.

    Args:
        device: of the run.
        folder: of the run.
        resumed: whether it was started before; then the energy of its earlier starts must be known.
    """
    earlier = spent(folder) if resumed else 0.0
    try:
        if earlier is None:
            raise UnreadableError("an earlier start of this run did not measure it")
        counters = device.energy_counters()
    except UnreadableError as error:
        log.debug("energy     not measured: %s", error)
        if resumed and earlier is not None:
            with suppress(OSError):
                save(folder, None)
        return Energy()
    log.debug("energy     measured of: %s", ", ".join(counter.name for counter in counters))
    return Energy(counters, folder, earlier)
