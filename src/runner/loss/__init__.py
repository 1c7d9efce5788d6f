"""The losses. A loss also says what targets and outputs mean, and names the metrics. Imports no data set."""

from runner.loss.answers import answer_names, answers, outputs_of
from runner.loss.base import Loss, Metric, name_of
from runner.loss.classes import FEW, CrossEntropy
from runner.loss.focal import Focal, FocalWithLogits
from runner.loss.labels import BCEWithLogits
from runner.loss.sums import absolute_error, correct, correct_signs, r_squared, root_mean_squared_error, squares
from runner.loss.values import L1, MSE, Huber, Regression

__all__ = [
    "FEW",
    "L1",
    "MSE",
    "BCEWithLogits",
    "CrossEntropy",
    "Focal",
    "FocalWithLogits",
    "Huber",
    "Loss",
    "Metric",
    "Regression",
    "absolute_error",
    "answer_names",
    "answers",
    "correct",
    "correct_signs",
    "name_of",
    "outputs_of",
    "r_squared",
    "root_mean_squared_error",
    "squares",
]
