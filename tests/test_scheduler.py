import dataclasses
import inspect
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from conftest import Called
from helpers.composed import accuracy, built, trained
from helpers.problems import about
from runner.assembly import experiment, optimization
from runner.assembly.target import check_target
from runner.errors import ConfigError
from runner.loss import CrossEntropy, Metric, correct
from runner.optimizer import muon, trainable
from runner.scheduler import Schedule, constant, cosine, cosine_restarts, onecycle, plateau, step, warmup_cosine


def optimizer(lr: float = 0.8, **arguments: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr, **arguments)


def rates(made: torch.optim.Optimizer, schedule: Schedule, steps: int, *metric: float) -> list[float]:
    """Return the learning rates of a number of steps, and the next one."""
    found = [made.param_groups[0]["lr"]]
    for index in range(steps):
        made.step()
        assert schedule.scheduler is not None
        schedule.scheduler.step(*metric[index : index + 1])
        found.append(made.param_groups[0]["lr"])
    return found


def half_cosine(high: float, low: float, share: float) -> float:
    return low + (high - low) * (1 + math.cos(math.pi * share)) / 2


def test_constant_is_no_scheduler_at_all() -> None:
    schedule = constant(optimizer())
    assert schedule.scheduler is None
    assert not schedule.horizon


def test_cosine_falls_by_step_to_its_minimum_at_the_last() -> None:
    made = optimizer()
    schedule = cosine(made, total_steps=10, min_lr=0.1)
    assert rates(made, schedule, 10) == pytest.approx([half_cosine(0.8, 0.1, k / 10) for k in range(11)])
    assert (schedule.every, schedule.horizon) == ("step", True)


def test_cosine_restarts_each_period_and_has_no_horizon() -> None:
    made = optimizer()
    schedule = cosine_restarts(made, steps_per_epoch=4, period=2, min_lr=0.2)
    assert rates(made, schedule, 16) == pytest.approx([half_cosine(0.8, 0.2, k % 8 / 8) for k in range(17)])
    assert (schedule.every, schedule.horizon) == ("step", False)


def test_step_falls_every_so_many_epochs() -> None:
    made = optimizer()
    schedule = step(made, step_size=3, gamma=0.5)
    assert rates(made, schedule, 7) == pytest.approx([0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2, 0.2])
    assert (schedule.every, schedule.horizon) == ("epoch", False)


class TestPlateau:
    def test_it_falls_after_patience_and_starts_counting_again(self) -> None:
        made = optimizer()
        schedule = plateau(made, mode="min", factor=0.5, patience=1, min_lr=0.3)
        measured = [1.0, 0.9, 0.9, 0.95, 0.8, 0.8, 0.8, 0.8]
        assert rates(made, schedule, 8, *measured) == pytest.approx([0.8] * 4 + [0.4] * 3 + [0.3] * 2)
        assert (schedule.every, schedule.horizon) == ("epoch", False)

    def test_higher_may_be_better_and_below_zero_too(self) -> None:
        made = optimizer()
        schedule = plateau(made, mode="max", factor=0.5, patience=0)
        assert rates(made, schedule, 3, -2.0, -1.0, -1.0) == pytest.approx([0.8, 0.8, 0.8, 0.4])

    def test_the_threshold_is_what_a_better_one_must_be_better_by(self) -> None:
        made = optimizer()
        schedule = plateau(made, factor=0.5, patience=0, threshold=0.1)
        assert rates(made, schedule, 3, 1.0, 0.95, 0.8) == pytest.approx([0.8, 0.8, 0.4, 0.4])

    @pytest.mark.parametrize("monitor", ["val/loss", "val/accuracy"])
    def test_the_loop_gives_it_the_monitored_metric(self, monitor: str, here: Path) -> None:
        # While the network learns, losses fall and accuracies rise: both are improvements only if `mode` is right.
        wanted = ["scheduler=plateau", "scheduler.patience=0", f"trainer.monitor={monitor}", "trainer.epochs=3"]
        better = trained(here, *wanted)
        assert better.log.of("lr") == pytest.approx({1: 0.05, 2: 0.05, 3: 0.05})
        never = trained(here, *wanted, "scheduler.threshold=100")
        assert never.log.of("lr") == pytest.approx({1: 0.05, 2: 0.05, 3: 0.005})


