"""Export a run's model to a file: `python -m runner.export run=<run> format=torch_export|onnx [output=<file>]`.

The file has the best model with its normalization, and takes any number of samples; with `format=safetensors` or
`state_dict` it has the weights alone. It is written only if its outputs equal the model's.
"""

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import ConfigError, Problem
from runner.rundir.folders import display_path, for_shell
from runner.runs.result_file import SUFFIXES, refuse_overwrite, resolve_output
from runner.saved.run import SavedRun, find
from runner.util import program
from runner.util.options import choice_option, is_true, required_option, run_with_options

if TYPE_CHECKING:
    from runner.runs.deployment import Exported

log = logging.getLogger("runner")

USAGE = (
    "python -m runner.export run=<run dir or MLflow run id> format=torch_export|onnx|safetensors|state_dict"
    " [key=value ...]:\n"
    "write a run's best model to a file for deployment, with its normalization, for any number of samples, or its\n"
    "weights alone, for a model of the same class."
)
OPTIONS = {
    "run": "the run: its folder, or its MLflow run id",
    "format": "torch_export (.pt2, for torch.export.load, the default) or onnx (.onnx, for onnxruntime); "
    "the weights alone: safetensors, or state_dict (.pt, for torch.load)",
    "output": "the file to write; by default export/model.pt2, .onnx, .safetensors or .pt in the run's folder",
    "tracking.uri": "the MLflow store that knows the run; by default that of the outputs folder",
    "runner.quiet": "true: print warnings only",
}
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "safetensors": ("safetensors",)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0, or 2 for a wrong argument or a model that cannot be exported.
    """
    return run_with_options(argv, USAGE, OPTIONS, _main)


def _main(options: dict[str, str]) -> int:
    from runner.runs.deployment import CHECKED
    from runner.util import terminal

    _format(options)  # before anything is read
    terminal.configure_logging(is_true(options, "runner.quiet"))
    run = find(required_option(options, "run", "folder or MLflow run id"), "run", options.get("tracking.uri"))
    done = export_run(run, options)
    size = done.size
    log.info("weights    %s%s%s", run.place, f" (epoch {done.epoch})" if done.epoch else "", _arithmetic(run))
    log.info(
        "written    %s (%s)", display_path(done.file), f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
    )
    log.info("inputs     %s", done.description.inputs)
    for line in done.description.lines():
        log.info("           %s", line)
    log.info("outputs    %s", done.description.outputs)
    counts = ", ".join(map(str, CHECKED[:-1]))
    log.info(
        "checked    with %s and %d samples: outputs differ from the model's by at most %.1e",
        counts,
        CHECKED[-1],
        done.difference,
    )
    return 0


def export_run(run: SavedRun, options: Mapping[str, str]) -> "Exported":
    """Export a run.

    Args:
        run: the run.
        options: `format` and `output` of them.

    Raises:
        ConfigError: the model cannot be exported, or the file not be written.
    """
    from runner.runs.deployment import export

    format = _format(options)
    return export(run, format, _output(run, format, options.get("output")))


def _format(options: Mapping[str, str]) -> str:
    """Return the format, whose packages are installed."""
    format = choice_option(options, "format", list(SUFFIXES), "torch_export")
    missing = [name for name in PACKAGES.get(format, ()) if importlib.util.find_spec(name) is None]
    if missing:
        text = f"format={format} needs {', '.join(missing)}"
        suggestion = f"install with: pip install {' '.join(missing)}"
        raise ConfigError(Problem("format", text, suggestion, topic="unavailable"))
    return format


def _output(run: SavedRun, format: str, value: str | None) -> Path:
    """Return the file to write.

    Raises:
        ConfigError: it cannot be written.
    """
    suffix = SUFFIXES[format]
    if value is None:
        if run.folder is None:
            text = "output= is needed, as the run's folder is not on this machine"
            raise ConfigError(Problem("output", text, f"write output=model{suffix}", topic="missing"))
        return run.folder / "export" / f"model{suffix}"
    path = resolve_output(value, f"model{suffix}")
    if path.suffix != suffix and (path.is_file() or not path.exists()):  # a FIFO may have any name
        text = f"output={value} must end in {suffix} for format={format}"
        suggestion = f"write output={for_shell(str(Path(value).with_suffix(suffix)))}"
        raise ConfigError(Problem("output", text, suggestion, topic="choice"))
    refuse_overwrite(path, value, [run])
    return path


def _arithmetic(run: SavedRun) -> str:
    """Describe that the file computes in float32 if the run's precision was another one."""
    name = run.config["precision"]["name"]
    return "" if name in ("fp32", "fp64") else f" · computed in float32, the run's precision was {name}"


if __name__ == "__main__":
    program.run(main)
