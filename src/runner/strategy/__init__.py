"""Who trains: one process, or several that share the work. `strategy=single|ddp|fsdp`.

Several processes, the ranks, take a share each of every batch. Torch's engines average their gradients; the loss of a
share is weighted so that this is the gradient of the whole batch. All ranks take the same steps, and end together.
"""

from collections.abc import Sequence

import torch

from runner.device import Device
from runner.errors import ConfigError, Problem
from runner.strategy.ddp import DDP
from runner.strategy.single import Single
from runner.util.ranks import Ranks

Strategy = Single
"""What the loop uses: this class, or one derived from it."""

__all__ = ["DDP", "Single", "Strategy", "make_strategy"]


def make_strategy(
    name: str, device: Device, find_unused_parameters: bool = False, shard: Sequence[str] | None = None
) -> Strategy:
    """Make the strategy of a config; one process without ranks, such as `runner.evaluate`, does everything itself.

    Raises:
        ConfigError: this machine has fewer GPUs than ranks.
    """
    group = Ranks.here()
    if name == "single" or group is None:
        return Single()
    if device.torch.type == "cuda" and group.local_rank == 0 and torch.cuda.device_count() < group.local_count:
        text = f"strategy={name}: this machine has {torch.cuda.device_count()} GPUs for {group.local_count} ranks"
        raise ConfigError(Problem("strategy", text, "start fewer ranks, or write device=cpu", topic="unavailable"))
    if name == "fsdp":
        from runner.strategy.fsdp import FSDP  # its imports take half a second

        return FSDP(group, shard)
    return DDP(group, find_unused_parameters)
