import pytest
import torch
from torch.nn.functional import cross_entropy

from runner.errors import ConfigError
from runner.loss import MSE, CrossEntropy

F32 = torch.float32


class TestCrossEntropy:
    def test_outputs_are_one_a_class(self) -> None:
        assert CrossEntropy().num_outputs(torch.tensor([0, 2, 1]), None) == 3
        assert CrossEntropy().num_outputs(torch.tensor([0, 1]), ["a", "b", "c"]) == 3

    @pytest.mark.parametrize("targets", [torch.tensor([0.5, 1.0]), torch.tensor([[0, 1]]), torch.tensor([-1, 0])])
    def test_targets_that_are_no_classes_are_refused(self, targets: torch.Tensor) -> None:
        with pytest.raises(ConfigError, match="loss=cross_entropy"):
            CrossEntropy().num_outputs(targets, None)

    def test_smoothing_is_for_training_alone(self) -> None:
        outputs, targets = torch.randn(8, 3), torch.randint(3, (8,))
        loss = CrossEntropy(label_smoothing=0.2)
        assert loss(outputs, targets) == cross_entropy(outputs, targets, label_smoothing=0.2)
        assert loss.eval()(outputs, targets) == cross_entropy(outputs, targets)

    def test_accuracy_counts_the_largest_output(self) -> None:
        outputs = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
        assert CrossEntropy.metrics["accuracy"](outputs, torch.tensor([1, 0, 0])) == 2


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
        with pytest.raises(ConfigError, match="loss=mse"):
            MSE().num_outputs(torch.tensor([0, 1]), ["cat", "dog"])

    def test_the_absolute_error_is_a_mean_over_outputs_and_a_sum_over_samples(self) -> None:
        error = MSE.metrics["mae"](torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.zeros(2, 2))
        assert error == 2.0
