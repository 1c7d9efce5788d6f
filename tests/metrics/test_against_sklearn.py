"""Values of metrics against scikit-learn's on the whole set, whatever the batches look like."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn import metrics as sk
from torch import Tensor

from runner.loss import MSE, BCEWithLogits, CrossEntropy, Focal, Loss
from runner.metrics import MetricSet, make_metrics, meaning_of, read_entries

pytest.importorskip("torchmetrics")

CPU = torch.device("cpu")
SAMPLES, BATCH = 107, 16  # the last batch has 11 samples
MADE = torch.Generator().manual_seed(0)

Data = tuple[Tensor, Tensor]


def asked(value: Any, loss: Loss, count: int) -> MetricSet:
    made = make_metrics(read_entries(value), meaning_of(loss, count, None))
    assert made is not None
    return made


def measured(value: Any, loss: Loss, count: int, data: Data, resume_at: int | None = None) -> dict[str, float]:
    """Measure in batches; with `resume_at`, what adds up numbers goes on from its state there."""
    running = asked(value, loss, count).start(CPU, training=resume_at is not None)
    for number, batch in enumerate(torch.arange(len(data[0])).split(BATCH)):
        if number == resume_at:
            state = running.state()
            running = asked(value, loss, count).start(CPU, training=True)
            running.load(state)
        running.update(data[0][batch], data[1][batch])
    return running.compute()


def logits(count: int) -> Tensor:
    """Logits above 20 in the first batches; within [0, 1], as probabilities are, in the last one."""
    outputs = torch.randn(SAMPLES, count, generator=MADE) * 4
    outputs[:40] *= 4
    outputs[-(SAMPLES % BATCH) :] = torch.rand(SAMPLES % BATCH, count, generator=MADE)
    assert outputs.max() > 20
    return outputs


def classes(count: int) -> Data:
    outputs = logits(count)
    targets = torch.where(torch.rand(SAMPLES, generator=MADE) < 0.5, outputs.argmax(1), torch.arange(SAMPLES) % count)
    return outputs, targets


LABELS = (logits(3), (logits(3) + torch.randn(SAMPLES, 3, generator=MADE) > 0).double())
ONE_LABEL = (logits(1), (logits(1) > 0).double())
VALUES = (torch.randn(SAMPLES, 2, generator=MADE).abs() + 1, torch.randn(SAMPLES, 2, generator=MADE).abs() + 1)

Expected = Callable[[np.ndarray, np.ndarray, np.ndarray], float]


def on_classes(function: Callable[..., float], **arguments: Any) -> Expected:
    return lambda probabilities, predicted, targets: function(targets, predicted, **arguments)


def on_probabilities(function: Callable[..., float], **arguments: Any) -> Expected:
    return lambda probabilities, predicted, targets: function(targets, probabilities, **arguments)


def one_hot(function: Callable[..., float], **arguments: Any) -> Expected:
    return lambda p, predicted, targets: function(np.eye(p.shape[1])[targets], p, **arguments)


MULTICLASS: dict[str, tuple[Any, Expected]] = {
    "f1": ("f1", on_classes(sk.f1_score, average="macro")),
    "f1 weighted": ({"f1": {"average": "weighted"}}, on_classes(sk.f1_score, average="weighted")),
    "f1 micro": ({"f1": {"average": "micro"}}, on_classes(sk.f1_score, average="micro")),
    "fbeta": ({"FBetaScore": {"beta": 2}}, on_classes(sk.fbeta_score, beta=2, average="macro")),
    "precision": ("precision", on_classes(sk.precision_score, average="macro", zero_division=0)),
    "recall": ("recall", on_classes(sk.recall_score, average="macro", zero_division=0)),
    "balanced accuracy": ("balanced_accuracy", on_classes(sk.balanced_accuracy_score)),
    "accuracy": ("accuracy", on_classes(sk.accuracy_score)),
    "iou": ("iou", on_classes(sk.jaccard_score, average="macro")),
    "matthews": ("matthews", on_classes(sk.matthews_corrcoef)),
    "kappa": ({"cohen_kappa": {"weights": "quadratic"}}, on_classes(sk.cohen_kappa_score, weights="quadratic")),
    "auroc": ("auroc", on_probabilities(sk.roc_auc_score, multi_class="ovr", average="macro")),
    "auroc weighted": (
        {"auroc": {"average": "weighted"}},
        on_probabilities(sk.roc_auc_score, multi_class="ovr", average="weighted"),
    ),
    "average precision": ("average_precision", one_hot(sk.average_precision_score, average="macro")),
}

TWO_CLASSES: dict[str, tuple[Any, Expected]] = {
    "f1 of class 1": ("f1", on_classes(sk.f1_score)),
    "f1 macro": ({"f1": {"average": "macro"}}, on_classes(sk.f1_score, average="macro")),
    "balanced accuracy": ("balanced_accuracy", on_classes(sk.balanced_accuracy_score)),
    "specificity": ("specificity", on_classes(sk.recall_score, pos_label=0)),
    "auroc": ("auroc", lambda p, predicted, targets: sk.roc_auc_score(targets, p[:, 1])),
    "auroc weighted": ({"auroc": {"average": "weighted"}}, lambda p, _, targets: sk.roc_auc_score(targets, p[:, 1])),
    "average precision": ("average_precision", lambda p, _, targets: sk.average_precision_score(targets, p[:, 1])),
    "average precision weighted": (
        {"average_precision": {"average": "weighted"}},
        lambda p, _, targets: sk.average_precision_score(targets, p[:, 1], average="weighted"),
    ),
}

SEVERAL_LABELS: dict[str, tuple[Any, Expected]] = {
    "f1": ("f1", on_classes(sk.f1_score, average="macro")),
    "f1 micro": ({"f1": {"average": "micro"}}, on_classes(sk.f1_score, average="micro")),
    "auroc": ("auroc", on_probabilities(sk.roc_auc_score, average="macro")),
    "auroc micro": ({"auroc": {"average": "micro"}}, on_probabilities(sk.roc_auc_score, average="micro")),
    "average precision": ("average_precision", on_probabilities(sk.average_precision_score, average="macro")),
    "iou": ("jaccard", on_classes(sk.jaccard_score, average="macro")),
    "exact match": ("exact_match", on_classes(sk.accuracy_score)),
}


def close(value: Mapping[str, float], expected: float) -> None:
    ((_, number),) = value.items()
    assert number == pytest.approx(expected, abs=1e-6, rel=0)


def check(case: tuple[Any, Expected], loss: Loss, count: int, data: Data) -> None:
    value, expected = case
    probabilities = loss.probabilities(data[0].double())
    if probabilities is None:
        probabilities = data[0].double().sigmoid()
        predicted = (probabilities > 0.5).long()
    else:
        predicted = probabilities.argmax(1)
    reference = expected(*(part.numpy() for part in (probabilities, predicted, data[1].long().squeeze(-1))))
    targets = loss.prepare(data[1], torch.float32)
    close(measured([value], loss, count, (data[0], targets)), reference)
    if asked([value], loss, count).measured_on("train"):
        close(measured([value], loss, count, (data[0], targets), resume_at=3), reference)


@pytest.mark.parametrize("case", MULTICLASS.values(), ids=MULTICLASS)
@pytest.mark.parametrize("loss", [CrossEntropy(), Focal()])
def test_classes(case: tuple[Any, Expected], loss: Loss) -> None:
    check(case, loss, 4, classes(4))


@pytest.mark.parametrize("case", TWO_CLASSES.values(), ids=TWO_CLASSES)
@pytest.mark.parametrize(("loss", "count"), [(CrossEntropy(), 2), (BCEWithLogits(), 1)])
def test_two_classes(case: tuple[Any, Expected], loss: Loss, count: int) -> None:
    check(case, loss, count, classes(2) if count == 2 else ONE_LABEL)


@pytest.mark.parametrize("case", SEVERAL_LABELS.values(), ids=SEVERAL_LABELS)
def test_several_labels(case: tuple[Any, Expected]) -> None:
    check(case, BCEWithLogits(), 3, LABELS)


def test_values() -> None:
    names = ["mae", "mape", "mse", "explained_variance", "spearman", "r2", "pearson"]
    found = measured(names, MSE(), 2, VALUES)
    outputs, targets = (part.double().numpy() for part in VALUES)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(targets, outputs), abs=1e-6)
    assert found["mape"] == pytest.approx(sk.mean_absolute_percentage_error(targets, outputs), abs=1e-6)
    assert found["mse"] == pytest.approx(sk.mean_squared_error(targets, outputs), abs=1e-6)
    assert found["r2"] == pytest.approx(sk.r2_score(targets, outputs), abs=1e-6)
    assert found["explained_variance"] == pytest.approx(sk.explained_variance_score(targets, outputs), abs=1e-6)
    ranks = [spearmanr(targets[:, column], outputs[:, column]).statistic for column in (0, 1)]
    assert found["spearman"] == pytest.approx(float(np.mean(ranks)), abs=1e-6)
    single = measured(["mape"], MSE(), 1, (VALUES[0][:, :1], VALUES[1][:, :1]), resume_at=2)
    expected = sk.mean_absolute_percentage_error(targets[:, 0], outputs[:, 0])
    assert single["mape"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["auroc", "average_precision"])
@pytest.mark.parametrize("thresholds", [None, 500])
def test_a_class_without_samples_does_not_count_and_is_said(name: str, thresholds: int | None) -> None:
    outputs, targets = classes(4)
    targets = targets.where(targets != 2, 3)
    running = asked([{name: {"thresholds": thresholds}}], CrossEntropy(), 4).start(CPU, training=False)
    running.update(outputs, targets)
    value, by_class = running.compute()[name], running.per_class()[name]
    assert by_class["2"] is None
    known = [number for number in by_class.values() if number is not None]
    assert value == pytest.approx(sum(known) / 3) and running.notes() == [
        f"{name} is undefined for 2: the mean is over the others"
    ]
    if thresholds is None:
        function = sk.roc_auc_score if name == "auroc" else sk.average_precision_score
        probabilities = outputs.double().softmax(1).numpy()
        expected = [function(targets.numpy() == number, probabilities[:, number]) for number in (0, 1, 3)]
        assert known == pytest.approx(expected, abs=1e-6)


def test_a_metric_of_a_single_class_is_left_out() -> None:
    running = asked(["auroc", "f1"], CrossEntropy(), 2).start(CPU, training=False)
    running.update(torch.randn(5, 2), torch.ones(5, dtype=torch.int64))
    assert list(running.compute()) == ["f1"]


def test_ignored_targets_do_not_count_and_pixels_do() -> None:
    outputs, targets = torch.randn(6, 3, 4, 4, generator=MADE), torch.randint(3, (6, 4, 4), generator=MADE)
    targets[:, 0] = 255
    found = measured(["f1", "auroc"], CrossEntropy(ignore_index=255), 3, (outputs, targets))
    kept = targets.flatten() != 255
    probabilities = outputs.double().softmax(1).movedim(1, -1).reshape(-1, 3)[kept].numpy()
    actual = targets.flatten()[kept].numpy()
    assert found["f1"] == pytest.approx(sk.f1_score(actual, probabilities.argmax(1), average="macro"), abs=1e-6)
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(actual, probabilities, multi_class="ovr"), abs=1e-6)


def test_values_by_class_are_those_of_the_average() -> None:
    outputs, targets = classes(4)
    running = asked(["f1", "iou", "auroc"], CrossEntropy(), 4).start(CPU, training=False)
    running.update(outputs, targets)
    running.compute()
    by_class, predicted = running.per_class(), outputs.argmax(1).numpy()
    expected = sk.f1_score(targets.numpy(), predicted, average=None)
    assert list(by_class["f1"].values()) == pytest.approx(expected.tolist(), abs=1e-6)
    expected = sk.jaccard_score(targets.numpy(), predicted, average=None)
    assert list(by_class["iou"].values()) == pytest.approx(expected.tolist(), abs=1e-6)


def test_mixed_targets_count_as_their_most_probable_class() -> None:
    outputs, targets = classes(4)
    mixed = torch.eye(4)[targets] * 0.6 + 0.1
    mixed_f1, f1 = (measured(["f1"], CrossEntropy(), 4, (outputs, both)) for both in (mixed, targets))
    assert mixed_f1 == f1
