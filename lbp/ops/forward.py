"""Forward linear bounds through affine layers, and their insertion into back-substitution (LBP, Relaxed-CROWN).

On the CPU these ops are the library's products and convolutions, in full precision; on CUDA devices they are fused
products (csrc/cuda/launch_products.h), but for the insertion into many rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lbp import _native, reference
from lbp.backend import current_backend
from lbp.ops._arguments import NO_BALL, check_forward, contiguous, native, register_composite, register_gradient
from lbp.ops._convolution import (
    Pair,
    conv2d,
    convolution_gradients,
    convolved_size,
    direct_convolution_pays,
    direct_transposed_pays,
    direct_weight_gradient_pays,
)
from lbp.ops._product import batched_linear, linear, matmul, split_product_bytes
from lbp.ops.outward_intervals import short_products
from lbp.precision import full_precision
from lbp.strategies import side_code

ForwardMatrices = tuple[Tensor, Tensor | None, Tensor, Tensor | None]


def _none_where_absent(
    results: tuple[Tensor, ...], radius: Tensor | None, radius_bias: Tensor | None
) -> ForwardMatrices:
    center, new_radius, center_bias, new_radius_bias = results
    return (
        center,
        None if radius is None else new_radius,
        center_bias,
        None if radius_bias is None else new_radius_bias,
    )


def forward_linear(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
) -> ForwardMatrices:
    """Push forward linear bounds through a Linear layer: `W center`, `|W| radius` (Lyu et al. 2021, section 4).

    In this form each side costs one product instead of the two of `pos(W) WL + neg(W) WU`.

    Args:
        center: [B or 1, n0, n_in]; see `lbp.ops.relax_forward`.
        radius: like center, or None for zero.
        center_bias: [B or 1, n_in].
        radius_bias: like center_bias, or None for zero.
        weight: [n_out, n_in].
        bias: [n_out] or None.

    Returns:
        center, radius, center_bias and radius_bias of the layer's output; radii stay None where they were.
        Differentiable with respect to all tensors.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not fit.
    """
    matrices = (center, radius, center_bias, radius_bias)
    check_forward(matrices, 2)
    if current_backend() == "reference":
        return reference.forward_linear(*matrices, weight, bias)
    return _none_where_absent(native("forward_linear")(*matrices, weight, bias), radius, radius_bias)


def forward_conv2d(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> ForwardMatrices:
    """Push forward linear bounds through a Conv2d layer; see `forward_linear`.

    Args:
        center: [B or 1, n0, C_in, h, w].
        radius: like center, or None for zero.
        center_bias: [B or 1, C_in, h, w].
        radius_bias: like center_bias, or None for zero.
        weight: [C_out, C_in / groups, kh, kw].
        bias: [C_out] or None.
        stride: see `lbp.ops.interval_conv2d`, as the following.
        padding: see `lbp.ops.interval_conv2d`.
        dilation: see `lbp.ops.interval_conv2d`.
        groups: see `lbp.ops.interval_conv2d`.

    Returns:
        center, radius, center_bias and radius_bias of the layer's output; radii stay None where they were.
        Differentiable with respect to all tensors.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not fit.
    """
    matrices = (center, radius, center_bias, radius_bias)
    check_forward(matrices, 2)
    if current_backend() == "reference":
        return reference.forward_conv2d(
            *matrices, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups
        )
    results = native("forward_conv2d")(*matrices, weight, bias, stride, padding, dilation, groups)
    return _none_where_absent(results, radius, radius_bias)


def insert_forward(
    A: Tensor,
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    *,
    sides: str,
) -> tuple[Tensor, Tensor]:
    """Insert a layer's forward linear bounds into coefficients of that layer (Relaxed-CROWN).

    For the lower side `pos(A) WL + neg(A) WU = A center - |A| radius`, for the upper side with a plus
    (Lyu et al. 2021, section 4).

    Args:
        A: [K, B, S, *shape].
        center: [B or 1, n0, *shape]; see `lbp.ops.relax_forward`.
        radius: like center, or None for zero.
        center_bias: [B or 1, *shape].
        radius_bias: like center_bias, or None for zero.
        sides: see `lbp.ops.relax_backward`.

    Returns:
        Coefficients of the flattened input [K, B, S, n0], and the constants contributed [K, B, S], float64.
        Differentiable with respect to all tensors.

    Raises:
        ValueError: unknown sides.
        RuntimeError: shapes, dtypes or devices that do not fit.
    """
    side_code(sides)
    if center.shape[2:] != A.shape[3:]:
        raise RuntimeError(f"center: expected a matrix of the layer {list(A.shape[3:])} of A, got {list(center.shape)}")
    matrices = (center, radius, center_bias, radius_bias)
    check_forward(matrices, 2)
    if current_backend() == "reference":
        return reference.insert_forward(A, *matrices, sides=sides)
    coefficients, constants = native("insert_forward")(A, *matrices, side_code(sides))
    return coefficients, constants


def _empty_where_none(results: ForwardMatrices) -> tuple[Tensor, ...]:
    return contiguous(tuple(results[0].new_empty((0,)) if result is None else result for result in results))


def _forward_linear_composite(*arguments: Any) -> tuple[Tensor, ...]:
    *matrices, weight, bias = arguments
    center, radius, center_bias, radius_bias = matrices
    # Of few images one read of W serves both biases, without |W|.
    biases = None if radius_bias is None else short_products(center_bias, radius_bias, weight)
    if biases is None:
        return _forward_linear_by_library(matrices, weight, bias)
    no_bias = (center_bias[:0], None)
    new_center, new_radius, *_ = _forward_linear_by_library((center, radius, *no_bias), weight, bias)
    # Of a tensor each, as the dispatcher wants them.
    new_center_bias = biases[0].clone() if bias is None else biases[0] + bias
    return new_center, new_radius, new_center_bias, biases[1].clone()


@full_precision()
def _forward_conv2d_composite(*arguments: Any) -> tuple[Tensor, ...]:
    center, radius, center_bias, radius_bias, weight, bias = arguments[:6]
    convolution = arguments[6:]
    matrices = _convolved_pair(center, radius, weight, None, convolution)
    biases = _convolved_pair(center_bias, radius_bias, weight, bias, convolution)
    return _empty_where_none((*matrices, *biases))


def _convolved_pair(
    center: Tensor, radius: Tensor | None, weight: Tensor, bias: Tensor | None, convolution: Any
) -> tuple[Tensor, Tensor | None]:
    """Return center and radius [..., C, h, w] of the output, from one read of the weight where that pays."""

    def of_rows(matrix: Tensor) -> Tensor:
        return matrix.flatten(0, -4)

    def as_matrix(rows: Tensor, like: Tensor) -> Tensor:
        return rows.reshape(*like.shape[:-3], *rows.shape[1:])

    if radius is None:
        return as_matrix(conv2d(of_rows(center), weight, bias, *convolution), center), None
    pair = (center, radius)
    if center.shape == radius.shape and direct_convolution_pays(of_rows(center), weight, convolution, of_bounds=False):
        both = native("interval_conv2d_direct")
        found = both(*map(of_rows, pair), weight, bias, None, None, 0.0, 0.0, False, *convolution)
    else:
        found = (
            conv2d(of_rows(center), weight, bias, *convolution),
            conv2d(of_rows(radius), weight.abs(), None, *convolution),
        )
    new_center, new_radius = (as_matrix(rows, like) for rows, like in zip(found, pair, strict=True))
    return new_center, new_radius


@full_precision()
def _forward_linear_by_library(matrices: Sequence[Any], weight: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
    center, radius, center_bias, radius_bias = matrices
    magnitude = weight.abs() if radius is not None or radius_bias is not None else weight
    spread, spread_bias = (None if part is None else linear(part, magnitude) for part in (radius, radius_bias))
    return _empty_where_none((linear(center, weight), spread, linear(center_bias, weight, bias), spread_bias))


def _insert_forward_cpu(A: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    if _few_rows_pay(A):
        few_rows: tuple[Tensor, Tensor] = native("insert_forward_few_rows")(A, *arguments)
        return few_rows
    return _insert_forward_composite(A, *arguments)


def _insert_forward_cuda(A: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    """Choose between one fused product, which reads A once for both sums, and the library's two, which need |A|.

    On an H100 nine rows take the fused one as long as these (0.35 ms over matrices of 65,536 x 1,024), and 4,096 rows
    1.5 times as long (34 ms over 32,768 x 2,048; `lbp bench ops --device cuda`). Its tiles are of up to 128 rows.
    """
    sides, batch, rows = A.shape[:3]
    shared = all(matrix is None or matrix.shape[0] == 1 for matrix in arguments[:4])
    if sides * rows * (batch if shared else 1) <= _ROWS_OF_A_TILE:
        fused: tuple[Tensor, Tensor] = native("insert_forward_fused")(A, *arguments)
        return fused
    return _insert_forward_composite(A, *arguments)


_ROWS_OF_A_TILE = 128


def insert_forward_scratch_bytes(neurons: int, inputs: int, itemsize: int, device: torch.device) -> int:
    """Return the most bytes that the insertion into few rows takes beside rows and bounds; see `_insert_forward_cuda`.

    Of many rows it takes as much as they do: their magnitudes, in the order of the products as well, and two results.
    """
    if device.type != "cuda":
        return 0
    return split_product_bytes(inputs, neurons, itemsize, sums=2, constants=True)


@full_precision()
def _insert_forward_composite(A: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    center, radius, center_bias, radius_bias, sides = arguments
    rows = A.flatten(3)
    coefficients = batched_linear(rows, center.flatten(2))
    constants = _at_point(rows, center_bias, sides)
    if radius is not None or radius_bias is not None:
        # A radius may be negative, as lines may cross outside of the region.
        spread = _signed(rows.abs(), sides)
        if radius is not None:
            coefficients += batched_linear(spread, radius.flatten(2))
        if radius_bias is not None:
            constants += _at_point(spread, radius_bias, sides)
    return coefficients.contiguous(), constants


_FEW_ROWS = 16


def _few_rows_pay(A: Tensor) -> bool:
    """Whether the CPU kernel, which reads center and radius once for few rows, beats two library products.

    It makes no |A| and no second result. Of two threads and nine rows it takes 0.4 to 0.75 of their time, over matrices
    of 64 x 512 to 3,072 x 512 and 64 x 25,088, of one image and 32; of 32 rows as long.
    """
    return A.is_cpu and A.shape[0] * A.shape[2] <= _FEW_ROWS


def _row_gradient_pays(A: Tensor, center: Tensor) -> bool:
    """The same for the gradient by the rows (0.45 to 0.8 of the time), whose threads share out neurons, not inputs."""
    return _few_rows_pay(A) and center.shape[1] <= 16 * A.shape[3:].numel()


def _at_point(rows: Tensor, point: Tensor, sides: int) -> Tensor:
    """Return `rows point` [K, B, S] float64: the bounds over a box of one point, which a kernel adds up as it reads."""
    values: Tensor = native("concretize")(rows, point, point, *NO_BALL, sides)
    return values


def _signed(spread: Tensor, sides: int) -> Tensor:
    """Give what widens bounds [K, ...] the sign of its side, in place: minus on the lower one, which is the first."""
    if sides & 1:
        spread[0].neg_()
    return spread


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.convolution = tuple(inputs[6:])


def _linear_gradients(
    gradient: Tensor, like: Tensor, weight: Tensor, convolution: Any, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients with respect to rows [..., *shape] and weight of an affine layer without bias."""
    if convolution:
        rows = like.reshape(-1, *like.shape[-3:])
        results = convolution_gradients(gradient.reshape(-1, *gradient.shape[-3:]), rows, weight, convolution, needs)
        return None if results[0] is None else results[0].reshape(like.shape), results[1]
    to_rows = matmul(gradient, weight) if needs[0] else None
    to_weight = matmul(gradient.flatten(0, -2).mT, like.flatten(0, -2)) if needs[1] else None
    return to_rows, to_weight


