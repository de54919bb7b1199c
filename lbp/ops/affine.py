"""Coefficients of back-substitution through Linear and Conv2d layers.

On the CPU these ops are the kernels' passes followed by the library's product or convolution, in full precision, or
by a kernel for that where it is faster (`lbp.ops._convolution`); on CUDA devices they are fused products
(csrc/cuda/launch_products.h), but for `backward_linear`, and for `relax_backward_linear` of wide weights.
"""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.nn import functional

from lbp import _native, reference
from lbp.backend import current_backend
from lbp.ops._arguments import NO_BALL, contiguous, native, register_composite, register_gradient, sum_to
from lbp.ops._calls import are_plain
from lbp.ops._convolution import (
    Convolution,
    Pair,
    convolution_gradients,
    convolve,
    convolved_size,
    direct_convolution_pays,
    direct_transposed_pays,
    direct_weight_gradient_pays,
    keywords_of,
    rows_beyond,
    transposed_gradients,
)
from lbp.ops._product import linear, matmul, split_product_bytes
from lbp.ops._relaxation import (
    NEED_BIAS,
    NEED_MATRIX,
    RELAXATION_LENGTH,
    LineOptions,
    Lines,
    RelaxationArguments,
    needed_gradients,
    relaxation_gradients,
    save_relaxation,
    saved_relaxation,
)
from lbp.precision import full_precision
from lbp.strategies import side_code

_DEEPEST_TILE = 16
"""Steps of the depth of the tiles of csrc/cuda/tile_plan.h, at most ..."""

