import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.training import Stop, blobs, divided, exact_state, net, same, training
from runner.config.settings import EarlyStoppingSettings
from runner.data.loading import TensorLoader
from runner.data.source import Source
from runner.errors import TrainingError
from runner.loss import MSE, CrossEntropy, Metric, correct
from runner.rundir import checkpoint
from runner.rundir.checkpoint import Checkpoints
from runner.rundir.checkpoint_file import load
from runner.scheduler import Schedule, cosine, cosine_restarts
from runner.training.evaluation import evaluate
from runner.training.loop import fit, train_batches
from runner.training.saving import restore, save
from runner.training.state import Interrupted, Training


def whole_set(state: Any, part: str) -> tuple[Tensor, Tensor]:
    loader = getattr(state.loaders, part)
    assert isinstance(loader, TensorLoader)
    return loader.inputs, loader.targets


NEVER_BETTER: dict[str, Any] = {"threshold": 1e9, "threshold_mode": "abs"}


def numbers() -> Source:
    made = torch.Generator().manual_seed(5)
    inputs = torch.randn(60, 6, generator=made)
    return Source("numbers", train=(inputs, inputs @ torch.randn(6, 3, generator=made)))


class TestMeans:
    def test_the_logged_losses_are_means_over_samples_not_batches(self, tmp_path: Path) -> None:
        # 101 training samples in batches of 32: the last batch has 5. A learning rate of zero keeps the weights.
        splits = divided(blobs(126), val_fraction=25 / 126)
        state = training(tmp_path, splits=splits, optimizer=lambda p: torch.optim.SGD(p, lr=0.0), epochs=1)
        assert state.loaders.train.samples == 101
        fit(state)
        for part in ("train", "val"):
            inputs, targets = whole_set(state, part)
            with torch.no_grad():
                outputs = state.model(inputs)
            assert state.log.of(f"{part}/loss")[1] == pytest.approx(cross_entropy(outputs, targets).item(), abs=1e-6)
            accuracy = (outputs.argmax(1) == targets).double().mean().item()
            assert state.log.of(f"{part}/accuracy")[1] == pytest.approx(accuracy, abs=1e-12)

    def test_a_regression_reports_its_mean_absolute_error(self, tmp_path: Path) -> None:
        inputs = torch.randn(50, 4)
        splits = divided(Source("line", train=(inputs, inputs.sum(1))))
        state = training(tmp_path, splits=splits, model=net(4, 1), loss=MSE(), epochs=1)
        fit(state)
        inputs, targets = whole_set(state, "val")
        with torch.no_grad():
            expected = (state.model(inputs) - targets).abs().mean().item()
        assert state.log.of("val/mae")[1] == pytest.approx(expected, rel=1e-6)


class TestAccumulation:
    @pytest.mark.parametrize("clip_norm", [None, 0.1])
    def test_four_batches_of_eight_step_like_one_of_32_remainder_included(
        self, tmp_path: Path, clip_norm: float | None
    ) -> None:
        states = []
        for batch_size, accumulation in ((32, 1), (8, 4)):
            state = training(
                tmp_path / str(batch_size),
                splits=divided(blobs(101), val_fraction=0),
                model=net().double(),
                precision="fp64",
                batch_size=batch_size,
                grad_accumulation=accumulation,
                clip_norm=clip_norm,
            )
            fit(state)
            assert state.progress.step == 2 * 4  # 101 = 3 * 32 + 5
            states.append(state.model.state_dict())
        for name in states[0]:
            torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-12, atol=1e-12)

    def test_the_gradient_itself_is_that_of_the_large_batch(self, tmp_path: Path) -> None:
        gradients = []
        for batch_size, accumulation in ((32, 1), (8, 4)):
            seen: list[Tensor] = []

            class Recording(torch.optim.SGD):
                def step(self, closure: Any = None) -> None:
                    seen.append(torch.cat([p.grad.flatten() for p in self.param_groups[0]["params"]]))  # noqa: B023

            state = training(
                tmp_path / str(batch_size),
                splits=divided(blobs(37), val_fraction=0),
                batch_size=batch_size,
                grad_accumulation=accumulation,
                optimizer=lambda p: Recording(p, lr=0.0),
                epochs=1,
            )
            fit(state)
            gradients.append(seen)
        assert len(gradients[0]) == len(gradients[1]) == 2  # 37 = 32 + 5
        for large, small in zip(*gradients, strict=True):
            torch.testing.assert_close(large, small, rtol=1e-5, atol=1e-7)


