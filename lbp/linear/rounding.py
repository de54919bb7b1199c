"""Conversion of float64 bounds to the network's dtype without losing the bound."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _RoundOutward(torch.autograd.Function):
    """Nearest value of the target dtype on the safe side; the gradient passes unchanged."""

    @staticmethod
    def forward(ctx: Any, bound: Tensor, dtype: torch.dtype, direction: float) -> Tensor:
        return _on_the_safe_side(bound, dtype, direction)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0].double(), None, None


def _on_the_safe_side(bound: Tensor, dtype: torch.dtype, direction: float) -> Tensor:
    nearest = bound.to(dtype)
    # Both float32 and float64 numbers are compared as float64.
    wrong = nearest > bound if direction < 0 else nearest < bound
    limit = torch.full((), direction, dtype=dtype, device=bound.device)
    return torch.where(wrong, torch.nextafter(nearest, limit), nearest)


def _rounded(bound: Tensor, dtype: torch.dtype, direction: float) -> Tensor:
    if bound.dtype == dtype:
        return bound
    if not (torch.is_grad_enabled() and bound.requires_grad):
        # An autograd function takes longer than all of this.
        return _on_the_safe_side(bound, dtype, direction)
    result: Tensor = _RoundOutward.apply(bound, dtype, direction)  # type: ignore[no-untyped-call]
    return result


def round_down(lower: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the float64 lower bounds in `dtype`, never above themselves."""
    return _rounded(lower, dtype, -torch.inf)


def round_up(upper: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the float64 upper bounds in `dtype`, never below themselves."""
    return _rounded(upper, dtype, torch.inf)


def sum_up(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Return float64 `a + b` in `dtype`, never below the exact sum: the next number where that is none."""
    total, lost = _two_sum(a, b)
    return round_up(torch.where(lost > 0, torch.nextafter(total, torch.full_like(total, torch.inf)), total), dtype)


def sum_down(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Return float64 `a + b` in `dtype`, never above the exact sum; see `sum_up`."""
    return -sum_up(-a, -b, dtype)


def _two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rounded sum, and what rounding took from it (Knuth, The Art of Computer Programming, 4.2.2)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)