def _forward_backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    matrices, weight = ctx.saved_tensors[:4], ctx.saved_tensors[4]
    to_matrices: list[Tensor | None] = [None] * 4
    to_weight: Tensor | None = None
    through_matrices: list[Tensor | None] = [None, None]  # the gradients with respect to W, and to |W|, of the library
    # The small ones first: behind a large one, what they take has left the caches.
    for first in (2, 0):
        pair = slice(first, first + 2)
        needs = [(need, ctx.needs_input_grad[4]) for need in ctx.needs_input_grad[pair]]
        if ctx.convolution and not torch.is_grad_enabled() and matrices[first + 1] is not None:
            to_pair, of_pair = _kernel_gradients(gradients[pair], matrices[pair], weight, ctx.convolution, needs)
            if to_pair is not None:
                to_matrices[pair] = to_pair
                needs = [(False, need_weight) for _, need_weight in needs]
            if of_pair is not None:
                to_weight = of_pair if to_weight is None else to_weight.add_(of_pair)
                needs = [(need, False) for need, _ in needs]
        for is_radius in (False, True):
            index = first + is_radius
            if matrices[index] is None or not any(needs[is_radius]):
                continue
            factor = weight.abs() if is_radius else weight
            to_matrix, through = _linear_gradients(
                gradients[index], matrices[index], factor, ctx.convolution, needs[is_radius]
            )
            to_matrices[index] = to_matrices[index] if to_matrix is None else to_matrix
            if through is not None:
                before = through_matrices[is_radius]
                through_matrices[is_radius] = through if before is None else before.add_(through)
    to_bias = None
    if ctx.needs_input_grad[5]:
        to_bias = gradients[2].sum((0, 2, 3) if ctx.convolution else 0)
    to_weight = _with_sum(to_weight, through_matrices, weight)
    return *to_matrices, to_weight, to_bias, *[None] * len(ctx.convolution)


