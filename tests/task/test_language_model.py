import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.composed import built, trained
from helpers.problems import problem_of
from runner.model.gpt import GPT
from runner.task.language_model import LanguageModel, context_of, generate
from runner.training.running_metrics import RunningMetrics

K = 7


class Bigram(nn.Module):
    """Scores that depend on the last token alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(K, K)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.table(input_ids)


def cross_entropy(model: nn.Module, before: Tensor, after: Tensor) -> float:
    return nn.functional.cross_entropy(model(before), after).item()


IDS = torch.randint(K, (5, 9), generator=torch.Generator().manual_seed(1))
SEEN = torch.arange(9) < torch.tensor([9, 3, 1, 5, 8])[:, None]
LABELS = IDS.masked_fill(~SEEN, -100)


@pytest.mark.parametrize(
    ("batch", "weight"),
    [
        (IDS, 40),
        (IDS.int(), 40),
        ((IDS[:, :-1], IDS[:, 1:]), 40),
        ({"input_ids": IDS}, 40),
        ({"input_ids": IDS, "attention_mask": SEEN.long()}, 21),
        ({"input_ids": IDS, "attention_mask": SEEN.long(), "labels": LABELS}, 21),
        ({"input_ids": IDS, "labels": LABELS}, 21),
    ],
)
def test_each_token_is_predicted_from_those_before_it(batch: Any, weight: int) -> None:
    task, model = LanguageModel(), Bigram()
    step = task.measure(model, task.divide(batch))
    counted = SEEN[:, 1:] if weight == 21 else torch.ones_like(SEEN[:, 1:])
    assert int(step.weight) == weight == int(counted.sum()) and step.samples == 5
    expected = cross_entropy(model, IDS[:, :-1][counted], IDS[:, 1:][counted])
    assert step.loss.item() == pytest.approx(expected, rel=1e-6)


def test_epoch_values_are_means_over_tokens() -> None:
    task, model = LanguageModel(), Bigram()
    sums = RunningMetrics(task, torch.device("cpu"))
    for rows in (slice(0, 2), slice(2, 3), slice(3, 5)):  # the second has no token that counts
        sums.add(task.measure(model, ({"input_ids": IDS[rows], "labels": LABELS[rows]}, None)))
    found, counted = sums.means(), SEEN[:, 1:]
    before, after = IDS[:, :-1][counted], IDS[:, 1:][counted]
    assert found["loss"] == pytest.approx(cross_entropy(model, before, after), rel=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["accuracy"] == pytest.approx((model(before).argmax(1) == after).float().mean().item())
    assert sums.weight == 21 and task.unit == "tokens"
    assert not task.higher_is_better("val/perplexity") and task.higher_is_better("val/accuracy")


def test_a_batch_without_a_target_has_neither_loss_nor_gradient() -> None:
    task, model = LanguageModel(), Bigram()
    step = task.measure(model, ({"input_ids": IDS, "labels": torch.full_like(IDS, -100)}, None))
    step.loss.backward()
    assert step.loss.item() == 0 == int(step.weight)
    assert model.table.weight.grad is not None and not model.table.weight.grad.any()


def test_another_mark_of_padding() -> None:
    task, model = LanguageModel(ignore_index=0), Bigram()
    step = task.measure(model, (IDS, None))
    counted = IDS[:, 1:] != 0
    assert int(step.weight) == int(counted.sum()) < 40
    expected = cross_entropy(model, IDS[:, :-1][counted], IDS[:, 1:][counted])
    assert step.loss.item() == pytest.approx(expected, rel=1e-6)


def test_a_hugging_face_model_is_measured_by_its_logits() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=K, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    model, batch = transformers.GPT2LMHeadModel(config).eval(), {"input_ids": IDS, "labels": LABELS}
    step = LanguageModel().measure(model, (batch, None))
    assert step.loss.item() == pytest.approx(model(**batch).loss.item(), rel=1e-5)
    assert context_of(model) == 16
    assert generate(model, IDS[:, :4], max_new_tokens=20).shape == (5, 20)


class Counting(nn.Module):
    """The next number is by far the most probable token; counts what it gets."""

    context = 4

    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[int] = []

    def forward(self, ids: Tensor) -> Tensor:
        self.lengths.append(ids.shape[1])
        return 3.0 * nn.functional.one_hot((ids + 1) % K, K).float()


def test_a_text_is_continued_greedily_or_by_draws_that_the_seed_decides() -> None:
    model, start = Counting(), torch.tensor([[2], [5]])
    assert generate(model, start, max_new_tokens=6, temperature=0).tolist() == [[3, 4, 5, 6, 0, 1], [6, 0, 1, 2, 3, 4]]
    assert model.lengths == [1, 2, 3, 4, 4, 4], "no more than the model can see"
    drawn = [generate(model, start, max_new_tokens=40, temperature=2.0, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    cold = generate(model, start, max_new_tokens=40, temperature=0.1, seed=3)
    assert torch.equal(cold, generate(model, start, max_new_tokens=40, temperature=0))


def test_draws_follow_the_probabilities() -> None:
    model = Bigram()
    drawn = generate(model, torch.full((4000, 1), 3), max_new_tokens=1, temperature=0.7)
    shares = torch.bincount(drawn.flatten(), minlength=K) / 4000
    expected = (model.table.weight[3] / 0.7).softmax(0)
    assert (shares - expected).abs().max() < 0.03


def test_a_text_comes_from_a_text() -> None:
    task, model = LanguageModel(), Counting()
    assert task.complete(model, "bc", "abcdefg", max_new_tokens=3, temperature=0) == "def"
    assert task.complete(model, "", "abcdefg", max_new_tokens=3, temperature=0) == "bcd"
    problem = problem_of(lambda: task.complete(model, "b!c?", "abcdefg"))
    assert (problem.key, problem.topic) == ("input", "data") and "'!?'" in problem.text


def test_the_prediction_for_a_sample_is_what_follows_it() -> None:
    model, ids = GPT((9,), K, layers=1, heads=2, width=8).eval(), IDS
    scores = LanguageModel().predict(model, ids)
    torch.testing.assert_close(scores, model(ids[:, 1:])[:, -1])
    assert scores.shape == (5, K) and context_of(model) == 8


@pytest.mark.parametrize(
    ("typed", "key", "topic"),
    [
        (["data=digits", "model=mlp"], "data", "shape"),
        (["data=digits", "model=gpt"], "model", "shape"),
        (["data=text", "model=gpt", "loss=cross_entropy"], "loss", "conflict"),
        (["data=text", "model=gpt", "trainer.monitor=val/perplexitty"], "trainer.monitor", "choice"),
    ],
)
def test_what_does_not_fit_is_said(typed: list[str], key: str, topic: str) -> None:
    problem = problem_of(lambda: built("task=language_model", "device=cpu", "tracking=off", *typed))
    assert (problem.key, problem.topic) == (key, topic)


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        (["task=language_model", "data=text", "model=mlp"], "model=gpt"),
        (["task=language_model", "data=text", "model=cnn"], "model=gpt"),
        (["task=autoencoder", "data=text", "model=gpt"], "model=mlp"),
        (["data=wine", "model=gpt"], "model=mlp"),
    ],
)
def test_a_model_for_the_other_kind_of_numbers_is_refused_with_one_that_fits(typed: list[str], written: str) -> None:
    problem = problem_of(lambda: built("device=cpu", "tracking=off", *typed))
    assert (problem.key, problem.topic) == ("model", "shape") and written in problem.suggestion


def test_inputs_without_targets_name_the_tasks_for_them() -> None:
    problem = problem_of(lambda: built("device=cpu", "tracking=off", "data=text"))
    assert (problem.key, problem.topic) == ("data", "code") and "task=language_model" in problem.suggestion


def test_a_model_without_scores_for_each_token_is_refused() -> None:
    problem = problem_of(lambda: LanguageModel().measure(nn.Sequential(Bigram(), nn.Flatten()), (IDS, None)))
    assert (problem.key, problem.topic) == ("model", "shape") and f"(N, {8 * K})" in problem.text


def test_items_without_tokens_are_refused() -> None:
    for batch in ({"ids": IDS}, (IDS, IDS, IDS)):
        problem = problem_of(lambda batch=batch: LanguageModel().measure(Bigram(), (batch, None)))  # type: ignore[misc]
        assert (problem.key, problem.topic) == ("data", "code") and "input_ids" in problem.text


def test_it_learns_a_text(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    small = ("experiment=char_gpt", f"data.path={tmp_path / 'text.txt'}", "data.block=16", "model.width=32")
    state = trained(
        tmp_path, *small, "model.layers=2", "trainer.epochs=8", "optimizer.lr=0.02", "device=cpu", "tracking=off"
    )
    perplexity = state.log.of("val/perplexity")  # type: ignore[attr-defined]
    assert perplexity[8] < 2 < perplexity[1]
    assert set(state.log.of("throughput/tokens_per_second")) == set(range(1, 9))  # type: ignore[attr-defined]
    classes = sorted(set("the quick brown fox jumps over the lazy dog. "))
    task = state.task
    assert isinstance(task, LanguageModel)
    made = task.complete(state.model.eval(), "the quick brown fox ", classes, max_new_tokens=10, temperature=0)
    assert made == "jumps over"


def test_a_model_that_does_not_say_how_much_it_sees_gets_what_it_was_trained_on() -> None:
    class Places(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Embedding(4, 5)

        def forward(self, ids: Tensor) -> Tensor:
            return self.places(torch.arange(ids.shape[1])).expand(len(ids), -1, -1)

    start = torch.zeros(1, 3, dtype=torch.long)
    assert generate(Places().eval(), start, max_new_tokens=6, trained=4).shape == (1, 6)
    with pytest.raises(IndexError):
        generate(Places().eval(), start, max_new_tokens=6)