def patience(reason: str | None) -> tuple[str, int]:
    """Return the metric and the number of validations of an early stop."""
    metric, *_, count = re.findall(r"val/\w+|\d+", str(reason))
    return metric, int(count)


class TestLimits:
    def test_max_steps_ends_in_the_middle_of_an_epoch_and_still_validates(self, tmp_path: Path) -> None:
        state = training(tmp_path, max_steps=4, epochs=10)  # 81 samples: three steps an epoch
        assert str(fit(state)).startswith("trainer.max_steps=4 ")
        assert state.progress.step == 4
        assert set(state.log.of("val/loss")) == {1, 2}
        assert state.checkpoints.best.exists()

    def test_max_time_counts_training_alone(self, tmp_path: Path) -> None:
        state = training(tmp_path, max_time=1e-9, epochs=10)
        assert str(fit(state)).startswith("trainer.max_time=1e-09 ")
        assert state.progress.step == 1

    def test_early_stopping_ends_after_patience_validations_without_a_better_one(self, tmp_path: Path) -> None:
        state = training(
            tmp_path,
            optimizer=lambda p: torch.optim.SGD(p, lr=0.0),
            epochs=50,
            early_stopping=EarlyStoppingSettings(patience=3, min_delta=0.0),
        )
        assert patience(fit(state)) == ("val/loss", 3)
        assert state.progress.finished_epochs == 4
        assert load(state.checkpoints.last)["progress"]["epoch"] == 5

    def test_patience_counts_the_validations_within_an_epoch_too(self, tmp_path: Path) -> None:
        state = training(
            tmp_path,
            optimizer=lambda p: torch.optim.SGD(p, lr=0.0),
            epochs=50,
            validate_every_steps=1,
            early_stopping=EarlyStoppingSettings(patience=4, min_delta=0.0),
        )
        assert patience(fit(state)) == ("val/loss", 4)  # two steps, an epoch, a step
        assert (state.progress.step, state.progress.cut_short) == (4, 2)

    def test_min_delta_is_what_counts_as_better_but_the_best_is_kept_all_the_same(self, tmp_path: Path) -> None:
        state = training(tmp_path, epochs=6, early_stopping=EarlyStoppingSettings(patience=2, min_delta=10.0))
        assert patience(fit(state)) == ("val/loss", 2)
        losses = state.log.of("val/loss")
        assert state.progress.best == min(losses.values())

    def test_an_accuracy_is_better_when_higher(self, tmp_path: Path) -> None:
        state = training(tmp_path, epochs=8, monitor="val/accuracy")
        fit(state)
        accuracies = state.log.of("val/accuracy")
        assert state.progress.best == max(accuracies.values())
        assert accuracies[state.progress.best_epoch] == max(accuracies.values())

    @pytest.mark.parametrize(("higher", "choose"), [(True, max), (False, min)])
    def test_of_a_metric_of_one_s_own_the_loss_says_which_way_is_better(
        self, tmp_path: Path, higher: bool, choose: Any
    ) -> None:
        loss = CrossEntropy()
        loss.metrics = {"hits": Metric(correct, higher_is_better=higher)}
        state = training(tmp_path, loss=loss, epochs=8, monitor="val/hits")
        fit(state)
        hits = state.log.of("val/hits")
        assert len(set(hits.values())) > 1
        assert hits[state.progress.best_epoch] == state.progress.best == choose(hits.values())


