"""What plain PyTorch functions have in common: adaptive lines, and sums over a layer or over the region."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lbp.strategies import side_names

_TINY = 1e-30
"""Below every denominator that is not 0."""

Pair = tuple[int, int]
Image = tuple[int, int, int]
Matrices = tuple[Tensor, Tensor | None, Tensor, Tensor | None]
"""Center and radius of forward bounds, and their constants."""


class Lines(NamedTuple):
    """A line below and one above, [B, *shape]; intercepts that are 0 everywhere are None."""

    lower_slope: Tensor
    lower_intercept: Tensor | None
    upper_slope: Tensor
    upper_intercept: Tensor | None

    def unsqueezed(self) -> Lines:
        """Return lines for all rows of an example, [B, 1, *shape]."""
        return Lines(*(None if line is None else line.unsqueeze(1) for line in self))  # type: ignore[arg-type]


def _relu_lines(l: Tensor, u: Tensor) -> Lines:
    """ReLU: the chord above, below it slope 1 where u is the longer side."""
    unstable = (l < 0) & (u > 0)
    slope = torch.where(unstable, u / (u - l).clamp(min=_TINY), (u > 0).to(l.dtype))
    return Lines((u >= -l).to(l.dtype), None, slope, torch.where(unstable, -l * slope, 0))


def _ramp_lines(l: Tensor, u: Tensor, r: Tensor | float, eta: Tensor | float) -> Lines:
    """ParamRamp (Lyu et al. 2021, Table 2, adaptive), cases with the same formula together."""
    below, beyond = l < 0, u > r
    top = torch.where(beyond, r, u)
    crosses = below & (u > 0)
    # Above: through (l, act(l)) and the first bend that u reaches, or with slope eta from r on.
    rise = (1 - eta) * (top / (top - l).clamp(min=_TINY))
    flat = beyond & (u - r > r - l)
    stable = eta + (1 - eta) * (u > 0).to(l.dtype)
    upper_slope = torch.where(flat, eta, torch.where(crosses, eta + rise, stable))
    upper_intercept = torch.where(flat, (1 - eta) * r, torch.where(crosses, -l * rise, 0))
    # Below: through the origin where l < 0, else the chord.
    steep = torch.where(beyond, eta + (1 - eta) * (r / u.clamp(min=_TINY)), 1.0)
    chord = torch.where(beyond, eta + (1 - eta) * ((r - l).clamp(min=0) / (u - l).clamp(min=_TINY)), 1.0)
    lower_slope = torch.where(below, torch.where(-l > u, eta, steep), chord)
    bottom = l.clamp(max=r) if isinstance(r, float) else torch.minimum(l, r)
    at_l = bottom + eta * (l - bottom)
    return Lines(lower_slope, torch.where(beyond & ~below, at_l - chord * l, 0), upper_slope, upper_intercept)


def adaptive_lines(l: Tensor, u: Tensor, options: dict[str, Any]) -> Lines | None:
    """Return adaptive lines, None where others are asked for."""
    r, eta, strategy = options.get("r", math.inf), options.get("eta", 0.0), options.get("strategy", "adaptive")
    others = set(options) - {"r", "eta", "strategy"}
    if strategy != "adaptive" or any(options[name] is not None for name in others):
        return None
    if isinstance(r, Tensor) or r != math.inf:
        return _ramp_lines(l, u, r, eta)
    return _relu_lines(l, u) if not isinstance(eta, Tensor) and eta == 0 else None


def relaxed_by(
    A: Tensor, lines: Lines, bias: Tensor | None, sides: str, sums: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return coefficients A [K, ...] times slopes, and the constants; lines and bias broadcast to those of a side."""
    coefficients, constants = [], []
    for rows, side in zip(A, side_names(sides), strict=True):
        below, above = (lines[:2], lines[2:]) if side == "lower" else (lines[2:], lines[:2])
        # The line of positive coefficients for all, and the difference of the lines for negative ones.
        negative = rows.clamp(max=0)
        relaxed = torch.addcmul(rows * below[0], negative, above[0] - below[0])
        parts = [(rows, below[1]), (negative, _difference(above[1], below[1])), (relaxed, bias)]
        coefficients.append(relaxed)
        added = [sums(part, weights) for part, weights in parts if weights is not None]
        constants.append(functools.reduce(torch.add, added))
    return _of_sides(coefficients), _of_sides(constants).double()


