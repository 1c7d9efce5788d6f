"""How a call of `run` or `sweep` can end, besides a `ConfigError`: both exceptions name the folder to resume."""

from typing import TYPE_CHECKING

from runner.errors import TrainingError

if TYPE_CHECKING:
    from runner.api.finished_run import Run
    from runner.api.finished_sweep import Sweep


class Interrupted(KeyboardInterrupt):
    """The kernel was interrupted, or Ctrl-C was pressed; a checkpoint was written.

    Attributes:
        run: the run or the sweep, which `run.resume()` continues; None if it had not started.
    """

    def __init__(self, run: "Run | Sweep | None") -> None:
        self.run = run
        how = f"resume it by runner.load({str(run.folder)!r}).resume()" if run is not None else "nothing had started"
        super().__init__(f"interrupted; {how}")

    def _render_traceback_(self) -> list[str]:  # of IPython: the lines that a cell shows
        return [str(self)]


class RunFailed(TrainingError):
    """A run has failed, or its process was killed. Its `run.log` has the traceback.

    Attributes:
        run: the run; None if it had not started.
    """

    def __init__(self, text: str, run: "Run | None" = None) -> None:
        self.run = run
        super().__init__(text if run is None else f"{text}; see {run.folder / 'run.log'}")

    def _render_traceback_(self) -> list[str]:
        return [f"error: {self}"]