class TestCadence:
    def test_validation_every_n_epochs_and_always_after_the_last(self, tmp_path: Path) -> None:
        state = training(tmp_path, epochs=5, validate_every_epochs=2)
        fit(state)
        assert set(state.log.of("val/loss")) == {2, 4, 5}

    def test_validation_every_n_steps_is_logged_by_step(self, tmp_path: Path) -> None:
        state = training(tmp_path, epochs=2, validate_every_steps=2)
        fit(state)
        assert set(state.log.of("val/loss_step")) == {2, 4, 6}
        assert set(state.log.of("val/loss")) == {1, 2}

    def test_the_best_may_be_found_between_two_epochs(self, tmp_path: Path) -> None:
        # The learning rate is zero after the second step: no later value is better, only equal.
        def stop_learning(optimizer: torch.optim.Optimizer) -> Schedule:
            return Schedule(
                torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < 2 else -1.0),
                every="step",
            )

        state = training(tmp_path, epochs=1, validate_every_steps=2, schedule=stop_learning)
        fit(state)
        best = load(state.checkpoints.best)
        assert best["progress"]["step"] == best["progress"]["best_step"] == 2
        assert best["progress"]["best"] == state.log.of("val/loss_step")[2] < state.log.of("val/loss")[1]

    def test_logging_every_n_epochs_and_steps(self, tmp_path: Path) -> None:
        state = training(tmp_path, splits=divided(val_fraction=0), epochs=5, log_every_epochs=2, log_every_steps=5)
        fit(state)
        assert set(state.log.of("train/loss")) == {2, 4, 5}
        assert state.display.epochs == [2, 4, 5]
        assert set(state.log.of("train/loss_step")) == {5, 10, 15, 20}  # 101 samples: four steps an epoch

    def test_what_is_logged_every_n_epochs_is_the_same_as_when_all_are(self, tmp_path: Path) -> None:
        logs = []
        for every in (1, 3):
            state = training(tmp_path / str(every), splits=divided(val_fraction=0), epochs=7, log_every_epochs=every)
            fit(state)
            logs.append(state.log.of("train/accuracy"))
        assert logs[1] == {epoch: logs[0][epoch] for epoch in (3, 6, 7)}

    def test_metrics_of_half_an_epoch_are_not_reported_as_those_of_the_whole(self, tmp_path: Path) -> None:
        splits = divided(val_fraction=0)
        first = training(tmp_path, splits=splits, epochs=3, log_every_epochs=3, stop=Stop(2))
        with pytest.raises(Interrupted):
            fit(first)
        resumed = training(tmp_path, splits=splits, epochs=3, log_every_epochs=1)
        restore(resumed, first.checkpoints.load_last())
        fit(resumed)
        assert set(resumed.log.of("train/loss")) == {1, 2, 3}
        assert set(resumed.log.of("train/accuracy")) == {2, 3}

    def test_nor_are_those_of_an_epoch_begun_unlogged_after_one_that_was(self, tmp_path: Path) -> None:
        splits = divided(val_fraction=0)
        first = training(tmp_path, splits=splits, epochs=9, log_every_epochs=2, stop=Stop(11))
        with pytest.raises(Interrupted):
            fit(first)
        assert (first.progress.epoch, first.progress.batch > 0) == (3, True)
        resumed = training(tmp_path, splits=splits, epochs=5, log_every_epochs=1)
        restore(resumed, first.checkpoints.load_last())
        fit(resumed)
        assert set(resumed.log.of("train/loss")) == {3, 4, 5}
        assert set(resumed.log.of("train/accuracy")) == {4, 5}

    def test_checkpoints_every_n_epochs_steps_and_seconds(self, tmp_path: Path) -> None:
        def saved(name: str, **trainer: Any) -> list[tuple[int, int]]:
            state = training(tmp_path / name, splits=divided(val_fraction=0), epochs=3, keep_checkpoints=99, **trainer)
            fit(state)
            kept = [load(path)["progress"] for path in state.checkpoints.folder.glob("last*.pt")]
            return sorted((p["epoch"], p["batch"]) for p in kept)

        assert saved("epochs", checkpoint_every_epochs=2) == [(3, 0), (4, 0)]
        assert saved("steps", checkpoint_every_epochs=3, checkpoint_every_steps=3) == [
            (1, 3),
            (2, 2),
            (3, 1),
            (4, 0),
        ]
        assert len(saved("seconds", checkpoint_every_epochs=3, checkpoint_every_seconds=1e-9)) == 3 * 3 + 1

    def test_without_validation_samples_the_last_epoch_is_the_best(self, tmp_path: Path) -> None:
        state = training(tmp_path, splits=divided(val_fraction=0), epochs=3)
        fit(state)
        assert state.progress.best_epoch == 3
        assert state.checkpoints.best.samefile(state.checkpoints.last)


