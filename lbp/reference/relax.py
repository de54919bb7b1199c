"""Coefficients pushed through an activation, in plain PyTorch (Lyu et al. 2021, sections 3 and 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from lbp.reference.bounding_lines import bounding_lines
from lbp.strategies import BoundingLines, side_names

Relaxation = Tensor | float | str | None
ForwardMatrices = tuple[Tensor, Tensor | None, Tensor, Tensor | None]


def relax_backward(
    A: Tensor, l: Tensor, u: Tensor, *, sides: str, bias: Tensor | None = None, **relaxation: Relaxation
) -> tuple[Tensor, Tensor]:
    """See `lbp.ops.relax_backward`."""
    lines = BoundingLines(*(line.unsqueeze(1) for line in bounding_lines(l, u, **relaxation)))  # type: ignore[arg-type]
    return relaxed_by(A, lines, sides, bias, rows=2)


def relaxed_by(A: Tensor, lines: BoundingLines, sides: str, bias: Tensor | None, *, rows: int) -> tuple[Tensor, Tensor]:
    """Return coefficients A [K, ...] times slopes, and the constants; lines and bias broadcast to those of a side.

    The first `rows` dimensions of a side say which row it is, the others are summed.
    """
    coefficients, constants = [], []
    for side_coefficients, side in zip(A, side_names(sides), strict=True):
        below, above = (lines[:2], lines[2:]) if side == "lower" else (lines[2:], lines[:2])
        positive = side_coefficients >= 0
        relaxed = side_coefficients * torch.where(positive, below[0], above[0])
        intercepts = side_coefficients * torch.where(positive, below[1], above[1])
        if bias is not None:
            intercepts = intercepts + relaxed * bias
        coefficients.append(relaxed)
        constants.append(intercepts.flatten(rows).sum(-1, dtype=torch.float64))
    return torch.stack(coefficients), torch.stack(constants)


def relax_forward(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    l: Tensor,
    u: Tensor,
    **relaxation: Relaxation,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `lbp.ops.relax_forward`."""
    lines = bounding_lines(l, u, **relaxation)  # type: ignore[arg-type]
    new_center, new_radius = _scaled(center, radius, BoundingLines(*(line.unsqueeze(1) for line in lines)))
    new_center_bias, new_radius_bias = _scaled(center_bias, radius_bias, lines)
    new_center_bias = new_center_bias + (lines.upper_intercept + lines.lower_intercept) / 2
    new_radius_bias = new_radius_bias + (lines.upper_intercept - lines.lower_intercept) / 2
    return new_center, new_radius, new_center_bias, new_radius_bias


def _scaled(center: Tensor, radius: Tensor | None, lines: BoundingLines) -> tuple[Tensor, Tensor]:
    """Scale lower = center - radius and upper = center + radius by the lines' slopes.

    A negative slope swaps their roles.
    """
    spread = torch.zeros((), dtype=center.dtype, device=center.device) if radius is None else radius
    lower = lines.lower_slope * center - lines.lower_slope.abs() * spread
    upper = lines.upper_slope * center + lines.upper_slope.abs() * spread
    return (upper + lower) / 2, (upper - lower) / 2
