"""What the person sees, and `run.log`: plain lines on standard error, under a progress bar if it is a terminal."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter, time

from tqdm import tqdm

from .settings import TrainerSettings
from .tracking.uri import redact

log = logging.getLogger("runner")

REFRESH_SECONDS = 0.2  # each refresh of the bar reads the running loss from the device
PAGE_SECONDS = 5.0  # in the page of a notebook, which may save each refresh


class _Redacted(logging.Formatter):
    """No line, and no traceback, gives a secret away."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _Terminal(logging.Handler):
    """Lines on standard error that do not tear a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def set_up(quiet: bool = False) -> None:
    """Send runner's lines to standard error; of warnings, with `quiet`, only those."""
    log.handlers = [handler for handler in log.handlers if not isinstance(handler, _Terminal)]
    terminal = _Terminal(logging.WARNING if quiet else logging.INFO)
    terminal.setFormatter(_Redacted())
    log.addHandler(terminal)
    log.setLevel(logging.DEBUG)
    log.propagate = False


def moves_up() -> bool:
    """Whether a terminal can redraw several lines; the page of a notebook, whose `!` has a terminal, cannot."""
    return "JPY_PARENT_PID" not in os.environ and os.environ.get("TERM") != "dumb"


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Say on a terminal what is waited for, as long as it is."""
    if not sys.stderr.isatty():
        yield
        return
    print(text, end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        # Over it and back: the page of a notebook shows the code that clears a line, or leaves what was there.
        print(f"\r{' ' * len(text)}\r", end="", file=sys.stderr, flush=True)


class _LogFile(logging.FileHandler):
    """A file that may be on a disk that is full: a line that it does not take is lost, and training goes on."""

    def handleError(self, record: logging.LogRecord) -> None: ...  # noqa: N802 - logging's name


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Keep every line in a file too, with its time; tracebacks stand only there.

    Raises:
        OSError: the file cannot be opened.
    """
    handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_Redacted("%(asctime)s %(levelname)-7s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        with suppress(OSError):
            handler.close()


class Bar:
    """The progress of training: a bar an epoch on a terminal, one line an epoch everywhere.

    Args:
        trainer: for the number of epochs.
        batch_size: of the training batches.
        samples: of the training part.
        quiet: show no bar.
    """

    def __init__(self, trainer: TrainerSettings, batch_size: int, samples: int, quiet: bool = False) -> None:
        self._epochs = trainer.epochs
        self._batch_size, self._samples = batch_size, samples
        self._bar: tqdm | None = None
        self._shown = sys.stderr.isatty() and not quiet
        self._seconds = REFRESH_SECONDS if moves_up() else PAGE_SECONDS
        self._next = 0.0
        self._epoch = self._started_at_sample = 0
        self._started = 0.0

    def start_epoch(self, epoch: int, batches: int, done: int) -> None:
        """Show nothing yet: an epoch of milliseconds needs no bar."""
        self._epoch, self._started = epoch, perf_counter()
        self._started_at_sample = done * self._batch_size
        self._next = self._started + self._seconds

    def due(self) -> bool:
        """Whether it is time to refresh."""
        return self._shown and perf_counter() >= self._next

    def batch(self, done: int, loss: float) -> None:
        """Redraw the bar of this epoch."""
        if self._bar is None:
            self._bar = tqdm(
                desc=self._title(),
                total=self._samples,
                leave=False,
                dynamic_ncols=True,
                file=sys.stderr,
                bar_format="{desc} {percentage:3.0f}% {bar} {elapsed}<{remaining}{postfix}",
            )
        samples = min(done * self._batch_size, self._samples)
        seconds = perf_counter() - self._started
        self._bar.start_t = time() - seconds  # the ETA is this epoch's
        self._bar.n, self._bar.initial = samples, self._started_at_sample
        self._bar.set_description_str(self._title(), refresh=False)
        rate = (samples - self._started_at_sample) / seconds
        self._bar.set_postfix_str(f"loss {loss:.4f}, {rate:,.0f} samples/s", refresh=False)
        self._bar.refresh()
        self._next = perf_counter() + self._seconds

    def end_epoch(self, epoch: int, metrics: dict[str, float], seconds: float, best: bool) -> None:
        """Print the epoch's line."""
        self.close()
        parts = [self._title()]
        for part in ("train", "val"):
            values = [
                f"{name.partition('/')[2]} {shown(name, value)}"
                for name, value in metrics.items()
                if name.startswith(f"{part}/")
            ]
            if values:
                parts.append(f"{part} " + " ".join(values))
        parts.append(duration(seconds))
        log.info("  ".join(parts) + ("  best" if best else ""))

    def _title(self) -> str:
        return f"epoch {self._epoch:>{len(str(self._epochs))}}/{self._epochs}"

    def note(self, text: str) -> None:
        """Print a line."""
        log.warning(text)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def shown(name: str, value: float) -> str:
    """A metric's value for people: accuracies in per cent, small losses with their leading digits."""
    if name.endswith("accuracy"):
        return f"{100 * value:6.2f} %"
    return f"{value:.4f}" if abs(value) >= 0.01 or value == 0 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.3g} min" if minutes < 120 else f"{minutes / 60:.3g} h"