def _with_sum(to_weight: Tensor | None, through: Sequence[Tensor | None], weight: Tensor) -> Tensor | None:
    """Add gradients with respect to W and to |W| to that with respect to W."""
    by_center, by_radius = through
    if by_center is not None:
        to_weight = by_center if to_weight is None else to_weight.add_(by_center)
    if to_weight is not None and by_radius is not None:
        to_weight.addcmul_(weight.sign(), by_radius)
    return to_weight


def _kernel_gradients(
    gradients: Sequence[Tensor],
    pair: Sequence[Tensor],
    weight: Tensor,
    convolution: Any,
    needs: Sequence[tuple[bool, bool]],
) -> tuple[list[Tensor] | None, Tensor | None]:
    """Return the gradients of center and radius, and of the weight, by the CPU's kernels; None where none pays."""
    center, radius, to_center, to_radius = (part.reshape(-1, *part.shape[-3:]) for part in (*pair, *gradients))
    to_pair, to_weight = None, None
    need_pair, size = needs[0][0] or needs[1][0], center.shape[2:]
    if need_pair and direct_transposed_pays(to_center, weight, size, convolution, enough=1.0):
        transposed = native("interval_conv2d_input_gradient")
        results = transposed(to_center, to_radius, weight, size, False, *convolution)
        to_pair = [result.reshape(part.shape) for result, part in zip(results, pair, strict=True)]
    alone = to_pair is not None or not need_pair
    if needs[0][1] and direct_weight_gradient_pays(center, weight, convolution, alone=alone):
        of_weight = native("conv2d_weight_gradient")
        to_weight = of_weight(to_center, to_radius, center, radius, weight, False, *convolution)
    return to_pair, to_weight