def _difference(minuend: Tensor | None, subtrahend: Tensor | None) -> Tensor | None:
    """Return the difference, None standing for zeros."""
    if subtrahend is None:
        return minuend
    return -subtrahend if minuend is None else minuend - subtrahend


def _of_sides(results: list[Tensor]) -> Tensor:
    """Return the results of all sides as one tensor, without a copy of one alone."""
    return torch.stack(results) if len(results) > 1 else results[0].unsqueeze(0)


def ends(center: Tensor, radius: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return center - radius and center + radius."""
    return (center, center) if radius is None else (center - radius, center + radius)


def row_sums(rows: Tensor, weights: Tensor) -> Tensor:
    """Return the sums over a layer of rows [B, S, *shape] times weights [B or 1, 1, *shape]: [B, S]."""
    layer = rows.shape[2:]
    vector = weights.expand(*weights.shape[:2], *layer).flatten(2).mT
    return (rows.flatten(2) @ vector).squeeze(-1)


def around_center(
    A: Tensor,
    center: Tensor,
    spread: Callable[[Tensor], Tensor],
    sides: str,
    sums: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Return the value of rows A [K, ...] at the center, less or plus the spread of each."""
    signs = (-1 if side == "lower" else 1 for side in side_names(sides))
    bounds = [sums(rows, center) + sign * spread(rows) for rows, sign in zip(A, signs, strict=True)]
    return _of_sides(bounds).double()


def dual(p: float) -> float:
    """Return the exponent of the dual norm."""
    return math.inf if p == 1 else (1.0 if math.isinf(p) else p / (p - 1))


def column_norm(columns: Tensor, p: float, dim: int | tuple[int, ...]) -> Tensor:
    """Return dual norms along dimensions that others follow, where `vector_norm` reads number after number."""
    q = dual(p)
    if q == 2:
        return (columns * columns).sum(dim).clamp(min=_TINY).sqrt()
    if q == 1:
        return columns.abs().sum(dim)
    return columns.abs().amax(dim) if math.isinf(q) else torch.linalg.vector_norm(columns, q, dim)


def inserted(
    A: Tensor,
    matrices: Matrices,
    sides: str,
    insert: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Return coefficients and constants of rows A [K, B, S, *shape] over the input of forward bounds."""
    center, radius, center_bias, radius_bias = matrices
    coefficients, constants = [], []
    for rows, side in zip(A, side_names(sides), strict=True):
        below, constant = insert(rows, center), row_sums(rows, center_bias.unsqueeze(1))
        spread = rows.abs().neg_() if side == "lower" else rows.abs()
        if radius is not None:
            below = below + insert(spread, radius)
        if radius_bias is not None:
            constant = constant + row_sums(spread, radius_bias.unsqueeze(1))
        coefficients.append(below)
        constants.append(constant)
    return _of_sides(coefficients), _of_sides(constants).double()


def taken(A: Tensor, rows: Tensor) -> Tensor:
    """Return the coefficients of all rows, [K, R, ...]; those that come in order without a copy."""
    can_ask = not torch.compiler.is_compiling() and not A.is_cuda
    if can_ask and len(rows) == A.shape[1] and torch.equal(rows[:, 0], torch.arange(len(rows))):
        return A
    return A.index_select(1, rows[:, 0])


def added_slices(shape: tuple[int, ...], slices: list[tuple[Any, ...]], parts: list[Tensor]) -> Tensor:
    """Return the sum [*shape] of parts that are written into slices of zeros."""
    total: Tensor = _AddedSlices.apply(shape, slices, *parts)  # type: ignore[no-untyped-call]
    return total


class _AddedSlices(torch.autograd.Function):
    """Adding to slices one after the other, autograd would copy the whole sum for each of them."""

    @staticmethod
    def forward(ctx: Any, shape: tuple[int, ...], slices: list[tuple[Any, ...]], *parts: Tensor) -> Tensor:
        """Return the sum [*shape]."""
        ctx.slices = slices
        total = parts[0].new_zeros(shape)
        for where, part in zip(slices, parts, strict=True):
            total[where] += part
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        """Return the gradients of the parts, which are views."""
        return None, None, *(gradients[0][where] for where in ctx.slices)
