"""Intervals and coefficients of back-substitution through Linear and Conv2d layers.

On the CPU these ops are the kernels' passes followed by the library's product or convolution, in full precision; on
CUDA devices they are fused products (csrc/cuda/launch_products.h).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lbp import _native, reference
from lbp.backend import current_backend
from lbp.ops._arguments import (
    NEED_BIAS,
    NEED_MATRIX,
    RELAXATION_LENGTH,
    RelaxationArguments,
    check_given,
    check_numbers,
    contiguous,
    named_lines,
    native,
    needed_gradients,
    register_composite,
    register_gradient,
    relaxation_arguments,
    relaxation_gradients,
    save_relaxation,
    saved_relaxation,
    sum_to,
)
from lbp.ops._convolution import Pair, convolution_gradients, convolve, convolved_size, fused_convolution_pays
from lbp.precision import full_precision
from lbp.strategies import side_code

SMALL_BATCH = 16
"""Up to this many examples the CPU kernel, which reads W once, beats the library's two products."""

_BLOCK_ENTRIES = 2**20
"""Entries of a weight whose magnitudes, signs and gradients are made at a time on the CPU."""


def interval_linear(l: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Interval bounds through a Linear layer: `W c + b -/+ |W| r` with center c and radius r (Gowal et al. 2018).

    Args:
        l: lower bounds of the input [B, ..., n_in].
        u: upper bounds, like l.
        weight: [n_out, n_in].
        bias: [n_out] or None.

    Returns:
        Lower and upper bounds [B, ..., n_out]. Differentiable with respect to all tensors.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not fit.
    """
    if current_backend() == "reference":
        return reference.interval_linear(l, u, weight, bias)
    lower, upper = native("interval_linear")(l, u, weight, bias)
    return lower, upper


def interval_conv2d(
    l: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """Interval bounds through a Conv2d layer; see `interval_linear`.

    Args:
        l: lower bounds of the input [B, C_in, h, w].
        u: upper bounds, like l.
        weight: [C_out, C_in / groups, kh, kw].
        bias: [C_out] or None.
        stride: as in torch.nn.functional.conv2d, as the following.
        padding: rows and columns of zeros on each side.
        dilation: distance of the kernel's entries.
        groups: number of groups.

    Returns:
        Lower and upper bounds [B, C_out, H, W]. Differentiable with respect to all tensors.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not fit.
    """
    if current_backend() == "reference":
        geometry = {"stride": stride, "padding": padding, "dilation": dilation}
        return reference.interval_conv2d(l, u, weight, bias, groups=groups, **geometry)
    lower, upper = native("interval_conv2d")(l, u, weight, bias, stride, padding, dilation, groups)
    return lower, upper


def backward_linear(A: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Push coefficients through a Linear layer: `A' = A W`, constants `A b` (Lyu et al. 2021, section 2).

    Args:
        A: [K, B, S, n_out].
        weight: [n_out, n_in].
        bias: [n_out] or None.

    Returns:
        `A'` [K, B, S, n_in] and constants [K, B, S], float64. Differentiable with respect to all tensors.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not fit.
    """
    if current_backend() == "reference":
        return reference.backward_linear(A, weight, bias)
    coefficients, constants = native("backward_linear")(A, weight, bias)
    return coefficients, constants


def backward_conv2d(
    A: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    input_size: Pair,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """Push coefficients through a Conv2d layer, by its transposed convolution; see `backward_linear`.

    Args:
        A: [K, B, S, C_out, H, W].
        weight: [C_out, C_in / groups, kh, kw].
        bias: [C_out] or None.
        input_size: rows and columns (h, w) of the convolution's input.
        stride: see `interval_conv2d`, as the following.
        padding: see `interval_conv2d`.
        dilation: see `interval_conv2d`.
        groups: see `interval_conv2d`.

    Returns:
        `A'` [K, B, S, C_in, h, w] and constants [K, B, S], float64. Differentiable with respect to all tensors.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not fit.
    """
    if current_backend() == "reference":
        geometry = {"stride": stride, "padding": padding, "dilation": dilation}
        return reference.backward_conv2d(A, weight, bias, input_size, groups=groups, **geometry)
    coefficients, constants = native("backward_conv2d")(A, weight, bias, input_size, stride, padding, dilation, groups)
    return coefficients, constants


def relax_backward_linear(
    A: Tensor,
    l: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    sides: str,
    r: Tensor | float = math.inf,
    eta: Tensor | float = 0.0,
    strategy: str = "adaptive",
    lower_slope: Tensor | None = None,
    upper_slope: Tensor | None = None,
    lower_intercept: Tensor | None = None,
    upper_intercept: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Push coefficients through an activation and the Linear layer below it: `relax_backward`, then `backward_linear`.

    The relaxed coefficients are not kept for the gradient, which computes them again.

    Args:
        A: coefficients [K, B, S, n] of the activations.
        l: lower bounds of the pre-activations [B or 1, n].
        u: upper bounds, like l.
        weight: [n, n_in].
        bias: [n] or None.
        sides: see `lbp.ops.relax_backward`, as the following.
        r: bending point.
        eta: outer slope.
        strategy: of the bounding lines.
        lower_slope: see `lbp.ops.bounding_lines`, as the following.
        upper_slope: see `lbp.ops.bounding_lines`.
        lower_intercept: see `lbp.ops.bounding_lines`.
        upper_intercept: see `lbp.ops.bounding_lines`.

    Returns:
        `A'` [K, B, S, n_in] and the constants contributed [K, B, S], float64. Differentiable with respect to A, l, u,
        r, weight, bias and given lines.

    Raises:
        ValueError: see `lbp.ops.relax_backward`.
        RuntimeError: shapes, dtypes or devices that do not fit.
    """
    check_numbers(r, eta)
    given = (lower_slope, upper_slope, lower_intercept, upper_intercept)
    check_given(strategy, *given)
    if current_backend() == "reference":
        named = named_lines(*given)
        return reference.relax_backward_linear(
            A, l, u, weight, bias, sides=sides, r=r, eta=eta, strategy=strategy, **named
        )
    arguments = relaxation_arguments(l, u, r, eta, strategy, *given)
    coefficients, constants = native("relax_backward_linear")(A, *arguments, weight, bias, side_code(sides))
    return coefficients, constants


def relax_backward_conv2d(
    A: Tensor,
    l: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    input_size: Pair,
    *,
    sides: str,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    r: Tensor | float = math.inf,
    eta: Tensor | float = 0.0,
    strategy: str = "adaptive",
    lower_slope: Tensor | None = None,
    upper_slope: Tensor | None = None,
    lower_intercept: Tensor | None = None,
    upper_intercept: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Push coefficients through an activation and the Conv2d layer below it; see `relax_backward_linear`.

    Args:
        A: coefficients [K, B, S, C_out, H, W] of the activations.
        l: lower bounds of the pre-activations [B or 1, C_out, H, W].
        u: upper bounds, like l.
        weight: [C_out, C_in / groups, kh, kw].
        bias: [C_out] or None.
        input_size: rows and columns (h, w) of the convolution's input.
        sides: see `lbp.ops.relax_backward`.
        stride: see `interval_conv2d`, as the following.
        padding: see `interval_conv2d`.
        dilation: see `interval_conv2d`.
        groups: see `interval_conv2d`.
        r: bending point.
        eta: outer slope.
        strategy: of the bounding lines.
        lower_slope: see `lbp.ops.bounding_lines`, as the following.
        upper_slope: see `lbp.ops.bounding_lines`.
        lower_intercept: see `lbp.ops.bounding_lines`.
        upper_intercept: see `lbp.ops.bounding_lines`.

    Returns:
        `A'` [K, B, S, C_in, h, w] and the constants contributed [K, B, S], float64.

    Raises:
        ValueError: see `lbp.ops.relax_backward`.
        RuntimeError: shapes, dtypes or devices that do not fit.
    """
    check_numbers(r, eta)
    given = (lower_slope, upper_slope, lower_intercept, upper_intercept)
    check_given(strategy, *given)
    if current_backend() == "reference":
        named = named_lines(*given)
        named |= {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return reference.relax_backward_conv2d(
            A, l, u, weight, bias, input_size, sides=sides, r=r, eta=eta, strategy=strategy, **named
        )
    arguments = relaxation_arguments(l, u, r, eta, strategy, *given)
    coefficients, constants = native("relax_backward_conv2d")(
        A, *arguments, weight, bias, input_size, stride, padding, dilation, groups, side_code(sides)
    )
    return coefficients, constants


def _save_interval(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    l, u, weight, bias, *convolution = inputs
    ctx.save_for_backward(l, u, weight)
    ctx.has_bias = bias is not None
    ctx.convolution = tuple(convolution)


def _interval_linear_backward(ctx: Any, lower: Tensor, upper: Tensor) -> tuple[Tensor | None, ...]:
    l, u, weight = ctx.saved_tensors
    to_center, to_radius = (upper + lower).flatten(0, -2), (upper - lower).flatten(0, -2)
    to_l, to_u, to_weight = None, None, None
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
        center, radius = to_center @ weight, _times_magnitude(to_radius, weight)
        to_l, to_u = ((center - radius) / 2).reshape(l.shape), ((center + radius) / 2).reshape(u.shape)
    if ctx.needs_input_grad[2]:
        center, radius = ((u + l) / 2).flatten(0, -2), ((u - l) / 2).flatten(0, -2)
        to_weight = _interval_weight_gradient(to_center, to_radius, center, radius, weight)
    return to_l, to_u, to_weight, to_center.sum(0) if ctx.has_bias else None


def _times_magnitude(rows: Tensor, weight: Tensor) -> Tensor:
    """Return `rows |weight|`, rows [N, n_out]."""
    first, *rest = _row_blocks(weight)
    product = rows[:, first] @ weight[first].abs()
    for block in rest:
        product = torch.addmm(product, rows[:, block], weight[block].abs())
    return product


def _interval_weight_gradient(
    to_center: Tensor, to_radius: Tensor, center: Tensor, radius: Tensor, weight: Tensor
) -> Tensor:
    """Return `to_center^T center + sign(weight) * (to_radius^T radius)`."""
    if torch.is_grad_enabled():
        return to_center.mT @ center + weight.sign() * (to_radius.mT @ radius)
    result = torch.empty_like(weight)
    for block in _row_blocks(weight):
        signed = torch.mm(to_radius[:, block].mT, radius).mul_(weight[block].sign())
        torch.addmm(signed, to_center[:, block].mT, center, out=result[block])
    return result


def _row_blocks(weight: Tensor) -> list[slice]:
    """Return the rows of a weight in blocks; what is made of a block on the way stays in a processor's cache."""
    outputs, inputs = weight.shape
    rows = outputs if weight.device.type != "cpu" else _BLOCK_ENTRIES // max(inputs, 1)
    rows = max(rows, 1)
    return [slice(first, first + rows) for first in range(0, max(outputs, 1), rows)]


def _interval_conv2d_backward(ctx: Any, lower: Tensor, upper: Tensor) -> tuple[Tensor | None, ...]:
    l, u, weight = ctx.saved_tensors
    needs = (ctx.needs_input_grad[0] or ctx.needs_input_grad[1], ctx.needs_input_grad[2])
    to_center, to_radius = upper + lower, upper - lower
    center, through_center = convolution_gradients(to_center, (u + l) / 2, weight, ctx.convolution, needs)
    radius, through_radius = convolution_gradients(to_radius, (u - l) / 2, weight.abs(), ctx.convolution, needs)
    to_l = None if center is None or radius is None else (center - radius) / 2
    to_u = None if center is None or radius is None else (center + radius) / 2
    to_weight = None
    if through_center is not None and through_radius is not None:
        to_weight = through_center + weight.sign() * through_radius
    to_bias = to_center.sum((0, 2, 3)) if ctx.has_bias else None
    return to_l, to_u, to_weight, to_bias, None, None, None, None


def _save_affine(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    A, weight, bias, *convolution = inputs
    ctx.save_for_backward(A, weight, bias)
    ctx.convolution = tuple(convolution[1:])


def _bias_gradients(A: Tensor, bias: Tensor | None, constants: Tensor) -> tuple[Tensor | float, Tensor | None]:
    """Return the gradients with respect to A and bias of the constants `sum A bias`, bias along dimension 3 of A."""
    if bias is None:
        return 0.0, None
    weights = constants.to(A.dtype).reshape(*constants.shape, *[1] * (A.dim() - 3))
    to_A = weights * bias.reshape(-1, *[1] * (A.dim() - 4))
    return to_A, (A * weights).sum([i for i in range(A.dim()) if i != 3])


def _backward_linear_backward(ctx: Any, coefficients: Tensor, constants: Tensor) -> tuple[Tensor | None, ...]:
    A, weight, bias = ctx.saved_tensors
    through_bias, to_bias = _bias_gradients(A, bias, constants)
    to_A = coefficients @ weight.mT + through_bias if ctx.needs_input_grad[0] else None
    to_weight = A.flatten(0, 2).mT @ coefficients.flatten(0, 2) if ctx.needs_input_grad[1] else None
    return to_A, to_weight, to_bias


def _backward_conv2d_backward(ctx: Any, coefficients: Tensor, constants: Tensor) -> tuple[Tensor | None, ...]:
    A, weight, bias = ctx.saved_tensors
    through_bias, to_bias = _bias_gradients(A, bias, constants)
    to_A = convolve(coefficients, weight, ctx.convolution) + through_bias if ctx.needs_input_grad[0] else None
    to_weight = _transposed_weight_gradient(A, coefficients, weight, ctx) if ctx.needs_input_grad[1] else None
    return to_A, to_weight, to_bias, None, None, None, None, None


def _transposed_weight_gradient(A: Tensor, gradient: Tensor, weight: Tensor, ctx: Any) -> Tensor | None:
    """Gradient with respect to the weight of a transposed convolution of A, from the gradient of its result.

    The roles are those of a convolution whose input is the gradient and whose output is A.
    """
    return convolution_gradients(A.flatten(0, 2), gradient.flatten(0, 2), weight, ctx.convolution, (False, True))[1]


def _save_relaxed_affine(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    A, relaxation = inputs[0], inputs[1 : 1 + RELAXATION_LENGTH]
    weight, bias, *convolution, sides = inputs[1 + RELAXATION_LENGTH :]
    save_relaxation(ctx, RelaxationArguments(*relaxation), A, weight, bias)
    ctx.convolution = tuple(convolution[1:])
    ctx.sides = sides


def _relaxed_affine_backward(ctx: Any, coefficients: Tensor, constants: Tensor) -> tuple[Tensor | None, ...]:
    arguments, (A, weight, bias) = saved_relaxation(ctx)
    assert A is not None
    assert weight is not None
    is_convolution = bool(ctx.convolution)
    offset = bias[:, None, None] if bias is not None and is_convolution else bias
    need_A, need_weight, need_bias = (
        ctx.needs_input_grad[i] for i in (0, RELAXATION_LENGTH + 1, RELAXATION_LENGTH + 2)
    )
    to_weight = None
    if need_weight:
        relaxed, _ = native("relax_backward")(A, *arguments, None, ctx.sides)
        if is_convolution:
            to_weight = _transposed_weight_gradient(relaxed, coefficients, weight, ctx)
        else:
            to_weight = relaxed.flatten(0, 2).mT @ coefficients.flatten(0, 2)
    to_relaxed = convolve(coefficients, weight, ctx.convolution) if is_convolution else coefficients @ weight.mT
    needs = needed_gradients(ctx.needs_input_grad, 1)
    needs |= (NEED_MATRIX if need_A else 0) | (NEED_BIAS if need_bias else 0)
    to_A, *to_relaxation, to_bias = native("relax_backward_gradient")(
        to_relaxed, constants, A, *arguments, offset, ctx.sides, needs
    )
    fitted_bias = None
    if need_bias and bias is not None and offset is not None:
        fitted_bias = sum_to(to_bias, offset.shape).reshape(bias.shape)
    rest = [None] * (6 if is_convolution else 1)
    return to_A if need_A else None, *relaxation_gradients(arguments, to_relaxation), to_weight, fitted_bias, *rest


@full_precision()
def _relax_backward_linear_composite(A: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    relaxation, (weight, bias, sides) = rest[:RELAXATION_LENGTH], rest[RELAXATION_LENGTH:]
    relaxed, constants = native("relax_backward")(A, *relaxation, bias, sides)
    return (relaxed @ weight).contiguous(), constants


def _relax_backward_conv2d_composite(A: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    relaxation = rest[:RELAXATION_LENGTH]
    weight, bias, input_size, stride, padding, dilation, groups, sides = rest[RELAXATION_LENGTH:]
    offset = None if bias is None else bias[:, None, None]
    relaxed, constants = native("relax_backward")(A, *relaxation, offset, sides)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    coefficients, _ = reference.backward_conv2d(relaxed, weight, None, input_size, groups=groups, **geometry)
    return coefficients.contiguous(), constants


def _interval_linear_cpu(l: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
    if l.shape == u.shape and l.dim() == 2 and l.shape[0] <= SMALL_BATCH:
        lower, upper = native("interval_linear_small_batch")((u + l) / 2, (u - l) / 2, weight, bias)
        return lower, upper
    with full_precision():
        center, half = F.linear((u + l) / 2, weight, bias), (u - l) / 2
        radius = torch.cat([F.linear(half, weight[rows].abs()) for rows in _row_blocks(weight)], -1)
    return contiguous((center - radius, center + radius))


def _backward_linear_composite(*arguments: Any) -> tuple[Tensor, ...]:
    return contiguous(reference.backward_linear(*arguments))


def _interval_conv2d_cuda(l: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None, *convolution: Any) -> Any:
    if fused_convolution_pays(weight, convolution[3]):
        return native("interval_conv2d_fused")(l, u, weight, bias, *convolution)
    return _interval_conv2d_composite(l, u, weight, bias, *convolution)


def _interval_conv2d_composite(l: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None, *convolution: Any) -> Any:
    stride, padding, dilation, groups = convolution
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    return contiguous(reference.interval_conv2d(l, u, weight, bias, groups=groups, **geometry))


def _backward_conv2d_composite(
    A: Tensor, weight: Tensor, bias: Tensor | None, input_size: Any, *convolution: Any
) -> Any:
    stride, padding, dilation, groups = convolution
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    return contiguous(reference.backward_conv2d(A, weight, bias, input_size, groups=groups, **geometry))


def _register_fakes() -> None:
    def interval_linear(l: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
        return tuple(l.new_empty((*l.shape[:-1], weight.shape[0])) for _ in range(2))

    def interval_conv2d(l: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None, *convolution: Any) -> Any:
        return tuple(l.new_empty((l.shape[0], *convolved_size(l.shape, weight, convolution))) for _ in range(2))

    def coefficients(A: Tensor, weight: Tensor, input_size: Any = None, groups: int = 1) -> Any:
        channels = (weight.shape[1] * groups,) if input_size is not None else (weight.shape[1],)
        shape = (*A.shape[:3], *channels, *(input_size or ()))
        return A.new_empty(shape), A.new_empty(A.shape[:3], dtype=torch.float64)

    def backward_linear(A: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
        return coefficients(A, weight)

    def backward_conv2d(A: Tensor, weight: Tensor, bias: Tensor | None, input_size: Any, *convolution: Any) -> Any:
        return coefficients(A, weight, input_size, convolution[3])

    def relax_backward_linear(A: Tensor, *rest: Any) -> Any:
        return coefficients(A, rest[RELAXATION_LENGTH])

    def relax_backward_conv2d(A: Tensor, *rest: Any) -> Any:
        weight, _, input_size, _, _, _, groups, _ = rest[RELAXATION_LENGTH:]
        return coefficients(A, weight, input_size, groups)

    for fake in (
        interval_linear,
        interval_conv2d,
        backward_linear,
        backward_conv2d,
        relax_backward_linear,
        relax_backward_conv2d,
    ):
        torch.library.register_fake(f"lbp::{fake.__name__}", fake)


def _register() -> None:
    register_composite("interval_linear", _interval_linear_cpu, devices=("CPU",))
    register_composite("interval_conv2d", _interval_conv2d_composite, devices=("CPU",))
    register_composite("interval_conv2d", _interval_conv2d_cuda, devices=("CUDA",))
    register_composite("backward_linear", _backward_linear_composite)
    register_composite("backward_conv2d", _backward_conv2d_composite, devices=("CPU",))
    register_composite("relax_backward_linear", _relax_backward_linear_composite, devices=("CPU",))
    register_composite("relax_backward_conv2d", _relax_backward_conv2d_composite, devices=("CPU",))
    register_gradient("interval_linear", _interval_linear_backward, _save_interval)
    register_gradient("interval_conv2d", _interval_conv2d_backward, _save_interval)
    register_gradient("backward_linear", _backward_linear_backward, _save_affine)
    register_gradient("backward_conv2d", _backward_conv2d_backward, _save_affine)
    register_gradient("relax_backward_linear", _relaxed_affine_backward, _save_relaxed_affine)
    register_gradient("relax_backward_conv2d", _relaxed_affine_backward, _save_relaxed_affine)


if _native.missing is None:
    _register_fakes()
    _register()
