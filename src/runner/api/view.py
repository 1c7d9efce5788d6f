"""What a call shows while it works: the lines of the log, and a progress bar in a notebook or on a terminal."""

import importlib.util
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from runner.errors import Problem
from runner.util.events import read_problems
from runner.util.metric_names import format_metric
from runner.util.terminal import EPOCH


def in_notebook() -> bool:
    """Return whether this is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


class View:
    """Shows the messages of a run or a sweep, and remembers what the call needs at its end.

    Attributes:
        folder: of the run or the sweep; None before it exists.
        problems: why nothing was started.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.problems: list[Problem] = []
        self._notebook = in_notebook()
        self._has_bar = self._notebook or sys.stderr.isatty()
        self._bar: tqdm | None = None

    def receive(self, message: Mapping[str, Any]) -> None:
        """Show a message; see `runner.util.events`."""
        match message["kind"]:
            case "folder":
                self.folder = Path(message["path"])
            case "problems":
                self.problems = read_problems(message)
            case "progress" if self._has_bar:
                self._progress(message)
            case "line":
                self._line(message)

    def _line(self, message: Mapping[str, Any]) -> None:
        if message["topic"] == EPOCH and self._notebook:
            return  # the bar shows it
        routine = self._notebook and message["level"] < logging.WARNING
        self.show(f"{message['text']}\n", sys.stdout if routine else sys.stderr)

    def show(self, text: str, file: Any = None) -> None:
        """Print what the process prints, above the bar."""
        file = sys.stderr if file is None else file
        if self._bar is None:
            file.write(text)
            file.flush()
            return
        with self._bar.external_write_mode(file):
            file.write(text)

    def _progress(self, message: Mapping[str, Any]) -> None:
        if self._bar is None:
            self._bar = _bar_kind(self._notebook)(
                total=message["total"], desc=f"{message['unit']}s", leave=self._notebook
            )
        bar = self._bar
        bar.total, bar.n = message["total"], round(message["done"], 2)
        values = {name: value for name, value in message["metrics"].items() if not name.startswith(("time/", "lr"))}
        shown = [f"{name} {format_metric(name, value).strip()}" for name, value in values.items()]
        bar.set_postfix_str(", ".join(shown), refresh=False)
        bar.refresh()

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _bar_kind(notebook: bool) -> type[tqdm]:
    """Return tqdm's bar for this place; the one of notebooks needs ipywidgets. Neither starts tqdm's own thread."""
    kind: type[tqdm] = tqdm
    if notebook and importlib.util.find_spec("ipywidgets") is not None:
        from tqdm.notebook import tqdm_notebook

        kind = tqdm_notebook
    return type(kind.__name__, (kind,), {"monitor_interval": 0})
