"""The input region, and the extreme values of linear functions over it (Lyu et al. 2021, section 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lbp.linear.forward_bounds import ForwardBounds
from lbp.linear.windows import WindowCoefficients
from lbp.ops import (
    concretize_ball,
    concretize_box,
    concretize_forward_ball,
    concretize_forward_box,
    concretize_forward_box_with_magnitude,
    concretize_forward_windows_ball,
    concretize_forward_windows_box,
    concretize_forward_windows_box_with_magnitude,
    concretize_windows_ball,
    concretize_windows_box,
)
from lbp.ops.norms import dual_exponent
from lbp.rounding import SLACK, gamma, lowered, raised
from lbp.strategies import side_names

Interval = tuple[Tensor, Tensor]


def tighter(first: Interval, second: Interval) -> Interval:
    """Return the larger lower and the smaller upper bounds; NaN stays NaN."""
    return torch.maximum(first[0], second[0]), torch.minimum(first[1], second[1])


@dataclass(frozen=True)
class Ball:
    """An l_p ball.

    Attributes:
        center: [B, *shape].
        eps: radius, a number or a tensor, 0-dim or [B].
        p: the norm, 1 <= p < inf.
    """

    center: Tensor
    eps: Tensor | float
    p: float

    def part(self, first: int, last: int) -> Ball:
        """Return the balls of some of the examples."""
        eps = self.eps
        if isinstance(eps, Tensor) and eps.numel() > 1:
            eps = eps[first:last]
        return Ball(self.center[first:last], eps, self.p)

    def outward(self) -> Ball:
        """Return the ball with so much larger a radius, float64 [B], that sums over it may round; see `Region`."""
        relative = SLACK * gamma(self.roundings, torch.float64)
        eps = self.eps
        if isinstance(eps, Tensor):
            eps = eps.to(self.center.device, torch.float64).reshape(-1)
        largest = self.center.detach().double().abs().flatten(1).amax(1)
        size = largest * self.center[:1].numel() ** (1 / self.p)  # at least the norm
        return Ball(self.center, eps * (1 + relative) + size * relative, self.p)

    @property
    def roundings(self) -> int:
        """How often the dual norm of a row and its center term round, together, at most.

        Kernels that read a row once keep its terms relative to the largest entry so far, so that every entry may change
        the scale of the sum: 22 roundings at most, the root counted (docs/rounding.md, section 7).
        """
        q = dual_exponent(self.p)
        return 24 * self.center[:1].numel() + 1024 + (0 if math.isinf(q) else 2 * math.ceil(q))

    def eps_like(self, x: Tensor) -> Tensor:
        """Return the radius as a tensor that broadcasts against x [B, ...]."""
        eps = torch.as_tensor(self.eps, dtype=x.dtype, device=x.device)
        return eps.reshape(-1, *[1] * (x.dim() - 1))


@dataclass(frozen=True)
class Region:
    """A box, an l_p ball, or the intersection of the two.

    Over the intersection of a ball with a box every bound is the tighter of the one over the ball and the one over
    the box. That is sound, but not the exact extreme value over the intersection.

    Attributes:
        lower, upper: [B, *shape], a box that contains the region.
        ball: the ball, or None when the region is the box.
        box_counts: whether the box cuts anything off the ball.
    """

    lower: Tensor
    upper: Tensor
    ball: Ball | None = None
    box_counts: bool = True

    @property
    def batch(self) -> int:
        """Number of examples."""
        return self.lower.shape[0]

    def part(self, first: int, last: int) -> Region:
        """Return the region of some of the examples."""
        ball = None if self.ball is None else self.ball.part(first, last)
        return Region(self.lower[first:last], self.upper[first:last], ball, self.box_counts)

    def outward(self) -> Region:
        """Return a region around this one, so much larger that sums over it may round to nearest.

        The value of `A x` at an end or over a ball is added up in float64; its error is at most `gamma |A| |x|`, which
        a box larger by `gamma |x|` on every side, or a ball whose radius is larger by `gamma ||x||_p`, covers.
        """
        terms = self.lower[:1].numel() + 2
        relative = SLACK * gamma(terms, torch.float64)
        lower = lowered(self.lower, self.lower.detach().abs() * relative)
        upper = raised(self.upper, self.upper.detach().abs() * relative)
        return Region(lower, upper, None if self.ball is None else self.ball.outward(), self.box_counts)

    def concretize(self, A: Tensor, sides: str) -> Tensor:
        """Return the extreme values of linear functions over the region.

        Args:
            A: [K, B, S, *shape]; K and B may be 1 where they are shared.
            sides: "lower", "upper" or "both".

        Returns:
            [K, B, S] float64.
        """
        A = A.expand(len(side_names(sides)), self.batch, *A.shape[2:])
        if self.ball is None:
            return concretize_box(A, self.lower, self.upper, sides=sides)
        over_ball = concretize_ball(A, self.ball.center, self.ball.eps, self.ball.p, sides=sides)
        if not self.box_counts:
            return over_ball
        over_box = concretize_box(A, self.lower, self.upper, sides=sides)
        return _tighter_sides(over_ball, over_box, sides)

    def concretize_windows(self, rows: WindowCoefficients, sides: str) -> Tensor:
        """Return the extreme values [K, R] float64 of windowed rows over the region."""
        A, where, layer = rows.expanded(sides), rows.rows(), rows.layer
        lower, upper = (corner.reshape(-1, *layer) for corner in (self.lower, self.upper))
        if self.ball is None:
            return concretize_windows_box(A, where, lower, upper, sides=sides)
        center = self.ball.center.reshape(-1, *layer)
        over_ball = concretize_windows_ball(A, where, center, self.ball.eps, self.ball.p, sides=sides)
        if not self.box_counts:
            return over_ball
        over_box = concretize_windows_box(A, where, lower, upper, sides=sides)
        return _tighter_sides(over_ball, over_box, sides)

    def concretize_forward(self, bounds: ForwardBounds) -> Interval:
        """Return lower and upper bounds [B, *shape] of a layer from its forward linear bounds."""
        if self.ball is None:
            return self._forward_over_box(bounds)
        over_ball = _forward_over_ball(bounds, self.ball)
        return tighter(over_ball, self._forward_over_box(bounds)) if self.box_counts else over_ball

    def concretize_forward_with_magnitude(self, bounds: ForwardBounds) -> tuple[Interval, Tensor]:
        """Return the bounds, and the layer's `(|center| + |radius|) |x|` [B, *shape], |x| the largest over the box.

        The magnitudes come with the bounds over the box; they are rounded to nearest and have no gradient.
        """
        windows = bounds.windows
        if windows is None:
            *over_box, magnitude = concretize_forward_box_with_magnitude(*bounds.matrices, self.lower, self.upper)
        else:
            *over_box, magnitude = concretize_forward_windows_box_with_magnitude(
                *bounds.on_windows(windows), self.lower, self.upper, scale=windows.scale, offset=windows.offset
            )
            magnitude = magnitude.reshape(-1, *bounds.center_bias.shape[1:])
        lower, upper = _shaped_like(bounds.center_bias, (over_box[0], over_box[1]))
        if self.ball is None:
            return (lower, upper), magnitude
        over_ball = _forward_over_ball(bounds, self.ball)
        return (tighter(over_ball, (lower, upper)) if self.box_counts else over_ball), magnitude

    def _forward_over_box(self, bounds: ForwardBounds) -> Interval:
        windows = bounds.windows
        if windows is None:
            return concretize_forward_box(*bounds.matrices, self.lower, self.upper)
        found = concretize_forward_windows_box(
            *bounds.on_windows(windows), self.lower, self.upper, scale=windows.scale, offset=windows.offset
        )
        return _shaped_like(bounds.center_bias, found)


def _tighter_sides(first: Tensor, second: Tensor, sides: str) -> Tensor:
    """Return the tighter of two bounds [K, ...] on the given sides; NaN stays NaN."""
    pairs = zip(first, second, side_names(sides), strict=True)
    return torch.stack([torch.maximum(a, b) if side == "lower" else torch.minimum(a, b) for a, b, side in pairs])


def _forward_over_ball(bounds: ForwardBounds, ball: Ball) -> Interval:
    windows, region = bounds.windows, (ball.center, ball.eps, ball.p)
    if windows is None:
        return concretize_forward_ball(*bounds.matrices, *region)
    found = concretize_forward_windows_ball(
        *bounds.on_windows(windows), *region, scale=windows.scale, offset=windows.offset
    )
    return _shaped_like(bounds.center_bias, found)


def _shaped_like(values: Tensor, bounds: Interval) -> Interval:
    lower, upper = (bound.reshape(bound.shape[0], *values.shape[1:]) for bound in bounds)
    return lower, upper
