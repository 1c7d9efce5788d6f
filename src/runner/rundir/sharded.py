"""The checkpoints of weights that are divided between ranks: each writes its shards of a large one."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from runner.rundir import checkpoint, shards
from runner.rundir.checkpoint import FRESH, Checkpoints
from runner.rundir.checkpoint_file import FORMAT, OF_SHARDS, SHARDS, with_shards
from runner.util.background import in_background
from runner.util.nested import replace_tensors
from runner.util.snapshot import snapshot

WRITE_SECONDS = 1800.0
"""How much longer than another a rank may take to write."""


class ShardedCheckpoints(Checkpoints):
    """Checkpoints that all ranks write: each makes one, and calls its methods at the same steps.

    `last.pt` of a large model has all but the divided tensors, and names the folder of these. `best.pt` has whole
    weights and no state of the optimizer.

    Args:
        folder: the arguments are those of `Checkpoints`.
        keep: see there.
        before: see there; called by rank 0.
        whole: returns a state with whole tensors, on rank 0; all ranks call it.
        in_one_file: write whole tensors, as those of a small model.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 1,
        before: Callable[[], None] = lambda: None,
        *,
        whole: Callable[[Any], Any],
        in_one_file: bool = False,
    ) -> None:
        super().__init__(folder, keep, before)
        self._whole, self._in_one_file, self._rank = whole, in_one_file, dist.get_rank()
        self._group: dist.ProcessGroup | None = None

    def save(self, state: dict[str, Any], best: bool, wait: bool = True) -> None:
        """Write the state; all ranks call it. See `Checkpoints`."""
        self.wait()
        divided: dict[str, DTensor] = {}

        def taken(tensor: Tensor, name: str) -> Tensor:
            if not isinstance(tensor, DTensor):
                return tensor
            divided[name] = cast(DTensor, tensor.detach())
            return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

        rest = replace_tensors(self._encoded(state), taken)
        size = sum(tensor.numel() * tensor.element_size() for tensor in divided.values())
        if self._in_one_file or size < checkpoint.LARGE or not self._is_shared():
            whole = self._whole(state)
            if self._rank == 0:
                super().save(whole, best, wait)
            return
        if self._rank == 0:
            self._before()
        parts = {name: tensor.to_local() for name, tensor in divided.items()}
        copied = snapshot({"parts": parts, "rest": rest}, least=0) if not wait else None
        number, beside = self._agree(copied is not None)
        if copied is not None and beside:
            parts, rest = copied["parts"], copied["rest"]
        on_host = {name: _on_host(part, divided[name]) for name, part in parts.items()}

        def write() -> None:
            self._write_shards(self.folder / f"{SHARDS}-{number}", on_host, rest, best)

        if beside:
            self._writing = in_background(write, "checkpoint")
        else:
            write()

    def _is_shared(self) -> bool:
        """Return whether all ranks see the folder of rank 0: those of other machines may not."""
        if self._group is None:
            with suppress(OSError):
                if self._rank == 0:
                    self.folder.mkdir(parents=True, exist_ok=True)
            group = dist.new_group(backend="gloo", timeout=timedelta(seconds=WRITE_SECONDS))
            self._group = cast(dist.ProcessGroup, group)
            self._in_one_file = not all(self._gathered(self.folder.is_dir()))
        return not self._in_one_file

    def _agree(self, copied: bool) -> tuple[int, bool]:
        """Return the number of the next folder of shards, and whether all ranks have a copy of theirs."""
        numbers = [path.name.rpartition("-")[2] for path in self.folder.glob(f"{SHARDS}-*")]
        answers = self._gathered((max(map(int, filter(str.isdecimal, numbers)), default=0) + 1, copied))
        return answers[0][0], all(copied for _, copied in answers)

    def _gathered(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(values, value, self._group)
        return values

    def _write_shards(self, folder: Path, tensors: dict[str, DTensor], rest: dict[str, Any], best: bool) -> None:
        assert self._group is not None
        try:
            try:
                files = shards.write(folder, tensors, self._group)
            except OSError:  # no other error: a rank may be gone
                with self._explaining(rest, folder / shards.LIST):
                    raise
            if self._rank == 0:
                content = rest | {"format": OF_SHARDS, SHARDS: {"folder": folder.name, "files": files}}
                if best:  # before the last: see there
                    self._write_best(content)
                self._write(content, best=False)
        except BaseException:
            if self._rank == 0:
                shutil.rmtree(folder, ignore_errors=True)
            raise

    def _write_best(self, content: dict[str, Any]) -> None:
        fresh = self.folder / FRESH  # the next write removes what a kill leaves
        with self._explaining(content, fresh):
            self._store(with_shards(content | {"format": FORMAT, "optimizer": {}}, self.last), fresh)
            fresh.replace(self.best)


def _on_host(part: Tensor, divided: DTensor) -> DTensor:
    """Return a divided tensor with this part of it, which may be a copy in the memory of the host."""
    if part.device == divided.to_local().device:
        mesh = divided.device_mesh
    else:
        mesh = DeviceMesh.from_group(dist.group.WORLD, part.device.type)  # type: ignore[arg-type]
    return DTensor.from_local(
        part, mesh, divided.placements, run_check=False, shape=divided.shape, stride=divided.stride()
    )
