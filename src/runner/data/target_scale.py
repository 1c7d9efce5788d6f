"""`data.scale_targets`: the targets of a regression are standardised for training, and reported in their own units."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from runner.data.source import FittedRows
from runner.errors import ConfigError, Problem

KEY = "data.scale_targets"

FAR = 1000
"""If a column's mean is more standard deviations than this from 0, sums of squares are computed around the mean: a sum
of squares around 0 loses about 1e-16 of the square of this ratio, here 1e-10."""

LARGEST_SHOWN = 4  # standard deviations from the mean, up to which values are exact to the last decimal shown

SHOWN = 3  # columns whose figures are printed


@dataclass(frozen=True)
class TargetScale:
    """Converts outputs of a regression to the units of the data: mean + std * output, column by column.

    Attributes:
        mean: (K,), float64; 0 for a column that is not scaled.
        std: (K,), float64; 1 for a column that is not scaled.
        center: (K,), float64: near the targets' mean; metrics of differences are computed around it.
    """

    mean: Tensor
    std: Tensor
    center: Tensor

    @classmethod
    def from_state(cls, state: Mapping[str, Sequence[float]]) -> "TargetScale":
        """Restore what `state` returned."""
        mean, std = (torch.tensor(state[name], dtype=torch.float64) for name in ("mean", "std"))
        return cls(mean, std, mean)

    def state(self) -> dict[str, list[float]]:
        """Return mean and standard deviation by column, as primitives."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @property
    def standardizes(self) -> bool:
        """Whether any column is scaled for training."""
        return bool((self.mean != 0).any() or (self.std != 1).any())

    def to(self, device: torch.device) -> "TargetScale":
        """Return a copy on a device, in float32 if it has no float64."""
        dtype = torch.float32 if device.type == "mps" else torch.float64
        return TargetScale(*(tensor.to(device, dtype) for tensor in (self.mean, self.std, self.center)))

    def wrap_prepare(
        self, prepare: Callable[[Tensor, torch.dtype], Tensor], device: torch.device
    ) -> Callable[[Tensor, torch.dtype], Tensor]:
        """Return `Loss.prepare` with standardisation: raw targets on the device -> (N, K) for training."""
        here = self.to(device)

        def standardized(targets: Tensor, dtype: torch.dtype) -> Tensor:
            return ((prepare(targets, here.mean.dtype) - here.mean) / here.std).to(dtype)

        return standardized

    def in_units(self, outputs: Tensor) -> Tensor:
        """Outputs (N, K), or standardised targets -> in the units of the data, float64 if the device has it."""
        return outputs.to(self.mean.dtype) * self.std + self.mean

    def rounded(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Round values in the units of the data, (N, K), to the decimals that a table shows.

        Standardised values are as exact as `dtype`: a target 238.69 comes back as 238.68999836773656.
        """
        std = self.std.to(values.device)
        exact = std * torch.finfo(dtype).eps * LARGEST_SHOWN
        digits = 10.0 ** (-exact.log10()).floor()
        scaled = (std != 1) | (self.mean.to(values.device) != 0)
        values = values.to(std.dtype)
        return torch.where(scaled, (values * digits).round() / digits, values)

    def from_center(self, outputs: Tensor) -> Tensor:
        """Return `in_units` minus `center`, without the loss of precision of a large mean."""
        return outputs.to(self.mean.dtype) * self.std + (self.mean - self.center)

    def __str__(self) -> str:
        """Format as `mean 512.3, standard deviation 28.9`."""
        mean, std = (", ".join(f"{value:.4g}" for value in values[:SHOWN].tolist()) for values in (self.mean, self.std))
        more = ", ..." if len(self.mean) > SHOWN else ""
        return f"mean {mean}{more}, standard deviation {std}{more}"


def choose_target_scale(
    targets: Tensor,
    setting: bool | str | None,
    *,
    auto: bool,
    weights: Mapping[str, Any] | None = None,
    names: Sequence[str] = (),
) -> TargetScale | None:
    """Decide how the targets of a regression are scaled.

    Args:
        targets: of the training part, (N, K), float64, in the units of the data.
        setting: `data.scale_targets`: auto, True or False; None in a config of version 0.1.0, which scaled nothing.
        auto: whether the setting `auto` means True.
        weights: `preprocessing` of the checkpoint that training starts from: its outputs keep their meaning on new
            data. None: there is no checkpoint, or the output layer is new.
        names: of the columns, for problems.

    Returns:
        None if nothing is scaled and no column is far from 0.

    Raises:
        ConfigError: the setting is False and the weights are for scaled targets, or True and a column is constant.
    """
    known = None if weights is None else read_target_scale(weights)
    if known is not None:
        if setting is False:
            text = f"{KEY}=false: the initial weights were trained on scaled targets"
            raise ConfigError(Problem(KEY, text, f"write {KEY}=auto", topic="conflict"))
        return known
    if setting is None:
        return None
    scaled = setting is True or (setting == "auto" and auto and weights is None)
    return _measure(targets, scaled, refuse_constant=setting is True, names=names)


def _measure(targets: Tensor, scaled: bool, refuse_constant: bool, names: Sequence[str]) -> TargetScale | None:
    # NumPy adds in one thread: the bits do not depend on the number of threads.
    mean, std = (torch.from_numpy(values) for values in (targets.numpy().mean(0), targets.numpy().std(0)))
    constant = targets.amax(0) == targets.amin(0)
    if refuse_constant and bool(constant.any()):
        column = int(constant.nonzero()[0])
        where = f" of {names[column]}" if column < len(names) else f" in column {column}" if len(mean) > 1 else ""
        text = f"{KEY}=true: the training targets{where} are all {targets[0, column]:g}"
        instead = f"write {KEY}=auto, which does not scale them"
        raise ConfigError(Problem(KEY, text, instead, topic="data"))
    chosen = ~constant if scaled else torch.zeros_like(constant)
    far = ~constant & (mean.abs() > FAR * std)
    if not bool((chosen | far).any()):
        return None
    center = torch.where(chosen | far, mean, 0.0)
    return TargetScale(torch.where(chosen, mean, 0.0), torch.where(chosen, std, 1.0), center)


def preprocessing(scale: TargetScale | None, table: FittedRows | None = None) -> dict[str, Any]:
    """Return what a checkpoint holds of the preprocessing.

    Args:
        scale: of the targets; nothing is held if the model outputs the units of the data.
        table: the fitted transformers of a table.
    """
    targets = {"targets": scale.state()} if scale is not None and scale.standardizes else {}
    return targets | ({"table": table.state()} if table is not None else {})


def read_target_scale(preprocessing: Mapping[str, Any]) -> TargetScale | None:
    """Return the scale in `preprocessing` of a checkpoint; None if its model outputs the units of the data."""
    return TargetScale.from_state(preprocessing["targets"]) if "targets" in preprocessing else None
