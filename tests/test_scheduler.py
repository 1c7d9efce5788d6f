import pytest
import torch

from runner.scheduler import constant, cosine, cosine_restarts


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.8)


def test_constant_is_no_scheduler_at_all() -> None:
    schedule = constant(optimizer())
    assert schedule.scheduler is None
    assert not schedule.horizon


def test_cosine_falls_by_step_to_its_minimum_at_the_last() -> None:
    made = optimizer()
    schedule = cosine(made, total_steps=10, min_lr=0.1)
    rates = []
    for _ in range(10):
        made.step()
        schedule.scheduler.step()
        rates.append(made.param_groups[0]["lr"])
    assert schedule.every == "step"
    assert schedule.horizon
    assert rates == sorted(rates, reverse=True)
    assert rates[4] == pytest.approx((0.8 + 0.1) / 2)
    assert rates[-1] == pytest.approx(0.1)


def test_cosine_restarts_each_period_and_has_no_horizon() -> None:
    made = optimizer()
    schedule = cosine_restarts(made, steps_per_epoch=4, period=2, min_lr=0.2)
    rates = []
    for _ in range(17):
        rates.append(made.param_groups[0]["lr"])
        made.step()
        schedule.scheduler.step()
    assert [rates[step] for step in (0, 8, 16)] == [0.8, 0.8, 0.8]
    assert rates[4] == pytest.approx((0.8 + 0.2) / 2)
    assert rates[:8] == sorted(rates[:8], reverse=True)
    assert schedule.every == "step"
    assert not schedule.horizon
