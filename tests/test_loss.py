import pytest
import torch
from torch.nn.functional import cross_entropy

from helpers.problems import about
from helpers.training import step, supervised
from runner.errors import ConfigError
from runner.loss import MSE, BCEWithLogits, CrossEntropy, Loss
from runner.training.running_metrics import RunningMetrics

F32 = torch.float32


def sums_of(loss: Loss) -> RunningMetrics:
    return RunningMetrics(supervised(loss), torch.device("cpu"))


class TestCrossEntropy:
    def test_outputs_are_one_a_class(self) -> None:
        assert CrossEntropy().num_outputs(torch.tensor([0, 2, 1]), None) == 3
        assert CrossEntropy().num_outputs(torch.tensor([0, 1]), ["a", "b", "c"]) == 3

    @pytest.mark.parametrize(
        ("targets", "topic"),
        [
            (torch.tensor([0.5, 1.0]), "conflict"),
            (torch.tensor([[0, 1]]), "conflict"),
            (torch.tensor([-1, 0]), "data"),
            (torch.tensor([0, 0]), "data"),
        ],
    )
    def test_targets_that_are_no_classes_are_refused(self, targets: torch.Tensor, topic: str) -> None:
        with pytest.raises(ConfigError) as error:
            CrossEntropy().num_outputs(targets, None)
        assert about(error) == [("loss", topic)]
        assert "loss=cross_entropy" in str(error.value)

    @pytest.mark.parametrize(
        ("targets", "suggested"),
        [
            (torch.tensor([0.0, 1.0, 1.0]), ["integers, 0 and 1", "write loss=bce_with_logits"]),
            (torch.tensor([[0], [2]]), ["integers of shape (N,)", "targets[:, 0]"]),
            (torch.tensor([[0.0], [1.0]]), ["integers of shape (N,)", "targets[:, 0]"]),
            (torch.tensor([1.0, 2.0, 3.0]), ["integers", "write loss=mse"]),
            (torch.eye(3), ["targets.argmax(1)"]),
            (torch.tensor([[1, 1], [0, 1]]), ["write loss=bce_with_logits"]),
            (torch.tensor([0.5, 1.0]), ["write loss=mse"]),
            (torch.randn(4, 3), ["write loss=mse"]),
        ],
    )
    def test_what_to_write_for_targets_of_another_kind(self, targets: torch.Tensor, suggested: list[str]) -> None:
        with pytest.raises(ConfigError) as error:
            CrossEntropy().num_outputs(targets, None)
        assert about(error) == [("loss", "conflict")]
        (problem,) = error.value.problems
        assert all(part in problem.suggestion for part in suggested)
        assert "integers" in suggested[0] or "integers" not in problem.suggestion

    def test_a_target_beyond_the_named_classes_is_refused(self) -> None:
        with pytest.raises(ConfigError) as error:
            CrossEntropy().num_outputs(torch.tensor([0, 2, 1]), ["cat", "dog"])
        assert about(error) == [("loss", "data")]
        assert all(part in str(error.value) for part in ("2 classes", "0 to 1", "target 2"))

    def test_smoothing_is_for_training_alone(self) -> None:
        outputs, targets = torch.randn(8, 3), torch.randint(3, (8,))
        loss = CrossEntropy(label_smoothing=0.2)
        assert loss(outputs, targets) == cross_entropy(outputs, targets, label_smoothing=0.2)
        assert loss.eval()(outputs, targets) == cross_entropy(outputs, targets)

    def test_accuracy_counts_the_largest_output(self) -> None:
        outputs = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
        assert CrossEntropy.metrics["accuracy"].sums(outputs, torch.tensor([1, 0, 0])) == 2

    def test_outputs_become_probabilities(self) -> None:
        torch.testing.assert_close(
            CrossEntropy().probabilities(torch.tensor([[0.0, 0.0], [9.0, -9.0]])),
            torch.tensor([[0.5, 0.5], [1.0, 0.0]]),
            atol=1e-6,
            rtol=0,
        )


