"""Linear bounds evaluated over the input region, in plain PyTorch (Lyu et al. 2021, section 2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lbp.reference.ramp import as_parameter
from lbp.strategies import side_names


def dual_norm(rows: Tensor, p: float, dim: int) -> Tensor:
    """Return the l_q norm along ``dim``, 1/p + 1/q = 1, of rows scaled so that no power underflows."""
    if rows.shape[dim] == 0 or math.isinf(p):
        return rows.abs().sum(dim)
    largest = rows.abs().amax(dim, keepdim=True)
    if p == 1:
        return largest.squeeze(dim)
    scale = torch.where(largest > 0, largest, 1.0).detach()
    norm: Tensor = torch.linalg.vector_norm(rows / scale, p / (p - 1), dim) * scale.squeeze(dim)
    return norm


def ends_in_order(x_L: Tensor, x_U: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends of intervals, the lower first; NaN where one is.

    Of equal ends each keeps its own gradient, of which `torch.minimum` would give half to each.
    """
    crossed, unknown = x_L > x_U, x_L.isnan() | x_U.isnan()
    low, high = torch.where(crossed, x_U, x_L), torch.where(crossed, x_L, x_U)
    return low.masked_fill(unknown, torch.nan), high.masked_fill(unknown, torch.nan)


def concretize_box(A: Tensor, x_L: Tensor, x_U: Tensor, *, sides: str) -> Tensor:
    """See `lbp.ops.concretize_box`."""
    low, high = (end.unsqueeze(1) for end in ends_in_order(x_L, x_U))
    bounds = []
    for side_coefficients, side in zip(A, side_names(sides), strict=True):
        at_positive, at_negative = (low, high) if side == "lower" else (high, low)
        extreme = side_coefficients.double() * torch.where(side_coefficients >= 0, at_positive, at_negative).double()
        bounds.append(extreme.flatten(2).sum(-1))
    return torch.stack(bounds)


def concretize_ball(A: Tensor, x0: Tensor, eps: Tensor | float, p: float, *, sides: str) -> Tensor:
    """See `lbp.ops.concretize_ball`."""
    radius = as_parameter(eps, A).double().reshape(-1, 1)
    bounds = []
    for side_coefficients, side in zip(A.double().flatten(3), side_names(sides), strict=True):
        at_center = (side_coefficients * x0.double().flatten(1).unsqueeze(1)).sum(-1)
        spread = radius * dual_norm(side_coefficients, p, -1)
        bounds.append(at_center - spread if side == "lower" else at_center + spread)
    return torch.stack(bounds)


def concretize_forward_box(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    x_L: Tensor,
    x_U: Tensor,
) -> tuple[Tensor, Tensor]:
    """See `lbp.ops.concretize_forward_box`."""
    lower_rows, upper_rows, lower_bias, upper_bias = _rows(center, radius, center_bias, radius_bias)
    low, high = _ends(x_L, x_U)
    lower = (lower_rows * torch.where(lower_rows >= 0, low, high)).sum(1) + lower_bias
    upper = (upper_rows * torch.where(upper_rows >= 0, high, low)).sum(1) + upper_bias
    return _as_bounds(lower, center), _as_bounds(upper, center)


def concretize_forward_box_with_magnitude(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    x_L: Tensor,
    x_U: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `lbp.ops.concretize_forward_box_with_magnitude`."""
    bounds = concretize_forward_box(center, radius, center_bias, radius_bias, x_L, x_U)
    low, high = _ends(x_L, x_U)
    rows = center.detach().double().abs().flatten(2)
    if radius is not None:
        rows = rows + radius.detach().double().abs().flatten(2)
    magnitude = (rows * torch.maximum(low.abs(), high.abs()).detach()).sum(1).expand(bounds[0].shape[0], -1)
    return *bounds, _as_bounds(magnitude, center)


def concretize_forward_ball(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    x0: Tensor,
    eps: Tensor | float,
    p: float,
) -> tuple[Tensor, Tensor]:
    """See `lbp.ops.concretize_forward_ball`."""
    lower_rows, upper_rows, lower_bias, upper_bias = _rows(center, radius, center_bias, radius_bias)
    point = x0.double().flatten(1).unsqueeze(-1)
    spread = as_parameter(eps, center).double().reshape(-1, 1)
    lower = (lower_rows * point).sum(1) - spread * dual_norm(lower_rows, p, 1) + lower_bias
    upper = (upper_rows * point).sum(1) + spread * dual_norm(upper_rows, p, 1) + upper_bias
    return _as_bounds(lower, center), _as_bounds(upper, center)


def _ends(x_L: Tensor, x_U: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends of the inputs' intervals in order, [B, n0, 1] float64."""
    low, high = (end.flatten(1).unsqueeze(-1).double() for end in ends_in_order(x_L, x_U))
    return low, high


def _rows(
    center: Tensor, radius: Tensor | None, center_bias: Tensor, radius_bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return lower and upper matrices [B, n0, n] and constants [B, n] of center/radius bounds, in float64."""
    rows, constants = center.double().flatten(2), center_bias.double().flatten(1)
    spread = torch.zeros_like(rows) if radius is None else radius.double().flatten(2)
    spread_bias = torch.zeros_like(constants) if radius_bias is None else radius_bias.double().flatten(1)
    return rows - spread, rows + spread, constants - spread_bias, constants + spread_bias


def _as_bounds(bounds: Tensor, like: Tensor) -> Tensor:
    return bounds.to(like.dtype).reshape(bounds.shape[0], *like.shape[2:])
