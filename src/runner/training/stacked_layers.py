"""The step of several models that are chains of linear layers and activations, without `torch.func.vmap`.

`vmap` costs such a model more than its matrix products: 64 models of digits take 3.4 ms with it on one core of an AMD
EPYC, forward and backward, and 2.2 without. Other models take `vmap`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable

from runner.loss import CrossEntropy
from runner.loss.base import Loss

Layer = Callable[[Tensor], Tensor]

ELEMENTWISE = (
    nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.LeakyReLU, nn.Softplus, nn.Mish, nn.Hardswish, nn.Identity,
)  # fmt: skip
FUNCTIONS = (torch.relu, torch.tanh, torch.sigmoid, F.relu, F.gelu, F.silu, F.elu, F.leaky_relu, F.tanh, F.sigmoid)
METHODS = ("relu", "tanh", "sigmoid")
"""What may stand between linear layers: it changes each value for itself."""

NARROW = 16
"""Outputs of a layer that is computed with the samples in the last axis: 64 products (32, 64) x (64, 10) take 40
instead of 123 us, those of 128 outputs 358 instead of 356 (one core of an AMD EPYC)."""


@dataclass(frozen=True)
class Linear:
    """A linear layer: the names of its weight (O, I) and bias (O,), and whether ReLU follows."""

    weight: str
    bias: str | None
    relu: bool = False


Chain = Sequence[Linear | Layer]


def chain_of(model: nn.Module) -> Chain | None:
    """Return the layers of a model, one after the other; None if it is anything else than such a chain.

    Args:
        model: its `forward` is called once, with a stand-in for its inputs.
    """
    try:
        nodes = list(fx.Tracer().trace(model).nodes)
        layers = [_layer(model, node, before) for before, node in pairwise(nodes[:-1])]
    except Exception:  # a branch that depends on values, and whatever else a user's model does
        return None
    ends = nodes[0].op == "placeholder" and nodes[-1].args == (nodes[-2],)
    names = [name for layer in layers if isinstance(layer, Linear) for name in (layer.weight, layer.bias) if name]
    alone = sorted(names) == sorted(name for name, _ in model.named_parameters())  # each once, and no others
    return _joined([layer for layer in layers if layer is not None]) if ends and alone and None not in layers else None


def _joined(layers: Sequence[Linear | Layer]) -> Chain:
    """Join each linear layer with the ReLU after it, which then takes no memory of its own."""
    chain: list[Linear | Layer] = []
    for layer in layers:
        if layer is torch.relu and chain and isinstance(last := chain[-1], Linear):
            chain[-1] = replace(last, relu=True)
        else:
            chain.append(layer)
    return chain


def _layer(model: nn.Module, node: fx.Node, before: fx.Node) -> Linear | Layer | None:
    """Return the layer of a node that has the result of the one before it as its only input; else None."""
    if node.args[:1] != (before,):
        return None
    rest = node.args[1:]
    if node.op == "call_module" and not rest and not node.kwargs:
        return _module(str(node.target), model.get_submodule(str(node.target)))
    if node.op == "call_function" and node.target in FUNCTIONS and not rest:
        function: Any = node.target
        options = {name: value for name, value in node.kwargs.items() if name != "inplace"}
        return torch.relu if function is F.relu else partial(function, **options)
    if node.op == "call_method" and node.target in METHODS and not rest and not node.kwargs:
        return getattr(torch, str(node.target))
    flattens = node.target is torch.flatten if node.op == "call_function" else node.target == "flatten"
    return _flatten if flattens and rest == (1,) and not node.kwargs else None


def _module(name: str, module: nn.Module) -> Linear | Layer | None:
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        return None
    if type(module) is nn.Linear:
        trained = all(parameter.requires_grad for parameter in module.parameters())
        return Linear(f"{name}.weight", None if module.bias is None else f"{name}.bias") if trained else None
    if type(module) is nn.ReLU:
        return torch.relu
    if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return _flatten
    return module if type(module) in ELEMENTWISE else None


def _flatten(values: Tensor) -> Tensor:
    return values.flatten(2)


def outputs_of(chain: Chain, weights: Mapping[str, Tensor], inputs: Tensor, gradients: Mapping[str, Tensor]) -> Tensor:
    """Return the outputs (K, N, O) of K models.

    Args:
        chain: their layers.
        weights: (K, ...), contiguous.
        inputs: (K, N, ...).
        gradients: the backward pass writes those of the weights into these, which are like the weights.
    """
    values = inputs
    for layer in chain:
        if isinstance(layer, Linear):
            names = layer.weight, layer.bias
            own = [each[name] if name else None for name in names for each in (weights, gradients)]
            values = _Linear.apply(values, *own, layer.relu)
        else:
            values = layer(values)
    return values


class _Linear(torch.autograd.Function):
    """A linear layer of each model. The gradients of weight and bias go into tensors that exist."""

    @staticmethod
    def forward(
        context: Any,
        inputs: Tensor,
        weight: Tensor,
        to_weight: Tensor,
        bias: Tensor | None,
        to_bias: Tensor | None,
        relu: bool,
    ) -> Tensor:
        outputs = _product(inputs.flatten(1, -2), weight, bias)  # (K, N, ..., I)
        outputs = (outputs.relu_() if relu else outputs).reshape(*inputs.shape[:-1], weight.shape[1])
        context.save_for_backward(inputs, weight, outputs if relu else None)
        context.gradients = to_weight, to_bias
        return outputs

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, outputs = context.saved_tensors
        to_weight, to_bias = context.gradients
        if outputs is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, outputs, 0)
        own = gradient.flatten(1, -2)
        torch.bmm(own.mT, inputs.flatten(1, -2), out=to_weight)
        if to_bias is not None:
            torch.sum(own, 1, out=to_bias)
        back = torch.bmm(own, weight).view(inputs.shape) if context.needs_input_grad[0] else None
        return back, None, None, None, None, None


def _product(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the outputs (K, N, O) for inputs (K, N, I)."""
    if weight.shape[1] < NARROW:
        return _add_product(bias.unsqueeze(2) if bias is not None else None, weight, inputs.mT).mT
    return _add_product(bias.unsqueeze(1) if bias is not None else None, inputs, weight.mT)


