"""Linear bounds evaluated over the input region."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lbp import _native, reference
from lbp.backend import current_backend
from lbp.constants import vector
from lbp.ops._arguments import (
    NO_BALL,
    common_batch,
    native,
    radius_parameters,
    refuse_second_order,
    register_gradient,
    sum_to,
)
from lbp.ops.norms import dual_norm
from lbp.precision import full_precision
from lbp.strategies import side_code


def checked_exponent(p: float) -> float:
    """Return p as a float.

    Raises:
        ValueError: p is below 1, or NaN.
    """
    if not p >= 1:
        raise ValueError(f"p must be at least 1 for an l_p norm, got {p}")
    return float(p)


def concretize_box(A: Tensor, x_L: Tensor, x_U: Tensor, *, sides: str) -> Tensor:
    """Extreme values of `A x` over the box `x_L <= x <= x_U`: `pos(A) x_L + neg(A) x_U` below, swapped above.

    Args:
        A: coefficients [K, B, S, *input]; see `lbp.ops.relax_backward` for K and sides.
        x_L: lower corner [B or 1, *input].
        x_U: upper corner, like x_L.
        sides: ``"lower"``, ``"upper"`` or ``"both"``.

    Returns:
        Bounds [K, B, S] without the constants of the linear bounds, float64. Differentiable with respect to A, x_L
        and x_U.

    Raises:
        ValueError: unknown sides.
        RuntimeError: shapes, dtypes or devices that do not fit.
    """
    side_code(sides)
    if current_backend() == "reference":
        return reference.concretize_box(A, x_L, x_U, sides=sides)
    result: Tensor = native("concretize")(A, x_L, x_U, *NO_BALL, side_code(sides))
    return result


def concretize_ball(A: Tensor, x0: Tensor, eps: Tensor | float, p: float, *, sides: str) -> Tensor:
    """Extreme values of `A x` over `||x - x0||_p <= eps`: `A x0 -/+ eps ||A||_q` by rows, 1/p + 1/q = 1.

    Rows are scaled by their largest entry, so that no power underflows; a row of zeros has gradient 0.

    Args:
        A: coefficients [K, B, S, *input]; see `lbp.ops.relax_backward` for K and sides.
        x0: center [B or 1, *input].
        eps: radius, a number, or a tensor with one value or one per image.
        p: exponent of the norm, at least 1; may be infinite.
        sides: ``"lower"``, ``"upper"`` or ``"both"``.

    Returns:
        Bounds [K, B, S] without the constants of the linear bounds, float64. Differentiable with respect to A, x0 and
        eps.

    Raises:
        ValueError: p below 1, or unknown sides.
        RuntimeError: shapes, dtypes or devices that do not fit.
    """
    side_code(sides)
    p = checked_exponent(p)
    if current_backend() == "reference":
        return reference.concretize_ball(A, x0, eps, p, sides=sides)
    result: Tensor = native("concretize")(A, x0, None, *radius_parameters(eps, A), p, side_code(sides))
    return result


def concretize_forward_box(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    x_L: Tensor,
    x_U: Tensor,
) -> tuple[Tensor, Tensor]:
    """Bounds of a layer from its forward linear bounds over a box, both sides from one read of the matrices.

    Args:
        center: [B or 1, n0, *shape]; see `lbp.ops.relax_forward`.
        radius: like center, or None.
        center_bias: [B or 1, *shape].
        radius_bias: like center_bias, or None.
        x_L: lower corner [B or 1, *input].
        x_U: upper corner, like x_L.

    Returns:
        Lower and upper bounds [B, *shape] in the dtype of center, added up in float64. Differentiable with respect to
        all tensors.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not fit.
    """
    matrices = (center, radius, center_bias, radius_bias)
    if current_backend() == "reference":
        return reference.concretize_forward_box(*matrices, x_L, x_U)
    lower, upper, _ = native("concretize_forward")(*matrices, x_L, x_U, *NO_BALL, False)
    return lower, upper


def concretize_forward_box_with_magnitude(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    x_L: Tensor,
    x_U: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """`concretize_forward_box`, and how large the rows may be: what rounding errors are relative to.

    Args: see `concretize_forward_box`.

    Returns:
        Lower and upper bounds, and `(|center| + |radius|) |x|` [B, *shape], |x| the largest magnitude of every input
        over the box, added up in float64 and rounded to nearest; without gradient.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not fit.
    """
    matrices = (center, radius, center_bias, radius_bias)
    if current_backend() == "reference":
        return reference.concretize_forward_box_with_magnitude(*matrices, x_L, x_U)
    lower, upper, magnitude = native("concretize_forward")(*matrices, x_L, x_U, *NO_BALL, True)
    return lower, upper, magnitude.detach()


def concretize_forward_ball(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    x0: Tensor,
    eps: Tensor | float,
    p: float,
) -> tuple[Tensor, Tensor]:
    """Bounds of a layer from its forward linear bounds over the l_p ball.

    Args:
        center: [B or 1, n0, *shape]; see `lbp.ops.relax_forward`.
        radius: like center, or None.
        center_bias: [B or 1, *shape].
        radius_bias: like center_bias, or None.
        x0: center of the ball [B or 1, *input].
        eps: its radius; see `concretize_ball`.
        p: its norm, 1 <= p <= inf.

    Returns:
        Lower and upper bounds [B, *shape] in the dtype of center, added up in float64. Differentiable with respect to
        all tensors.

    Raises:
        ValueError: p below 1.
        RuntimeError: shapes, dtypes or devices that do not fit.
    """
    p = checked_exponent(p)
    matrices = (center, radius, center_bias, radius_bias)
    if current_backend() == "reference":
        return reference.concretize_forward_ball(*matrices, x0, eps, p)
    lower, upper, _ = native("concretize_forward")(*matrices, x0, None, *radius_parameters(eps, center), p, False)
    return lower, upper


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *matrices, x, x_U, eps, eps_tensor, p, option = inputs
    ctx.save_for_backward(*matrices, x, x_U, eps_tensor)
    ctx.numbers = (eps, p, option)


def _concretize_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    A, x, x_U, eps_tensor = ctx.saved_tensors
    eps, p, sides = ctx.numbers
    to_A = None
    if ctx.needs_input_grad[0]:
        to_A = native("concretize_gradient")(gradient, A, x, x_U, eps, eps_tensor, p, sides)
    if not any(ctx.needs_input_grad[1:5]):
        return to_A, *[None] * 6
    rows, of_rows = A.flatten(3), gradient.to(A.dtype)
    lower_sides = [bool(sides & 1), not sides & 1][: A.shape[0]]
    to_x, to_x_U, to_eps = None, None, None
    if x_U is not None:
        positive, negative = _sums_of_rows(rows.clamp(min=0), of_rows), _sums_of_rows(rows.clamp(max=0), of_rows)
        at_low = [positive[k] if lower else negative[k] for k, lower in enumerate(lower_sides)]
        at_high = [negative[k] if lower else positive[k] for k, lower in enumerate(lower_sides)]
        to_x, to_x_U = (
            _input_gradient(sum(at_low[1:], at_low[0]), x),
            _input_gradient(sum(at_high[1:], at_high[0]), x_U),
        )
    else:
        to_x = _input_gradient(_sums_of_rows(rows, of_rows).sum(0), x)
        if eps_tensor is not None:
            signs = vector([-1.0 if lower else 1.0 for lower in lower_sides], gradient)
            spread = (signs.reshape(-1, 1, 1) * gradient * dual_norm(rows.double(), p, -1)).sum((0, 2))
            to_eps = sum_to(spread, eps_tensor.shape)
    return to_A, to_x, to_x_U, None, to_eps, None, None


@full_precision()
def _sums_of_rows(rows: Tensor, weights: Tensor) -> Tensor:
    """Return the sums [K, B, n0] of rows [K, B, S, n0] times weights [K, B, S]."""
    return (weights.unsqueeze(2) @ rows).squeeze(2)


def _input_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """Bring a gradient [B, n0] to the shape and dtype of the input."""
    return sum_to(gradient.reshape(gradient.shape[0], *x.shape[1:]), x.shape).to(x.dtype)


def forward_bound_gradients(
    ctx: Any, l: Tensor, u: Tensor, of_matrices: Callable[[], tuple[Tensor, Tensor]]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the four forward bounds of a layer from those of its bounds, as far as they are needed.

    Args:
        ctx: of the op, whose first arguments and saved tensors the four are.
        l: gradient of the lower bounds [B, *shape].
        u: that of the upper bounds.
        of_matrices: computes the gradients of center and radius, image by image.
    """
    center, radius, center_bias, radius_bias = ctx.saved_tensors[:4]
    to_center, to_radius = None, None
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
        to_center, to_radius = of_matrices()
        to_center = sum_to(to_center, center.shape)
        to_radius = None if radius is None else sum_to(to_radius, center.shape)
    need_center_bias, need_radius_bias = ctx.needs_input_grad[2:4]
    to_center_bias = sum_to(l + u, center_bias.shape) if need_center_bias else None
    to_radius_bias = sum_to(u - l, radius_bias.shape) if need_radius_bias else None
    return to_center, to_radius, to_center_bias, to_radius_bias