_STEP_BYTES = 16
"""... and the bytes that say what a step reads (csrc/cuda/kernels/relax_conv2d.cuh)."""


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
        stride: see `lbp.ops.interval_conv2d`, as the following.
        padding: see `lbp.ops.interval_conv2d`.
        dilation: see `lbp.ops.interval_conv2d`.
        groups: see `lbp.ops.interval_conv2d`.

    Returns:
        `A'` [K, B, S, C_in, h, w] and constants [K, B, S], float64. Differentiable with respect to all tensors.

    Raises:
        RuntimeError: shapes, dtypes or devices that do not fit.
    """
    convolution = (stride, padding, dilation, groups)
    if current_backend() == "reference":
        return reference.backward_conv2d(A, weight, bias, input_size, **keywords_of(convolution))
    coefficients, constants = native("backward_conv2d")(A, weight, bias, input_size, *convolution)
    return coefficients, constants


def relax_backward_linear(
    A: Tensor,
    l: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    sides: str,
    **lines: Unpack[LineOptions],
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
        **lines: r, eta, strategy and given lines; see `lbp.ops.bounding_lines`.

    Returns:
        `A'` [K, B, S, n_in] and the constants contributed [K, B, S], float64. Differentiable with respect to A, l, u,
        r, weight, bias and given lines.

    Raises:
        ValueError: see `lbp.ops.relax_backward`.
        RuntimeError: shapes, dtypes or devices that do not fit.
    """
    chosen, code = Lines(**lines).checked(), side_code(sides)
    if current_backend() == "reference":
        return reference.relax_backward_linear(A, l, u, weight, bias, sides=sides, **lines)
    coefficients, constants = native("relax_backward_linear")(A, *chosen.arguments(l, u), weight, bias, code)
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
    **lines: Unpack[LineOptions],
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
        stride: see `lbp.ops.interval_conv2d`, as the following.
        padding: see `lbp.ops.interval_conv2d`.
        dilation: see `lbp.ops.interval_conv2d`.
        groups: see `lbp.ops.interval_conv2d`.
        **lines: r, eta, strategy and given lines; see `lbp.ops.bounding_lines`.

    Returns:
        `A'` [K, B, S, C_in, h, w] and the constants contributed [K, B, S], float64. Differentiable as
        `relax_backward_linear` is.

    Raises:
        ValueError: see `lbp.ops.relax_backward`.
        RuntimeError: shapes, dtypes or devices that do not fit.
    """
    chosen, code = Lines(**lines).checked(), side_code(sides)
    convolution = (stride, padding, dilation, groups)
    if current_backend() == "reference":
        geometry = keywords_of(convolution)
        return reference.relax_backward_conv2d(A, l, u, weight, bias, input_size, sides=sides, **geometry, **lines)
    coefficients, constants = native("relax_backward_conv2d")(
        A, *chosen.arguments(l, u), weight, bias, input_size, *convolution, code
    )
    return coefficients, constants


def relax_backward_linear_bytes(weight: Tensor, rows: int) -> int:
    """Return the most bytes of scratch memory of so many rows through a Linear layer and the activation above it."""
    outputs, inputs = weight.shape
    if not weight.is_cuda or inputs > _FEW_COLUMNS:
        return 0
    return split_product_bytes(inputs, outputs, weight.itemsize, sums=1, constants=True, rows=rows)


def relax_backward_conv2d_bytes(
    weight: Tensor,
    groups: int,
    rows: int,
    *,
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> int:
    """Return the most bytes of scratch memory of rows, whole or on windows, through a Conv2d layer, slopes apart.

    Args:
        weight: [C_out, C_in / groups, kh, kw].
        groups: number of groups.
        rows: number of rows, times the positions of the input.
        stride: of the layer.
        dilation: of the layer.
    """
    if not weight.is_cuda or rows == 0:
        return 0
    outputs, columns, *kernel = weight.shape
    steps = [size // math.gcd(size, apart) for size, apart in zip(stride, dilation, strict=True)]
    entries = math.prod(-(-size // step) for size, step in zip(kernel, steps, strict=True))
    classes = math.prod(map(min, kernel, steps))
    depth = outputs // groups * entries
    # csrc/cuda/relax_conv2d.cu lays the depth out, weights and where they read, for every class of entries.
    in_whole_tiles = -(-depth // _DEEPEST_TILE) * _DEEPEST_TILE
    arranged = classes * in_whole_tiles * (_STEP_BYTES + groups * columns * weight.itemsize) + _STEP_BYTES
    return split_product_bytes(columns, depth, weight.itemsize, sums=1, rows=rows) + arranged


def _save_affine(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    A, weight, bias, *convolution = inputs
    ctx.save_for_backward(A, weight, bias)
    ctx.convolution = tuple(convolution[1:])


def _add_bias_gradient(to_A: Tensor, bias: Tensor | None, constants: Tensor) -> Tensor:
    """Add the gradient with respect to A of the constants `sum A bias` to what nobody else reads."""
    if bias is None:
        return to_A
    weights = constants.to(to_A.dtype).reshape(*constants.shape, *[1] * (to_A.dim() - 3))
    return to_A.addcmul_(weights, bias.reshape(-1, *[1] * (to_A.dim() - 4)))


def _bias_gradient(A: Tensor, constants: Tensor) -> Tensor:
    """Return the gradient of the constants `sum A bias` with respect to bias, which lies along dimension 3 of A."""
    rows = A.reshape(constants.numel(), math.prod(A.shape[3:]))
    of_neurons = constants.to(A.dtype).flatten() @ rows
    return of_neurons.reshape(A.shape[3], math.prod(A.shape[4:])).sum(1)


def _backward_linear_backward(ctx: Any, coefficients: Tensor, constants: Tensor) -> tuple[Tensor | None, ...]:
    A, weight, bias = ctx.saved_tensors
    need_A, need_weight, need_bias = ctx.needs_input_grad[:3]
    to_A = _add_bias_gradient(linear(coefficients, weight), bias, constants) if need_A else None
    to_weight = matmul(A.flatten(0, 2).mT, coefficients.flatten(0, 2)) if need_weight else None
    return to_A, to_weight, _bias_gradient(A, constants) if need_bias else None


def _backward_conv2d_backward(ctx: Any, coefficients: Tensor, constants: Tensor) -> tuple[Tensor | None, ...]:
    A, weight, bias = ctx.saved_tensors
    need_A, need_weight, need_bias = ctx.needs_input_grad[:3]
    rows, to_A = coefficients.flatten(0, 2), None
    if need_A and _direct_gradient_pays(rows, weight, ctx.convolution):
        direct = native("backward_conv2d_direct_gradient")
        to_A, need_A = direct(coefficients, constants, weight, bias, *ctx.convolution), False
    to_weight = _direct_weight_gradient(A, rows, weight, ctx, alone=not need_A) if need_weight else None
    needs = (need_A, need_weight and to_weight is None)
    if any(needs):
        through, through_weight = transposed_gradients(rows, A.flatten(0, 2), weight, ctx.convolution, needs)
        to_A = to_A if through is None else _add_bias_gradient(through.reshape(A.shape), bias, constants)
        to_weight = to_weight if through_weight is None else through_weight
    return to_A, to_weight, _bias_gradient(A, constants) if need_bias else None, *[None] * 5


def _direct_gradient_pays(rows: Tensor, weight: Tensor, convolution: Convolution) -> bool:
    """Whether the CPU kernel is to convolve the gradient's rows; what it computes has no gradient itself."""
    return not torch.is_grad_enabled() and direct_convolution_pays(rows, weight, convolution, of_bounds=True)


