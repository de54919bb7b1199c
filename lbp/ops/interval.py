"""Intervals through Linear and Conv2d layers (IBP).

On the CPU these ops are a pass of the kernels, or the library's products and convolutions in full precision; on CUDA
devices they are fused products (csrc/cuda/launch_products.h).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lbp import _native, reference
from lbp.backend import current_backend
from lbp.ops._arguments import contiguous, native, register_composite, register_gradient
from lbp.ops._convolution import (
    Convolution,
    Pair,
    conv2d,
    convolution_and_bias_gradients,
    convolution_gradients,
    convolved_size,
    direct_convolution_pays,
    direct_transposed_pays,
    direct_weight_gradient_pays,
    enough_of_ends,
    fused_convolution_pays,
    keywords_of,
    pairs_pay,
)
from lbp.ops._product import linear, matmul, split_product_bytes
from lbp.ops.outward_intervals import FEW_NUMBERS, SMALL_BATCH, Interval, in_one_pass, join_interval, split_interval
from lbp.precision import full_precision

BLOCK_ENTRIES = 2**20
"""Entries of a weight whose magnitudes, signs and gradients are made at a time on the CPU ..."""

BLOCK_ROWS = 256
"""... or so many rows, with fewer of which the library's products are slower, but for few examples."""


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
    if l.shape != u.shape:
        l, u = torch.broadcast_tensors(l, u)
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
    convolution = (stride, padding, dilation, groups)
    if current_backend() == "reference":
        return reference.interval_conv2d(l, u, weight, bias, **keywords_of(convolution))
    if l.shape != u.shape:
        l, u = torch.broadcast_tensors(l, u)
    lower, upper = native("interval_conv2d")(l, u, weight, bias, *convolution)
    return lower, upper


_EXAMPLES_IN_ONE_LAUNCH = 4
"""So many, over inputs of which a thread adds up one block, take no scratch memory (csrc/cuda/affine_linear.cu)."""


def interval_linear_bytes(weight: Tensor, examples: int, rows: int = 0) -> int:
    """Return the most bytes of scratch memory of intervals, and of forward bounds, through a Linear layer.

    Args:
        weight: [n_out, n_in].
        examples: of intervals, at most.
        rows: of forward bounds, at most.
    """
    if not weight.is_cuda:
        return 0
    outputs, inputs = weight.shape
    few = examples <= _EXAMPLES_IN_ONE_LAUNCH and inputs <= 2**17
    return split_product_bytes(outputs, inputs, weight.itemsize, sums=2, rows=max(0 if few else examples, rows))