class TestResume:
    CONFIGURATIONS: ClassVar[dict[str, dict[str, Any]]] = {
        "plain": {},
        "dropout": {"dropout": 0.5},
        "accumulation": {"grad_accumulation": 2, "batch_size": 8},
        "cosine": {"schedule": lambda optimizer: cosine(optimizer, total_steps=9)},
        "restarts": {"schedule": lambda optimizer: cosine_restarts(optimizer, steps_per_epoch=3)},
        "fp16": {"precision": "fp16"},
        "clipping by step": {"clip_norm": 0.5, "validate_every_steps": 2, "log_every_steps": 1},
        "workers": {"in_memory": False},
        "average": {"ema_decay": 0.9},
        "plateau": {"schedule": lambda optimizer: Schedule(ReduceLROnPlateau(optimizer, patience=0, **NEVER_BETTER))},
        "regression": {"loss": MSE(), "splits": divided(numbers())},
    }

    def make(self, folder: Path, stop: Any = None, dropout: float = 0.0, **arguments: Any) -> Any:
        return training(folder, model=net(dropout=dropout), stop=stop, epochs=3, **arguments)

    @pytest.mark.parametrize("name", CONFIGURATIONS)
    def test_a_run_stopped_anywhere_ends_bit_for_bit_like_one_that_was_not(self, tmp_path: Path, name: str) -> None:
        arguments = self.CONFIGURATIONS[name]
        whole = self.make(tmp_path / "whole", **arguments)
        torch.manual_seed(3)
        fit(whole)
        expected = exact_state(load(whole.checkpoints.last))
        looks = whole.stop.looks
        for after in range(1, looks, max(1, looks // 12)):
            folder = tmp_path / f"stopped-{after}"
            stopped = self.make(folder, Stop(after), **arguments)
            torch.manual_seed(3)
            with pytest.raises(Interrupted):
                fit(stopped)
            resumed = self.make(folder, **arguments)
            restore(resumed, stopped.checkpoints.load_last())
            fit(resumed)
            assert same(exact_state(load(resumed.checkpoints.last)), expected), f"stopped at look {after}"
            assert stopped.log.exact() | resumed.log.exact() == whole.log.exact()

    def test_a_kill_that_leaves_no_new_checkpoint_goes_back_to_the_last_one(self, tmp_path: Path) -> None:
        whole = self.make(tmp_path / "whole", checkpoint_every_steps=2)
        fit(whole)
        killed = self.make(tmp_path / "killed", checkpoint_every_steps=2)

        def kill(metrics: Any, step: int) -> None:
            if "val/loss" in metrics and step == 2:
                raise RuntimeError("power loss, after the last epoch's validation and before its checkpoint")

        killed.log = kill
        with pytest.raises(RuntimeError, match="power loss"):
            fit(killed)
        state = killed.checkpoints.load_last()
        assert (state["progress"]["epoch"], state["progress"]["batch"]) == (2, 1)
        resumed = self.make(tmp_path / "killed", checkpoint_every_steps=2)
        restore(resumed, state)
        fit(resumed)
        assert same(
            exact_state(load(resumed.checkpoints.last)),
            exact_state(load(whole.checkpoints.last)),
        )


class TestPlateau:
    def plateau(self, optimizer: torch.optim.Optimizer) -> Schedule:
        return Schedule(ReduceLROnPlateau(optimizer, factor=0.5, patience=1, **NEVER_BETTER))

    def test_it_goes_by_the_monitored_metric_whenever_an_epoch_has_measured_it(self, tmp_path: Path) -> None:
        state = training(tmp_path, epochs=6, schedule=self.plateau, monitor="train/loss", log_every_epochs=6)
        fit(state)
        assert state.schedule.scheduler.last_epoch == 6
        assert state.optimizer.param_groups[0]["lr"] == 0.1 / 2 / 2  # one best epoch, two without improvement, two more

    def test_epochs_without_validation_do_not_count(self, tmp_path: Path) -> None:
        state = training(tmp_path, epochs=6, schedule=self.plateau, validate_every_epochs=2)
        fit(state)
        assert state.schedule.scheduler.last_epoch == 3
        assert state.optimizer.param_groups[0]["lr"] == 0.05  # the first is best; two without improvement


class TestNotFinite:
    @staticmethod
    def exploding(state: Any, at: int) -> None:
        """Make the loss NaN from a given forward pass of training on."""
        seen = 0

        def hook(module: nn.Module, inputs: Any, outputs: Tensor) -> Tensor | None:
            nonlocal seen
            seen += module.training
            return outputs * math.nan if module.training and seen == at else None

        state.model.register_forward_hook(hook)

    def test_stop_names_epoch_and_step_and_keeps_the_last_good_checkpoint(self, tmp_path: Path) -> None:
        state = training(tmp_path, epochs=4)
        self.exploding(state, at=5)
        with pytest.raises(TrainingError, match=r"train/loss is nan in epoch 2, step 6.*last\.pt"):
            fit(state)
        saved = load(state.checkpoints.last)
        assert saved["progress"]["epoch"] == 2
        assert all(bool(torch.isfinite(value).all()) for value in saved["model"].values())
        assert state.progress.best_epoch == 1

    def test_weights_that_are_not_finite_never_replace_a_good_checkpoint(self, tmp_path: Path) -> None:
        # The last step of the last epoch blows up: its loss was still finite, and there is no validation.
        state = training(
            tmp_path, splits=divided(val_fraction=0), epochs=2, optimizer=lambda p: torch.optim.SGD(p, lr=0.1)
        )
        steps = 0
        step = state.optimizer.step

        def last_step_explodes(*arguments: Any) -> None:
            nonlocal steps
            steps += 1
            step(*arguments)
            if steps == 8:
                with torch.no_grad():
                    state.parameters[0].fill_(math.inf)

        state.optimizer.step = last_step_explodes
        with pytest.raises(TrainingError, match="a weight"):
            fit(state)
        assert load(state.checkpoints.last)["progress"]["epoch"] == 2

    def test_skip_leaves_out_the_step_and_goes_on(self, tmp_path: Path) -> None:
        state = training(tmp_path, epochs=2, on_nonfinite="skip")
        self.exploding(state, at=2)
        fit(state)
        assert state.progress.step == 2 * 3 - 1
        assert len(state.display.notes) == 1
        assert all(math.isfinite(value) for value in state.log.values.values())

    def test_ignore_goes_on_and_never_calls_it_the_best(self, tmp_path: Path) -> None:
        state = training(tmp_path, epochs=3, on_nonfinite="ignore")
        self.exploding(state, at=5)
        fit(state)
        assert math.isnan(state.log.of("train/loss")[3])
        assert state.progress.best_epoch == 1


class TestEvaluation:
    def test_it_changes_nothing_about_training(self, tmp_path: Path) -> None:
        ends = []
        for every in (1, 3):
            state = training(tmp_path / str(every), model=net(dropout=0.5), epochs=3, validate_every_epochs=every)
            torch.manual_seed(5)
            fit(state)
            ends.append(state.model.state_dict())
        assert same(*ends)

    def test_it_uses_the_model_at_rest(self, tmp_path: Path) -> None:
        state = training(tmp_path, model=net(dropout=0.9))
        assert evaluate(state, state.loaders.val) == evaluate(state, state.loaders.val)
        assert state.model.training


def test_time_and_rate_are_of_the_training_part_alone(tmp_path: Path) -> None:
    state = training(tmp_path, epochs=2)
    fit(state)
    validated = state.log.of("time/validation_seconds")
    assert list(validated) == [1, 2] and min(validated.values()) > 0
    for epoch, seconds in state.log.of("time/epoch_seconds").items():
        assert seconds > 0
        assert state.log.of("throughput/samples_per_second")[epoch] == pytest.approx(81 / seconds)
    assert state.epoch_seconds.read(2) == list(state.log.of("time/epoch_seconds").values())


@pytest.mark.parametrize("slow", ["validation", "checkpoint"])
def test_validation_and_checkpoints_within_an_epoch_are_not_training_time(tmp_path: Path, slow: str) -> None:
    state = training(tmp_path, epochs=1, validate_every_steps=1, checkpoint_every_steps=1)
    if slow == "validation":
        state.model.register_forward_hook(lambda module, *_: None if module.training else time.sleep(0.3))
    else:
        state.checkpoints = Checkpoints(tmp_path, before=lambda: time.sleep(0.3))
    fit(state)
    assert state.progress.trained_seconds < 0.3  # of at least 0.9


def test_checkpoints_that_are_written_beside_resume_the_same_and_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(folder: str, stop: Stop | None = None) -> Training:
        more = {"validate_every_steps": 2, "checkpoint_every_steps": 1, "ema_decay": 0.9, "keep_checkpoints": 20}
        return training(tmp_path / folder, model=net(dropout=0.3), epochs=3, stop=stop, **more)

    def slow(file: int) -> None:
        time.sleep(0.01)
        flush(file)

    whole = begun("whole")
    fit(whole)
    flush = os.fsync
    monkeypatch.setattr(os, "fsync", slow)
    monkeypatch.setattr(checkpoint, "LARGE", 1)
    stopped = begun("stopped", Stop(after=9))
    with pytest.raises(Interrupted):
        fit(stopped)
    folder = stopped.checkpoints.folder
    assert load(folder / "last.pt")["progress"]["step"] == stopped.progress.step
    for path in folder.glob("last*.pt"):
        resumed = begun(path.stem)
        restore(resumed, load(path))
        fit(resumed)
        for name in ("last.pt", "best.pt"):
            ends = [load(run.checkpoints.folder / name) for run in (resumed, whole)]
            assert same(*map(exact_state, ends))


def test_large_weights_are_not_taken_for_infinite_ones(tmp_path: Path) -> None:
    state = training(tmp_path, model=net())
    with torch.no_grad():
        state.model[3].bias.fill_(3e38)  # their sum is infinite
        save(state, best=False)
        state.model[3].bias[1] = math.inf
    with pytest.raises(TrainingError, match="a weight is nan"):
        save(state, best=False)


def test_the_learning_rate_is_logged_as_it_was(tmp_path: Path) -> None:
    state = training(
        tmp_path,
        epochs=3,
        schedule=lambda optimizer: Schedule(torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)),
    )
    fit(state)
    assert list(state.log.of("lr").values()) == pytest.approx([0.1, 0.01, 0.001])


def halving(optimizer: torch.optim.Optimizer) -> Schedule:
    """Halve the learning rate after every step."""
    return Schedule(torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step), every="step")


