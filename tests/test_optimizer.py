import pytest
import torch
from torch import nn

from runner.optimizer import supports_fused, trainable

CPU = torch.device("cpu")


@pytest.mark.parametrize("target", [torch.optim.SGD, torch.optim.AdamW])
def test_the_fused_kernel_is_used_where_there_is_one_and_nobody_chose_otherwise(target: type) -> None:
    assert supports_fused(target, CPU, {"lr"})
    assert not supports_fused(target, CPU, {"lr", "foreach"})
    assert not supports_fused(target, CPU, {"lr", "fused"})
    assert not supports_fused(target, torch.device("mps"), {"lr"})
    assert not supports_fused(torch.optim.LBFGS, CPU, {"lr"})


def test_frozen_weights_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    assert trainable(model) == list(model[1].parameters())
