"""Scaling and shifting every neuron by constants."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lbp.errors import UnsupportedLayerError
from lbp.graph.base import BackwardStep, BoundNode, Relaxations
from lbp.graph.registry import REQUIRED, Call, for_functions
from lbp.graph.shape import expand_to
from lbp.graph.values import Expression, Literal, MethodCall, Value
from lbp.graph.window_steps import through_lines
from lbp.linear import (
    Coefficients,
    DenseCoefficients,
    ForwardBounds,
    InputWindows,
    Interval,
    ReceptiveField,
    WindowRows,
    add_constants,
    to_dense,
)
from lbp.rounding import Roundings, unit_roundoff


class ScaleShiftNode(BoundNode):
    """`scale * x + shift`, elementwise.

    Attributes:
        scale, shift: read the present number or tensor; a tensor broadcasts to the layer's shape, with or without a
            batch dimension of size 1. None: no scaling, no shift.
    """

    acts_per_neuron = True
    takes_windows = True
    mixes = False

    def __init__(self, name: str, source: BoundNode, scale: Value | None = None, shift: Value | None = None) -> None:
        super().__init__(name, (source,), source.shape)
        self.scale = scale
        self.shift = shift

    def constants(self) -> tuple[Any, Any]:
        """Return the present scale and shift: numbers, tensors without a batch dimension, or None."""
        scale = None if self.scale is None else per_example(self.scale.read(), self.shape)
        shift = None if self.shift is None else per_example(self.shift.read(), self.shape)
        return scale, shift

    def receptive_field(self) -> ReceptiveField | None:
        return ReceptiveField.identity()

    def interval(self, *inputs: Interval) -> Interval:
        lower, upper = inputs[0]
        scale, shift = self.constants()
        if scale is not None:
            first, second = lower * scale, upper * scale
            lower, upper = torch.minimum(first, second), torch.maximum(first, second)
        return (lower, upper) if shift is None else (lower + shift, upper + shift)

    def roundings(self, dtype: torch.dtype) -> Roundings:
        # Numbers are rounded to the network's dtype; a scale may be a rounded reciprocal, a shift a rounded product.
        scale, shift = self.constants()
        terms = 0 if scale is None else 1
        if shift is None:
            return Roundings(terms, terms, weights=3)
        size = torch.as_tensor(shift, dtype=dtype, device=getattr(shift, "device", "cpu")).detach().abs()
        return Roundings(terms, terms, weights=3, value=1, shift=size, shift_error=3 * unit_roundoff(dtype) * size)

    def magnitude(self, *inputs: Tensor) -> Tensor:
        scale = self.constants()[0]
        return inputs[0] if scale is None else inputs[0] * abs(scale)

    def windows_above(self, *inputs: InputWindows | None) -> InputWindows | None:
        return inputs[0]

    def forward_linear(self, *inputs: ForwardBounds, relaxations: Relaxations) -> ForwardBounds:
        (b,) = inputs
        scale, shift = self.constants()
        if scale is not None:
            size = abs(scale)
            b = ForwardBounds(
                b.center * scale,
                None if b.radius is None else b.radius * size,
                b.center_bias * scale,
                None if b.radius_bias is None else b.radius_bias * size,
                b.windows,
            )
        return b if shift is None else replace(b, center_bias=b.center_bias + shift)

    def backward_linear(self, coefficients: Coefficients | WindowRows, relaxations: Relaxations) -> BackwardStep:
        scale, shift = self.constants()
        if isinstance(coefficients, WindowRows):
            return through_lines(coefficients, scale, shift, relaxations.sides)
        dense, constants = to_dense(coefficients)
        if shift is not None:
            constants = add_constants(constants, (dense.A * shift).flatten(3).sum(-1, dtype=torch.float64))
        return (dense if scale is None else DenseCoefficients(dense.A * scale),), constants


def per_example(constant: Any, shape: tuple[int, ...]) -> Any:
    """Return a constant without its batch dimension of size 1, if it has one."""
    if isinstance(constant, Tensor) and constant.dim() == len(shape) + 1:
        return constant.squeeze(0)
    return constant


def scaled_and_shifted(
    call: Call, operand: Any, constant: Any = None, *, scale: Value | None = None, shift: Value | None = None
) -> BoundNode:
    """Return the node of an elementwise affine operation after checking that the constant has no batch of its own."""
    source = expand_to(call, call.node(operand), call.shape)
    value = None if constant is None else call.value(constant).read()
    if isinstance(value, Tensor):
        rank = len(call.shape) + 1
        if value.dim() > rank or (value.dim() == rank and value.shape[0] != 1):
            raise call.refuse(
                f"combines the input with a constant of shape {list(value.shape)} that has a batch dimension"
            )
    elif value is not None and not isinstance(value, int | float):
        raise call.refuse(f"combines the input with a {type(value).__name__}; a number or a tensor is expected")
    return ScaleShiftNode(call.name, source, scale, shift)


def constant_operand(call: Call, argument: Any) -> Value:
    """Return a constant that meets a value of the network, in the format of the result, as PyTorch takes it there."""
    value = call.value(argument)
    present = value.read()
    if isinstance(present, Tensor) and present.dtype != call.dtype:
        return Expression(MethodCall("to"), (value, call.dtype))
    return value


def _reciprocal(value: Any, where: str) -> Any:
    if not isinstance(value, Tensor) and value == 0:
        raise UnsupportedLayerError(f"{where} divides by 0, so that its values are infinite or NaN")
    return 1 / value


@for_functions(operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_", "multiply")
def _mul(call: Call) -> BoundNode:
    args = call.bind(input=REQUIRED, other=REQUIRED)
    first, second = args["input"], args["other"]
    if call.is_bound(first) and call.is_bound(second):
        raise call.refuse("multiplies two values that both depend on the input")
    if not call.is_bound(first):
        first, second = second, first
    return scaled_and_shifted(call, first, second, scale=constant_operand(call, second))


@for_functions(operator.truediv, operator.itruediv, torch.div, torch.true_divide, torch.divide, "div", "div_", "divide")
def _div(call: Call) -> BoundNode:
    args = call.bind(input=REQUIRED, other=REQUIRED, rounding_mode=None)
    if args["rounding_mode"] is not None:
        raise call.refuse("divides with rounding")
    if call.is_bound(args["other"]):
        raise call.refuse("divides by a value that depends on the input")
    scale = Expression(_reciprocal, (constant_operand(call, args["other"]), Literal(call.describe())))
    scale.read()
    return scaled_and_shifted(call, args["input"], args["other"], scale=scale)


@for_functions(operator.neg, torch.neg, torch.negative, "neg", "neg_")
def _neg(call: Call) -> BoundNode:
    return scaled_and_shifted(call, call.operand(), scale=Literal(-1.0))
