"""The blocks of a model whose weights `strategy=fsdp` gathers together."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from runner.util import trees
from runner.util.private import DispatchMode

CONTAINERS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)


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


@contextmanager
def uses_outside(model: nn.Module, blocks: Mapping[str, nn.Module]) -> Iterator[set[str]]:
    """Collect the names of blocks whose weights are used outside of the block's forward pass, within the context.

    Args:
        model: has the blocks.
        blocks: by name.
    """
    seen = _Uses()
    owners = {f"{name}." if name else "": name for name in blocks}

    def learn(*_: object) -> None:  # while a model is checked, it may have other tensors
        for path, weight in model.named_parameters(remove_duplicate=False):
            for prefix, name in owners.items():
                if path.startswith(prefix):
                    seen.owners[id(weight)] = name

    learn()
    handles = [model.register_forward_pre_hook(learn)]
    for name, block in blocks.items():
        handles.append(block.register_forward_pre_hook(lambda *_, name=name: seen.running.update([name])))
        end = block.register_forward_hook(lambda *_, name=name: seen.running.subtract([name]), always_call=True)
        handles.append(end)
    try:
        with seen:
            yield seen.outside
    finally:
        for handle in handles:
            handle.remove()


class _Uses(DispatchMode):
    """Notices weights that an operation takes while the block that owns them does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.owners: dict[int, str] = {}
        self.running: Counter[str] = Counter()
        self.outside: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        taken = (self.owners.get(id(leaf)) for leaf in trees.leaves((args, kwargs)) if isinstance(leaf, Tensor))
        self.outside.update(name for name in taken if name is not None and not self.running[name])
        return func(*args, **(kwargs or {}))
