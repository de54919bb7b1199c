"""The units in which rounding errors are counted.

The standard model: the result of one operation is exact up to a relative error of at most the unit roundoff u, and,
where it underflows, an absolute error of at most the smallest normal number (which covers flushing to zero). A sum of n
products, in any order and with or without fused multiply-adds, then lies within `gamma(n) sum |terms|` of the exact one
(Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEVELS = ("nearest", "outward", "inference")
"""What bounds account for: no rounding; that of the bounds; that of float inference of the network as well."""

SLACK = 1 + 2.0**-10
"""Factor on every error term: covers the roundings of its own computation and products of two errors."""


def unit_roundoff(dtype: torch.dtype) -> float:
    """Return u, the largest relative error of one operation rounded to nearest: 2^-24 or 2^-53."""
    return torch.finfo(dtype).eps / 2


def absolute_floor(dtype: torch.dtype) -> float:
    """Return a number far above all underflow errors of one neuron and far below everything that matters.

    2^-100 or 2^-1000: above 2^26 (or 2^22) times the smallest normal number, the most that one operation may lose by
    underflow. Larger than that so that products with it do not underflow themselves, which would be slow.
    """
    return 2.0**-100 if dtype == torch.float32 else 2.0**-1000


def gamma(terms: int, dtype: torch.dtype) -> float:
    """Return n u / (1 - n u), the relative error of a sum of n products; infinite where n u is not below 1/2."""
    relative = terms * unit_roundoff(dtype)
    return relative / (1 - relative) if relative < 0.5 else math.inf


def lowered(x: Tensor, by: Tensor | float = 0.0) -> Tensor:
    """Return numbers that are certainly at most `x - by`, within a few units in the last place of x.

    Args:
        x: any shape.
        by: >= 0, broadcastable to x; an error term that carries `SLACK`.

    Returns:
        like x. NaN stays NaN; +infinity, which bounds nothing from below, becomes NaN. Gradients pass to x unchanged.
    """
    return x - _step(x, by)


def raised(x: Tensor, by: Tensor | float = 0.0) -> Tensor:
    """Return numbers that are certainly at least `x + by`; see `lowered`."""
    return x + _step(x, by)


def magnitude_of(interval: tuple[Tensor | None, Tensor]) -> Tensor:
    """Return the largest magnitude of the numbers of an interval, at least so large that no product underflows.

    Args:
        interval: its ends; None for a lower one that does not count, as no number is negative.
    """
    lower, upper = interval
    least = absolute_floor(upper.dtype) ** 0.5
    if lower is None:
        return upper.detach().clamp_min(least)
    size = torch.neg(lower.detach())
    return torch.maximum(size, upper.detach(), out=size).clamp_min_(least)


def _step(x: Tensor, by: Tensor | float) -> Tensor:
    """Return by, and so much that the roundings of this sum and of the one with x are covered."""
    with torch.no_grad():
        size = x.detach().abs().mul_(4 * unit_roundoff(x.dtype)).add_(absolute_floor(x.dtype))
        return size + by
