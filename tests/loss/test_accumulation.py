"""Accumulated micro-batches train exactly as one large batch, whatever the loss is a mean over."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.training import Log, divided, net, supervised, training
from runner.data.source import Source
from runner.loss import BCEWithLogits, CrossEntropy, Focal, Loss

MADE = torch.Generator().manual_seed(5)
INPUTS = torch.randn(140, 6, generator=MADE)
CLASSES = torch.randint(3, (140,), generator=MADE)
SOME_IGNORED = torch.where(torch.rand(140, generator=MADE) < 0.4, -100, CLASSES)
SOME_IGNORED[:20] = -100
PADDED = torch.randint(3, (140, 4), generator=MADE)
for row, kept in enumerate(torch.randint(0, 5, (140,), generator=MADE).tolist()):
    PADDED[row, kept:] = -100
WEIGHTS = [0.2, 1.0, 5.0]

CASES: dict[str, tuple[Loss, Tensor]] = {
    "cross entropy": (CrossEntropy(), CLASSES),
    "class weights": (CrossEntropy(class_weight=WEIGHTS, label_smoothing=0.1), CLASSES),
    "unequal counts of ignored targets": (CrossEntropy(ignore_index=-100), SOME_IGNORED),
    "class weights, some ignored": (CrossEntropy(class_weight=WEIGHTS, ignore_index=-100), SOME_IGNORED),
    "padded sequences": (CrossEntropy(ignore_index=-100), PADDED),
    "focal": (Focal(alpha=WEIGHTS, ignore_index=-100), SOME_IGNORED),
    "weights of labels": (BCEWithLogits(class_weight=WEIGHTS), (PADDED[:, :3] > 0).double()),
}


@pytest.mark.parametrize("case", CASES)
def test_four_batches_of_8_are_one_of_32(tmp_path: Path, case: str) -> None:
    from runner.training.loop import fit

    loss, targets = CASES[case]
    results = []
    for batch_size, accumulation in ((32, 1), (8, 4)):
        splits = divided(Source("made", train=(INPUTS, targets)))
        width = 12 if case == "padded sequences" else 3
        model = nn.Sequential(net(classes=width), nn.Unflatten(1, (3, 4) if width == 12 else (3,)))
        state = training(
            tmp_path / str(batch_size),
            model=model,
            task=supervised(loss),
            splits=splits,
            precision="fp64",
            batch_size=batch_size,
            grad_accumulation=accumulation,
        )
        fit(state)
        assert isinstance(state.log, Log)
        weights = torch.cat([weight.flatten() for weight in state.model.parameters()])
        results.append((weights.detach(), state.progress.step, state.log.exact()))
    (one, steps, metrics), (four, more_steps, more_metrics) = results
    assert steps == more_steps and (one - four).abs().max() < 1e-10
    assert metrics == pytest.approx(more_metrics, abs=1e-10)
