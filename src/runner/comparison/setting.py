"""What the runs of a verdict have in common, as a paper states it: data, splits, hardware, versions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.comparison.runs import ComparedRun
from runner.rundir import layout
from runner.rundir.manifest import manifest_of
from runner.tracking.environment import read_facts
from runner.util.files import load_json_or_empty

VERSIONS = {"python": "Python", "torch": "PyTorch", "torchvision": "torchvision", "numpy": "NumPy", "runner": "runner"}
NAMED = 3
"""Values that differ between runs and are named."""


@dataclass(frozen=True)
class Setting:
    """Facts about runs; empty where no folder of a run on this machine knows them.

    Attributes:
        data: the name of the data set.
        sizes: samples by part.
        training: a sentence on what all runs have in common.
        epoch: a sentence on which epoch's values are compared.
        split: a sentence on how validation samples are chosen.
        hardware: processors and graphics cards.
        computing: device, threads and precision.
        versions: of Python and libraries.
    """

    data: str = ""
    sizes: str = ""
    training: str = ""
    epoch: str = ""
    split: str = ""
    hardware: str = ""
    computing: str = ""
    versions: str = ""


def find_setting(runs: Sequence[ComparedRun]) -> Setting:
    """Read what the runs have in common from their configs and folders."""
    known = [run for run in runs if run.config]
    folders = [Path(run.folder) for run in known if run.folder is not None]
    facts = [_facts(folder) for folder in folders]
    data = [manifest.dataset for manifest in map(manifest_of, folders) if manifest is not None and manifest.dataset]
    names = [load_json_or_empty(folder / layout.SAMPLES).get("data", "") for folder in folders]
    names = [*filter(None, names)] or [run.choices.get("data", "") for run in known]
    parts = ("train", "val", "test")
    sizes = [", ".join(f"{each.profile[part]:,} {part}" for part in parts if each.profile.get(part)) for each in data]
    counts = {run.config.get("device.threads", "") for run in known}
    threads = _list(f"{count} thread{'' if count == '1' else 's'}" for count in sorted(counts) if count.isdecimal())
    computing = [_list(run.config.get(key, "") for run in known) for key in ("device.name", "precision.name")]
    versions = {name: _list(each.get(name, "") for each in facts) for name in VERSIONS}
    return Setting(
        _list(names),
        _list(sizes),
        _describe_training(known),
        _describe_epoch(known),
        _describe_split(known),
        _list(_hardware(each) for each in facts),
        ", ".join(filter(None, [*computing, threads])),
        ", ".join(f"{VERSIONS[name]} {number}" for name, number in versions.items() if number),
    )


def _facts(folder: Path) -> dict[str, str]:
    try:
        return read_facts((folder / layout.ENVIRONMENT).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return {}


def _hardware(facts: dict[str, str]) -> str:
    """Return `NVIDIA H200 (CUDA 13.0), AMD EPYC (2 cores)`."""
    gpu = f"{facts['gpu']} (CUDA {facts.get('cuda', 'unknown')})" if "gpu" in facts else ""
    cpu = f"{facts['cpu']} ({facts['cores'].partition(' ')[0]} cores)" if {"cpu", "cores"} <= facts.keys() else ""
    return ", ".join(filter(None, [gpu, cpu]))


def _list(values: Iterable[str]) -> str:
    """Return the different values, joined by "and"."""
    different = list(dict.fromkeys(filter(None, values)))
    more = [f"{len(different) - NAMED} more"] if len(different) > NAMED else []
    return " and ".join([*different[:NAMED], *more])


def _common(values: Iterable[str]) -> str:
    """Return the value that all runs have; empty if there is none."""
    different = set(values)
    value = different.pop() if len(different) == 1 else ""
    return "" if value == "null" else value


def _describe_training(runs: Sequence[ComparedRun]) -> str:
    groups = {
        group: _common(run.choices.get(group, "") for run in runs) for group in ("model", "optimizer", "scheduler")
    }
    batch, epochs = (_common(run.config.get(key, "") for run in runs) for key in ("data.batch_size", "trainer.epochs"))
    common = [
        *(f"{group} {choice}" for group, choice in groups.items() if choice),
        *([f"batches of {batch}"] if batch else []),
        *([f"at most {epochs} epoch{'s' * (epochs != '1')}"] if epochs else []),
    ]
    return f"All runs have {', '.join(common)}." if common else ""


def _describe_epoch(runs: Sequence[ComparedRun]) -> str:
    if runs and all(run.config.get("data.val_fraction") in ("0", "0.0") for run in runs):
        return "The value of a run is that of its last epoch."
    monitor = _common(run.config.get("trainer.monitor", "") for run in runs)
    return f"The value of a run is that of its best epoch by {monitor}." if monitor else ""


def _describe_split(runs: Sequence[ComparedRun]) -> str:
    keys = ("data.val_fraction", "data.split", "data.split_by")
    settings = {tuple(run.config.get(key, "null") for key in keys) for run in runs}
    if len(settings) != 1:
        return ""
    ((fraction, split, by),) = settings
    if fraction == "null":
        return "The validation part is that of the data set."
    try:
        share = f"{100 * float(fraction):g} %"
    except ValueError:
        return ""
    if float(fraction) == 0:
        return "There is no validation part."
    how = {"stratified": ", each class with its share", "sequential": ", the last ones"}.get(split, "")
    seed = "" if split == "sequential" else ", chosen by the seed"
    groups = f"; no value of {by} is in both parts" if by != "null" else ""
    return f"For validation, {share} of the training samples were held out{how}{seed}{groups}."
