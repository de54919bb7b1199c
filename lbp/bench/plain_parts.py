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

_NARROW = 1e-6
"""Least width of a chord that ends beyond r: of points a gradient by parts that cancel would be rounding alone."""

Pair = tuple[int, int]
Image = tuple[int, int, int]
Matrices = tuple[Tensor, Tensor | None, Tensor, Tensor | None]
"""Center and radius of forward bounds, and their constants."""


class Lines(NamedTuple):
    """A line below and one above, [B, *shape]; None for a lower intercept that is 0 everywhere."""

    lower_slope: Tensor
    lower_intercept: Tensor | None
    upper_slope: Tensor
    upper_intercept: Tensor

    def of_sides(self, sides: str, change: Callable[[Tensor], Tensor]) -> SidedLines:
        """Return them as rows of each side take them, each changed: to those of an example's rows, or of windows."""
        below, above = self[:2], self[2:]
        found = [(below, above) if side == "lower" else (above, below) for side in side_names(sides)]
        intercepts = [(taken[1], _difference(other[1], taken[1])) for taken, other in found]
        return SidedLines(
            change(_of_sides([taken[0] for taken, _ in found])),
            change(_of_sides([other[0] - taken[0] for taken, other in found])),
            [(_changed(intercept, change), _changed(more, change)) for intercept, more in intercepts],
        )


class SidedLines(NamedTuple):
    """The lines of positive coefficients of all sides, and how much more those of negative ones are.

    Slopes are [K, ...]; intercepts, and how much more they are, one pair per side, None for zeros.
    """

    slope: Tensor
    more_slope: Tensor
    intercepts: list[tuple[Tensor | None, Tensor | None]]


def _changed(line: Tensor | None, change: Callable[[Tensor], Tensor]) -> Tensor | None:
    return None if line is None else change(line)


def _ends_about_zero(l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return the part of [l, u] below 0 and that above it; finite, so that lines of infinite bounds are numbers."""
    limit = torch.finfo(l.dtype).max / 2
    return l.clamp(-limit, 0), u.clamp(0, limit)


def _relu_lines(l: Tensor, u: Tensor) -> Lines:
    """ReLU: the chord above, below it slope 1 where u is the longer side.

    With the ends clamped, the chord's formula is that of stable neurons, too.
    """
    low, high = _ends_about_zero(l, u)
    slope = high / (high - low).clamp(min=_TINY)
    # In place: a number of the right type, for which a comparison would be converted.
    longer = (l.detach() + u.detach()).ge_(0)
    return Lines(longer, None, slope, -low * slope)


def _ramp_lines(l: Tensor, u: Tensor, r: Tensor | float, eta: Tensor | float) -> Lines:
    """ParamRamp (Lyu et al. 2021, Table 2, adaptive): lines of clamp(z, 0, r), tilted.

    The activation is eta z + (1 - eta) clamp(z, 0, r), and so its lines are eta z and 1 - eta times those of the clamp.
    """
    low, high = _ends_about_zero(l, u)
    start = l.clamp(min=0)
    bottom, top = start.clamp(max=r), high.clamp(max=r)
    # Above: through (l, act(l)) and the first bend that u reaches, or with slope eta from r on.
    rise = top / (top - low).clamp(min=_TINY)
    flat = u - r > r - l
    upper_slope = torch.where(flat, eta, rise.mul(1 - eta).add_(eta))
    upper_intercept = torch.where(flat, (1 - eta) * r, (low * rise).mul_(eta - 1))
    # Below: the chord of what is above 0, or with slope eta where what is below 0 is longer.
    chord = (top - bottom) / (high - start).clamp(min=_NARROW)
    chord = torch.where(u < -l, 0.0, torch.where(u <= r, 1.0, chord))
    lower_intercept = torch.addcmul(bottom, chord, start, value=-1).mul_(1 - eta)
    return Lines(chord.mul(1 - eta).add_(eta), lower_intercept, upper_slope, upper_intercept)


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
    A: Tensor, lines: SidedLines, bias: Tensor | None, sums: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return coefficients A [K, ...] times slopes, and the constants; lines and bias broadcast to those of a side."""
    negative = A.clamp(max=0)
    relaxed = torch.addcmul(A * lines.slope, negative, lines.more_slope)
    constants = []
    for side, (intercept, more) in enumerate(lines.intercepts):
        parts = [(A[side], intercept), (negative[side], more), (relaxed[side], bias)]
        added = [sums(part, weights) for part, weights in parts if weights is not None]
        constants.append(functools.reduce(torch.add, added))
    return relaxed, _of_sides(constants).double()


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
