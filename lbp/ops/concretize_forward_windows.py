"""Forward linear bounds on windows of the input, evaluated over the region; see `lbp.ops.forward_windows`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lbp import _native, reference
from lbp.backend import current_backend
from lbp.ops._arguments import (
    NO_BALL,
    common_batch,
    native,
    radius_parameters,
    refuse_second_order,
    register_gradient,
)
from lbp.ops._convolution import Pair
from lbp.ops._window_checks import check_places
from lbp.ops.concretize import checked_exponent, forward_bound_gradients, region_gradients
from lbp.ops.forward_windows import windows_to_dense


def concretize_forward_windows_box(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    x_L: Tensor,
    x_U: Tensor,
    *,
    scale: Pair,
    offset: Pair,
) -> tuple[Tensor, Tensor]:
    """Bounds of a layer from its forward linear bounds on windows over a box; see `concretize_forward_box`.

    Args:
        center: [B or 1, C0, kh, kw, C, H, W].
        radius: like center, or None.
        center_bias: [B or 1, C, H, W].
        radius_bias: like center_bias, or None.
        x_L: lower corner [B or 1, C0, rows, columns].
        x_U: upper corner, like x_L.
        scale: see `lbp.ops.forward_windows`, as offset.
        offset: first row and column of the window of the neuron at (0, 0).

    Returns:
        Lower and upper bounds [B, C, H, W] in the dtype of center, added up in float64. Differentiable with respect to
        all tensors.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not fit.
    """
    check_places(center, None, scale, offset)
    matrices = (center, radius, center_bias, radius_bias)
    if current_backend() == "reference":
        return reference.concretize_forward_windows_box(*matrices, x_L, x_U, scale=scale, offset=offset)
    region = (x_L, x_U, *NO_BALL)
    lower, upper, _ = native("concretize_forward_windows")(*matrices, *region, scale, offset, False)
    return lower, upper


def concretize_forward_windows_box_with_magnitude(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    x_L: Tensor,
    x_U: Tensor,
    *,
    scale: Pair,
    offset: Pair,
) -> tuple[Tensor, Tensor, Tensor]:
    """`concretize_forward_windows_box`, and how large the rows may be; see `concretize_forward_box_with_magnitude`.

    Args: see `concretize_forward_windows_box`.

    Returns:
        Lower and upper bounds and magnitudes [B, C, H, W].

    Raises:
        RuntimeError: shapes, dtypes or devices that do not fit.
    """
    check_places(center, None, scale, offset)
    matrices = (center, radius, center_bias, radius_bias)
    if current_backend() == "reference":
        return reference.concretize_forward_windows_box_with_magnitude(*matrices, x_L, x_U, scale=scale, offset=offset)
    region = (x_L, x_U, *NO_BALL)
    lower, upper, magnitude = native("concretize_forward_windows")(*matrices, *region, scale, offset, True)
    return lower, upper, magnitude.detach()


def concretize_forward_windows_ball(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    x0: Tensor,
    eps: Tensor | float,
    p: float,
    *,
    scale: Pair,
    offset: Pair,
) -> tuple[Tensor, Tensor]:
    """Bounds of a layer from its forward linear bounds on windows over the l_p ball.

    Args:
        center: [B or 1, C0, kh, kw, C, H, W].
        radius: like center, or None.
        center_bias: [B or 1, C, H, W].
        radius_bias: like center_bias, or None.
        x0: center of the ball [B or 1, C0, rows, columns].
        eps: its radius; see `lbp.ops.concretize_ball`.
        p: its norm, 1 <= p <= inf.
        scale: see `lbp.ops.forward_windows`, as offset.
        offset: first row and column of the window of the neuron at (0, 0).

    Returns:
        Lower and upper bounds [B, C, H, W] in the dtype of center, added up in float64. Differentiable with respect to
        all tensors.

    Raises:
        ValueError: p below 1.
        RuntimeError: shapes, dtypes or devices that do not fit.
    """
    p = checked_exponent(p)
    check_places(center, None, scale, offset)
    matrices = (center, radius, center_bias, radius_bias)
    if current_backend() == "reference":
        return reference.concretize_forward_windows_ball(*matrices, x0, eps, p, scale=scale, offset=offset)
    region = (x0, None, *radius_parameters(eps, center), p)
    lower, upper, _ = native("concretize_forward_windows")(*matrices, *region, scale, offset, False)
    return lower, upper


def _save_concretize(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, eps, eps_tensor, p, scale, offset, _ = inputs
    ctx.save_for_backward(*tensors, eps_tensor)
    ctx.numbers = (eps, p, scale, offset)


def _concretize_backward(ctx: Any, l: Tensor, u: Tensor, _magnitude: Tensor) -> tuple[Tensor | None, ...]:
    center, radius, _, _, x, x_U, eps_tensor = ctx.saved_tensors
    eps, p, scale, offset = ctx.numbers
    rest = (l, u, center, radius, x, x_U, eps, eps_tensor, p, scale, offset)
    of_bounds = forward_bound_gradients(ctx, l, u, lambda: native("concretize_forward_windows_gradient")(*rest))
    to_region: tuple[Tensor | None, ...] = (None, None, None, None)
    if any(ctx.needs_input_grad[4:8]):
        to_region = _region_gradients(ctx, l, u)
    return *of_bounds, *to_region, None, None, None, None


def _region_gradients(ctx: Any, l: Tensor, u: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients by the region, by way of the dense matrices; a step for the input is rarely wanted."""
    center, radius, _, _, x, x_U, eps_tensor = ctx.saved_tensors
    _, p, scale, offset = ctx.numbers
    image = (x.shape[1], x.shape[2], x.shape[3])
    dense, spread = (
        None if matrix is None else windows_to_dense(matrix.detach(), image, scale, offset).flatten(2)
        for matrix in (center, radius)
    )
    assert dense is not None
    return region_gradients(dense, spread, x, x_U, eps_tensor, p, l, u)


def _register() -> None:
    def concretize_forward_windows(
        center: Tensor, radius: Any, center_bias: Tensor, radius_bias: Any, x: Tensor, *rest: Any
    ) -> Any:
        shape = (common_batch(center, center_bias, x), *center.shape[4:])
        return tuple(center.new_empty(size) for size in (shape, shape, shape if rest[-1] else (0,)))

    def concretize_forward_windows_gradient(
        l: Tensor, u: Tensor, center: Tensor, radius: Tensor | None, *rest: Any
    ) -> Any:
        shape = (l.shape[0], *center.shape[1:])
        return center.new_empty(shape), center.new_empty((0,) if radius is None else shape)

    for fake in (concretize_forward_windows, concretize_forward_windows_gradient):
        torch.library.register_fake(f"lbp::{fake.__name__}", fake)
    register_gradient("concretize_forward_windows", _concretize_backward, _save_concretize)
    refuse_second_order("concretize_forward_windows_gradient")


if _native.missing is None:
    _register()
