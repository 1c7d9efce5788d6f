"""Several optimizers by name: how they divide the parameters, and what is refused before the start."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from helpers.problems import problem_of
from helpers.tasks import PAIR
from runner.optimizer.several import Several, divide

MODEL = nn.ModuleDict({"G": nn.Linear(2, 3), "D": nn.Linear(3, 1)})
NAMES = dict(MODEL.named_parameters())


def test_parameters_are_divided_by_patterns() -> None:
    parts = divide(NAMES, list(NAMES.values()), {"generator": "G.*", "discriminator": ["D.weight", "D.bias"]})
    assert parts["generator"] == [MODEL["G"].weight, MODEL["G"].bias]
    assert parts["discriminator"] == [MODEL["D"].weight, MODEL["D"].bias]


@pytest.mark.parametrize(
    ("patterns", "key", "topic"),
    [
        ({"generator": "G.*", "discriminator": "E.*"}, "optimizers.discriminator.params", "unknown"),
        ({"generator": "G.*", "discriminator": ["D.*", "G.bias"]}, "optimizers.discriminator.params", "conflict"),
        ({"generator": "G.*", "discriminator": "D.weight"}, "optimizers", "conflict"),
    ],
)
def test_a_division_that_does_not_fit_is_refused(patterns: dict[str, str], key: str, topic: str) -> None:
    problem = problem_of(lambda: divide(NAMES, list(NAMES.values()), patterns))
    assert (problem.key, problem.topic) == (key, topic)


def test_they_have_one_state_and_named_groups() -> None:
    made = Several(
        {
            "generator": torch.optim.Adam(MODEL["G"].parameters(), lr=0.1),
            "discriminator": torch.optim.SGD(MODEL["D"].parameters(), lr=0.2, momentum=0.9),
        }
    )
    assert [(group["name"], group["lr"]) for group in made.param_groups] == [("generator", 0.1), ("discriminator", 0.2)]
    schedule = torch.optim.lr_scheduler.StepLR(made, step_size=1, gamma=0.5)
    for parameter in MODEL.parameters():
        parameter.grad = torch.ones_like(parameter)
    for part in made.by_name.values():
        part.step()
    made.step()
    schedule.step()
    assert [part.param_groups[0]["lr"] for part in made.by_name.values()] == [0.05, 0.1]
    saved = made.state_dict()
    assert set(saved["state"]) == {0, 1, 2, 3}
    made.load_state_dict(saved)
    assert all(part.state is made.state for part in made.by_name.values())
    assert [part.param_groups[0]["lr"] for part in made.by_name.values()] == [0.05, 0.1]


GENERATOR, DISCRIMINATOR = PAIR[-2:]


@pytest.mark.parametrize(
    ("typed", "key", "topic"),
    [
        ([*PAIR, "optimizer=adam"], "optimizer", "conflict"),
        ([*PAIR, "optimizer.lr=0.3"], "optimizer", "conflict"),
        ([*PAIR, "optimizers.generator.lrr=0.3"], "optimizers.generator.lrr", "unknown"),
        ([*PAIR, "optimizers.generator.lr=fast"], "optimizers.generator.lr", "type"),
        ([*PAIR, "optimizers.generator.params=null"], "optimizers.generator.params", "missing"),
        ([*PAIR, "optimizers.generator.params=H.*"], "optimizers.generator.params", "unknown"),
        ([*PAIR, "optimizers.generator._target_=torch.optim.Adamm"], "optimizers.generator._target_", "unknown"),
        ([*PAIR, "optimizers.critic={params: D.*, _target_: torch.optim.SGD}"], "optimizers.critic", "unknown"),
        (PAIR[:-2], "optimizers", "missing"),
        (PAIR[:-1], "optimizers", "conflict"),
        ([GENERATOR, DISCRIMINATOR], "optimizers", "conflict"),
        ([*PAIR, "trainer.early_stopping.patience=3"], "trainer.early_stopping.patience", "conflict"),
        ([*PAIR, "trainer.monitor=val/quality"], "trainer.monitor", "choice"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(runner: Callable[..., object], typed: list[str], key: str, topic: str) -> None:
    called = runner(*typed)
    assert called.code == 2 and called.about == [(key, topic)]  # type: ignore[attr-defined]
