"""The text of a notification, from what a run or a sweep has written into its folder."""

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.rundir import journal, layout
from runner.rundir.folders import for_shell
from runner.rundir.manifest import manifest_of
from runner.util.files import load_json_or_empty
from runner.util.metric_names import format_metric, without_details
from runner.util.redaction import redact
from runner.util.tables import format_duration

MOST_METRICS = 6
WORDS = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "killed"}

_TAIL = 1 << 16  # bytes of a journal that has no result beside it


def compose(folder: Path, status: str, lines: Sequence[str], seconds: float) -> tuple[str, str]:
    """Compose a notification.

    Args:
        folder: of a run or a sweep.
        status: FINISHED, FAILED or KILLED.
        lines: that follow the first one; none of a run that was killed without notice.
        seconds: since it was started or resumed.

    Returns:
        The title, and the body.
    """
    is_sweep = (folder / layout.SWEEP_PLAN).is_file()
    word, done = WORDS.get(status, status.lower()), _jobs(folder) if is_sweep else _epochs(folder)
    body = [f"{status}: {done}, {format_duration(seconds)}", *lines]
    if status == "KILLED" and not lines:
        body.append("without notice, possibly by the kernel's out-of-memory killer")
    if not is_sweep and (metrics := without_details(_metrics(folder))):
        chosen = list(metrics.items())[:MOST_METRICS]
        body.append("   ".join(f"{name} {format_metric(name, value).strip()}" for name, value in chosen))
    body.append(f"folder: {socket.gethostname()}:{folder}")
    if status != "FINISHED" and (command := _resume(folder, is_sweep)):
        body.append(f"resume: {command}")
    return redact(f"runner: {word} {_name(folder, is_sweep)}"), redact("\n".join(body))


def _name(folder: Path, is_sweep: bool) -> str:
    manifest = manifest_of(folder)
    name = manifest.run_name if manifest is not None else folder.name
    return f"sweep {name}" if is_sweep else name


def _jobs(folder: Path) -> str:
    results = [load_json_or_empty(path) for path in folder.glob(f"[0-9]*/{layout.RESULT}")]
    finished = sum(result.get("status") == "FINISHED" for result in results)
    return f"{finished} job{'s' * (finished != 1)} finished"


def _epochs(folder: Path) -> str:
    epochs = load_json_or_empty(folder / layout.RESULT).get("epochs")
    if epochs is None:
        epochs = max((point.step for point in _tail(folder) if point.name == "time/epoch_seconds"), default=0)
    return f"{epochs} epoch{'s' * (epochs != 1)}"


def _tail(folder: Path) -> list[journal.MetricPoint]:
    path = folder / layout.JOURNAL
    try:
        return journal.read(path, max(0, path.stat().st_size - _TAIL))[0]
    except OSError:
        return []


def _metrics(folder: Path) -> Mapping[str, float]:
    """Return the metrics of validation and test, else of training: those of the result, or else the last ones."""
    result = load_json_or_empty(folder / layout.RESULT)
    values = result or {point.name: point.value for point in _tail(folder)}
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    held_out = {name: value for name, value in numbers.items() if name.startswith(("val/", "test/"))}
    return held_out or {name: value for name, value in numbers.items() if name in ("train/loss", "train/accuracy")}


def _resume(folder: Path, is_sweep: bool) -> str:
    if is_sweep:
        return f"python -m runner --multirun sweep.resume={for_shell(str(folder))}"
    has_checkpoint = (folder / layout.CHECKPOINTS / layout.LAST).exists()
    return f"python -m runner resume={for_shell(str(folder))}" if has_checkpoint else ""
