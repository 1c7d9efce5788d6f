"""What a run with a long journal costs when it is resumed or compared."""

import shutil
import tempfile
from pathlib import Path

from processes import PYTHON, run

METRICS = 7
"""The metrics that `tiny_sigmoid` logs after each epoch."""


class LongRun:
    """A run of `tiny_sigmoid` that has logged many points, and one of 5 epochs; both are made once.

    Args:
        folder: where they are made.
        points: the least number of points of the long one.
    """

    def __init__(self, folder: Path, points: int) -> None:
        self.folder, self.epochs = folder, {"long": -(-points // METRICS), "short": 5}
        folder.mkdir(exist_ok=True)
        for name, epochs in self.epochs.items():
            if not (folder / name).exists():
                self._run("runner", "experiment=tiny_sigmoid", f"trainer.epochs={epochs}", "trainer.log_every_epochs=1",
                          "tracking=off", f"hydra.run.dir={folder / name}")  # fmt: skip

    def resume(self) -> dict[str, list[float]]:
        """Return the CPU seconds that resuming the long run for five epochs takes more than the short one."""
        seconds = {}
        for name, epochs in self.epochs.items():
            with tempfile.TemporaryDirectory() as copy:
                shutil.copytree(self.folder / name, copy, dirs_exist_ok=True)
                seconds[name] = self._run("runner", f"resume={copy}", f"trainer.epochs={epochs + 5}")
        return {"seconds": [seconds["long"] - seconds["short"]]}

    def compare(self) -> dict[str, list[float]]:
        """Return the CPU seconds that comparing the long run takes more than the short one."""
        seconds = {name: self._run("runner.compare", f"runs=[{self.folder / name}]") for name in self.epochs}
        return {"seconds": [seconds["long"] - seconds["short"]]}

    def _run(self, *words: str) -> float:
        return run([*PYTHON, "-m", *words], self.folder).cpu_seconds
