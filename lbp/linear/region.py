"""The input region, and the extreme values of linear functions over it (Lyu et al. 2021, section 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lbp.linear.forward_bounds import ForwardBounds
from lbp.ops import concretize_ball, concretize_box, concretize_forward_ball, concretize_forward_box
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
        pairs = zip(over_ball, over_box, side_names(sides), strict=True)
        return torch.stack([torch.maximum(a, b) if side == "lower" else torch.minimum(a, b) for a, b, side in pairs])

    def concretize_forward(self, bounds: ForwardBounds) -> Interval:
        """Return lower and upper bounds [B, *shape] of a layer from its forward linear bounds."""
        matrices = (bounds.center, bounds.radius, bounds.center_bias, bounds.radius_bias)
        if self.ball is None:
            return concretize_forward_box(*matrices, self.lower, self.upper)
        over_ball = concretize_forward_ball(*matrices, self.ball.center, self.ball.eps, self.ball.p)
        if not self.box_counts:
            return over_ball
        return tighter(over_ball, concretize_forward_box(*matrices, self.lower, self.upper))
