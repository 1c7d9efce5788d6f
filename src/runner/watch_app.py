"""The display of `runner.watch`, and what its keys do. It needs textual and plotext, which are extras."""

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plotext
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import DataTable, Footer, Header, Input, Static
from textual.worker import Worker

from runner.errors import ConfigError
from runner.rundir import lock, requests
from runner.rundir.folders import display_path
from runner.saved.live import LOSSES, LiveRun, LiveRuns
from runner.util.metric_names import format_metric

REFRESH_SECONDS = 1.0
"""Two hundred runs, of which five train, then take 3.6 % of a core (a busy AMD EPYC)."""

COLUMNS = ("status", "epoch", "value", "best", "run", "seconds ago")
COLOURS = {"RUNNING": "green", "FAILED": "red", "KILLED": "yellow", "PAUSED": "blue", "WAITING": "bright_black"}
LOG_LINES = 200
LEGEND = 16
"""Columns of a legend and of the numbers beside a plot, without the names in it."""


def draw(run: LiveRun, width: int, height: int) -> str:
    """Draw the curves of a run: losses, and the metric that decides which epoch is the best.

    Args:
        run: that is drawn.
        width: in columns.
        height: in lines.

    Returns:
        Lines with colours; empty if there is nothing to draw.
    """
    figure = plotext.figure
    figure.clear()
    figure.theme("simple")
    width = max(width, 30)
    figure.plot_size(width, max(height, 6))
    names = LOSSES if run.metric in LOSSES else (run.metric,)
    finite = {name: [point for point in run.curves.get(name, ()) if math.isfinite(point[1])] for name in names}
    figure.legend(x=width - max(map(len, names)) - LEGEND)  # at the right, where losses have fallen
    for name, points in finite.items():
        if points:  # plotext takes neither none nor others
            curve = figure.signal(*map(list, zip(*points, strict=True)))
            curve.lines()
            curve.label(name)
            figure.draw(curve)
    return str(figure.build().string()) if any(finite.values()) else ""


def stop(run: LiveRun) -> str:
    """Stop a run, which writes a checkpoint; a job by its sweep."""
    if run.sweep is not None:
        return _ask(run.sweep, {"stop": run.job})
    holder = lock.holder(run.folder)
    if holder is None:
        return f"{run.name} does not run"
    number, machine = holder
    if machine != socket.gethostname():
        return f"{run.name} runs on {machine}: stop it there"
    os.kill(number, signal.SIGTERM)
    return f"{run.name} writes a checkpoint and stops"


def go_on(run: LiveRun) -> str:
    """Go on with a stopped run, in the background; a job by its sweep."""
    if run.sweep is not None and lock.is_locked(run.sweep):
        return _ask(run.sweep, {"go_on": run.job})
    if run.status not in ("KILLED", "PAUSED"):
        return f"{run.name} is {run.status}"
    command = [sys.executable, "-m", "runner", f"resume={run.folder}"]
    subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    return f"{run.name} goes on; what it says is in its log"


def clone(run: LiveRun, changes: str) -> str:
    """Add a job like this one to its sweep, with changes such as `optimizer.lr=0.01`."""
    if run.sweep is None:
        return "only a job of a running sweep can be cloned"
    if not changes.split():
        return "nothing is changed"
    return _ask(run.sweep, {"clone": run.job, "overrides": changes.split()})


def _ask(sweep: Path, request: dict[str, Any]) -> str:
    if not lock.is_locked(sweep):
        return f"{display_path(sweep)} does not run"
    answer = requests.ask(sweep, request)
    if answer is None:
        return f"{display_path(sweep)} does not answer"
    return answer["done"] if "done" in answer else "; ".join(problem["text"] for problem in answer["problems"])


def cells(run: LiveRun, now: float) -> tuple[str, ...]:
    """Return the cells of a run's row, in the order of `COLUMNS`."""
    last, best = run.last(run.metric), run.best
    epoch = f"{run.epoch}/{run.epochs}" if run.epochs else ""
    values = ["" if value is None else format_metric(run.metric, value).strip() for value in (last, best)]
    ago = f"{max(0.0, now - run.changed):.0f}" if run.changed and run.status == "RUNNING" else ""
    name = run.name if run.sweep is None else f"{run.sweep.name}/{run.job} {run.name}"
    return run.status, epoch, *values, name, ago