class TestLearningRate:
    def test_of_an_epoch_it_is_the_mean_over_its_steps(self, tmp_path: Path) -> None:
        state = training(tmp_path, splits=divided(val_fraction=0), schedule=halving, log_every_steps=1)
        fit(state)  # four steps an epoch
        by_step = state.log.of("lr_step")
        assert by_step == pytest.approx({step: 0.1 * 0.5 ** (step - 1) for step in range(1, 9)})
        assert state.log.of("lr") == pytest.approx(
            {epoch: sum(by_step[step] for step in range(4 * epoch - 3, 4 * epoch + 1)) / 4 for epoch in (1, 2)}
        )

    def test_a_constant_one_is_not_rounded(self, tmp_path: Path) -> None:
        state = training(tmp_path, batch_size=3, epochs=1)
        fit(state)
        assert state.log.of("lr") == {1: 0.1}

    def test_accumulation_and_a_limit_count_the_steps_that_were_taken(self, tmp_path: Path) -> None:
        splits = divided(val_fraction=0)
        state = training(tmp_path, splits=splits, schedule=halving, batch_size=8, grad_accumulation=4, max_steps=3)
        fit(state)
        assert state.log.of("lr") == pytest.approx({1: 0.1 * (1 + 0.5 + 0.25) / 3})

    def test_it_is_exact_across_a_resume_within_an_epoch(self, tmp_path: Path) -> None:
        def begun(folder: str, stop: Stop | None = None) -> Training:
            return training(tmp_path / folder, schedule=halving, batch_size=8, log_every_steps=3, stop=stop)

        whole, stopped = begun("whole"), begun("stopped", Stop(after=5))
        fit(whole)
        with pytest.raises(Interrupted):
            fit(stopped)
        resumed = begun("stopped")
        restore(resumed, load(stopped.checkpoints.last))
        assert 0 < resumed.progress.batch < len(resumed.loaders.train)
        fit(resumed)
        for name in ("lr", "lr_step"):
            assert {**stopped.log.of(name), **resumed.log.of(name)} == whole.log.of(name) != {}


