"""Delivery beside the training: a thread that nobody waits for."""

import logging
import threading
import time
from pathlib import Path

from runner.tracking.deliver import Delivery
from runner.tracking.store import explain

log = logging.getLogger("runner")

# Metrics that come faster go out together: a batch of a thousand costs little more than one.
_SECONDS_BETWEEN_STEPS = 1.0
_FIRST_RETRY, _LONGEST_RETRY, _RETRY_WHILE_CLOSING = 1.0, 30.0, 0.25


class DeliveryThread:
    """Calls `Delivery.step` whenever something was written, and again, ever later, when MLflow fails.

    Args:
        folder: the run's folder, with a manifest.
        uri: the store's address, with credentials where it needs them.
    """

    def __init__(self, folder: Path, uri: str | None = None) -> None:
        self._folder = folder
        self._delivery = Delivery(folder, uri)
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self._complete = False
        self._away = False
        # A daemon: a server that never answers must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="runner-delivery", daemon=True)

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow, once it is known."""
        return self._delivery.run_id

    def start(self) -> None:
        """Begin; the first step connects and creates the run."""
        self._wake.set()
        self._thread.start()

    def wake(self) -> None:
        """Say that there is something to deliver; returns at once."""
        self._wake.set()

    def close(self, timeout: float) -> bool:
        """Deliver the rest, for at most `timeout` seconds; call it after the manifest says how the run ended.

        Returns:
            True if MLflow has everything; otherwise `python -m runner.sync` does the rest later.
        """
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout)
        self._abandoned.set()
        self._delivery.abandon()
        return self._complete

    def _run(self) -> None:
        retry = _FIRST_RETRY
        while not self._abandoned.is_set():
            self._wake.wait()
            self._wake.clear()
            try:
                self._complete = self._delivery.step()
            except Exception as error:  # whatever MLflow, SQLAlchemy or the network raise: training goes on
                self._report_away(error)
                if self._closing.is_set():
                    time.sleep(_RETRY_WHILE_CLOSING)  # the time left is short, so is the patience
                else:
                    self._closing.wait(retry)
                retry = min(2 * retry, _LONGEST_RETRY)
                self._wake.set()
                continue
            retry = _FIRST_RETRY
            self._report_back()
            if self._complete:
                return
            self._closing.wait(_SECONDS_BETWEEN_STEPS)

    def _report_away(self, error: Exception) -> None:
        if not self._away and not self._abandoned.is_set():
            self._away = True
            log.warning(
                "the tracking store can't be reached: %s. Training goes on; what is missing there is "
                "delivered when it is back, or by: python -m runner.sync run=%s",
                explain(error),
                self._folder,
            )

    def _report_back(self) -> None:
        if self._away:
            self._away = False
            log.info("the tracking store is back; nothing was lost")