def _add_product(offset: Tensor | None, one: Tensor, other: Tensor) -> Tensor:
    return torch.bmm(one, other) if offset is None else torch.baddbmm(offset, one, other)


def is_plain_cross_entropy(loss: Loss, targets: Tensor) -> bool:
    """Return whether a loss is the mean cross entropy of classes (K, N) without weights."""
    plain = type(loss) is CrossEntropy and loss.class_weights is None and loss.ignore_index is None
    return plain and targets.ndim == 2 and not targets.is_floating_point()


class CrossEntropies(torch.autograd.Function):
    """The mean cross entropy (K,) of outputs (K, N, C) and classes (K, N), with the smoothing (K,) of each model."""

    @staticmethod
    def forward(context: Any, outputs: Tensor, targets: Tensor, smoothing: Tensor | None) -> Tensor:
        """Return the losses, and keep their gradients."""
        logits, classes = outputs.mT, targets.unsqueeze(1)  # samples in the last axis: exp and sums take less time
        shares = logits - logits.amax(1, keepdim=True)
        own, average = shares.gather(1, classes), shares.mean(1, keepdim=True) if smoothing is not None else None
        total = shares.exp_().sum(1, keepdim=True)
        right = own
        if smoothing is not None and average is not None:
            smoothing = smoothing.view(-1, 1, 1)
            right = torch.lerp(own, average, smoothing)
        losses = (total.log() - right).mean((1, 2))
        shares.div_(total)
        weight = -torch.ones_like(own) if smoothing is None else (smoothing - 1).expand_as(own)
        shares.scatter_add_(1, classes, weight)
        if smoothing is not None:
            shares.sub_(smoothing / shares.shape[1])
        context.save_for_backward(shares.div_(shares.shape[2]))
        return losses

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the outputs."""
        (shares,) = context.saved_tensors
        return (shares * gradient.view(-1, 1, 1)).mT, None, None