class Watch(App[None]):
    """The display.

    Args:
        runs: that it shows.
        title: of the window.
    """

    CSS = """
    DataTable { height: 1fr; }
    #below { height: 16; }
    #curve { width: 1fr; height: 100%; }
    #log { width: 1fr; }
    #changes { display: none; dock: bottom; }
    #changes.shown { display: block; }
    """
    BINDINGS = [  # noqa: RUF012 (textual reads it from the class)
        Binding("s", "do('stop')", "stop"),
        Binding("g", "do('go_on')", "go on"),
        Binding("c", "clone", "clone"),
        Binding("escape", "hide", "cancel", show=False),
        Binding("q", "quit", "quit"),
    ]

    def __init__(self, runs: LiveRuns, title: str) -> None:
        super().__init__()
        self._runs, self._title = runs, title
        self._shown: dict[Path, tuple[str, ...]] = {}
        self._drawn: Path | None = None

    def compose(self) -> ComposeResult:
        """Lay it out: the table, below it curves and log, and a line for changes that shows when it is needed."""
        yield Header()
        yield DataTable(cursor_type="row")
        with Horizontal(id="below"):
            yield Static(id="curve")
            with VerticalScroll(id="log"):
                yield Static(id="lines")
        yield Input(placeholder="changes, such as optimizer.lr=0.01 (Escape: none)", id="changes")
        yield Footer()

    def on_mount(self) -> None:
        """Show the runs, and from now on what changes."""
        self.title = f"runner.watch {self._title}"
        self._columns = self.query_one(DataTable).add_columns(*COLUMNS)
        self.update_runs()
        self.set_interval(REFRESH_SECONDS, self.update_runs)

    def update_runs(self) -> None:
        """Show what has changed since the last call."""
        table, now = self.query_one(DataTable), time.time()
        chosen, changed, is_moved = self.chosen(), self._runs.refresh(), False
        for folder in [each for each in self._shown if each not in self._runs.runs]:
            table.remove_row(str(folder))
            del self._shown[folder]
        for folder, run in self._runs.runs.items():
            if folder not in changed and run.status != "RUNNING":
                continue
            row = cells(run, now)
            before = self._shown.get(folder)
            self._shown[folder] = row
            is_moved = is_moved or before is None or before[0] != row[0]
            styled = [Text(row[0], COLOURS.get(row[0], "")), *row[1:]]
            if before is None:
                table.add_row(*styled, key=str(folder))
                continue
            for place, value in enumerate(styled):
                if row[place] != before[place]:
                    table.update_cell(str(folder), self._columns[place], value)
        if is_moved:
            self._sort(chosen)
        self.sub_title = self._counts()
        if (run_now := self.chosen()) is not None and (run_now.folder in changed or run_now.folder != self._drawn):
            self.show_run(run_now)

    def _sort(self, chosen: LiveRun | None) -> None:
        """Show those that run first, then the newest; the cursor stays on its run."""
        table, name = self.query_one(DataTable), COLUMNS.index("run")
        order = {row[name]: self._runs.runs[folder] for folder, row in self._shown.items()}

        def place(row: Any) -> tuple[bool, str, int]:
            run = order[str(row[name])]
            return run.status == "RUNNING", (run.sweep or run.folder).name, -(run.job or 0)

        table.sort(key=place, reverse=True)
        if chosen is not None and chosen.folder in self._shown:
            table.move_cursor(row=table.get_row_index(str(chosen.folder)), animate=False)

    def _counts(self) -> str:
        states = [run.status for run in self._runs.runs.values()]
        return ", ".join(f"{states.count(state)} {state.lower()}" for state in dict.fromkeys(states))

    def chosen(self) -> LiveRun | None:
        """The run under the cursor."""
        table = self.query_one(DataTable)
        if not table.row_count:
            return None
        key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        return self._runs.runs.get(Path(str(key)))

    def show_run(self, run: LiveRun) -> None:
        """Draw the curves of a run, and the end of its log."""
        self._drawn = run.folder
        place = self.query_one("#curve", Static)
        place.update(Text.from_ansi(draw(run, place.size.width, place.size.height)))
        self.query_one("#lines", Static).update(Text("\n".join(run.tail(LOG_LINES))))
        self.query_one("#log", VerticalScroll).scroll_end(animate=False)

    def on_data_table_row_highlighted(self) -> None:
        """Show the run that the cursor has come to."""
        if (run := self.chosen()) is not None:
            self.show_run(run)

    def action_do(self, name: str) -> None:
        """Stop or go on, beside the display: an answer may take seconds."""
        if (run := self.chosen()) is not None:
            self._beside({"stop": stop, "go_on": go_on}[name], run)

    def _beside(self, work: Callable[..., str], *arguments: Any) -> Worker[None]:
        def tell() -> None:
            try:
                text = work(*arguments)
            except (OSError, ConfigError) as error:
                text = str(error)
            self.call_from_thread(self.notify, text)

        return self.run_worker(tell, thread=True)

    def action_clone(self) -> None:
        """Ask for the changes."""
        box = self.query_one(Input)
        box.add_class("shown")
        box.focus()

    def action_hide(self) -> None:
        """Ask no more."""
        box = self.query_one(Input)
        box.value = ""
        box.remove_class("shown")
        self.query_one(DataTable).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Add the job with these changes."""
        if (run := self.chosen()) is not None:
            self._beside(clone, run, event.value)
        self.action_hide()
