"""Predict with the models of all folds of a sweep: the mean of their probabilities, or of their values."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from runner.errors import ConfigError
from runner.loss import answers, outputs_of
from runner.runs import new_samples
from runner.runs.fold_models import NO_MEAN, has_mean, loss_of
from runner.runs.new_samples import NewSamples
from runner.runs.predictor import Predictions, Predictor
from runner.saved.folds import SavedFolds
from runner.saved.run import problem_with
from runner.util.trees import Tree


class FoldsPredictor:
    """The ensemble of a sweep over folds: it is used as `Predictor` is.

    Args:
        folds: the sweep.
        device: auto, cpu, cuda, mps or another of `runner.device`.

    Raises:
        ConfigError: a model cannot be loaded, or the predictions of its task have no mean.
    """

    def __init__(self, folds: SavedFolds, device: str = "cpu") -> None:
        self.members = [Predictor(run, device) for run in folds.members]
        self._first = self.members[0]
        if not has_mean(self._first.task):
            instead = f"write run={folds.members[0].place}, one of its jobs"
            raise ConfigError(problem_with(folds.argument, NO_MEAN, instead, topic="conflict"))
        self.loss = loss_of(self._first.task)
        self.samples, self.device, self.task = self._first.samples, self._first.device, self._first.task
        self.source = f"the {len(self.members)} models of {folds.place}{self._first.arithmetic}"

    def read(self, value: str) -> NewSamples:
        """Read new samples, as each of the models reads them: `data=table` has transformers of its own for each fold.

        Raises:
            ConfigError: one of them does not take the samples.
        """
        each = [new_samples.read(value, member.samples) for member in self.members]
        return NewSamples(
            each[0].names, lambda first, last: [one.load(first, last) for one in each], each[0].one_by_one
        )

    def __call__(self, raw: Sequence[Tree]) -> Tensor:
        """Compute outputs (N, K) of raw inputs, one for each model: logits, or values in the units of the data."""
        outputs = [member(inputs) for member, inputs in zip(self.members, raw, strict=True)]
        each = [values for values in outputs if isinstance(values, Tensor)]
        mean = torch.stack([answers(self.loss, values.double()) for values in each]).mean(0)
        return outputs_of(self.loss, mean, each[0].shape[1]).to(each[0].dtype)

    def arrays(self, outputs: Tensor | Predictions) -> Predictions:
        """Return predictions by name: see `Predictor.arrays`."""
        return self._first.arrays(outputs)

    def table(self, outputs: Tensor | Predictions) -> tuple[list[str], Iterator[list[object]]]:
        """Convert predictions to columns: see `Predictor.table`."""
        return self._first.table(outputs)
