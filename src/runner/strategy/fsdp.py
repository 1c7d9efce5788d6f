"""`strategy=fsdp`: weights, gradients and optimizer state are divided between the ranks (FSDP2, `fully_shard`)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from runner.data.collate import Batch
from runner.errors import ConfigError, Problem, TrainingError, first_line
from runner.strategy.blocks import find_blocks, has_weights, uses_outside
from runner.strategy.ranked import Ranked, counted
from runner.strategy.single import Needs
from runner.task import Step, Task
from runner.util.nested import replace_tensors
from runner.util.patterns import select
from runner.util.ranks import Ranks

KEY = "strategy.shard"

MIXED = "mixed torch.Tensor and DTensor"
"""Words of torch's error for an operation that takes a part of a weight."""


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
        self._step: Any = None
        self._left_out: set[str] = set()

    def divide(self, model: nn.Module, optimizer: torch.optim.Optimizer, frozen: list[nn.Parameter]) -> None:
        """Divide the weights. A block's are gathered for its forward and its backward pass, and freed again."""
        device = next(model.parameters()).device
        for weight in model.parameters():  # those of convolutions are in channels_last, which it refuses (torch 2.14)
            weight.data = weight.data.contiguous()
        before = dict(model.named_parameters())
        without = {id(weight): nn.Parameter(weight.detach().to("meta"), False) for weight in before.values()}
        self._whole = deepcopy(model, without)
        mesh = DeviceMesh.from_group(dist.group.WORLD, device.type)  # type: ignore[arg-type]
        for block in self._chosen(model).values():
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        self._step = fully_shard(_Step(model), mesh=mesh, reshard_after_forward=True)
        after = dict(model.named_parameters())
        now = {id(weight): after[name] for name, weight in before.items()}
        for group in optimizer.param_groups:
            group["params"] = [now[id(weight)] for weight in group["params"]]
            if isinstance(optimizer, torch.optim.SGD):  # its fused kernel takes no divided tensors (torch 2.14)
                group["fused"] = False
        optimizer.state.clear()  # of a checkpoint that was tried: it is restored later
        frozen[:] = [now[id(weight)] for weight in frozen]

    def _chosen(self, model: nn.Module) -> dict[str, nn.Module]:
        modules = {name: module for name, module in model.named_modules() if name and has_weights(module)}
        if self._blocks is None:
            found = {id(block) for block in find_blocks(model)}
            names = [name for name, module in modules.items() if id(module) in found]
        else:
            matching = select(KEY, self._blocks, modules)
            names = [name for name in matching if not any(name.startswith(f"{other}.") for other in matching)]
        return {name: modules[name] for name in names if name not in self._left_out}

    @contextmanager
    def observing(self, model: nn.Module) -> Iterator[None]:
        """Leave out the blocks whose weights a step uses without calling them: these are gathered for all of a step.

        Raises:
            ConfigError: such a block was asked for, or a pattern matches no module.
        """
        with uses_outside(model, self._chosen(model)) as outside:
            yield
        if outside and self._blocks is not None:
            text = f"{KEY}: a step uses weights of {', '.join(sorted(outside))} without calling the module"
            raise ConfigError(Problem(KEY, text, "name modules that are only called, or write null", topic="conflict"))
        self._left_out = outside

    def needs(self, model: nn.Module) -> Needs:
        """Return the share of a rank, and what is whole at a time: weights outside of blocks, and two blocks.

        A block's weights are gathered in one tensor and copied to their places, while the next one's are on their way;
        its gradients are copied to one tensor, of which each rank gets its share.
        """
        blocks = [sum(weight.nbytes for weight in block.parameters()) for block in self._chosen(model).values()]
        rest = sum(weight.nbytes for weight in model.parameters()) - sum(blocks)
        whole = rest + 2 * max(blocks, default=0)
        return Needs(1 / self.ranks, whole, whole)

    def notes(self, model: nn.Module) -> list[str]:
        """Return what the user should know before training."""
        notes = super().notes(model)
        if self._left_out:
            names = ", ".join(sorted(self._left_out))
            notes.append(f"weights of {names} are whole in all of a step, as it uses them without calling the module")
        return notes

    def measure(self, task: Task, model: nn.Module, batch: Batch, syncs: bool = True) -> Step:
        """Compute the step of this rank's share; see `Single`.

        Raises:
            TrainingError: it uses weights that are not gathered, which it did not do before training.
        """
        self._step.set_requires_gradient_sync(syncs)
        try:
            return counted(self._step(task, model, batch), batch)
        except RuntimeError as error:
            if MIXED not in str(error):
                raise
            text = f"strategy=fsdp: a step used the weights of a block without calling the block: {first_line(error)}"
            raise TrainingError(f"{text}; leave it out of {KEY}, or write strategy=ddp") from error

    def compile(self, model: nn.Module, mode: str) -> nn.Module:
        """Compile each block, whose weights are gathered as before; without blocks the model, of which all are."""
        blocks = self._chosen(model).values()
        if not blocks:
            return super().compile(model, mode)
        for block in blocks:  # torch has one limit for the shapes and modes of all, which it compiles as one function
            block.compile(mode=mode, isolate_recompiles=True)
        return model

    def plain(self, value: Any) -> Any:
        """Return a state with whole tensors, on the CPU of rank 0; all ranks have to call it."""

        def gathered(tensor: Tensor, _: str) -> Tensor:
            if not isinstance(tensor, DTensor):
                return tensor
            whole = tensor.full_tensor()
            return whole.cpu() if self.rank == 0 else whole.new_empty(0)

        return replace_tensors(value, gathered)

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


class _Step(nn.Module):
    """A step as a forward pass, in which the weights outside of blocks are whole: a task may call any method."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, task: Task, model: nn.Module, batch: Batch) -> Step:
        return task.measure(model, batch)


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
