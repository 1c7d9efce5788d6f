"""The weight of a batch: accumulated gradients are those of one large batch, whatever the loss is a mean over."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from helpers.training import Stop, blobs, divided, training
from runner.data.source import Source
from runner.loss import CrossEntropy
from runner.rundir.checkpoint_file import load
from runner.task import Task
from runner.training.loop import fit
from runner.training.saving import restore
from runner.training.state import Interrupted, Training


class Tokens(Task):
    """The next token of padded sequences: a mean over the tokens that are no padding."""

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        inputs, targets = batch
        logits = model(inputs)
        counted = (targets != 0).sum()
        total = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=0, reduction="sum")
        return {"loss": total / counted.clamp(min=1), "weight": counted}


def padded() -> Source:
    """Sequences of 0 to 9 tokens, padded by 0; one batch of four has none at all."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 6, (101, 9), generator=draw)
    lengths = torch.randint(0, 10, (101, 1), generator=draw)
    tokens = torch.where(torch.arange(9) < lengths, tokens, 0)
    return Source("padded", train=(F.one_hot(tokens, 6).double(), tokens.roll(-1, 1)))


def ignored() -> Source:
    """Classes of which a quarter do not count."""
    source = blobs()
    inputs, targets = source.train
    return Source("ignored", train=(inputs, torch.where(torch.arange(len(targets)) % 4 == 1, 9, targets)))


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "class weights": {"loss": CrossEntropy(class_weight=[1.0, 0.0, 5.0])},
    "ignored": {"loss": CrossEntropy(ignore_index=9), "splits": divided(ignored())},
    "smoothed": {"loss": CrossEntropy(label_smoothing=0.1, class_weight=[1.0, 2.0, 5.0])},
    "padded": {"task": Tokens(), "splits": divided(padded()), "model": lambda: nn.Linear(6, 6)},
}


def trained(
    folder: Path, case: str, accumulation: int, batch_size: int, resume_from: Any = None, **more: Any
) -> Training:
    keys = dict(CASES[case])
    torch.manual_seed(0)
    model = keys.pop("model", None)
    state = training(
        folder,
        model=model() if model else None,
        precision="fp64",
        batch_size=batch_size,
        grad_accumulation=accumulation,
        epochs=2,
        **keys,
        **more,
    )
    if resume_from is not None:
        restore(state, resume_from)
    fit(state)
    return state


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("clip", [None, 0.1])
def test_four_batches_of_8_are_one_of_32(tmp_path: Path, case: str, clip: float | None) -> None:
    parts = trained(tmp_path / "parts", case, 4, 8, clip_norm=clip)
    whole = trained(tmp_path / "whole", case, 1, 32, clip_norm=clip)
    for one, other in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-10)
    for name in ("train/loss", "val/loss"):
        (one, other) = (state.log.of(name) for state in (parts, whole))  # type: ignore[attr-defined]
        assert one == pytest.approx(other, abs=1e-10)


def test_an_epochs_loss_is_the_mean_over_all_weights(tmp_path: Path) -> None:
    state = trained(tmp_path, "padded", 1, 4, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    inputs, targets = state.loaders.train.inputs, state.loaders.train.targets
    with torch.no_grad():
        whole = state.task.step(state.model, (inputs, targets))
    measured = state.log.of("train/loss")[1]  # type: ignore[attr-defined]
    assert measured == pytest.approx(whole["loss"].item(), rel=1e-12)
    means = [
        state.task.step(state.model, batch)["loss"].item()
        for batch in zip(inputs.split(4), targets.split(4), strict=True)
    ]
    assert abs(measured - sum(means) / len(means)) > 1e-4, "batches have different weights"


class Some(Task):
    """A weight, and a scalar, in batches of four samples only; the last batch of an epoch has one."""

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        inputs, _ = batch
        full = len(inputs) == 4
        loss = 0 * model(inputs).sum() + float(full)
        return {"loss": loss} | ({"weight": torch.tensor(2.0), "aux": torch.tensor(3.0)} if full else {})


def test_a_weight_or_a_scalar_of_some_batches_is_a_mean_over_those(tmp_path: Path) -> None:
    def made(folder: Path) -> Training:
        keys: dict[str, Any] = {"splits": divided(padded()), "model": nn.Linear(6, 6), "precision": "fp64"}
        return training(folder, task=Some(), epochs=1, batch_size=4, **keys)

    means = []
    for part in ("whole", "parts"):
        state = made(tmp_path / part)
        full, rest = divmod(state.loaders.train.samples, 4)
        assert rest
        if part == "parts":
            state.stop = Stop(after=full)
            with pytest.raises(Interrupted):
                fit(state)
            state = made(tmp_path / part)
            restore(state, load(tmp_path / part / "checkpoints" / "last.pt"))
        fit(state)
        means.append([state.log.of(f"train/{name}")[1] for name in ("loss", "aux")])  # type: ignore[attr-defined]
        assert means[-1] == [pytest.approx(2 * full / (2 * full + rest)), 3.0]
    assert means[0] == means[1]


def test_weights_and_scalars_are_in_the_checkpoint_of_an_epoch_in_progress(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", "padded", 2, 4)
    stopped = Stop(after=4)
    with pytest.raises(Interrupted):
        trained(tmp_path / "parts", "padded", 2, 4, stop=stopped)
    saved = load(tmp_path / "parts" / "checkpoints" / "last.pt")
    assert saved["progress"]["more_sums"]["weight"] > 0
    again = trained(tmp_path / "parts", "padded", 2, 4, resume_from=saved)
    assert again.log.exact() == whole.log.exact()  # type: ignore[attr-defined]
    assert "more_sums" not in load(whole.checkpoints.last)["progress"], "an epoch that has ended has none"


def test_equal_weights_are_todays_arithmetic_bit_for_bit(tmp_path: Path) -> None:
    class Counted(Task):
        """Weights that are the samples, as tensors."""

        def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
            inputs, targets = batch
            return {"loss": F.cross_entropy(model(inputs), targets), "weight": torch.tensor(len(targets))}

    states = []
    for task in (None, Counted()):
        state = training(tmp_path / str(task is None), task=task, batch_size=7, grad_accumulation=3, epochs=2)
        fit(state)
        states.append([weight.detach() for weight in state.model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*states, strict=True))


def test_a_step_whose_losses_are_all_skipped_has_no_weight(tmp_path: Path) -> None:
    class Broken(CrossEntropy):
        """The losses of the first step are not finite."""

        calls = 0

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            self.calls += self.training
            return super().forward(outputs, targets) * (float("nan") if self.calls <= 2 else 1.0)

    state = training(tmp_path, loss=Broken(), grad_accumulation=2, on_nonfinite="skip", epochs=1, batch_size=8)
    fit(state)
    assert state.progress.step == -(-len(state.loaders.train) // 2) - 1
