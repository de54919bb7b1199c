"""Nodes with several inputs: sums and concatenations."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lbp.graph.base import BackwardStep, BoundNode, Relaxations
from lbp.graph.conv import channels_rows_columns
from lbp.graph.elementwise import constant_operand, scaled_and_shifted
from lbp.graph.registry import REQUIRED, Call, for_functions
from lbp.graph.shape import ReshapeNode, expand_to
from lbp.graph.values import Expression, Literal, Value
from lbp.graph.window_steps import through_concatenation, through_sum
from lbp.linear import (
    Coefficients,
    DenseCoefficients,
    ForwardBounds,
    InputWindows,
    Interval,
    ReceptiveField,
    WindowRows,
    aligned,
    common_windows,
    to_dense,
)
from lbp.rounding import EXACT, Roundings


class SumNode(BoundNode):
    """`first + weight * second` of two values that depend on the input.

    Attributes:
        weight: a number.
    """

    takes_windows = True

    def __init__(self, name: str, first: BoundNode, second: BoundNode, weight: float) -> None:
        super().__init__(name, (first, second), first.shape)
        self.weight = weight

    def receptive_field(self) -> ReceptiveField | None:
        return ReceptiveField.identity()

    def interval(self, *inputs: Interval) -> Interval:
        (l1, u1), (l2, u2) = inputs
        low, high = (l2, u2) if self.weight >= 0 else (u2, l2)
        return l1 + self._weighted(low), u1 + self._weighted(high)

    def roundings(self, dtype: torch.dtype) -> Roundings:
        # The weight is a number, rounded to the network's dtype.
        weighted = int(self.weight not in (1, -1))
        return Roundings(forward=2, backward=weighted, weights=weighted, value=1)

    def magnitude(self, *inputs: Tensor) -> Tensor:
        first, second = inputs
        return first + second * abs(self.weight)

    def windows_above(self, *inputs: InputWindows | None) -> InputWindows | None:
        return common_windows(inputs)

    def forward_linear(self, *inputs: ForwardBounds, relaxations: Relaxations) -> ForwardBounds:
        first, second = aligned(inputs)
        size = abs(self.weight)
        return ForwardBounds(
            first.center + self._weighted(second.center),
            _sum_of_radii(first.radius, second.radius, size),
            first.center_bias + self._weighted(second.center_bias),
            _sum_of_radii(first.radius_bias, second.radius_bias, size),
            first.windows,
        )

    def backward_linear(self, coefficients: Coefficients | WindowRows, relaxations: Relaxations) -> BackwardStep:
        if isinstance(coefficients, WindowRows):
            return through_sum(coefficients, self.weight)
        dense, constants = to_dense(coefficients)
        return (dense, DenseCoefficients(self._weighted(dense.A))), constants

    def _weighted(self, values: Tensor) -> Tensor:
        return values if self.weight == 1 else values * self.weight


def _sum_of_radii(first: Tensor | None, second: Tensor | None, size: float) -> Tensor | None:
    scaled = second if second is None or size == 1 else second * size
    if scaled is None or first is None:
        return first if scaled is None else scaled
    return first + scaled


class ConcatNode(BoundNode):
    """Values of several nodes one after the other.

    Attributes:
        dim: the dimension, not counting the batch.
    """

    mixes = False

    def __init__(self, name: str, sources: tuple[BoundNode, ...], shape: tuple[int, ...], dim: int) -> None:
        super().__init__(name, sources, shape)
        self.dim = dim
        self.takes_windows = dim == 0

    def receptive_field(self) -> ReceptiveField | None:
        return ReceptiveField.identity() if self.dim == 0 else None

    def interval(self, *inputs: Interval) -> Interval:
        lower, upper = zip(*inputs, strict=True)
        return self._joined(list(lower), 1), self._joined(list(upper), 1)

    def roundings(self, dtype: torch.dtype) -> Roundings:
        return EXACT

    def magnitude(self, *inputs: Tensor) -> Tensor:
        return self._joined(list(inputs), 1)

    def windows_above(self, *inputs: InputWindows | None) -> InputWindows | None:
        # Windows stay where channels of images are concatenated.
        layers = [None if windows is None else windows.layer for windows in inputs]
        common = common_windows(inputs)
        if common is None or self.dim != 0 or layers != [source.shape for source in self.inputs]:
            return None
        return replace(common, layer=channels_rows_columns(self.shape))

    def forward_linear(self, *inputs: ForwardBounds, relaxations: Relaxations) -> ForwardBounds:
        windows = self.windows_above(*(b.windows for b in inputs))
        bounds = [b.dense() for b in inputs] if windows is None else aligned(inputs)
        radius = radius_bias = None
        if any(b.radius is not None for b in bounds):
            radius = self._joined([b.radius_or_zero for b in bounds], 2)
        if any(b.radius_bias is not None for b in bounds):
            radius_bias = self._joined([b.radius_bias_or_zero for b in bounds], 1)
        center = self._joined([b.center for b in bounds], 2)
        return ForwardBounds(center, radius, self._joined([b.center_bias for b in bounds], 1), radius_bias, windows)

    def backward_linear(self, coefficients: Coefficients | WindowRows, relaxations: Relaxations) -> BackwardStep:
        if isinstance(coefficients, WindowRows):
            return through_concatenation(coefficients, tuple(source.shape for source in self.inputs))
        dense, constants = to_dense(coefficients)
        parts = dense.A.split([source.shape[self.dim] for source in self.inputs], dim=3 + self.dim)
        return tuple(DenseCoefficients(part) for part in parts), constants

    def _joined(self, parts: list[Tensor], lead: int) -> Tensor:
        (batch,) = torch.broadcast_shapes(*(part.shape[:1] for part in parts))
        return torch.cat([part.expand(batch, *part.shape[1:]) for part in parts], dim=lead + self.dim)


@for_functions(operator.add, operator.iadd, torch.add, "add", "add_")
def _add(call: Call) -> BoundNode:
    args = call.bind(input=REQUIRED, other=REQUIRED, alpha=1)
    return _combined(call, args["input"], args["other"], call.static(args["alpha"]))


@for_functions(operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_", "subtract")
def _sub(call: Call) -> BoundNode:
    args = call.bind(input=REQUIRED, other=REQUIRED, alpha=1)
    return _combined(call, args["input"], args["other"], -call.static(args["alpha"]))


def _combined(call: Call, first: Any, second: Any, weight: float) -> BoundNode:
    """Return the node of `first + weight * second`, of which at least one depends on the input."""
    if call.is_bound(first) and call.is_bound(second):
        left, right = (expand_to(call, call.node(operand), call.shape) for operand in (first, second))
        return SumNode(call.name, left, right, weight)
    if call.is_bound(first):
        return scaled_and_shifted(call, first, second, shift=_times(constant_operand(call, second), weight))
    scale = None if weight == 1 else Literal(weight)
    return scaled_and_shifted(call, second, first, scale=scale, shift=constant_operand(call, first))


def _times(value: Value, weight: float) -> Value:
    return value if weight == 1 else Expression(operator.mul, (value, weight))


@for_functions(torch.cat, torch.concat, torch.concatenate)
def _concat(call: Call) -> BoundNode:
    args = call.bind(tensors=REQUIRED, dim=0)
    sources = call.parts(args["tensors"])
    dim = call.static(args["dim"]) % (len(call.shape) + 1)
    if dim == 0:
        raise call.refuse("concatenates along the batch dimension")
    return ConcatNode(call.name, sources, call.shape, dim - 1)


@for_functions(torch.stack)
def _stack(call: Call) -> BoundNode:
    args = call.bind(tensors=REQUIRED, dim=0)
    sources = call.parts(args["tensors"])
    dim = call.static(args["dim"]) % (len(call.shape) + 1)
    if dim == 0:
        raise call.refuse("stacks along the batch dimension")
    one = (*call.shape[: dim - 1], 1, *call.shape[dim:])
    layers = tuple(ReshapeNode(f"{call.name}/{i}", source, one) for i, source in enumerate(sources))
    return ConcatNode(call.name, layers, call.shape, dim - 1)
