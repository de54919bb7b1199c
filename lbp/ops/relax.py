"""Linear bounds through an activation: coefficients of back-substitution, and forward matrices."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor

from lbp import _native, reference
from lbp.backend import current_backend
from lbp.ops._arguments import common_batch, native, per_neuron, refuse_second_order, register_gradient, sum_to
from lbp.ops._relaxation import (
    NEED_BIAS,
    NEED_MATRIX,
    RELAXATION_LENGTH,
    LineOptions,
    Lines,
    fake_relaxation_gradients,
    needed_gradients,
    relaxation_gradients,
    save_relaxation,
    saved_relaxation,
)
from lbp.strategies import side_code


def relax_backward(
    A: Tensor,
    l: Tensor,
    u: Tensor,
    *,
    sides: str,
    bias: Tensor | None = None,
    **lines: Unpack[LineOptions],
) -> tuple[Tensor, Tensor]:
    """Push coefficients of back-substitution through an activation (Lyu et al. 2021, section 2; Zhang et al. 2018).

    For the lower side `A' = pos(A) lower_slope + neg(A) upper_slope`, and the constants are the sum of
    `pos(A) lower_intercept + neg(A) upper_intercept`; for the upper side the lines swap. Lower and upper side and the
    bias of the layer below share one pass over A.

    Args:
        A: coefficients [K, B, S, *shape] of the activations; K = 2 (lower, upper) for ``sides="both"``, else 1.
            Dimensions K and B may be expanded.
        l: lower bounds of the pre-activations [B or 1, *shape].
        u: upper bounds, like l.
        sides: ``"lower"``, ``"upper"`` or ``"both"``.
        bias: bias of the affine layer below, broadcastable to [*shape]: the sum of `A' bias` joins the constants.
        **lines: r, eta, strategy and given lines; see `lbp.ops.bounding_lines`.

    Returns:
        `A'` like A, of the pre-activations, and the constants contributed [K, B, S], float64. Differentiable with
        respect to A, l, u, r, bias and given lines; where A = 0 the gradient takes the line of positive A.

    Raises:
        ValueError: see `lbp.ops.bounding_lines`; unknown sides.
        RuntimeError: shapes, dtypes or devices that do not fit.
    """
    chosen, code = Lines(**lines).checked(), side_code(sides)
    if current_backend() == "reference":
        return reference.relax_backward(A, l, u, sides=sides, bias=bias, **lines)
    offset = None if bias is None else per_neuron(bias, "bias", A.shape[3:])
    relaxed, constants = native("relax_backward")(A, *chosen.arguments(l, u), offset, code)
    return relaxed, constants


def relax_forward(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    l: Tensor,
    u: Tensor,
    **lines: Unpack[LineOptions],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Push forward linear bounds through an activation (LBP; Lyu et al. 2021, section 4).

    The bounds are `(center - radius) x + center_bias - radius_bias` and `(center + radius) x + center_bias +
    radius_bias`; where the slope of a line is negative, lower and upper swap their roles.

    Args:
        center: [B or 1, n0, *shape], n0 the flattened input.
        radius: like center; None is zero.
        center_bias: [B or 1, *shape].
        radius_bias: like center_bias; None is zero.
        l: lower bounds of the pre-activations [B or 1, *shape].
        u: upper bounds, like l.
        **lines: r, eta, strategy and given lines; see `lbp.ops.bounding_lines`.

    Returns:
        center, radius, center_bias and radius_bias of the activations. Differentiable with respect to the forward
        bounds and what `relax_backward` is.

    Raises:
        ValueError: see `lbp.ops.bounding_lines`.
        RuntimeError: shapes, dtypes or devices that do not fit.
    """
    chosen = Lines(**lines).checked()
    matrices = (center, radius, center_bias, radius_bias)
    if current_backend() == "reference":
        return reference.relax_forward(*matrices, l, u, **lines)
    result: tuple[Tensor, Tensor, Tensor, Tensor] = native("relax_forward")(*matrices, *chosen.arguments(l, u))
    return result


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    A, *relaxation, bias, sides = inputs
    save_relaxation(ctx, relaxation, A, bias)
    ctx.sides = sides


