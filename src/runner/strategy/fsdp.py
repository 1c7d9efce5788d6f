"""`strategy=fsdp`: weights, gradients and optimizer state are divided between the ranks (FSDP2, `fully_shard`)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from runner.data.collate import Batch
from runner.strategy.ranked import Ranked, counted
from runner.task import Step, Task
from runner.util.patterns import select
from runner.util.ranks import Ranks

KEY = "strategy.shard"

CONTAINERS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)


class FSDP(Ranked):
    """One model, of which each rank has a part.

    Args:
        group: the ranks, which join before they train.
        blocks: patterns of the modules whose weights are gathered together; None: see `find_blocks`.
    """

    name = "fsdp"
    divides = True

    def __init__(self, group: Ranks, blocks: Sequence[str] | None = None) -> None:
        super().__init__(group)
        self._blocks = blocks
        self._whole: nn.Module | None = None

    def prepare(self, model: nn.Module) -> nn.Module:
        """Prepare the model as `Ranked` does.

        Raises:
            ConfigError: a pattern matches no module.
        """
        self._chosen(model)
        return super().prepare(model)

    def divide(self, model: nn.Module, optimizer: torch.optim.Optimizer, frozen: list[nn.Parameter]) -> None:
        """Divide the weights. A block's are gathered for its forward and its backward pass, and freed again."""
        device = next(model.parameters()).device
        for weight in model.parameters():  # those of convolutions are in channels_last, which it refuses (torch 2.14)
            weight.data = weight.data.contiguous()
        before = dict(model.named_parameters())
        without = {id(weight): nn.Parameter(weight.detach().to("meta"), False) for weight in before.values()}
        self._whole = deepcopy(model, without)
        mesh = DeviceMesh.from_group(dist.group.WORLD, device.type)  # type: ignore[arg-type]
        for block in self._chosen(model):
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
        after = dict(model.named_parameters())
        now = {id(weight): after[name] for name, weight in before.items()}
        for group in optimizer.param_groups:
            group["params"] = [now[id(weight)] for weight in group["params"]]
            if isinstance(optimizer, torch.optim.SGD):  # its fused kernel takes no divided tensors (torch 2.14)
                group["fused"] = False
        optimizer.state.clear()  # of a checkpoint that was tried: it is restored later
        frozen[:] = [now[id(weight)] for weight in frozen]

    def _chosen(self, model: nn.Module) -> list[nn.Module]:
        if self._blocks is None:
            return find_blocks(model)
        modules = {name: module for name, module in model.named_modules() if name and has_weights(module)}
        chosen = select(KEY, self._blocks, modules)
        return [modules[name] for name in chosen if not any(name.startswith(f"{other}.") for other in chosen)]

    def measure(self, task: Task, model: nn.Module, batch: Batch, syncs: bool = True) -> Step:
        """Compute the step of this rank's share; see `Single`."""
        module: Any = model
        module.set_requires_gradient_sync(syncs)
        return counted(task.measure(model, batch), batch)

    def plain(self, value: Any) -> Any:
        """Return a state with whole tensors, on the CPU of rank 0; all ranks have to call it."""
        if isinstance(value, DTensor):
            whole = value.full_tensor()
            return whole.cpu() if self.rank == 0 else whole.new_empty(0)
        if isinstance(value, dict):
            items = {key: self.plain(part) for key, part in value.items()}
            return type(value)(items) if type(value) is not dict else items
        if type(value) in (list, tuple):
            return type(value)(self.plain(part) for part in value)
        return value

    def divided(
        self, state: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer | None = None
    ) -> dict[str, Any]:
        """Return a state with this rank's parts of the tensors that `plain` made whole. No rank waits for another."""
        own = model.state_dict()
        result = dict(state)
        if "model" in state:
            result["model"] = {name: _like(value, own.get(name)) for name, value in state["model"].items()}
        if optimizer is not None:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            groups = state["optimizer"]["param_groups"]
            numbers = [number for group in groups for number in group["params"]]
            like = dict(zip(numbers, weights, strict=True))
            states = {
                number: {key: _like(value, like[number]) for key, value in own_state.items()}
                for number, own_state in state["optimizer"]["state"].items()
            }
            result["optimizer"] = {**state["optimizer"], "state": states}
        return result

    @torch.no_grad()
    def whole(self, model: nn.Module) -> nn.Module:
        """Return the undivided model with the weights of a model that `prepare` returned; all ranks have to call it."""
        assert self._whole is not None
        device = next(model.parameters()).device
        own, weights = self._whole, {name: value.full_tensor() for name, value in _divided_weights(model).items()}
        for prefix, module in own.named_modules(remove_duplicate=False):
            for name, weight in list(module._parameters.items()):
                if weight is not None and weight.is_meta:
                    path = f"{prefix}.{name}".lstrip(".")
                    setattr(module, name, nn.Parameter(weights[path].to(device), requires_grad=False))
        buffers = dict(model.named_buffers())
        for name, buffer in own.named_buffers():
            buffer.copy_(buffers[name])
        return own.eval()


def _divided_weights(model: nn.Module) -> dict[str, DTensor]:
    return {
        name: weight for name, weight in model.named_parameters(remove_duplicate=False) if isinstance(weight, DTensor)
    }


def _like(value: Any, like: Any) -> Any:
    """Return this rank's part of a whole tensor, if another tensor of its shape is divided."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    whole = value.to(like.device)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def has_weights(module: nn.Module) -> bool:
    """Return whether a module has parameters."""
    return next(module.parameters(), None) is not None


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """Find the repeated blocks of a model, such as its layers of attention.

    They are the items of the outermost lists of modules in which a class occurs twice. A block that shares a weight
    with another module is left out.
    """
    blocks: list[nn.Module] = []

    def look(module: nn.Module) -> None:
        children = [child for child in module.children() if has_weights(child)]
        kinds = Counter(map(type, children))
        if isinstance(module, CONTAINERS) and max(kinds.values(), default=0) > 1:
            blocks.extend(children)
        else:
            for child in children:
                look(child)

    look(model)
    uses = Counter(id(weight) for module in model.modules() for weight in module.parameters(recurse=False))

    def alone(block: nn.Module) -> bool:
        own = Counter(id(weight) for module in block.modules() for weight in module.parameters(recurse=False))
        return all(uses[weight] == count for weight, count in own.items())

    return [block for block in blocks if not isinstance(block, CONTAINERS[::2]) and alone(block)]
