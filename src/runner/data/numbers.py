"""Numbers of any type: which floating-point type holds them exactly, and how many are not finite."""

import torch
from torch import Tensor

LARGEST = torch.finfo(torch.float32).max
NARROW = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.float16, torch.bfloat16, torch.float32,
)  # fmt: skip
"""Types of which float32 holds every value."""


def is_exact(values: Tensor, dtype: torch.dtype) -> bool:
    """Whether float32 or float64 holds each of these values exactly; NaN counts as equal to itself."""
    if values.dtype in NARROW:
        return True
    return bool(((values.to(dtype).to(values.dtype) == values) | (values != values)).all())


def count_not_finite(values: Tensor) -> int:
    """Return how many numbers are NaN, infinite, or beyond the range of float32."""
    return int((~(values.abs() <= LARGEST)).sum())