def interval_conv2d_bytes(weight: Tensor, groups: int, positions: int, examples: int) -> int:
    """Return the most bytes of scratch memory of intervals, and of forward bounds, through a Conv2d layer.

    Args:
        weight: [C_out, C_in / groups, kh, kw].
        groups: number of groups.
        positions: rows times columns of the output.
        examples: of intervals, or rows of forward bounds, at most.
    """
    if not weight.is_cuda:
        return 0
    depth, itemsize = weight[0].numel(), weight.itemsize
    fused = split_product_bytes(weight.shape[0] // groups, depth, itemsize, sums=2, rows=examples * positions)
    if fused_convolution_pays(weight, groups):
        return fused
    # The library unfolds the input of intervals, image by image, and takes |W|.
    return max(fused, (depth * positions + weight.numel()) * itemsize)


def _save_interval(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    l, u, weight, _, *convolution = inputs
    ctx.save_for_backward(l, u, weight)
    ctx.convolution = tuple(convolution)


def _interval_linear_backward(ctx: Any, lower: Tensor, upper: Tensor) -> tuple[Tensor | None, ...]:
    l, u, weight = ctx.saved_tensors
    shape = l.shape
    if len(shape) != 2:
        l, u, lower, upper = (ends.flatten(0, -2) for ends in (l, u, lower, upper))
    need_l, need_u, need_weight, need_bias = ctx.needs_input_grad
    if need_l and need_u and need_weight and _gradient_kernel_pays(lower, upper, l, u, weight):
        gradients = native("interval_linear_small_batch_gradient")(lower, upper, l, u, weight)
        to_l, to_u = (to_end.reshape(shape) for to_end in gradients[:2])
        return to_l, to_u, gradients[2], (lower + upper).sum(0) if need_bias else None
    # Half of the gradients with respect to center and radius of the result.
    to_center, to_radius = split_interval(lower, upper)
    to_l, to_u, to_weight = None, None, None
    if need_l or need_u:
        to_l, to_u = join_interval(matmul(to_center, weight), _times_magnitude(to_radius, weight))
        if len(shape) != 2:
            to_l, to_u = to_l.reshape(shape), to_u.reshape(shape)
    if need_weight:
        # Twice the center and radius of the input, as those of the result's gradients are half of theirs.
        to_weight = _interval_weight_gradient(to_center, to_radius, l + u, u - l, weight)
    return to_l, to_u, to_weight, to_center.sum(0) * 2 if need_bias else None


_FEW_EXAMPLES = {"avx512": 128, "avx2": 16}.get(_native.instruction_set(), 4)
"""Up to so many examples one pass over a weight and its gradient beats the library's four products and what is between
them. Of two threads it takes 0.15 to 0.45 of the time for up to 32 examples, 0.8 for 128; on half as wide vectors as
the library's 0.2 to 1 for up to 16 ..."""

_LITTLE_WORK = 2**20
"""... or up to so many multiply-adds for the result, as in a network's last layer: 0.2 to 0.6."""


def _gradient_kernel_pays(lower: Tensor, upper: Tensor, l: Tensor, u: Tensor, weight: Tensor) -> bool:
    if not (weight.is_cpu and in_one_pass(lower, upper, l, u, weight)):
        return False
    return len(l) <= _FEW_EXAMPLES or len(l) * weight.numel() <= _LITTLE_WORK


def _times_magnitude(rows: Tensor, weight: Tensor) -> Tensor:
    """Return `rows |weight|`, rows [N, n_out]."""
    first, *rest = _row_blocks(weight, len(rows))
    if not rest:
        return matmul(rows, weight.abs())
    product = matmul(rows[:, first], weight[first].abs())
    for block in rest:
        product = product.add_(matmul(rows[:, block], weight[block].abs()))
    return product


def _interval_weight_gradient(
    to_center: Tensor, to_radius: Tensor, center: Tensor, radius: Tensor, weight: Tensor
) -> Tensor:
    """Return `to_center^T center + sign(weight) * (to_radius^T radius)`."""
    if torch.is_grad_enabled():
        return matmul(to_center.mT, center) + weight.sign() * matmul(to_radius.mT, radius)
    blocks = _row_blocks(weight, len(center))
    if len(blocks) == 1:
        return matmul(to_center.mT, center).addcmul_(matmul(to_radius.mT, radius), weight.sign())
    result = torch.empty_like(weight)
    for block in blocks:
        if len(center) == 1:  # the products of two vectors: the library's matrix products take twice as long
            of_block = torch.mul(to_radius[0, block, None], radius, out=result[block])
            of_block.mul_(weight[block].sign()).addcmul_(to_center[0, block, None], center)
            continue
        through_center, through_radius = (
            matmul(to_end[:, block].mT, end) for to_end, end in ((to_center, center), (to_radius, radius))
        )
        torch.addcmul(through_center, through_radius, weight[block].sign(), out=result[block])
    return result


def rows_at_once(weight: Tensor, examples: int | None = None) -> int:
    """Return how many rows [n_out, n_in] of a weight are worked on at a time; what is made of them stays in a cache.

    Args:
        weight: a matrix.
        examples: how many rows [B, n_in] it is multiplied with; None: of any number the most.
    """
    outputs, inputs = weight.shape
    if weight.device.type != "cpu":
        return outputs
    least = BLOCK_ROWS if examples is None or examples > SMALL_BATCH else 1
    return min(max(BLOCK_ENTRIES // max(inputs, 1), least), outputs)


def _row_blocks(weight: Tensor, examples: int) -> list[slice]:
    if weight.numel() <= BLOCK_ENTRIES:
        return [slice(None)]
    rows = max(rows_at_once(weight, examples), 1)
    return [slice(first, first + rows) for first in range(0, max(weight.shape[0], 1), rows)]


def _interval_conv2d_backward(ctx: Any, lower: Tensor, upper: Tensor) -> tuple[Tensor | None, ...]:
    l, u, weight = ctx.saved_tensors
    need_ends, need_weight = ctx.needs_input_grad[0] or ctx.needs_input_grad[1], ctx.needs_input_grad[2]
    need_bias = ctx.needs_input_grad[3]
    to_l, to_u, to_weight, to_bias = None, None, None, None
    # What the kernels compute has no gradient itself.
    if not torch.is_grad_enabled():
        enough = enough_of_ends(ctx.convolution)
        if need_ends and direct_transposed_pays(lower, weight, l.shape[2:], ctx.convolution, enough=enough):
            transposed = native("interval_conv2d_input_gradient")
            to_l, to_u = transposed(lower, upper, weight, l.shape[2:], True, *ctx.convolution)
            need_ends = False
        if need_weight and direct_weight_gradient_pays(l, weight, ctx.convolution, alone=not need_ends):
            to_weight = native("conv2d_weight_gradient")(lower, upper, l, u, weight, True, *ctx.convolution)
            need_weight = False
    if need_bias and not need_weight:
        to_bias, need_bias = (lower + upper).sum((0, 2, 3)), False
    if need_ends or need_weight:
        needs = (need_ends, need_weight, need_bias)
        ends, through_weight, through_bias = _interval_conv2d_gradients(ctx, lower, upper, needs)
        to_l, to_u = (to_l, to_u) if ends is None else ends
        to_weight = to_weight if through_weight is None else through_weight
        to_bias = to_bias if through_bias is None else through_bias
    return to_l, to_u, to_weight, to_bias, None, None, None, None


def _interval_conv2d_gradients(
    ctx: Any, lower: Tensor, upper: Tensor, needs: tuple[bool, bool, bool]
) -> tuple[Interval | None, Tensor | None, Tensor | None]:
    """Return the gradients by both ends of the input, by the weight and by the bias, of library convolutions."""
    l, u, weight = ctx.saved_tensors
    # Half of the gradients with respect to center and radius of the result. That of the weight takes twice the center
    # and radius of the input or, where one pass over many numbers saves more than it costs, is doubled itself.
    to_ends = split_interval(lower, upper)
    few = l.numel() <= FEW_NUMBERS
    ends = (l + u, u - l) if few else split_interval(l, u)
    gradients = _pair_gradients if pairs_pay(l, weight, ctx.convolution[3]) else _gradients_in_turn
    inputs, through, to_bias = gradients(to_ends, ends, weight, ctx.convolution, needs)
    to_weight = None if through is None else torch.addcmul(through[0], weight.sign(), through[1])
    if to_weight is not None and not few:
        to_weight = to_weight * 2
    return None if inputs is None else join_interval(*inputs), to_weight, None if to_bias is None else to_bias * 2


def _gradients_in_turn(
    to_ends: Interval, ends: Interval, weight: Tensor, convolution: Convolution, needs: tuple[bool, bool, bool]
) -> tuple[Interval | None, Interval | None, Tensor | None]:
    """Return the gradients by center and radius of the input, by the weights of both, and by the bias."""
    center, through_center, to_bias = convolution_and_bias_gradients(to_ends[0], ends[0], weight, convolution, needs)
    radius, through_radius = convolution_gradients(to_ends[1], ends[1], weight.abs(), convolution, needs[:2])
    return _both(center, radius), _both(through_center, through_radius), to_bias


def _pair_gradients(
    to_ends: Interval, ends: Interval, weight: Tensor, convolution: Convolution, needs: tuple[bool, bool, bool]
) -> tuple[Interval | None, Interval | None, Tensor | None]:
    """Return those of `_gradients_in_turn` by one convolution in two groups."""
    both = torch.cat((weight, weight.abs()))
    inputs, through, to_bias = convolution_and_bias_gradients(
        torch.cat(to_ends, 1), torch.cat(ends, 1), both, (*convolution[:3], 2), needs
    )
    return _halves(inputs, 1), _halves(through, 0), None if to_bias is None else to_bias[: weight.shape[0]]


def _both(first: Tensor | None, second: Tensor | None) -> Interval | None:
    return None if first is None or second is None else (first, second)


def _halves(both: Tensor | None, dimension: int) -> Interval | None:
    if both is None:
        return None
    first, second = both.chunk(2, dimension)
    return first, second


def _interval_linear_cpu(l: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
    middle, half = split_interval(l, u)
    if middle.dim() == 2 and middle.shape[0] <= SMALL_BATCH:
        lower, upper = native("interval_linear_small_batch")(middle, half, weight, bias)
        return lower, upper
    with full_precision():
        center = linear(middle, weight, bias)
        parts = [linear(half, weight[rows].abs()) for rows in _row_blocks(weight, middle.shape[0])]
        radius = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
    return join_interval(center, radius)


def _interval_conv2d_cuda(l: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None, *convolution: Any) -> Any:
    if fused_convolution_pays(weight, convolution[3]):
        return native("interval_conv2d_fused")(l, u, weight, bias, *convolution)
    return _interval_conv2d_composite(l, u, weight, bias, *convolution)


def _interval_conv2d_composite(l: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None, *convolution: Any) -> Any:
    if direct_convolution_pays(l, weight, convolution, of_bounds=True):
        lower, upper = native("interval_conv2d_direct")(l, u, weight, bias, None, None, 0.0, 0.0, True, *convolution)
        return lower, upper
    center, radius = split_interval(l, u)
    with full_precision():
        center = conv2d(center, weight, bias, *convolution)
        radius = conv2d(radius, weight.abs(), None, *convolution)
    return contiguous(join_interval(center, radius))


def _register() -> None:
    def interval_linear(l: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
        return tuple(l.new_empty((*l.shape[:-1], weight.shape[0])) for _ in range(2))

    def interval_conv2d(l: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None, *convolution: Any) -> Any:
        return tuple(l.new_empty((l.shape[0], *convolved_size(l.shape, weight, convolution))) for _ in range(2))

    def interval_conv2d_fused(l: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None, *convolution: Any) -> Any:
        return interval_conv2d(l, u, weight, bias, *convolution)

    def interval_linear_outward(l: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None, *outward: Any) -> Any:
        return interval_linear(l, u, weight, bias)

    def interval_conv2d_outward(l: Tensor, u: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Any:
        _, _, _, _, *convolution = rest
        return interval_conv2d(l, u, weight, bias, *convolution)

    def interval_conv2d_direct(first: Tensor, second: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Any:
        return interval_conv2d(first, second, weight, bias, *rest[5:])

    def interval_conv2d_input_gradient(
        first: Tensor, second: Tensor, weight: Tensor, input_size: Any, of_ends: bool, *convolution: Any
    ) -> Any:
        shape = (first.shape[0], weight.shape[1] * convolution[3], *input_size)
        return tuple(first.new_empty(shape) for _ in range(2))

    def conv2d_weight_gradient(
        first_gradient: Tensor, second_gradient: Any, first: Tensor, second: Any, weight: Tensor, *rest: Any
    ) -> Tensor:
        return weight.new_empty(weight.shape)

    def interval_linear_small_batch_gradient(lower: Tensor, upper: Tensor, l: Tensor, u: Tensor, weight: Tensor) -> Any:
        return tuple(like.new_empty(like.shape) for like in (l, l, weight))

    def split_interval(l: Tensor, u: Tensor, relative: float, absolute: float) -> Any:
        return tuple(l.new_empty(l.shape) for _ in range(2))

    def join_interval(center: Tensor, radius: Tensor, outward: bool) -> Any:
        return tuple(center.new_empty(center.shape) for _ in range(2))

    outward = (interval_linear_outward, interval_conv2d_outward)
    of_gradients = (interval_linear_small_batch_gradient, interval_conv2d_input_gradient, conv2d_weight_gradient)
    parts = (interval_conv2d_fused, interval_conv2d_direct, split_interval, join_interval, *of_gradients)
    for fake in (interval_linear, interval_conv2d, *outward, *parts):
        torch.library.register_fake(f"lbp::{fake.__name__}", fake)
    register_composite("interval_linear", _interval_linear_cpu, devices=("CPU",))
    register_composite("interval_conv2d", _interval_conv2d_composite, devices=("CPU",))
    register_composite("interval_conv2d", _interval_conv2d_cuda, devices=("CUDA",))
    register_gradient("interval_linear", _interval_linear_backward, _save_interval)
    register_gradient("interval_conv2d", _interval_conv2d_backward, _save_interval)


if _native.missing is None:
    _register()
