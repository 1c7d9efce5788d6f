"""Numbers of any type as the floating-point ones that are normalised, none of them rounded on the way."""

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.errors import ConfigError

LARGEST = torch.finfo(torch.float32).max
NARROW = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.float16, torch.bfloat16, torch.float32,
)  # fmt: skip
"""Types of which float32 holds every value."""


def as_floats(parts: Sequence[Tensor], labels: Sequence[str]) -> list[Tensor]:
    """Parts as float32; all of them as float64 where float32 would round a value of one.

    Args:
        parts: of any real type.
        labels: what an error calls each.

    Raises:
        ConfigError: float64 would round whole numbers.
    """
    if all(_same(part, part.to(torch.float32)) for part in parts):
        return [part.to(torch.float32) for part in parts]
    wide = [part.to(torch.float64) for part in parts]
    rounded = [label for part, floats, label in zip(parts, wide, labels, strict=True) if not _same(part, floats)]
    if rounded:
        raise ConfigError(
            *(
                f"{label} has whole numbers beyond 2^53, which float64 would round; subtract an offset"
                for label in rounded
            )
        )
    return wide


def not_finite(values: Tensor) -> int:
    """How many numbers are NaN, infinite, or beyond what float32 holds."""
    return int((~(values.abs() <= LARGEST)).sum())


def _same(values: Tensor, floats: Tensor) -> bool:
    """Whether these are the same numbers, NaN being the same as itself."""
    if values.dtype in NARROW:
        return True
    return bool(((floats.to(values.dtype) == values) | (values != values)).all())