class TestBCEWithLogits:
    def test_targets_outside_of_0_and_1_are_refused(self) -> None:
        for targets, instead in ((torch.tensor([0, 2]), "cross_entropy"), (torch.tensor([0.0, -0.5]), "mse")):
            with pytest.raises(ConfigError) as error:
                BCEWithLogits().num_outputs(targets, None)
            assert about(error) == [("loss", "conflict")]
            assert error.value.problems[0].suggestion == f"write loss={instead}"
        with pytest.raises(ConfigError) as error:
            BCEWithLogits().num_outputs(torch.tensor([0, 1]), ["a", "b", "c"])
        assert about(error) == [("loss", "conflict")]
        assert error.value.problems[0].suggestion == "write loss=cross_entropy" and "have 3" in str(error.value)

    def test_one_output_a_question(self) -> None:
        loss = BCEWithLogits()
        assert loss.num_outputs(torch.tensor([0, 1, 1]), ["no", "yes"]) == 1
        assert loss.num_outputs(torch.zeros(5, 3), None) == 3
        assert loss.prepare(torch.tensor([0, 1]), F32).tolist() == [[0.0], [1.0]]

    def test_accuracy_is_the_share_on_the_right_side(self) -> None:
        outputs, targets = torch.tensor([[2.0, -1.0], [-3.0, -1.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
        assert BCEWithLogits.metrics["accuracy"].sums(outputs, targets) == 1.5

    def test_loss_and_probabilities(self) -> None:
        outputs = torch.tensor([[0.0], [2.0]])
        torch.testing.assert_close(
            BCEWithLogits()(outputs, torch.tensor([[1.0], [1.0]])), -outputs.sigmoid().log().mean()
        )
        yes = BCEWithLogits().probabilities(outputs)
        assert yes is not None
        torch.testing.assert_close(yes, torch.cat([1 - outputs.sigmoid(), outputs.sigmoid()], dim=1))
        assert BCEWithLogits().probabilities(torch.zeros(2, 3)) is None


class TestMSE:
    @pytest.mark.parametrize(("shape", "outputs"), [((5,), 1), ((5, 1), 1), ((5, 3), 3), ((5, 2, 2), 4)])
    def test_outputs_are_one_a_value(self, shape: tuple[int, ...], outputs: int) -> None:
        loss = MSE()
        assert loss.num_outputs(torch.randn(shape), None) == outputs
        assert loss.prepare(torch.randn(shape), F32).shape == (5, outputs)

    def test_integers_are_taken_as_numbers(self) -> None:
        prepared = MSE().prepare(torch.tensor([1, 2]), torch.float64)
        assert prepared.dtype == torch.float64
        assert prepared.tolist() == [[1.0], [2.0]]

    def test_named_classes_are_no_values(self) -> None:
        with pytest.raises(ConfigError) as error:
            MSE().num_outputs(torch.tensor([0, 1]), ["cat", "dog"])
        assert about(error) == [("loss", "conflict")]
        assert error.value.problems[0].suggestion == "write loss=cross_entropy"

    def test_the_absolute_error_is_a_mean_over_outputs_and_a_sum_over_samples(self) -> None:
        error = MSE.metrics["mae"].sums(torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.zeros(2, 2))
        assert error == 2.0

    @pytest.mark.parametrize("outputs", [1, 3])
    @pytest.mark.parametrize("offset", [0.0, 1e4])
    def test_r2_is_that_of_scikit_learn_however_it_is_batched(self, outputs: int, offset: float) -> None:
        from sklearn.metrics import r2_score

        made = torch.Generator().manual_seed(0)
        targets = torch.randn(101, outputs, generator=made, dtype=torch.float64) * 2 + offset
        predicted = targets + torch.randn(101, outputs, generator=made, dtype=torch.float64)
        sums = sums_of(MSE())
        for batch in torch.arange(101).split(32):
            sums.add(step(torch.tensor(0.0), predicted[batch], targets[batch]))
        assert sums.means()["r2"] == pytest.approx(float(r2_score(targets.numpy(), predicted.numpy())), rel=1e-6)

    def test_r2_of_targets_that_are_all_the_same_is_left_out(self) -> None:
        sums = sums_of(MSE())
        sums.add(step(torch.tensor(0.5), torch.tensor([[0.1], [0.2]]), torch.full((2, 1), 0.3)))
        assert set(sums.means()) == {"loss", "mae", "rmse"}

    @pytest.mark.parametrize("size", [7, 30_000])  # small batches are collected, large ones are not
    def test_small_batches_are_counted_together_and_all_are_counted(self, size: int) -> None:
        made = torch.Generator().manual_seed(0)
        weight = torch.ones(3, requires_grad=True)
        outputs, classes = torch.randn(5 * size, 3, generator=made), torch.randint(0, 3, (5 * size,), generator=made)
        right = (outputs.argmax(1) == classes).tolist()
        sums, resumed, buffer = (
            *(sums_of(CrossEntropy()) for _ in range(2)),
            torch.zeros(0).long(),
        )
        for number, batch in enumerate(torch.arange(5 * size).split(size), start=1):
            buffer.resize_(len(batch)).copy_(classes[batch])  # a user's data set may do this
            for one in (sums, resumed):
                one.add(step(torch.tensor(0.0), outputs[batch] * weight, buffer))
            if number in (2, 4):
                assert sums.means()["accuracy"] == sum(right[: number * size]) / (number * size)
                resumed.reset(*resumed.state())
        assert sums.means() == resumed.means() and sums.state() == resumed.state()
        sums.reset()
        sums.add(step(torch.tensor(0.0), outputs[:size] * weight, classes[:size]))
        assert sums.means()["accuracy"] == sum(right[:size]) / size

    def test_sums_go_on_from_their_state(self) -> None:
        a, b = sums_of(MSE()), sums_of(MSE())
        batches = [(torch.randn((), generator=g), torch.randn(4, 2, generator=g), torch.randn(4, 2, generator=g))
                   for g in [torch.Generator().manual_seed(1)] for _ in range(4)]  # fmt: skip
        for batch in batches[:2]:
            a.add(step(*batch))
        b.reset(*a.state())
        for batch in batches[2:]:
            a.add(step(*batch))
            b.add(step(*batch))
        assert a.state() == b.state()
        a.reset()
        assert a.means() == {}
