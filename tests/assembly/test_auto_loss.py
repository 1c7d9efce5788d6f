"""`loss=auto`: which loss the targets ask for, and that the run is then the one of the typed loss."""

import pytest
import torch
from omegaconf import OmegaConf

from helpers.composed import built
from helpers.problems import about
from runner.assembly import auto_loss
from runner.config.compose import config_folder
from runner.errors import ConfigError

AUTO = {"_target_": "runner.assembly.auto_loss.auto"}

TARGETS = {
    "classes": (torch.tensor([0, 1, 2]), "cross_entropy"),
    "two classes": (torch.tensor([0, 1]), "cross_entropy"),
    "a class for each pixel": (torch.zeros(2, 4, 4, dtype=torch.int64), "cross_entropy"),
    "numbers": (torch.tensor([0.5, 2.0]), "mse"),
    "whole numbers that are floats": (torch.tensor([3.0, 7.0]), "mse"),
    "several numbers": (torch.tensor([[3, 7], [1, 0]]), "mse"),
    "several labels": (torch.tensor([[0, 1], [1, 1]]), "bce_with_logits"),
    "several labels that are floats": (torch.tensor([[0.0, 1.0], [1.0, 1.0]]), "bce_with_logits"),
    "one label that is a float": (torch.tensor([0.0, 1.0, 1.0]), "bce_with_logits"),
}


@pytest.mark.parametrize(("targets", "name"), TARGETS.values(), ids=TARGETS.keys())
def test_the_targets_choose_the_loss_and_its_keys_are_those_of_its_file(targets: torch.Tensor, name: str) -> None:
    file = OmegaConf.to_container(OmegaConf.load(config_folder() / "loss" / f"{name}.yaml"))
    assert auto_loss.resolve(AUTO, targets) == file
    assert auto_loss.name_of(file) == name


def test_a_typed_loss_stays() -> None:
    typed = {"_target_": "runner.loss.MSE"}
    assert auto_loss.resolve(typed, torch.tensor([0, 1, 2])) == typed


def test_a_key_goes_to_the_chosen_loss_or_is_refused() -> None:
    smooth = {**AUTO, "label_smoothing": 0.2}
    assert auto_loss.resolve(smooth, torch.tensor([0, 1]))["label_smoothing"] == 0.2
    with pytest.raises(ConfigError) as error:
        auto_loss.resolve(smooth, torch.tensor([0.5, 1]))
    assert about(error) == [("loss.label_smoothing", "conflict")]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("keys", [(), ("loss.label_smoothing=0.2",)])
def test_a_run_is_built_and_recorded_as_if_the_loss_had_been_typed(keys: tuple[str, ...]) -> None:
    auto, typed = (built(*keys, *loss) for loss in ((), ("loss=cross_entropy",)))
    assert auto.config == typed.config and auto.config["loss"]["_target_"] == "runner.loss.CrossEntropy"
    assert auto.choices == typed.choices and auto.choices["loss"] == "cross_entropy"