_FEWEST_TERMS = 512
"""Of a single convolution, which has no second product from the same pass: with fewer, what is laid out for the kernel
costs more than it saves of much work."""


def _direct_weight_gradient(A: Tensor, rows: Tensor, weight: Tensor, ctx: Any, *, alone: bool) -> Tensor | None:
    """Return what the CPU kernel makes of A and the rows of its product's gradient; None where the library is to."""
    if torch.is_grad_enabled():
        return None
    if not direct_weight_gradient_pays(rows, weight, ctx.convolution, alone=alone, fewest_terms=_FEWEST_TERMS):
        return None
    rows_of_A = A.flatten(0, 2)
    to_weight: Tensor = native("conv2d_weight_gradient")(rows_of_A, None, rows, None, weight, False, *ctx.convolution)
    return to_weight


def _transposed_weight_gradient(A: Tensor, gradient: Tensor, weight: Tensor, ctx: Any) -> Tensor | None:
    """Gradient with respect to the weight of a transposed convolution of A, from the gradient of its result.

    The roles are those of a convolution whose input is the gradient and whose output is A.
    """
    rows = gradient.flatten(0, 2)
    direct = _direct_weight_gradient(A, rows, weight, ctx, alone=True)
    if direct is not None:
        return direct
    return convolution_gradients(A.flatten(0, 2), rows, weight, ctx.convolution, (False, True))[1]


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
    to_weight = _weight_gradient(ctx, A, arguments, coefficients, weight) if need_weight else None
    if not is_convolution:
        to_relaxed = linear(coefficients, weight)
    elif _direct_gradient_pays(coefficients.flatten(0, 2), weight, ctx.convolution):
        to_relaxed = native("backward_conv2d_direct_gradient")(coefficients, constants, weight, None, *ctx.convolution)
    else:
        to_relaxed = convolve(coefficients, weight, ctx.convolution)
    needs = needed_gradients(ctx.needs_input_grad, 1)
    needs |= (NEED_MATRIX if need_A else 0) | (NEED_BIAS if need_bias else 0)
    rest = (constants, A, *arguments, offset, ctx.sides, needs)
    if need_A and _may_overwrite(to_relaxed):
        to_A = to_relaxed
        *to_relaxation, to_bias = native("relax_backward_gradient_")(to_relaxed, *rest)
    else:
        to_A, *to_relaxation, to_bias = native("relax_backward_gradient")(to_relaxed, *rest)
    fitted_bias = None
    if need_bias and bias is not None and offset is not None:
        fitted_bias = sum_to(to_bias, offset.shape).reshape(bias.shape)
    absent = [None] * (6 if is_convolution else 1)
    return to_A if need_A else None, *relaxation_gradients(arguments, to_relaxation), to_weight, fitted_bias, *absent


def _may_overwrite(gradient: Tensor) -> bool:
    """Whether a result of this module, which nobody else reads, may be written to: by the CPU kernel, out of sight."""
    transformed = torch._C._are_functorch_transforms_active()
    return not (torch.is_grad_enabled() or transformed) and are_plain((gradient,)) and gradient.is_contiguous()


def _weight_gradient(
    ctx: Any, A: Tensor, arguments: RelaxationArguments, coefficients: Tensor, weight: Tensor
) -> Tensor | None:
    """Return the gradient by the weight; the relaxed coefficients, which it takes, are let go at the end."""
    relaxed, _ = native("relax_backward")(A, *arguments, None, ctx.sides)
    if ctx.convolution:
        return _transposed_weight_gradient(relaxed, coefficients, weight, ctx)
    return matmul(relaxed.flatten(0, 2).mT, coefficients.flatten(0, 2))


