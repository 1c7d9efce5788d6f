"""How weights follow their gradients: any `torch.optim.Optimizer` by `_target_`, or a function that gives one.

It is called with `params` (the trainable parameters) and, if it takes it, `model` (their module).
"""

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from runner.errors import ConfigError
from runner.util.ranges import POSITIVE, PROBABILITY, Range

FUSED_PAYS = 10_000
"""Numbers to train from which a fused kernel is worth waking all threads for each tensor of them, on a CPU."""


def wants_fused(target: Callable[..., Any], device: torch.device, given: set[str], parameters: int) -> bool:
    """Whether to ask for the fused kernel.

    A net of 54 numbers gains nothing by it on an idle machine (732 us a step, and 754 without), and loses a factor
    of ten where another program has one of the two cores (8 ms). What lies between that and an MLP's 109,386 was not
    measured.
    """
    return supports_fused(target, device, given) and (device.type != "cpu" or parameters >= FUSED_PAYS)


def supports_fused(target: Callable[..., Any], device: torch.device, given: set[str]) -> bool:
    """Whether the optimizer has a fused kernel for this device, and the config leaves the choice to us.

    On two cores an epoch of the MLP takes 1.06 times as long with SGD's `foreach`, 1.05 with its loop over tensors;
    with AdamW's, 1.42 and 1.50. The CNN's convolutions take so long that it makes no difference.
    """
    if given & {"fused", "foreach", "differentiable"} or device.type not in ("cpu", "cuda"):
        return False
    return "fused" in inspect.signature(target).parameters


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that gradients are wanted for."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def load_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Let an optimizer go on with the state that `state_dict` gave, each tensor in the dtype that it had.

    `Optimizer.load_state_dict` gives all of a parameter's state but `step` the parameter's dtype, and takes apart what
    can be iterated over: NAdam's `mu_product` is float32 beside float64 weights, and would go on as float64.
    """
    kept = {key: _only_castable(value) for key, value in state["state"].items()}
    optimizer.load_state_dict({**state, "state": kept})
    ids = [number for group in state["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in zip(ids, parameters, strict=True):
        loaded = optimizer.state.get(parameter)
        if isinstance(loaded, dict) and number in state["state"]:
            loaded.update(_as_saved(state["state"][number], loaded, parameter.device))


def _only_castable(value: Any) -> Any:
    """The state without what torch would take apart: texts, arrays, at any depth."""
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
        model: tells which of them are hidden weights: see `hidden_weights`.
        lr: of the hidden weights.
        momentum: of the hidden weights.
        weight_decay: decoupled, of all.
        nesterov: look-ahead form of the momentum.
        ns_steps: Newton-Schulz iterations that orthogonalise an update.
        adjust_lr_fn: how `lr` follows a weight's shape: `torch.optim.Muon` describes it.
        adamw_lr: learning rate of the rest.
        betas: of the rest.
        eps: of the rest.
        fused: whether AdamW uses its fused kernel.

    Raises:
        ConfigError: the model has no hidden 2-D weight to train.
    """
    params = list(params)
    hidden = hidden_weights(model)
    chosen = [parameter for parameter in params if parameter in hidden]
    if not chosen:
        raise ConfigError(
            "optimizer=muon is for hidden fully connected layers, and this model trains none: write optimizer=adamw"
        )
    make_muon = CPUMuon if chosen[0].device.type == "cpu" else torch.optim.Muon
    parts: list[torch.optim.Optimizer] = [
        make_muon(
            chosen,
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
    """As a person calls it: `AdamW`, or `Muon + AdamW` of several in one."""
    parts = optimizer._parts if isinstance(optimizer, Combined) else [optimizer]
    named = (next(c for c in type(part).__mro__ if not c.__module__.startswith("runner.")) for part in parts)
    return " + ".join(c.__name__ for c in named)


class Combined(torch.optim.Optimizer):
    """Several optimizers, each with one group of parameters, as one with one state.

    Args:
        parts: in the order of the groups. From now on their groups and their state are this one's, so that
            whatever changes them here, a schedule or a loaded state, changes them there.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self._parts = list(parts)
        super().__init__([group for part in parts for group in part.param_groups], defaults={})
        self._link()

    def _link(self) -> None:
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.__setstate__({"state": self.state, "param_groups": [group]})

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_parts": self._parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # `load_state_dict` ends in here, with new groups and a new state.
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
    """`torch.optim.Muon`, computing in the gradients' own format instead of bfloat16.

    A CPU without instructions for bfloat16 takes 163 ms to orthogonalise a 128 x 784 update in it, and 5 ms in float32.
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
    """The nearest matrix with orthogonal rows or columns, roughly: singular values between 0.7 and 1.2.

    Newton-Schulz iterations of a quintic polynomial, `x -> a x + (b x x' + c (x x')^2) x`, after the update (M, N)
    was scaled to a norm of 1 (Jordan et al., 2024).
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
    """What `torch.optim.Muon` multiplies the learning rate of a weight by."""
    if rule == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    if rule == "spectral_unclamped":
        return math.sqrt(rows / columns)
    return math.sqrt(max(1.0, rows / columns))


def hidden_weights(model: nn.Module) -> set[Tensor]:
    """The 2-D weights within a model: of `nn.Linear` layers, and the projections of attention.

    The last `nn.Linear` in the order of definition counts as the output layer, and does not belong to them;
    nor does a weight that is an embedding's too.
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
