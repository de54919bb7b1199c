"""Fully connected layers."""

from __future__ import annotations

import math
import operator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lbp import ops
from lbp.graph.base import BackwardStep, BoundNode, Ends, Relaxations
from lbp.graph.conv import Conv2dNode, Geometry
from lbp.graph.registry import REQUIRED, Call, for_functions, for_modules
from lbp.graph.shape import PermuteNode, ReshapeNode
from lbp.graph.values import Expression, Literal, Value
from lbp.graph.window_steps import through_linear
from lbp.linear import (
    Coefficients,
    DenseCoefficients,
    ForwardBounds,
    IdentityCoefficients,
    Interval,
    PendingRelaxation,
    WindowRows,
    to_dense,
)
from lbp.ops._product import linear
from lbp.ops.forward_windows import accumulated_terms
from lbp.ops.interval import rows_at_once
from lbp.ops.norms import dual_norm
from lbp.ops.outward_intervals import (
    SMALL_BATCH,
    Widening,
    has_fused_products,
    outward_interval_linear,
    short_products,
)
from lbp.precision import full_precision
from lbp.rounding import BLOCK, Roundings, blocked_terms, magnitude_of, sum_in_blocks

NORM_ENTRIES = 2**12
"""Entries of a weight, in whole rows, of which dual norms are taken at a time; four copies of them are made."""