def _relax_backward_linear_cuda(A: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """Choose between the fused product, which relaxes A while reading it, and a pass before the library's product.

    The fused one computes the lines again for every 128 columns of the weight. On an H100 a layer of 512 neurons over
    32,768 inputs, nine rows of 32 images, takes it 1.15 ms, and the library's product alone 0.25 ms (`lbp bench ops
    --device cuda`): it is for weights of few columns, where reading A is what costs.
    """
    weight = rest[RELAXATION_LENGTH]
    if weight.shape[1] <= _FEW_COLUMNS:
        coefficients, constants = native("relax_backward_linear_fused")(A, *rest)
        return coefficients, constants
    return _relax_backward_linear_composite(A, *rest)


_FEW_COLUMNS = 128


@full_precision()
def _relax_backward_linear_composite(A: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    relaxation, (weight, bias, sides) = rest[:RELAXATION_LENGTH], rest[RELAXATION_LENGTH:]
    relaxed, constants = native("relax_backward")(A, *relaxation, bias, sides)
    return matmul(relaxed, weight).contiguous(), constants


def _relax_backward_conv2d_composite(A: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    relaxation = rest[:RELAXATION_LENGTH]
    weight, bias, input_size, *geometry, sides = rest[RELAXATION_LENGTH:]
    convolution: Convolution = tuple(geometry)
    offset = None if bias is None else bias[:, None, None]
    relaxed, constants = native("relax_backward")(A, *relaxation, offset, sides)
    if direct_transposed_pays(A, weight, input_size, convolution):
        coefficients, _ = native("backward_conv2d_direct")(relaxed, weight, None, input_size, *convolution)
        return coefficients, constants
    return _transposed(relaxed, weight, input_size, convolution).contiguous(), constants


@full_precision()
def _backward_linear_composite(A: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
    return contiguous((matmul(A, weight), _bias_constants(A, bias)))


def _backward_conv2d_composite(
    A: Tensor, weight: Tensor, bias: Tensor | None, input_size: Any, *convolution: Any
) -> Any:
    if direct_transposed_pays(A, weight, input_size, convolution):
        return native("backward_conv2d_direct")(A, weight, bias, input_size, *convolution)
    constants = _bias_constants(A, None if bias is None else bias[:, None, None])
    return contiguous((_transposed(A, weight, input_size, convolution), constants))


def _transposed(A: Tensor, weight: Tensor, input_size: Any, convolution: Any) -> Tensor:
    """Return the transposed convolution of A [K, B, S, C_out, H, W], on all of the convolution's input."""
    stride, padding, dilation, groups = convolution
    beyond = rows_beyond(input_size, A.shape[4:], weight, convolution)
    with full_precision():
        spread = functional.conv_transpose2d(A.flatten(0, 2), weight, None, stride, padding, beyond, groups, dilation)
    return spread.reshape(*A.shape[:3], *spread.shape[1:])


def _bias_constants(A: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return A.new_zeros(A.shape[:3], dtype=torch.float64)
    # The sums over a box of one point, which a kernel adds up in float64 as it reads A: nothing as large as A is made.
    point = bias.expand(A.shape[3:]).contiguous()[None]
    constants: Tensor = native("concretize")(A, point, point, *NO_BALL, 3 if A.shape[0] == 2 else 1)
    return constants


def _register_fakes() -> None:
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

    def relax_backward_linear_fused(A: Tensor, *rest: Any) -> Any:
        return relax_backward_linear(A, *rest)

    def relax_backward_conv2d(A: Tensor, *rest: Any) -> Any:
        weight, _, input_size, _, _, _, groups, _ = rest[RELAXATION_LENGTH:]
        return coefficients(A, weight, input_size, groups)

    def backward_conv2d_direct(A: Tensor, weight: Tensor, bias: Tensor | None, input_size: Any, *rest: Any) -> Any:
        return backward_conv2d(A, weight, bias, input_size, *rest)

    def backward_conv2d_direct_gradient(coefficients: Tensor, constants: Tensor, weight: Tensor, *rest: Any) -> Any:
        size = convolved_size(coefficients.shape, weight, rest[1:])
        return coefficients.new_empty((*coefficients.shape[:3], *size))

    for fake in (
        backward_linear,
        backward_conv2d,
        backward_conv2d_direct,
        backward_conv2d_direct_gradient,
        relax_backward_linear,
        relax_backward_linear_fused,
        relax_backward_conv2d,
    ):
        torch.library.register_fake(f"lbp::{fake.__name__}", fake)


def _register() -> None:
    register_composite("backward_linear", _backward_linear_composite)
    register_composite("backward_conv2d", _backward_conv2d_composite, devices=("CPU",))
    register_composite("relax_backward_linear", _relax_backward_linear_composite, devices=("CPU",))
    register_composite("relax_backward_linear", _relax_backward_linear_cuda, devices=("CUDA",))
    register_composite("relax_backward_conv2d", _relax_backward_conv2d_composite, devices=("CPU",))
    register_gradient("backward_linear", _backward_linear_backward, _save_affine)
    register_gradient("backward_conv2d", _backward_conv2d_backward, _save_affine)
    register_gradient("relax_backward_linear", _relaxed_affine_backward, _save_relaxed_affine)
    register_gradient("relax_backward_conv2d", _relaxed_affine_backward, _save_relaxed_affine)


if _native.missing is None:
    _register_fakes()
    _register()
