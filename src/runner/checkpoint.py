"""Checkpoints: tensors and primitives in a zip container, whole or not there at all.

`last.pt` is replaced by renaming a complete file onto it; the ones before it are kept as `last-1.pt`,
`last-2.pt`, ... `best.pt` is a link to the file that was last when its epoch was the best.
"""

import os
import random
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

FORMAT = 1
KEYS = ("model", "optimizer", "scheduler", "scaler", "ema", "rng", "progress", "format")


class CheckpointError(Exception):
    """A checkpoint is missing, damaged, or not one of ours; the sentence names the file."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they lie; made when the first is written.
        keep: how many of the last ones are kept.
        before: called before each is written: a run goes on from it and measures nothing before it again, so
            whatever was measured must be on the disk too.
    """

    def __init__(self, folder: Path, keep: int = 1, before: Callable[[], None] = lambda: None) -> None:
        self.folder, self.keep, self._before = folder, keep, before
        self.last, self.best = folder / "last.pt", folder / "best.pt"

    def save(self, state: dict[str, Any], best: bool) -> None:
        """Make the state the last checkpoint, and the best one if it is."""
        self._before()
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.folder / ".last.pt.tmp"
        with fresh.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        for age in range(self.keep - 1, 0, -1):
            older = self._kept(age - 1)
            if older.exists():
                _link(older, self._kept(age))
        if best:
            # First: a kill in between repeats the epoch, and with it this; the other way round it would be lost.
            _link(fresh, self.best)
        fresh.replace(self.last)

    def load_last(self) -> tuple[dict[str, Any], Path]:
        """The newest checkpoint that is whole, and its file.

        Raises:
            CheckpointError: there is none; the sentence names the damaged ones.
        """
        damage = []
        for age in range(max(self.keep, 1 + len(list(self.folder.glob("last-*.pt"))))):
            path = self._kept(age)
            if path.exists():
                try:
                    return load(path), path
                except CheckpointError as error:
                    damage.append(str(error))
        raise CheckpointError("; ".join(damage) or f"there is no checkpoint in {self.folder}")

    def _kept(self, age: int) -> Path:
        return self.last if age == 0 else self.folder / f"last-{age}.pt"


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, with its checksums verified and no code run.

    Raises:
        CheckpointError: it is damaged, or holds more than tensors and primitives.
    """
    try:
        # torch.load accepts a container with damaged contents; its checksums do not.
        with zipfile.ZipFile(path) as container:
            damaged = container.testzip()
        if damaged:
            raise CheckpointError(f"{path} is damaged ({damaged})")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"there is no {path}") from None
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged ({str(error).splitlines()[0]})") from error
    except Exception as error:  # what the unpickler raises for a payload that is more than tensors
        raise CheckpointError(f"{path} is refused: it holds more than tensors and plain values") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or set(KEYS) - set(state):
        raise CheckpointError(f"{path} is not a checkpoint of this version of runner")
    return state


def weights(state: dict[str, Any]) -> dict[str, Any]:
    """What of a checkpoint is to be evaluated: the averaged weights where there are any."""
    averaged = state["ema"]
    return dict(averaged["weights"] if averaged else state["model"])


def rng_state(device: torch.device) -> dict[str, Any]:
    """The state of every random generator a model may draw from, as tensors and primitives."""
    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": [version, list(internal), gauss]}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    if numpy := sys.modules.get("numpy"):
        name, keys, position, has_gauss, cached = numpy.random.get_state()
        state["numpy"] = [name, keys.tolist(), int(position), int(has_gauss), float(cached)]
    return state


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Go on with the state of `rng_state`."""
    torch.set_rng_state(state["torch"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    if device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])
    if "numpy" in state:
        import numpy

        numpy.random.set_state(tuple(state["numpy"]))


def _link(source: Path, target: Path) -> None:
    """Let target be the same file as source, at once or not at all."""
    fresh = target.with_name(f".{target.name}.tmp")
    fresh.unlink(missing_ok=True)
    try:
        os.link(source, fresh)
    except OSError:  # a file system without links
        shutil.copyfile(source, fresh)
    fresh.replace(target)
