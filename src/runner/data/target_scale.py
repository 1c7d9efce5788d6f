"""`data.scale_targets`: the targets of a regression are standardised for training, and reported in their own units."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from runner.errors import ConfigError

FAR = 1000
"""Standard deviations between a column's mean and 0 from which on sums of squares are taken from its mean: a sum of
squares from 0 loses about 1e-16 of the square of this ratio, here 1e-10."""

SHOWN = 3  # columns that the head names figures of


@dataclass(frozen=True)
class TargetScale:
    """What outputs of a regression are in the units of the data: mean + std * output, column by column.

    Attributes:
        mean: (K,), float64; 0 where a column is left as it is.
        std: (K,), float64; 1 where a column is left as it is.
        center: (K,), float64: near the targets' mean; metrics of differences are computed from it.
    """

    mean: Tensor
    std: Tensor
    center: Tensor

    @classmethod
    def of_state(cls, state: Mapping[str, Sequence[float]]) -> "TargetScale":
        """The one that `state` gave."""
        mean, std = (torch.tensor(state[name], dtype=torch.float64) for name in ("mean", "std"))
        return cls(mean, std, mean)

    def state(self) -> dict[str, list[float]]:
        """Mean and standard deviation by column, as primitives."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @property
    def standardizes(self) -> bool:
        """Whether training sees other numbers than the data have."""
        return bool((self.mean != 0).any() or (self.std != 1).any())

    def to(self, device: torch.device) -> "TargetScale":
        """The same on a device, in 32 bits on one that has no 64."""
        dtype = torch.float32 if device.type == "mps" else torch.float64
        return TargetScale(*(tensor.to(device, dtype) for tensor in (self.mean, self.std, self.center)))

    def preparing(
        self, prepare: Callable[[Tensor, torch.dtype], Tensor], device: torch.device
    ) -> Callable[[Tensor, torch.dtype], Tensor]:
        """`Loss.prepare`, standardised: raw targets on the device -> (N, K) as training sees them."""
        here = self.to(device)

        def standardized(targets: Tensor, dtype: torch.dtype) -> Tensor:
            return ((prepare(targets, here.mean.dtype) - here.mean) / here.std).to(dtype)

        return standardized

    def in_units(self, outputs: Tensor) -> Tensor:
        """(N, K) outputs, or targets as training sees them -> in the units of the data, 64 bits where there are."""
        return outputs.to(self.mean.dtype) * self.std + self.mean

    def from_center(self, outputs: Tensor) -> Tensor:
        """The same less `center`, without the digits that a large mean costs."""
        return outputs.to(self.mean.dtype) * self.std + (self.mean - self.center)

    def __str__(self) -> str:
        """`mean 512.3, standard deviation 28.9`."""
        mean, std = (", ".join(f"{value:.4g}" for value in values[:SHOWN].tolist()) for values in (self.mean, self.std))
        more = ", ..." if len(self.mean) > SHOWN else ""
        return f"mean {mean}{more}, standard deviation {std}{more}"


def choose(
    targets: Tensor,
    setting: bool | str | None,
    *,
    wanted: bool,
    weights: Mapping[str, Any] | None = None,
    names: Sequence[str] = (),
) -> TargetScale | None:
    """Decide how the targets of a regression are scaled.

    Args:
        targets: of the training part, (N, K), float64, in the units of the data.
        setting: `data.scale_targets`: auto, True or False; None in a config of version 0.1.0, which scaled nothing.
        wanted: whether `auto` scales here.
        weights: `preprocessing` of the checkpoint that training starts from, whose outputs go on meaning the same
            whatever the new data are. None: there is none, or the output layer is new.
        names: of the columns, for the error.

    Returns:
        None if nothing is scaled and no column is far from 0.

    Raises:
        ConfigError: the setting is False and the weights are for scaled targets, or True and a column is constant.
    """
    known = None if weights is None else of_checkpoint(weights)
    if known is not None:
        if setting is False:
            raise ConfigError(
                "data.scale_targets=false: the weights that training starts from were trained on scaled targets: write"
                " data.scale_targets=auto"
            )
        return known
    if setting is None:
        return None
    scaled = setting is True or (setting == "auto" and wanted and weights is None)
    return _measure(targets, scaled, refuse_constant=setting is True, names=names)


def _measure(targets: Tensor, scaled: bool, refuse_constant: bool, names: Sequence[str]) -> TargetScale | None:
    # NumPy adds in one thread: another number of threads gives the same bits.
    mean, std = (torch.from_numpy(values) for values in (targets.numpy().mean(0), targets.numpy().std(0)))
    constant = targets.amax(0) == targets.amin(0)
    if refuse_constant and bool(constant.any()):
        column = int(constant.nonzero()[0])
        named = f"of {names[column]}" if column < len(names) else f"in column {column}" if len(mean) > 1 else ""
        raise ConfigError(
            f"data.scale_targets=true: the training targets {named}".rstrip()
            + f" are all {targets[0, column]:g}: write data.scale_targets=auto, which leaves them as they are"
        )
    chosen = ~constant if scaled else torch.zeros_like(constant)
    far = ~constant & (mean.abs() > FAR * std)
    if not bool((chosen | far).any()):
        return None
    center = torch.where(chosen | far, mean, 0.0)
    return TargetScale(torch.where(chosen, mean, 0.0), torch.where(chosen, std, 1.0), center)


def preprocessing(scale: TargetScale | None) -> dict[str, Any]:
    """What a checkpoint holds of the scale; nothing if its model gives the units of the data."""
    return {"targets": scale.state()} if scale is not None and scale.standardizes else {}


def of_checkpoint(preprocessing: Mapping[str, Any]) -> TargetScale | None:
    """The scale of which a checkpoint holds this; None if its model gives the units of the data."""
    return TargetScale.of_state(preprocessing["targets"]) if "targets" in preprocessing else None
