"""Optimizers: any `torch.optim.Optimizer` given by `_target_`, or a function that returns one.

It is called with `params` (the trainable parameters) and, if it takes `model`, their module.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from runner.errors import ConfigError, Problem
from runner.util.ranges import POSITIVE, PROBABILITY, Range

FUSED_PAYS = 10_000
"""On a CPU, the number of trainable values from which a fused kernel outweighs waking all threads per tensor."""


def use_fused(target: Callable[..., Any], device: torch.device, options: set[str], parameters: int) -> bool:
    """Return whether to use the fused kernel.

    A net of 54 values gains nothing on an idle machine (732 us per step, and 754 without), and is ten times slower when
    another program uses one of the two cores (8 ms). Sizes between that and an MLP's 109,386 were not measured.
    """
    return supports_fused(target, device, options) and (device.type != "cpu" or parameters >= FUSED_PAYS)


def supports_fused(target: Callable[..., Any], device: torch.device, options: set[str]) -> bool:
    """Return whether the optimizer has a fused kernel for this device, and no option of the config decides.

    On two cores an epoch of the MLP takes 1.06 times as long with SGD's `foreach`, and 1.05 with its loop over tensors;
    with AdamW's, 1.42 and 1.50. For the CNN, whose convolutions dominate, there is no difference.
    """
    if options & {"fused", "foreach", "differentiable"} or device.type not in ("cpu", "cuda"):
        return False
    return "fused" in inspect.signature(target).parameters


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that require gradients."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def complete_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give all parameters that SGD's fused kernel trains a momentum, of zeros, which changes no step.

    The kernel fails on a group of which only some have one (torch 2.14), such as where a branch of the model, or a
    layer that was frozen, gets its first gradient later. Dampening leaves out the first step: with it, the kernel is
    not used.
    """
    for group in optimizer.param_groups:
        if not group.get("fused") or not group.get("momentum"):
            continue
        group["fused"] = not group["dampening"]
        for weight in group["params"] if group["fused"] else ():
            if optimizer.state[weight].get("momentum_buffer") is None:
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)


def load_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore a state that `state_dict` returned, each tensor in its own dtype.

    `Optimizer.load_state_dict` casts all state of a parameter except `step` to the parameter's dtype, and rebuilds
    iterables: NAdam's `mu_product` is float32 beside float64 weights, and would become float64.
    """
    castable = {key: _only_castable(value) for key, value in state["state"].items()}
    optimizer.load_state_dict({**state, "state": castable})
    ids = [number for group in state["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in zip(ids, parameters, strict=True):
        loaded = optimizer.state.get(parameter)
        if isinstance(loaded, dict) and number in state["state"]:
            loaded.update(_as_saved(state["state"][number], loaded, parameter.device))
    complete_momentum(optimizer)  # a checkpoint of an earlier version may lack some


def _only_castable(value: Any) -> Any:
    """Return the state without values that torch would rebuild: strings and arrays, at any depth."""
    if isinstance(value, dict):
        return {key: _only_castable(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_only_castable, value))
    return value if isinstance(value, Tensor) or not isinstance(value, Iterable) else None


def _as_saved(saved: Any, loaded: Any, device: torch.device) -> Any:
    if isinstance(saved, Tensor):
        if isinstance(loaded, Tensor) and loaded.dtype == saved.dtype:
            return loaded
        return saved.to(loaded.device if isinstance(loaded, Tensor) else device, copy=True)
    if isinstance(saved, dict):
        inner = loaded if isinstance(loaded, dict) else {}
        return type(saved)((key, _as_saved(value, inner.get(key), device)) for key, value in saved.items())
    if type(saved) in (list, tuple):
        same = isinstance(loaded, list | tuple) and len(loaded) == len(saved)
        parts = zip(saved, loaded if same else [None] * len(saved), strict=True)
        return type(saved)(_as_saved(value, of_it, device) for value, of_it in parts)
    return saved


def muon(
    params: Iterable[nn.Parameter],
    model: nn.Module,
    lr: Annotated[float, POSITIVE] = 0.02,
    momentum: Annotated[float, PROBABILITY] = 0.95,
    weight_decay: Annotated[float, Range(0)] = 0.01,
    nesterov: bool = True,
    ns_steps: Annotated[int, Range(1, 99, whole=True)] = 5,
    adjust_lr_fn: Literal["original", "match_rms_adamw", "spectral_unclamped"] = "original",
    adamw_lr: Annotated[float, POSITIVE] = 1e-3,
    betas: Annotated[Sequence[float], PROBABILITY] = (0.9, 0.999),
    eps: Annotated[float, Range(0)] = 1e-8,
    fused: bool | None = None,
) -> "Combined":
    """Muon for the hidden 2-D weights, AdamW for the rest (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon).

    Args:
        params: the parameters to train.
        model: the model of these parameters: it defines the hidden weights, see `hidden_weights`.
        lr: learning rate of the hidden weights.
        momentum: momentum of the hidden weights.
        weight_decay: decoupled weight decay of all parameters.
        nesterov: use Nesterov momentum.
        ns_steps: Newton-Schulz iterations that orthogonalise an update.
        adjust_lr_fn: how `lr` depends on the shape of a weight, see `torch.optim.Muon`.
        adamw_lr: learning rate of the rest.
        betas: betas of the rest.
        eps: epsilon of the rest.
        fused: whether AdamW uses its fused kernel.

    Raises:
        ConfigError: the model has no hidden 2-D weight to train.
    """
    params = list(params)
    hidden = hidden_weights(model)
    muon_params = [parameter for parameter in params if parameter in hidden]
    if not muon_params:
        text = "optimizer=muon requires hidden fully connected layers, and this model trains none"
        raise ConfigError(Problem("optimizer", text, "write optimizer=adamw", topic="conflict"))
    make_muon = CPUMuon if muon_params[0].device.type == "cpu" else torch.optim.Muon
    parts: list[torch.optim.Optimizer] = [
        make_muon(
            muon_params,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            nesterov=nesterov,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
        )
    ]
    rest = [parameter for parameter in params if parameter not in hidden]
    if rest:
        first, second = betas
        adamw = torch.optim.AdamW(
            rest, lr=adamw_lr, betas=(first, second), eps=eps, weight_decay=weight_decay, fused=fused
        )
        parts.append(adamw)
    return Combined(parts)


def label(optimizer: torch.optim.Optimizer) -> str:
    """Return the name of an optimizer: `AdamW`, or `Muon + AdamW` for a combined one."""
    parts = optimizer._parts if isinstance(optimizer, Combined) else [optimizer]
    kinds = (next(kind for kind in type(part).__mro__ if not kind.__module__.startswith("runner.")) for part in parts)
    return " + ".join(kind.__name__ for kind in kinds)


class Combined(torch.optim.Optimizer):
    """Several optimizers, each with one group of parameters, as a single optimizer with one state.

    Args:
        parts: the optimizers, in the order of the groups. They share their groups and their state with this one: a
            schedule or a loaded state changes both.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self._parts = list(parts)
        super().__init__([group for part in parts for group in part.param_groups], defaults={})
        self._link()

    @property
    def parts(self) -> list[torch.optim.Optimizer]:
        """The optimizers."""
        return self._parts

    def _link(self) -> None:
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.__setstate__({"state": self.state, "param_groups": [group]})

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_parts": self._parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Called by `load_state_dict`, with new groups and a new state.
        super().__setstate__(state)
        self._link()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step with each part."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss


class CPUMuon(torch.optim.Muon):
    """A `torch.optim.Muon` that computes in the dtype of the gradients instead of bfloat16.

    A CPU without bfloat16 instructions orthogonalises a 128 x 784 update in 163 ms, and in float32 in 5 ms.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                mean = state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
                update = weight.grad.lerp(mean, momentum) if group["nesterov"] else mean
                update = orthogonal(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                weight.mul_(1 - lr * group["weight_decay"])
                weight.add_(update, alpha=-lr * _shape_factor(group["adjust_lr_fn"], *weight.shape))
        return loss


def orthogonal(update: Tensor, coefficients: Sequence[float], steps: int, eps: float) -> Tensor:
    """Return approximately the nearest matrix with orthogonal rows or columns: singular values from 0.7 to 1.2.

    The update (M, N) is scaled to a norm of 1, and iterated by Newton-Schulz with a quintic polynomial,
    `x -> a x + (b x x' + c (x x')^2) x` (Jordan et al., 2024).
    """
    a, b, c = coefficients
    tall = update.shape[0] > update.shape[1]
    x = update.T if tall else update  # the smaller of the two products
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def _shape_factor(rule: str | None, rows: int, columns: int) -> float:
    """Return the factor by which `torch.optim.Muon` multiplies the learning rate of a weight."""
    if rule == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    if rule == "spectral_unclamped":
        return math.sqrt(rows / columns)
    return math.sqrt(max(1.0, rows / columns))


def hidden_weights(model: nn.Module) -> set[Tensor]:
    """Return the 2-D hidden weights of a model: those of `nn.Linear` layers, and the projections of attention.

    The last `nn.Linear` in the order of definition counts as the output layer, and is excluded; so is a weight that is
    shared with an embedding.
    """
    linear = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    attention = [
        weight
        for module in model.modules()
        if isinstance(module, nn.MultiheadAttention)
        for weight in (module.in_proj_weight, module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
        if weight is not None
    ]
    embeddings = [module.weight for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    return {*linear[:-1], *attention} - {*linear[-1:], *embeddings}