def test_progress_is_written_as_primitives(tmp_path: Path) -> None:
    state = training(tmp_path)
    fit(state)
    saved = load(state.checkpoints.last)
    assert set(saved) == {"model", "optimizer", "scheduler", "scaler", "ema", "rng", "progress", "format"}
    assert saved["progress"]["epoch"] == 3


class Operations(TorchDispatchMode):
    """Counts the operations of torch, backward pass included, without views."""

    VIEWS = ("slice", "split", "view", "detach", "t", "expand", "alias", "_record_function")

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = operation.name().partition("::")[2].partition(".")[0]
        if not name.startswith(self.VIEWS[-1]) and name not in self.VIEWS:
            self.counts[name] += 1
        return operation(*args, **(kwargs or {}))


def allocated(epoch: Callable[[], None], folder: Path) -> list[int]:
    """Return the bytes of each allocation in an epoch."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as traced:
        epoch()
    traced.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    sizes = [event["args"]["Bytes"] for event in events if event["name"] == "[memory]"]
    return sorted(size for size in sizes if size > 0)


def test_an_epoch_computes_and_allocates_no_more_than_a_bare_loop_with_its_loss_and_accuracy(tmp_path: Path) -> None:
    """Nor does anything read the device before the end of the epoch."""
    state = training(tmp_path, batch_size=8, epochs=2)
    fit(state)  # the optimizer creates its buffers
    inputs, targets = whole_set(state, "train")
    total, correct = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)

    def theirs() -> None:
        for index in torch.randperm(len(inputs)).split(8):
            batch, wanted = inputs.index_select(0, index), targets.index_select(0, index)
            outputs = state.model(batch)
            loss = cross_entropy(outputs, wanted)
            total.add_(loss.detach(), alpha=len(index))
            correct.add_(torch.count_nonzero(outputs.detach().argmax(dim=1) == wanted))
            loss.backward()
            state.optimizer.step()
            state.optimizer.zero_grad()

    def ours() -> None:
        state.progress.batch = 0
        train_batches(state)

    state.sums.reset([])
    with Operations() as of_ours:
        ours()
    with Operations() as of_theirs:
        theirs()
    assert of_theirs.counts["addmm"] > 0
    batches = len(state.loaders.train)
    assert not of_ours.counts - of_theirs.counts - Counter(clone=batches), "small batches are measured together"
    spared = dict.fromkeys(("argmax", "eq", "count_nonzero"), batches) | {"add_": 2 * batches}
    assert of_theirs.counts - of_ours.counts == spared, "losses and correct samples are added later"
    assert not {"_local_scalar_dense", "item", "_to_copy"} & of_ours.counts.keys()
    needed = allocated(theirs, tmp_path)
    assert needed and not Counter(allocated(ours, tmp_path)) - Counter(needed)