def _relax_backward_backward(ctx: Any, relaxed: Tensor, constants: Tensor) -> tuple[Tensor | None, ...]:
    arguments, (A, bias) = saved_relaxation(ctx)
    need_A, need_bias = ctx.needs_input_grad[0], ctx.needs_input_grad[1 + RELAXATION_LENGTH]
    needs = needed_gradients(ctx.needs_input_grad, 1)
    needs |= (NEED_MATRIX if need_A else 0) | (NEED_BIAS if need_bias else 0)
    to_A, *to_relaxation, to_bias = native("relax_backward_gradient")(
        relaxed, constants, A, *arguments, bias, ctx.sides, needs
    )
    gradients = relaxation_gradients(arguments, to_relaxation)
    fitted = sum_to(to_bias, bias.shape) if need_bias and bias is not None else None
    return to_A if need_A else None, *gradients, fitted, None


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    save_relaxation(ctx, inputs[4:], *inputs[:4])


def _relax_forward_backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    arguments, matrices = saved_relaxation(ctx)
    needs = needed_gradients(ctx.needs_input_grad, 4) | (NEED_MATRIX if any(ctx.needs_input_grad[:4]) else 0)
    results = native("relax_forward_gradient")(*gradients, *matrices, *arguments, needs)
    to_matrices = [
        sum_to(gradient, matrix.shape) if needed and matrix is not None else None
        for gradient, matrix, needed in zip(results[:4], matrices, ctx.needs_input_grad[:4], strict=True)
    ]
    return *to_matrices, *relaxation_gradients(arguments, results[4:])


def _register() -> None:
    def relax_backward(A: Tensor, *rest: Any) -> Any:
        return A.new_empty(A.shape), A.new_empty(A.shape[:3], dtype=torch.float64)

    def relax_backward_gradient(relaxed: Tensor, constants: Tensor, A: Tensor, *rest: Any) -> Any:
        l, needs = rest[0], rest[-1]
        batch, shape = A.shape[1], A.shape[3:]
        to_A = A.new_empty(A.shape if needs & NEED_MATRIX else (0,))
        to_bias = A.new_empty((batch, *shape) if needs & NEED_BIAS else (0,))
        return to_A, *fake_relaxation_gradients(A, batch, tuple(l.shape[1:]), needs), to_bias

    def relax_backward_gradient_(relaxed: Tensor, *rest: Any) -> Any:
        return relax_backward_gradient(relaxed, *rest)[1:]

    def relax_forward(
        center: Tensor, radius: Tensor | None, center_bias: Tensor, radius_bias: Tensor | None, *rest: Any
    ) -> Any:
        batch = common_batch(center, center_bias, rest[0])
        return tuple(center.new_empty((batch, *like.shape[1:])) for like in (center, center, center_bias, center_bias))

    def relax_forward_gradient(
        g1: Tensor, g2: Tensor, g3: Tensor, g4: Tensor, center: Tensor, radius: Any, center_bias: Tensor, *rest: Any
    ) -> Any:
        radius_bias, l, needs = rest[0], rest[1], rest[-1]
        batch = common_batch(center, center_bias, l)
        present = (True, radius is not None, True, radius_bias is not None)
        matrices = (
            center.new_empty((batch, *like.shape[1:]) if needs & NEED_MATRIX and there else (0,))
            for like, there in zip((center, center, center_bias, center_bias), present, strict=True)
        )
        return *matrices, *fake_relaxation_gradients(center, batch, tuple(l.shape[1:]), needs)

    gradients = (relax_backward_gradient, relax_backward_gradient_, relax_forward_gradient)
    for fake in (relax_backward, relax_forward, *gradients):
        torch.library.register_fake(f"lbp::{fake.__name__}", fake)
    register_gradient("relax_backward", _relax_backward_backward, _save_backward, with_products=False)
    register_gradient("relax_forward", _relax_forward_backward, _save_forward, with_products=False)
    for name in ("relax_backward_gradient", "relax_forward_gradient"):
        refuse_second_order(name)


if _native.missing is None:
    _register()
