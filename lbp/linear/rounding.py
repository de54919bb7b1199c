"""Conversion of float64 bounds to the network's dtype without losing the bound."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _RoundOutward(torch.autograd.Function):
    """Nearest value of the target dtype on the safe side; the gradient passes unchanged."""

    @staticmethod
    def forward(ctx: Any, bound: Tensor, dtype: torch.dtype, direction: float) -> Tensor:
        nearest = bound.to(dtype)
        back = nearest.to(bound.dtype)
        wrong = back > bound if direction < 0 else back < bound
        limit = torch.full((), direction, dtype=dtype, device=bound.device)
        return torch.where(wrong, torch.nextafter(nearest, limit), nearest)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0].double(), None, None


def _rounded(bound: Tensor, dtype: torch.dtype, direction: float) -> Tensor:
    if bound.dtype == dtype:
        return bound
    result: Tensor = _RoundOutward.apply(bound, dtype, direction)  # type: ignore[no-untyped-call]
    return result


def round_down(lower: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the float64 lower bounds in `dtype`, never above themselves."""
    return _rounded(lower, dtype, -torch.inf)


def round_up(upper: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the float64 upper bounds in `dtype`, never below themselves."""
    return _rounded(upper, dtype, torch.inf)
