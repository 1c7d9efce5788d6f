"""The display of training: a progress bar on a terminal, and a line per epoch everywhere."""

import logging
import sys
from time import perf_counter, time

from tqdm import tqdm

from runner.util import events
from runner.util.metric_names import format_metric, without_details
from runner.util.tables import format_duration
from runner.util.terminal import EPOCH, about, can_redraw_lines

log = logging.getLogger("runner")

REFRESH_SECONDS = 0.2  # each refresh of the bar reads the running loss from the device

PAGE_SECONDS = 5.0  # on a notebook page, which may save each refresh


class Bar:
    """A progress bar per epoch on a terminal, and a line per epoch everywhere.

    Args:
        epochs: the planned number of epochs.
        batch_size: the size of the training batches.
        samples: the number of training samples.
        quiet: show no bar.
    """

    def __init__(self, epochs: int, batch_size: int, samples: int, quiet: bool = False) -> None:
        self._epochs = epochs
        self._batch_size, self._samples = batch_size, samples
        self._bar: tqdm | None = None
        self._shown = sys.stderr.isatty() and not quiet
        self._seconds = REFRESH_SECONDS if can_redraw_lines() else PAGE_SECONDS
        self._next = 0.0
        self._epoch = self._started_at_sample = 0
        self._started = 0.0

    def start_epoch(self, epoch: int, batches: int, done: int) -> None:
        """Start the clock of the bar; it appears at the first refresh: an epoch of milliseconds needs none."""
        self._epoch, self._started = epoch, perf_counter()
        self._started_at_sample = done * self._batch_size
        self._next = self._started + self._seconds

    def due(self) -> bool:
        """Return whether to refresh the bar."""
        return self._shown and perf_counter() >= self._next

    def batch(self, done: int, loss: float) -> None:
        """Refresh the bar."""
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
        self._bar.start_t = time() - seconds  # the ETA is that of this epoch
        self._bar.n, self._bar.initial = samples, self._started_at_sample
        self._bar.set_description_str(self._title(), refresh=False)
        rate = (samples - self._started_at_sample) / seconds
        self._bar.set_postfix_str(f"loss {loss:.4f}, {rate:,.0f} samples/s", refresh=False)
        self._bar.refresh()
        self._next = perf_counter() + self._seconds

    def end_epoch(self, epoch: int, metrics: dict[str, float], seconds: float, best: bool) -> None:
        """Log the line of the epoch."""
        self.close()
        parts = [self._title()]
        for part in ("train", "val"):
            values = [
                f"{name.partition('/')[2]} {format_metric(name, value)}"
                for name, value in without_details(metrics).items()
                if name.startswith(f"{part}/")
            ]
            if values:
                parts.append(f"{part} " + " ".join(values))
        parts.append(format_duration(seconds))
        log.info("  ".join(parts) + ("  best" if best else ""), extra=about(EPOCH))

    def _title(self) -> str:
        return f"epoch {self._epoch:>{len(str(self._epochs))}}/{self._epochs}"

    def note(self, text: str) -> None:
        """Log a warning."""
        log.warning(text)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class SentBar(Bar):
    """Sends the progress to the notebook or script that started the run, and logs a line per epoch."""

    def due(self) -> bool:
        """Return whether to send the progress."""
        return perf_counter() >= self._next

    def batch(self, done: int, loss: float) -> None:
        """Send the share of the epoch that is done."""
        self._next = perf_counter() + REFRESH_SECONDS
        self._send(min(done * self._batch_size / self._samples, 1.0), {"train/loss": loss})

    def end_epoch(self, epoch: int, metrics: dict[str, float], seconds: float, best: bool) -> None:
        """Send the epoch's metrics."""
        super().end_epoch(epoch, metrics, seconds, best)
        self._send(1.0, metrics)

    def _send(self, share: float, metrics: dict[str, float]) -> None:
        done = self._epoch - 1 + share
        events.send("progress", done=done, total=self._epochs, unit="epoch", metrics=without_details(metrics))


def make_bar(epochs: int, batch_size: int, samples: int, quiet: bool = False) -> Bar:
    """Make the display for this process; see `Bar`."""
    return (SentBar if events.is_heard() and not quiet else Bar)(epochs, batch_size, samples, quiet)
