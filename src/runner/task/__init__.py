"""What a batch is, what a step computes, what is measured, what a prediction looks like. Imports no data set."""

from runner.task.task import Step, StepError, Task, higher_is_better, names_on, takes_larger_batches

__all__ = ["Step", "StepError", "Task", "higher_is_better", "names_on", "takes_larger_batches"]