class TestWarmupCosine:
    def test_it_rises_in_a_line_and_falls_in_half_a_cosine(self) -> None:
        made = optimizer()
        schedule = warmup_cosine(made, total_steps=14, steps_per_epoch=8, warmup_epochs=0.5, min_lr=0.1)
        rise = [0.8 * k / 5 for k in (1, 2, 3, 4)]
        fall = [half_cosine(0.8, 0.1, k / 10) for k in range(11)]
        assert rates(made, schedule, 14) == pytest.approx(rise + fall)
        assert (schedule.every, schedule.horizon) == ("step", True)

    def test_without_warming_up_it_is_the_cosine(self) -> None:
        ours, other = optimizer(), optimizer()
        expected = rates(other, cosine(other, total_steps=9, min_lr=0.2), 9)
        assert rates(ours, warmup_cosine(ours, 9, 3, warmup_epochs=0, min_lr=0.2), 9) == pytest.approx(expected)

    def test_groups_keep_their_proportions(self) -> None:
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
        made = muon(trainable(model), model, lr=0.1, adamw_lr=0.01)
        schedule = warmup_cosine(made, total_steps=8, steps_per_epoch=2)
        for _ in range(7):
            made.step()
            schedule.scheduler.step()
            assert made.param_groups[1]["lr"] == pytest.approx(made.param_groups[0]["lr"] / 10)


class TestOneCycle:
    def test_the_learning_rate_of_the_optimizer_is_the_peak(self) -> None:
        made = optimizer(momentum=0.9)
        schedule = onecycle(made, total_steps=20, pct_start=0.3, div_factor=10, final_div_factor=100)
        low, last = 0.08, 0.0008
        rise = [half_cosine(low, 0.8, k / 5) for k in range(5)]
        fall = [half_cosine(0.8, last, k / 14) for k in range(15)]
        found = rates(made, schedule, 20)
        assert found[:20] == pytest.approx(rise + fall)
        assert made.param_groups[0]["momentum"] == 0.9
        assert (schedule.every, schedule.horizon) == ("step", True)

    @pytest.mark.parametrize("key", ["momentum", "betas"])
    def test_momentum_falls_to_its_base_and_comes_back(self, key: str) -> None:
        made = optimizer(momentum=0.9)
        if key == "betas":
            made = torch.optim.Adam(made.param_groups[0]["params"], betas=(0.9, 0.99))
        schedule = onecycle(made, total_steps=10, pct_start=0.4, base_momentum=0.7)
        found = []
        for _ in range(10):
            group = made.param_groups[0]
            found.append(group["betas"][0] if key == "betas" else group["momentum"])
            made.step()
            schedule.scheduler.step()
        expected = [half_cosine(0.9, 0.7, k / 3) for k in range(3)] + [half_cosine(0.7, 0.9, k / 6) for k in range(7)]
        assert found == pytest.approx(expected)

    def test_momentum_that_is_not_there_cannot_be_lowered(self) -> None:
        adagrad = torch.optim.Adagrad([torch.zeros(1, requires_grad=True)])
        for made, figures in ((optimizer(), ["0.85", "0.0"]), (adagrad, ["sgd", "adamw"])):
            with pytest.raises(ConfigError) as error:
                onecycle(made, total_steps=10, base_momentum=0.85)
            assert about(error) == [("scheduler.base_momentum", "conflict")]
            (problem,) = error.value.problems
            assert problem.suggestion == "write scheduler.base_momentum=null"
            assert all(figure in problem.text for figure in figures)

    @pytest.mark.parametrize(("total", "share"), [(1, 1.0), (1, 0.3), (2, 0.5), (10, 0.1), (4, 1.0), (4, 0.0), (3, 1)])
    def test_no_share_of_the_steps_divides_by_zero(self, total: int, share: float) -> None:
        made = optimizer()
        found = rates(made, onecycle(made, total_steps=total, pct_start=share), total)
        assert all(0 < lr <= 0.8 for lr in found)


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer, int], Schedule]] = {
    "step": lambda made, total: step(made, step_size=3),
    "plateau": lambda made, total: plateau(made, patience=1),
    "cosine": lambda made, total: cosine(made, total_steps=total),
    "cosine_restarts": lambda made, total: cosine_restarts(made, steps_per_epoch=total),
    "warmup_cosine": lambda made, total: warmup_cosine(made, total, steps_per_epoch=4, warmup_epochs=total / 16),
    "onecycle": lambda made, total: onecycle(made, total),
    "onecycle with momentum": lambda made, total: onecycle(made, total, base_momentum=0.8),
}


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
def test_each_goes_on_bit_for_bit_from_a_file(make: Callable[[torch.optim.Optimizer, int], Schedule]) -> None:
    def prepared() -> tuple[torch.optim.Optimizer, Any]:
        made = optimizer(momentum=0.9)
        return made, make(made, 12).scheduler

    def go_on(made: torch.optim.Optimizer, scheduler: Any, steps: range) -> list[tuple[float, float]]:
        seen = []
        for index in steps:
            made.step()
            scheduler.step(*([1 / (1 + index % 5)] if "mode" in scheduler.__dict__ else []))
            seen.append((made.param_groups[0]["lr"], made.param_groups[0]["momentum"]))
        return seen

    for stop in (0, 1, 5, 11):
        whole = go_on(*prepared(), range(12))
        first, scheduler = prepared()
        before = go_on(first, scheduler, range(stop))
        file = io.BytesIO()
        torch.save({"optimizer": first.state_dict(), "scheduler": scheduler.state_dict()}, file)
        file.seek(0)
        stored = torch.load(file, weights_only=True)
        second, scheduler = prepared()
        second.load_state_dict(stored["optimizer"])
        scheduler.load_state_dict(stored["scheduler"])
        assert before + go_on(second, scheduler, range(stop, 12)) == whole