def _concretize_forward_backward(ctx: Any, l: Tensor, u: Tensor, _magnitude: Tensor) -> tuple[Tensor | None, ...]:
    center, radius, _, _, x, x_U, eps_tensor = ctx.saved_tensors
    eps, p, _ = ctx.numbers
    rest = (l, u, center, radius, x, x_U, eps, eps_tensor, p)
    of_bounds = forward_bound_gradients(ctx, l, u, lambda: native("concretize_forward_gradient")(*rest))
    to_region: tuple[Tensor | None, ...] = (None, None, None, None)
    if any(ctx.needs_input_grad[4:8]):
        to_region = region_gradients(center, radius, x, x_U, eps_tensor, p, l, u)
    return *of_bounds, *to_region, None, None


def _parts_by_sign(rows: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Split `rows * gradient` into the parts that belong to coefficients >= 0 and to those below."""
    weighted = rows * gradient
    positive = rows >= 0
    zero = torch.zeros_like(weighted)
    return torch.where(positive, weighted, zero), torch.where(positive, zero, weighted)


def region_gradients(
    center: Tensor,
    radius: Tensor | None,
    x: Tensor,
    x_U: Tensor | None,
    eps_tensor: Tensor | None,
    p: float,
    l: Tensor,
    u: Tensor,
) -> tuple[Tensor | None, Tensor | None, None, Tensor | None]:
    """Return the gradients of `concretize_forward` by x, x_U, eps and its tensor; l and u are those by the bounds."""
    rows = center.double().flatten(2)
    spread = torch.zeros_like(rows) if radius is None else radius.double().flatten(2)
    lower, upper = rows - spread, rows + spread
    to_l, to_u = l.double().flatten(1).unsqueeze(1), u.double().flatten(1).unsqueeze(1)
    if x_U is not None:
        lower_positive, lower_negative = _parts_by_sign(lower, to_l)
        upper_positive, upper_negative = _parts_by_sign(upper, to_u)
        to_x = _input_gradient((lower_positive + upper_negative).sum(-1), x)
        return to_x, _input_gradient((lower_negative + upper_positive).sum(-1), x_U), None, None
    to_x = _input_gradient((lower * to_l + upper * to_u).sum(-1), x)
    if eps_tensor is None:
        return to_x, None, None, None
    norms = dual_norm(upper, p, 1) * to_u.squeeze(1) - dual_norm(lower, p, 1) * to_l.squeeze(1)
    return to_x, None, None, sum_to(norms.sum(-1), eps_tensor.shape)


def _register() -> None:
    def concretize(A: Tensor, *rest: Any) -> Tensor:
        return A.new_empty(A.shape[:3], dtype=torch.float64)

    def concretize_gradient(gradient: Tensor, A: Tensor, *rest: Any) -> Tensor:
        return A.new_empty(A.shape)

    def concretize_forward(
        center: Tensor, radius: Any, center_bias: Tensor, radius_bias: Any, x: Tensor, *rest: Any
    ) -> Any:
        shape = (common_batch(center, center_bias, x), *center.shape[2:])
        return tuple(center.new_empty(size) for size in (shape, shape, shape if rest[-1] else (0,)))

    def concretize_forward_gradient(l: Tensor, u: Tensor, center: Tensor, radius: Tensor | None, *rest: Any) -> Any:
        shape = (l.shape[0], *center.shape[1:])
        return center.new_empty(shape), center.new_empty((0,) if radius is None else shape)

    for fake in (concretize, concretize_gradient, concretize_forward, concretize_forward_gradient):
        torch.library.register_fake(f"lbp::{fake.__name__}", fake)
    register_gradient("concretize", _concretize_backward, _save, with_products=False)
    register_gradient("concretize_forward", _concretize_forward_backward, _save, with_products=False)
    for name in ("concretize_gradient", "concretize_forward_gradient"):
        refuse_second_order(name)


if _native.missing is None:
    _register()
