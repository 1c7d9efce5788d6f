"""The interval of a mean over folds, whose training parts overlap."""

from collections.abc import Sequence
from statistics import mean, variance

from runner.comparison.paired import ERROR, critical_t


def overlapping_interval(values: Sequence[float], folds: int) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of a metric over folds, or over the folds of several seeds.

    Folds share most of their training samples, so their values are not independent, and their variance divided by their
    number is too small. It is multiplied by 1/n + n_validation/n_training instead (Nadeau and Bengio 2003, Machine
    Learning 52:239; for repeated folds Bouckaert and Frank 2004, PAKDD), with the t distribution of n - 1 degrees. That
    is a rule that holds about; no estimate of the variance over folds is unbiased (Bengio and Grandvalet 2004, JMLR 5).

    Args:
        values: one for each fold of each seed.
        folds: of one seed: each holds out 1 of so many parts.

    Returns:
        None for fewer than two values.
    """
    n = len(values)
    if n < 2:
        return None
    half = critical_t(ERROR / 2, n - 1) * (variance(values) * (1 / n + 1 / (folds - 1))) ** 0.5
    return mean(values) - half, mean(values) + half