def _save_insert(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.sides = inputs[5]


def _insert_backward(ctx: Any, coefficients: Tensor, constants: Tensor) -> tuple[Tensor | None, ...]:
    A, center, radius, center_bias, radius_bias = ctx.saved_tensors
    need_A, need_center, need_radius, need_center_bias, need_radius_bias = ctx.needs_input_grad[:5]
    rows, weights = A.flatten(3), constants.to(A.dtype).unsqueeze(-1)
    magnitudes = _signed(rows.abs(), ctx.sides) if need_radius or need_radius_bias else rows
    return (
        _row_gradient(ctx, coefficients, constants) if need_A else None,
        _matrix_gradient(coefficients, rows, center) if need_center else None,
        _matrix_gradient(coefficients, magnitudes, radius) if need_radius else None,
        _matrix_gradient(weights, rows, center_bias) if need_center_bias else None,
        _matrix_gradient(weights, magnitudes, radius_bias) if need_radius_bias else None,
        None,
    )


def _row_gradient(ctx: Any, coefficients: Tensor, constants: Tensor) -> Tensor:
    """Return the gradient of `insert_forward` by A; where A = 0 it takes the line of positive A."""
    A, center, radius, center_bias, radius_bias = ctx.saved_tensors
    if not torch.is_grad_enabled() and _row_gradient_pays(A, center):
        of_few_rows = native("insert_forward_few_rows_gradient")
        to_A: Tensor = of_few_rows(coefficients, constants, *ctx.saved_tensors, ctx.sides)
        return to_A
    weights = constants.to(A.dtype).unsqueeze(-1)
    to_rows = batched_linear(coefficients, center.flatten(2).mT)
    to_rows.addcmul_(weights, center_bias.flatten(1).unsqueeze(1))
    if radius is not None or radius_bias is not None:
        matrix = None if radius is None else radius.flatten(2).mT
        spread = torch.zeros_like(to_rows) if matrix is None else batched_linear(coefficients, matrix)
        if radius_bias is not None:
            spread.addcmul_(weights, radius_bias.flatten(1).unsqueeze(1))
        _signed(spread, ctx.sides)
        to_rows.add_(torch.where(A.flatten(3) >= 0, spread, -spread))
    return to_rows.reshape(A.shape)


def _matrix_gradient(coefficients: Tensor, rows: Tensor, like: Tensor) -> Tensor:
    """Return the sums over the rows of a matrix [B or 1, ...] of coefficients [K, B, S, m] times rows [K, B, S, n]."""
    if len(like) == 1:
        gradient = coefficients.flatten(0, 2).mT @ rows.flatten(0, 2)
    else:
        left, right = (part.transpose(0, 1).flatten(1, 2) for part in (coefficients, rows))
        gradient = left.mT @ right
    return gradient.reshape(like.shape)


def _register() -> None:
    register_composite("forward_linear", _forward_linear_composite, devices=("CPU",))
    register_composite("forward_conv2d", _forward_conv2d_composite, devices=("CPU",))
    register_composite("insert_forward", _insert_forward_cpu, devices=("CPU",))
    register_composite("insert_forward", _insert_forward_cuda, devices=("CUDA",))
    register_gradient("forward_linear", _forward_backward, _save_forward)
    register_gradient("forward_conv2d", _forward_backward, _save_forward)
    register_gradient("insert_forward", _insert_backward, _save_insert)

    def fake_outputs(matrices: tuple[Tensor | None, ...], layer: tuple[int, ...], dims: int) -> Any:
        center = matrices[0]
        assert center is not None
        return tuple(
            center.new_empty((0,)) if matrix is None else center.new_empty((*matrix.shape[:-dims], *layer))
            for matrix in matrices
        )

    def forward_linear(
        center: Tensor, radius: Any, center_bias: Tensor, radius_bias: Any, weight: Tensor, bias: Any
    ) -> Any:
        return fake_outputs((center, radius, center_bias, radius_bias), (weight.shape[0],), 1)

    def forward_conv2d(
        center: Tensor, radius: Any, center_bias: Tensor, radius_bias: Any, weight: Tensor, bias: Any, *rest: Any
    ) -> Any:
        layer = convolved_size(center.shape, weight, rest)
        return fake_outputs((center, radius, center_bias, radius_bias), layer, 3)

    def insert_forward(A: Tensor, center: Tensor, *rest: Any) -> Any:
        return A.new_empty((*A.shape[:3], center.shape[1])), A.new_empty(A.shape[:3], dtype=torch.float64)

    def insert_forward_few_rows_gradient(coefficients: Tensor, constants: Tensor, A: Tensor, *rest: Any) -> Any:
        return A.new_empty(A.shape)

    for part in ("insert_forward_few_rows", "insert_forward_fused"):
        torch.library.register_fake(f"lbp::{part}", insert_forward)
    for fake in (forward_linear, forward_conv2d, insert_forward, insert_forward_few_rows_gradient):
        torch.library.register_fake(f"lbp::{fake.__name__}", fake)


if _native.missing is None:
    _register()