@pytest.mark.parametrize("total", [1, 2])
@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
def test_a_step_or_two_are_training_too(make: Callable[[torch.optim.Optimizer, int], Schedule], total: int) -> None:
    made = optimizer(momentum=0.9)
    schedule = make(made, total)
    found = rates(made, schedule, total, *([1.0] * total if "mode" in schedule.scheduler.__dict__ else []))
    assert all(0 <= lr <= 0.8 for lr in found)
    assert found[0] > 0


def course(experiment: experiment.Experiment, changed: dict[str, Any]) -> list[tuple[float, float]]:
    """Return learning rate and momentum of twelve steps or epochs, without improvement after the fourth."""
    made = optimizer(momentum=0.9)
    settings = dataclasses.replace(experiment.trainer, epochs=6)
    half = -(-len(experiment.splits.train) // 2)  # two batches per epoch
    keys = experiment.config["scheduler"] | changed
    schedule = optimization.make_schedule(keys, made, settings, experiment.task, experiment.splits, half)
    scheduler: Any = schedule.scheduler
    seen = []
    for index in range(12):
        seen.append((made.param_groups[0]["lr"], made.param_groups[0]["momentum"]))
        made.step()
        scheduler.step(*([1 / (1 + min(index, 3))] if "mode" in scheduler.__dict__ else []))
    return seen


class Hits(CrossEntropy):
    metrics: Mapping[str, Metric] = {"hits": Metric(correct, higher_is_better=True)}


def test_plateau_waits_for_what_the_loss_calls_better() -> None:
    experiment = built("scheduler=plateau", f"loss._target_={__name__}.Hits", "trainer.monitor=val/hits")
    assert isinstance(experiment.schedule.scheduler, ReduceLROnPlateau)
    assert experiment.schedule.scheduler.mode == "max"


KEYS: dict[str, dict[str, Any]] = {
    "step": {"step_size": 5, "gamma": 0.5},
    "plateau": {"factor": 0.5, "patience": 5, "threshold": 0.3, "min_lr": 0.1},
    "cosine": {"min_lr": 0.1},
    "cosine_restarts": {"period": 2, "min_lr": 0.1},
    "warmup_cosine": {"warmup_epochs": 2.5, "min_lr": 0.1},
    "onecycle": {"pct_start": 0.5, "div_factor": 5, "final_div_factor": 10, "base_momentum": 0.8},
}


@pytest.mark.parametrize("choice", KEYS)
def test_each_key_of_the_config_changes_the_course(choice: str, here: Path) -> None:
    experiment = built(f"scheduler={choice}")
    assert set(experiment.config["scheduler"]) == {"_target_", *KEYS[choice]}
    courses = [course(experiment, changed) for changed in ({}, *({key: value} for key, value in KEYS[choice].items()))]
    assert all(one != other for index, one in enumerate(courses) for other in courses[:index])


BARE = [
    "scheduler._target_=torch.optim.lr_scheduler.ExponentialLR",
    "+scheduler.gamma=0.9",
    "~scheduler.period",
    "~scheduler.min_lr",
]
CHOICES = [["scheduler=" + name] for name in ("constant", "step", "plateau", "cosine", "warmup_cosine", "onecycle")]


@pytest.mark.parametrize("choice", [*CHOICES, BARE], ids=lambda choice: choice[0])
def test_each_trains_well_as_it_is_configured(choice: list[str], here: Path) -> None:
    state = trained(here, *choice, "trainer.epochs=4")
    assert accuracy(state) > 0.75  # by chance 0.1
    if choice is BARE:
        assert state.log.of("lr") == pytest.approx({epoch: 0.05 * 0.9 ** (epoch - 1) for epoch in (1, 2, 3, 4)})


def test_a_mode_that_is_no_goal_is_left_to_the_class(here: Path) -> None:
    cyclic = ("+scheduler.base_lr=0.01", "+scheduler.max_lr=0.1", "+scheduler.step_size_up=2", *BARE[2:])
    experiment = built("scheduler._target_=torch.optim.lr_scheduler.CyclicLR", *cyclic)
    assert isinstance(experiment.schedule.scheduler, torch.optim.lr_scheduler.CyclicLR)
    experiment = built(
        "scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau", *BARE[2:], "trainer.monitor=val/accuracy"
    )
    assert experiment.schedule.scheduler.mode == "max"


OF_TORCH: dict[str, dict[str, Any]] = {
    "ConstantLR": {},
    "CosineAnnealingLR": {"T_max": 3},
    "CosineAnnealingWarmRestarts": {"T_0": 3},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1},
    "ExponentialLR": {"gamma": 0.9},
    "LinearLR": {},
    "MultiStepLR": {"milestones": [1, 2]},
    "OneCycleLR": {"max_lr": 0.1},
    "PolynomialLR": {},
    "ReduceLROnPlateau": {},
    "StepLR": {"step_size": 2},
}
OF_OTHER_OBJECTS = {"LRScheduler", "LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler"}
"""Classes whose arguments are functions or schedulers, which a config cannot name; and the base of all."""