class LinearNode(BoundNode):
    """`W x + b`.

    Attributes:
        weight: reads the present weight [n_out, n_in].
        bias: reads the present bias [n_out], or None.
    """

    def __init__(self, name: str, source: BoundNode, shape: tuple[int, ...], weight: Value, bias: Value) -> None:
        super().__init__(name, (source,), shape)
        self.weight = weight
        self.bias = bias

    takes_windows = True

    def parameters(self) -> tuple[Tensor, Tensor | None]:
        """Return the present weight and bias."""
        return self.weight.read(), self.bias.read()

    def row_norms(self, diagonal: Tensor, p: float) -> Tensor:
        """Return the dual norms [n_out] of the rows of `W diag(diagonal)`, diagonal [n_in]."""
        weight = self.parameters()[0]
        rows = max(NORM_ENTRIES // max(weight.shape[1], 1), 1)
        return torch.cat([dual_norm(part * diagonal, p, 1) for part in weight.split(rows)])

    def norm_numbers(self) -> int:
        """Return how many numbers `row_norms` makes of the weight at a time."""
        weight: Tensor = self.weight.read()
        return 4 * min(weight.numel(), max(NORM_ENTRIES, weight.shape[1]))

    def interval_numbers(self, batch: int, *, outward: bool) -> int:
        """Return how many numbers intervals of so many examples make of the weight at a time."""
        weight: Tensor = self.weight.read()
        if batch <= SMALL_BATCH or has_fused_products(weight):
            return 0
        return weight.numel() if outward else rows_at_once(weight) * weight.shape[1]

    def outward_numbers(self) -> int:
        """Return how many numbers outward intervals of one example leave in scratch memory: parts of long sums."""
        weight = self.weight.read()
        parts = -(-weight.shape[1] // BLOCK)
        return 2 * parts * weight.shape[0] if has_fused_products(weight) and parts > 1 else 0

    def value(self, x: Tensor) -> Tensor:
        """Return the layer's value at x [B, n_in]."""
        with full_precision():
            return linear(x, *self.parameters())

    def interval(self, *inputs: Interval) -> Interval:
        return ops.interval_linear(*inputs[0], *self.parameters())

    def roundings(self, dtype: torch.dtype) -> Roundings:
        weight, bias = self.weight.read(), self.bias.read()
        outputs, inputs = weight.shape
        # One more rounding: that of center -/+ radius.
        shift = None if bias is None else bias.detach().abs()
        return Roundings(blocked_terms(inputs), outputs, value=1, shift=shift, any_order=inputs)

    def magnitude(self, *inputs: Tensor) -> Tensor:
        (size,) = inputs
        # The radius of an interval around 0: for few examples W is read once and not copied.
        return ops.interval_linear(-size, size, self.parameters()[0].detach(), None)[1]

    def weight_sums(self) -> tuple[Tensor, ...]:
        # The l_2 norms of the rows [n_out].
        weight = self.parameters()[0].detach()
        return (torch.linalg.vector_norm(weight, dim=1) + norms_lost(weight),)

    def magnitude_at_most(self, *inputs: Ends, sums: tuple[Tensor, ...]) -> Tensor:
        # By the inequality of Cauchy and Schwarz, on inputs of which the largest is 1.
        size, (norms,) = magnitude_of(inputs[0]), sums
        if size.shape[1] == 0:
            return size.new_zeros(size.shape[0], *self.shape)
        largest = size.amax(1, keepdim=True)
        of_inputs: Tensor = largest * torch.linalg.vector_norm(size / largest, dim=1, keepdim=True)
        return of_inputs * norms

    def outward_interval(
        self, *inputs: Interval, by: Widening, margin: Tensor, of_example: Tensor | None = None
    ) -> Interval:
        weight, bias = self.parameters()
        margin = margin.expand(self.shape)
        return outward_interval_linear(*inputs[0], weight, bias, by, margin, _sum_in_blocks, of_example=of_example)

    def forward_linear(self, *inputs: ForwardBounds, relaxations: Relaxations) -> ForwardBounds:
        (b,) = inputs
        windows = b.windows
        if windows is None:
            return ForwardBounds(*ops.forward_linear(*b.matrices, *self.parameters()))
        matrices = ops.forward_linear_windows(
            *b.on_windows(windows),
            *self.parameters(),
            image=windows.image,
            scale=windows.scale,
            offset=windows.offset,
        )
        return ForwardBounds(*matrices)

    def forward_terms(self, *inputs: ForwardBounds) -> int:
        terms = blocked_terms(self.inputs[0].size) + 1
        windows = inputs[0].windows
        return terms if windows is None else max(terms, accumulated_terms(windows.layer))

    def short_forward_linear(self, *inputs: ForwardBounds, relaxations: Relaxations) -> ForwardBounds:
        (b,) = inputs
        weight, bias = self.parameters()
        if weight.shape[1] <= BLOCK:
            return self.forward_linear(b, relaxations=relaxations)
        center_bias, radius_bias = _constants_in_blocks(b, weight)
        center_bias = center_bias if bias is None else center_bias + bias
        if b.windows is not None:
            # The op adds up the entries of windows in short sums of its own.
            rows = self.forward_linear(
                replace(b, center_bias=torch.zeros_like(b.center_bias[:1]), radius_bias=None), relaxations=relaxations
            )
            return ForwardBounds(rows.center, rows.radius, center_bias, radius_bias)
        center = _product_in_blocks(b.center, weight)
        radius = None if b.radius is None else _product_in_blocks(b.radius, weight, magnitude=True)
        return ForwardBounds(center, radius, center_bias, radius_bias)

    def backward_linear(self, coefficients: Coefficients | WindowRows, relaxations: Relaxations) -> BackwardStep:
        weight, bias = self.parameters()
        if isinstance(coefficients, WindowRows):
            return through_linear(coefficients, weight, bias, self.inputs[0].shape)
        if isinstance(coefficients, IdentityCoefficients):
            rows = slice(coefficients.start, coefficients.stop)
            identity_constants = None if bias is None else bias[rows].double()[None, None]
            return (DenseCoefficients(weight[rows][None, None]),), identity_constants
        if isinstance(coefficients, PendingRelaxation):
            A, constants = ops.relax_backward_linear(
                coefficients.expanded(),
                coefficients.lower,
                coefficients.upper,
                weight,
                bias,
                sides=coefficients.sides,
                **coefficients.relaxation,
            )
        else:
            A, constants = ops.backward_linear(to_dense(coefficients)[0].A, weight, bias)
        return (DenseCoefficients(A),), constants


def norms_lost(weight: Tensor) -> float:
    """Return how much the l_2 norm of a row may lose: of n squares below the normal range n times its end."""
    return 2 * math.sqrt(weight.shape[1] * torch.finfo(weight.dtype).tiny)


def _sum_in_blocks(values: Tensor, weight: Tensor, offset: Tensor | None) -> Tensor:
    """Return `values weight^T + offset`, its sums added up in blocks."""
    product = _product_in_blocks(values, weight)
    return product if offset is None else product + offset


def _constants_in_blocks(bounds: ForwardBounds, weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return `W c` and `|W| s` for the constants of forward bounds, their sums added up in blocks."""
    center, radius = bounds.center_bias.flatten(1), bounds.radius_bias
    if radius is None:
        return _product_in_blocks(center, weight), None
    radius = radius.flatten(1)
    few = short_products(center, radius, weight)
    return few or (_product_in_blocks(center, weight), _product_in_blocks(radius, weight, magnitude=True))


def _product_in_blocks(values: Tensor, weight: Tensor, *, magnitude: bool = False) -> Tensor:
    """Return values [..., n_in] times the weight [n_out, n_in], or its magnitude, their sums added up in blocks."""

    def part(block: slice) -> Tensor:
        of_block = weight[:, block]
        return linear(values[..., block], of_block.abs() if magnitude else of_block)

    with full_precision():
        return sum_in_blocks(weight.shape[1], part)


def make_linear(name: str, source: BoundNode, shape: tuple[int, ...], weight: Value, bias: Value) -> BoundNode:
    """Return the node of a linear layer; on inputs [B, *positions, n_in] it is a convolution with a 1x1 kernel.

    Args:
        name: of the node.
        source: the input [B, *positions, n_in].
        shape: [*positions, n_out].
        weight: [n_out, n_in].
        bias: [n_out] or None.
    """
    if len(shape) == 1:
        return LinearNode(name, source, shape, weight, bias)
    positions, n_in, n_out = shape[:-1], source.shape[-1], shape[-1]
    count = torch.Size(positions).numel()
    flat = ReshapeNode(f"{name}/positions", source, (count, n_in))
    channels = PermuteNode(f"{name}/channels_first", flat, (1, 0))
    image = ReshapeNode(f"{name}/image", channels, (n_in, count, 1))
    kernel = Expression(_as_kernel, (weight,))
    result = Conv2dNode(f"{name}/linear", image, (n_out, count, 1), kernel, bias, Geometry())
    rows = ReshapeNode(f"{name}/rows", result, (n_out, count))
    return ReshapeNode(name, PermuteNode(f"{name}/channels_last", rows, (1, 0)), shape)


def _as_kernel(weight: Tensor) -> Tensor:
    return weight[:, :, None, None]


@for_modules(nn.Linear)
def _linear_module(call: Call) -> BoundNode:
    weight, bias = call.attribute("weight"), call.attribute("bias")
    return make_linear(call.name, call.node(call.operand()), call.shape, weight, bias)


@for_functions(functional.linear)
def _linear_function(call: Call) -> BoundNode:
    args = call.bind(input=REQUIRED, weight=REQUIRED, bias=None)
    source, weight, bias = call.node(args["input"]), call.value(args["weight"]), call.value(args["bias"])
    # PyTorch also takes a vector as the weight, and broadcasts a bias.
    shape, bias_shape = (None if value.read() is None else list(value.read().shape) for value in (weight, bias))
    if shape is None or len(shape) != 2 or bias_shape not in (None, shape[:1]):
        raise call.refuse(
            f"has a weight of shape {shape} and a bias of shape {bias_shape}; give it a weight [n_out, n_in] and a "
            "bias [n_out], by unsqueeze or expand"
        )
    return make_linear(call.name, source, call.shape, weight, bias)


@for_functions(operator.matmul, torch.matmul, torch.mm, "matmul", "mm")
def _product(call: Call) -> BoundNode:
    args = call.bind(input=REQUIRED, other=REQUIRED)
    first, second = args["input"], args["other"]
    if call.is_bound(first) and call.is_bound(second):
        raise call.refuse("multiplies two values that both depend on the input")
    if not call.is_bound(first):
        return _matrix_times(call, first, second)
    weight, rank = call.value(second), call.rank_of(first)
    dims = weight.read().dim()
    if rank < 2 or dims > 2 or (dims == 1 and rank > 2):
        raise call.refuse(
            f"multiplies a tensor of {rank} dimensions by one of {dims}; a matrix on the right is supported"
        )
    rows = Expression(torch.t if dims == 2 else _as_row, (weight,))
    return make_linear(call.name, call.node(first), call.shape, rows, Literal(None))


def _matrix_times(call: Call, matrix: Any, operand: Any) -> BoundNode:
    """Return the node of `W x` for a matrix W and x [B, *others, n_in, columns]."""
    weight, source = call.value(matrix), call.node(operand)
    rank, dims = call.rank_of(operand), weight.read().dim()
    if rank < 3 or dims != 2:
        raise call.refuse(
            f"multiplies a constant of {dims} dimensions by a tensor of {rank}; a matrix on the left is supported for "
            "[B, n, columns], and x @ W.T for [B, n]"
        )
    last, shape = rank - 2, call.shape
    order = (*range(last - 1), last, last - 1)
    turned = PermuteNode(f"{call.name}/turned", source, order)
    product = make_linear(f"{call.name}/product", turned, tuple(shape[i] for i in order), weight, Literal(None))
    return PermuteNode(call.name, product, order)


@for_functions(torch.addmm)
def _addmm(call: Call) -> BoundNode:
    args = call.bind(input=REQUIRED, mat1=REQUIRED, mat2=REQUIRED, beta=1, alpha=1)
    bias, weight = call.value(args["input"]), call.value(args["mat2"])
    shape, factors = list(bias.read().shape), [call.static(args[name]) for name in ("beta", "alpha")]
    if factors != [1, 1] or shape != list(call.shape):
        raise call.refuse(
            f"adds a constant of shape {shape} with the factors {factors}; a bias {list(call.shape)} without factors "
            "is supported"
        )
    rows = Expression(torch.t, (weight,))
    return make_linear(call.name, call.node(args["mat1"]), call.shape, rows, bias)


def _as_row(vector: Tensor) -> Tensor:
    return vector[None]
