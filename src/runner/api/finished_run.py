"""A run, from its folder: its metrics, curves and model, and what can be done with it."""

import contextlib
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.api import html
from runner.api.in_process import unchanged
from runner.rundir import layout
from runner.rundir.folders import display_path
from runner.rundir.lock import is_locked
from runner.saved.run import SavedRun, find, read_result

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import nn

    from runner.runs.predictor import Predictor

BY_EPOCH = ("train/", "val/", "test/", "lr", "time/", "throughput/", "energy/")
BY_STEP = "_step"
SHOWN = ("status", "epochs", "best_epoch", "parameters", "device")


class Run:
    """A run: what `run` and `load` return.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def saved(self) -> SavedRun:
        """The run as the commands read it: its config, tags, and MLflow run id."""
        return find(str(self.folder), "load")

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config."""
        return self.saved.config

    @property
    def result(self) -> dict[str, Any]:
        """The content of `result.json`; empty before the run has ended."""
        return read_result(self.folder)

    @property
    def status(self) -> str:
        """FINISHED, FAILED, KILLED, PAUSED, or RUNNING in another process."""
        return self.result.get("status") or ("RUNNING" if is_locked(self.folder) else "KILLED")

    @property
    def run_id(self) -> str | None:
        """The id in MLflow; None if it is not there."""
        return self.saved.run_id

    @property
    def metrics(self) -> "pd.DataFrame":
        """The metrics by epoch: a column for each metric. Those of the test are in the row of the best epoch."""
        return self._history(BY_EPOCH, by_step=False)

    @property
    def steps(self) -> "pd.DataFrame":
        """The metrics by optimizer step, with `trainer.log_every_steps`: a row for each step that was logged."""
        return self._history(("",), by_step=True)

    def _history(self, prefixes: tuple[str, ...], by_step: bool) -> "pd.DataFrame":
        import pandas as pd

        from runner.rundir.journal import read

        points, _ = read(self.folder / layout.JOURNAL) if (self.folder / layout.JOURNAL).is_file() else ([], 0)
        kept = [p for p in points if p.name.startswith(prefixes) and p.name.endswith(BY_STEP) == by_step]
        columns: dict[str, dict[int, float]] = {}
        for point in kept:
            columns.setdefault(point.name, {})[point.step] = point.value
        frame = pd.DataFrame({name: pd.Series(values, dtype=float) for name, values in columns.items()}).sort_index()
        return frame.rename_axis("step" if by_step else "epoch")

    def curves(self) -> "Figure":
        """Draw losses and metrics of training and validation over the epochs."""
        from runner.plots.history import draw_history
        from runner.rundir.journal import read_curves

        curves = read_curves(self.folder / layout.JOURNAL, ("train/", "val/"))
        return draw_history(curves, self.result.get("best_epoch"))

    @cached_property
    def _predictor(self) -> "Predictor":
        from runner.runs.predictor import Predictor

        with unchanged():
            return Predictor(self.saved, "auto")

    @property
    def model(self) -> "nn.Module":
        """The model with its best weights, on the CPU and in evaluation mode; its inputs are normalised ones."""
        from runner.runs.predictor import trained_model

        with unchanged():
            return trained_model(self.saved)[1]

    def predict(self, samples: Any, arrays: bool = False) -> "pd.DataFrame | dict[str, Any]":
        """Predict new samples with the best weights, as `python -m runner.predict` does.

        Args:
            samples: an array (N, ...) or a table of samples in the form of the data set, a mapping of arrays by name
                for several inputs, or the path of a file or of a folder of images.
            arrays: return NumPy arrays by name; masks and other large predictions have no table.

        Returns:
            A row for each sample: its class and all probabilities, or its values.

        Raises:
            ConfigError: the model does not take the samples, or it cannot be loaded.
        """
        import pandas as pd
        import torch

        from runner.data.loading import evaluation_batch_size
        from runner.util.cores import usable_cores

        predictor = self._predictor
        with unchanged(), _as_file(samples, predictor.samples.table is not None) as path:
            torch.set_num_threads(min(int(self.config["device"]["threads"]), usable_cores()))
            new = predictor.read(path)
            size = evaluation_batch_size(1, predictor.samples.values, predictor.device)
            names, outputs = list[Any](), list[Any]()
            for part, raw in new.batches(size):
                names += part
                outputs.append(predictor(raw))
            if arrays:
                batches = [predictor.arrays(output) for output in outputs]
                return {name: torch.cat([batch[name] for batch in batches]).numpy() for name in batches[0]}
            tables = [predictor.table(output) for output in outputs]
            rows = [row for _, part in tables for row in part]
            return as_numbers(pd.DataFrame(rows, columns=tables[0][0], index=pd.Index(names, name="sample")))

    def evaluate(self, split: str = "test", **overrides: Any) -> dict[str, float]:
        """Measure the best weights again, as `python -m runner.evaluate` does.

        Args:
            split: test, val or train.
            overrides: of the config, such as `data={"path": "new.csv"}`.

        Returns:
            The metrics by name: `test/loss`.

        Raises:
            ConfigError: weights or data cannot be loaded, or the run has no such samples.
        """
        from runner.api.arguments import make_arguments
        from runner.runs.evaluation import evaluate

        with unchanged():
            return evaluate(self.saved, split, make_arguments((), overrides)).metrics

    def export(self, format: str = "torch_export", output: str | Path | None = None) -> Path:
        """Write the model to a file for deployment, as `python -m runner.export` does.

        Args:
            format: torch_export or onnx.
            output: the file; None: `export/` in the run's folder.

        Returns:
            The file.

        Raises:
            ConfigError: the model cannot be exported, or the file not be written.
        """
        from runner.export import export_run

        options = {"format": format} | ({} if output is None else {"output": str(output)})
        with unchanged():
            return export_run(self.saved, options).file

    def resume(self, *arguments: str | Mapping[str, Any], in_process: bool = False, **settings: Any) -> "Run":
        """Continue the run exactly: `run.resume(trainer={"epochs": 40})`; `resume_mode="warm_start"` starts a new one.

        Args:
            arguments: see `runner.run`.
            in_process: see `runner.run`.
            settings: see `runner.run`.

        Returns:
            The run; with a warm start, the new one.

        Raises:
            ConfigError: see `runner.run`, as the others.
        """
        from runner.api.calls import resume

        self.__dict__.pop("_predictor", None)  # it has the weights of before
        return resume(self, arguments, settings, in_process)

    def __repr__(self) -> str:
        numbers = [f"{name} {value}" for name, value in html.final_metrics(self.result).items()]
        return f"<Run {display_path(self.folder)}: {', '.join([self.status, *numbers])}>"

    def _repr_html_(self) -> str:
        result = self.result | {"status": self.status}
        facts = {name.replace("_", " "): result[name] for name in SHOWN if name in result}
        return html.card(f"run {self.folder.name}", facts | html.final_metrics(result), self.folder)


def as_numbers(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Convert those columns to numbers whose texts are all numbers."""
    import pandas as pd

    for name in frame.columns:
        if frame[name].map(type).eq(str).all():
            numbers = pd.to_numeric(frame[name], errors="coerce")
            frame[name] = frame[name] if numbers.isna().any() else numbers
    return frame


@contextlib.contextmanager
def _as_file(samples: Any, is_table: bool) -> Any:
    """Give samples as the path of a file, as `runner.predict` reads them."""
    import numpy as np

    if isinstance(samples, str | Path):
        yield str(samples)
        return
    with tempfile.TemporaryDirectory(prefix="runner-") as folder:
        if is_table and hasattr(samples, "to_parquet"):
            path = Path(folder, "samples.parquet")
            samples.rename(columns=str).to_parquet(path, index=False)
        elif isinstance(samples, Mapping):
            path = Path(folder, "samples.npz")
            np.savez(path, **{name: _array(values) for name, values in samples.items()})
        else:
            path = Path(folder, "samples.npy")
            np.save(path, _array(samples), allow_pickle=False)
        yield str(path)


def _array(values: Any) -> Any:
    import numpy as np

    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values)
