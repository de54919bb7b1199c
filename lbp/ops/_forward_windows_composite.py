"""Forward bounds on windows over the region of inputs on devices without a kernel for it: the library's expressions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lbp import reference
from lbp.ops.concretize import norm_and_slope
from lbp.reference.forward_windows import lower_and_upper, places_of, under_windows


def concretize_forward_windows(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    x: Tensor,
    x_U: Tensor | None,
    eps: Tensor | None,
    p: float,
    scale: Sequence[int],
    offset: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Return the bounds [B, C, H, W]: over the box of x and x_U, or without x_U over the ball of radius eps."""
    matrices = (center, radius, center_bias, radius_bias)
    steps, start = (scale[0], scale[1]), (offset[0], offset[1])
    if x_U is not None:
        return reference.concretize_forward_windows_box(*matrices, x, x_U, scale=steps, offset=start)
    assert eps is not None
    return reference.concretize_forward_windows_ball(*matrices, x, eps, p, scale=steps, offset=start)


def concretize_forward_windows_gradient(
    to_l: Tensor,
    to_u: Tensor,
    center: Tensor,
    radius: Tensor | None,
    x: Tensor,
    x_U: Tensor | None,
    eps: Tensor | None,
    p: float,
    scale: Sequence[int],
    offset: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Return the gradients by center and radius in the batch of the bounds; that by the radius is empty without one."""
    places = places_of(center, x, (scale[0], scale[1]), (offset[0], offset[1]))
    inside = places < x.shape[1:].numel()
    lower, upper = lower_and_upper(center, radius, inside)
    if x_U is not None:
        low, high = under_windows(torch.minimum(x, x_U), places), under_windows(torch.maximum(x, x_U), places)
        at_lower, at_upper = torch.where(lower >= 0, low, high), torch.where(upper >= 0, high, low)
    else:
        assert eps is not None
        point, spread = under_windows(x, places), eps.double().reshape(-1, 1, 1, 1, 1, 1, 1)
        at_lower = point - spread * _slope(lower, p)
        at_upper = point + spread * _slope(upper, p)
    by_lower = (to_l.double()[:, None, None, None] * at_lower).where(inside, 0.0)
    by_upper = (to_u.double()[:, None, None, None] * at_upper).where(inside, 0.0)
    to_radius = center.new_empty(0) if radius is None else (by_upper - by_lower).to(center.dtype)
    return (by_lower + by_upper).to(center.dtype), to_radius


def _slope(rows: Tensor, p: float) -> Tensor:
    """Return the derivative of the dual norms of rows [B, C0, kh, kw, C, H, W]."""
    return norm_and_slope(rows.flatten(1, 3), p, 1)[1].reshape(rows.shape)