def test_each_class_of_torch_gets_only_what_it_takes(here: Path) -> None:
    module = torch.optim.lr_scheduler
    classes = {name for name, kind in vars(module).items() if inspect.isclass(kind) and issubclass(kind, LRScheduler)}
    assert {name for name in classes if name[0] != "_"} - {*OF_TORCH} == OF_OTHER_OBJECTS
    built_once = built("trainer.monitor=val/accuracy")
    trainer, task, splits = built_once.trainer, built_once.task, built_once.splits
    for name, keys in OF_TORCH.items():
        node = {"_target_": f"torch.optim.lr_scheduler.{name}", **keys}
        assert check_target("scheduler", node) == []
        made = optimization.make_schedule(node, optimizer(momentum=0.9), trainer, task, splits, 32)
        assert type(made.scheduler).__name__ == name
        assert getattr(made.scheduler, "mode", None) == {"CyclicLR": "triangular", "ReduceLROnPlateau": "max"}.get(name)
        assert made.every == ("step" if name == "OneCycleLR" else "epoch")


@pytest.mark.parametrize("mode", ["triangular2", "exp_range"])
def test_the_mode_of_a_cycle_may_be_typed(mode: str, here: Path) -> None:
    node = {"_target_": "torch.optim.lr_scheduler.CyclicLR", **OF_TORCH["CyclicLR"], "mode": mode}
    assert check_target("scheduler", node) == []
    experiment = built()
    arguments = experiment.trainer, experiment.task, experiment.splits, 32
    scheduler: Any = optimization.make_schedule(node, optimizer(momentum=0.9), *arguments).scheduler
    assert scheduler.mode == mode


def test_a_warm_up_as_long_as_training_is_refused(runner: Callable[..., Called]) -> None:
    called = runner("scheduler=warmup_cosine", "scheduler.warmup_epochs=2", "trainer.epochs=2", "tracking=off")
    assert called.code == 2
    assert called.about == [("scheduler.warmup_epochs", "conflict")]
    (problem,) = called.problems
    assert "scheduler.warmup_epochs=2 " in problem.text
    assert "write scheduler.warmup_epochs=0.4" in problem.suggestion and "trainer.epochs" in problem.suggestion
