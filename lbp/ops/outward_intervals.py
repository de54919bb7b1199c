"""Intervals through affine layers, in parts: what rounds outward at no more cost than rounding to nearest.

Of an interval with center c and radius r the bounds `W c + b -/+ |W| r` are two products between two passes over
neurons. Where `r` grows in the first pass, and `|W| r` starts from a margin instead of zero, the products pay for all
rounding errors (docs/rounding.md, section 6). On CUDA devices all of it is one kernel that reads W once, wherever that
serves rounding to nearest too (`fused_convolution_pays`) and no gradient is wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lbp import _native
from lbp.backend import current_backend
from lbp.ops._arguments import native
from lbp.ops._convolution import Pair, conv2d, direct_convolution_pays, fused_convolution_pays
from lbp.precision import full_precision

SMALL_BATCH = 32 if _native.instruction_set() == "avx512" else 16
"""Up to this many examples the CPU kernel, which reads W once, beats the library's two products."""

FEW_NUMBERS = 2**15
"""Up to so many, two passes of PyTorch's take less time on a CPU than the call of a kernel: 18 us instead of 49."""

Interval = tuple[Tensor, Tensor]
Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Widening:
    """How far an interval is widened for what a sum over it rounds.

    Attributes:
        relative: the radius r around a center c grows by `relative (|c| + r)`; 0: not at all.
        absolute: and by this.
    """

    relative: float = 0.0
    absolute: float = 0.0


def split_interval(l: Tensor, u: Tensor, by: Widening = Widening()) -> Interval:
    """Return center and radius of intervals, the radius widened.

    Args:
        l: lower bounds, any shape.
        u: upper bounds, like l.
        by: how far.
    """
    if in_one_pass(l, u):
        if l.shape != u.shape:
            l, u = torch.broadcast_tensors(l, u)
        center, radius = native("split_interval")(l, u, by.relative, by.absolute)
        return center, radius
    center, radius = (u + l) / 2, (u - l) / 2
    if by.relative:
        with torch.no_grad():
            more = (center.abs() + radius) * by.relative + by.absolute
        radius = radius + more
    return center, radius


def join_interval(center: Tensor, radius: Tensor, *, outward: bool = False) -> Interval:
    """Return lower and upper bounds of intervals.

    Args:
        center: any shape.
        radius: like center.
        outward: whether an infinite lower bound above, or upper bound below, becomes NaN: partial sums of a finite
            number may overflow, so that it bounds nothing.
    """
    if not outward and center.is_cpu and center.numel() <= FEW_NUMBERS:
        return center - radius, center + radius
    if in_one_pass(center, radius):
        lower, upper = native("join_interval")(center, radius, outward)
        return lower, upper
    lower, upper = center - radius, center + radius
    if outward:
        lower = lower.masked_fill(lower == torch.inf, torch.nan)
        upper = upper.masked_fill(upper == -torch.inf, torch.nan)
    return lower, upper


def outward_interval_linear(
    l: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    by: Widening,
    margin: Tensor,
    product: Product,
    *,
    of_example: Tensor | None = None,
) -> Interval:
    """Bounds of `W x + b` for x in widened intervals, further apart by a margin.

    Args:
        l: lower bounds of the input [B, n_in].
        u: upper bounds, like l.
        weight: [n_out, n_in].
        bias: [n_out] or None.
        by: how far the input's intervals are widened.
        margin: [n_out], by which both bounds move outward; without gradient.
        product: returns x weight^T + offset for x [B, n_in], a weight like the given one and an offset [n_out] or None.
        of_example: [B], by which both bounds of an example move outward besides; None: by nothing.

    Returns:
        Lower and upper bounds [B, n_out]. Differentiable as `interval_linear` is: widening counts as the identity.
    """
    fused = in_one_pass(l, u, weight, bias)
    if fused and has_fused_products(weight):
        l, u = torch.broadcast_tensors(l, u)
        outward = (by.relative, by.absolute, margin, of_example)
        lower, upper = native("interval_linear_outward")(l, u, weight, bias, *outward)
        return lower, upper
    center, radius = split_interval(l, u, by)
    if fused and l.shape[0] <= SMALL_BATCH:
        lower, upper = native("interval_linear_small_batch")(center, radius, weight, bias, margin, of_example)
        return lower, upper
    center, radius = product(center, weight, bias), product(radius, weight.abs(), margin)
    return join_interval(center, _plus(radius, of_example), outward=True)


def short_products(center: Tensor, radius: Tensor, weight: Tensor) -> Interval | None:
    """Return `W c` and `|W| r` [B, n_out] of few examples from one read of W, or None where no kernel does that.

    No sum rounds more often than one in blocks (`lbp.rounding.blocked_terms`).

    Args:
        center: c [B, n_in].
        radius: r, like center.
        weight: [n_out, n_in].
    """
    few = center.shape == radius.shape and 2 * len(center) <= SMALL_BATCH
    if not (few and weight.is_cpu and in_one_pass(center, radius, weight)):
        return None
    # Of examples without a radius, or without a center, the upper bound is the one product.
    none = torch.zeros_like(center)
    _, ends = native("interval_linear_small_batch")(torch.cat([center, none]), torch.cat([none, radius]), weight, None)
    at_center, spread = ends.chunk(2)
    return at_center, spread


def outward_interval_conv2d(
    l: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    by: Widening,
    margin: Tensor,
    *,
    of_example: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Interval:
    """Bounds of a convolution over widened intervals, further apart by a margin [C_out], and one of examples [B].

    See `outward_interval_linear`, and `lbp.ops.interval_conv2d` for the other arguments.
    """
    convolution = (stride, padding, dilation, groups)
    if in_one_pass(l, u, weight, bias):
        l, u = torch.broadcast_tensors(l, u)
        if has_fused_products(weight) and fused_convolution_pays(weight, groups):
            outward = (by.relative, by.absolute, margin, of_example)
            lower, upper = native("interval_conv2d_outward")(l, u, weight, bias, *outward, *convolution)
            return lower, upper
        if direct_convolution_pays(l, weight, convolution, of_bounds=True):
            widened = (margin, of_example, by.relative, by.absolute)
            lower, upper = native("interval_conv2d_direct")(l, u, weight, bias, *widened, True, *convolution)
            return lower, upper
    center, radius = split_interval(l, u, by)
    with full_precision():
        center = conv2d(center, weight, bias, stride, padding, dilation, groups)
        radius = conv2d(radius, weight.abs(), margin, stride, padding, dilation, groups)
    return join_interval(center, _plus(radius, of_example), outward=True)


def _plus(radius: Tensor, of_example: Tensor | None) -> Tensor:
    return radius if of_example is None else radius + of_example.reshape(-1, *[1] * (radius.dim() - 1))


def has_fused_products(weight: Tensor) -> bool:
    """Whether intervals through layers are single kernels where a weight lies."""
    return weight.is_cuda


def in_one_pass(*tensors: Tensor | None) -> bool:
    """Whether there is a kernel, which autograd does not see into."""
    if current_backend() == "reference" or torch._C._are_functorch_transforms_active():
        return False
    for tensor in tensors:
        if tensor is None:
            continue
        if not (tensor.is_cpu or (tensor.is_cuda and _native.cuda_build != "none")):
            return False
        if tensor.requires_grad and torch.is_grad_enabled():
            return False
    return True
