"""Metrics beside those of the loss: torchmetrics' classes, and functions of the user's.

A metric gets probabilities in float64, or values in the units of the data. Imports neither data nor tasks, and
torchmetrics only for a config that asks for one of its classes.
"""

from runner.metrics.entries import ALIASES, Entry, Kind, read_entries
from runner.metrics.make import asked_kind, make_metrics
from runner.metrics.meaning import Meaning, meaning_of, meaning_of_step
from runner.metrics.measured import Measured, MetricSet

__all__ = [
    "ALIASES",
    "Entry",
    "Kind",
    "Meaning",
    "Measured",
    "MetricSet",
    "asked_kind",
    "make_metrics",
    "meaning_of",
    "meaning_of_step",
    "read_entries",
]
