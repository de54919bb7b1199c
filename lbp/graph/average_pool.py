"""Average pooling. Window means are separable: one small matrix for the rows of the image, one for its columns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lbp.graph.base import BackwardStep, BoundNode, Relaxations
from lbp.graph.conv import pair
from lbp.graph.registry import REQUIRED, Call, for_functions, for_modules
from lbp.linear import Coefficients, DenseCoefficients, ForwardBounds, Interval, to_dense
from lbp.precision import full_precision


class AveragePoolNode(BoundNode):
    """`R x C^T` in every channel, with non-negative matrices R and C.

    Attributes:
        rows: R [h_out, h_in].
        columns: C [w_out, w_in].
    """

    def __init__(self, name: str, source: BoundNode, rows: Tensor, columns: Tensor) -> None:
        super().__init__(name, (source,), (source.shape[0], rows.shape[0], columns.shape[0]))
        self.rows = rows
        self.columns = columns

    def pooled(self, values: Tensor) -> Tensor:
        """Return the window means of values [..., h_in, w_in]."""
        rows, columns = self._matrices(values)
        with full_precision():
            return rows @ values @ columns.mT

    def interval(self, *inputs: Interval) -> Interval:
        lower, upper = inputs[0]
        return self.pooled(lower), self.pooled(upper)

    def forward_linear(self, *inputs: ForwardBounds, relaxations: Relaxations) -> ForwardBounds:
        (b,) = inputs
        return ForwardBounds(
            self.pooled(b.center),
            None if b.radius is None else self.pooled(b.radius),
            self.pooled(b.center_bias),
            None if b.radius_bias is None else self.pooled(b.radius_bias),
        )

    def backward_linear(self, coefficients: Coefficients, relaxations: Relaxations) -> BackwardStep:
        dense, constants = to_dense(coefficients)
        rows, columns = self._matrices(dense.A)
        with full_precision():
            A = rows.mT @ dense.A @ columns
        return (DenseCoefficients(A),), constants

    def _matrices(self, like: Tensor) -> tuple[Tensor, Tensor]:
        self.rows, self.columns = self.rows.to(like.device), self.columns.to(like.device)
        return self.rows.to(like.dtype), self.columns.to(like.dtype)


def pooling_matrix(
    size: int, count: int, kernel: int, stride: int, padding: int, *, include_pad: bool, divisor: int | None
) -> Tensor:
    """Return the matrix [count, size] of window means along one dimension.

    Windows start at `i * stride - padding`. With `include_pad` they are divided by their length on the padded image,
    otherwise by their length on the image; with a divisor by nothing (the caller divides).
    """
    matrix = torch.zeros(count, size, dtype=torch.float64)
    for i in range(count):
        start = i * stride - padding
        padded_stop = min(start + kernel, size + padding)
        first, stop = max(start, 0), min(padded_stop, size)
        length = padded_stop - start if include_pad else stop - first
        matrix[i, first:stop] = 1.0 if divisor is not None else 1.0 / length
    return matrix


def adaptive_matrix(size: int, count: int) -> Tensor:
    """Return the matrix [count, size] of adaptive window means along one dimension."""
    matrix = torch.zeros(count, size, dtype=torch.float64)
    for i in range(count):
        first, stop = i * size // count, -(-(i + 1) * size // count)
        matrix[i, first:stop] = 1.0 / (stop - first)
    return matrix


def _image_source(call: Call, operand: Any) -> BoundNode:
    source = call.node(operand)
    if len(source.shape) != 3:
        raise call.refuse(f"takes an input of shape [B, C, H, W], its input has shape {list(source.shape)} per example")
    return source


def _average_pool(call: Call, operand: Any, options: dict[str, Any]) -> BoundNode:
    source = _image_source(call, operand)
    kernel = pair(options["kernel_size"])
    stride = kernel if options["stride"] in (None, [], ()) else pair(options["stride"])
    padding, divisor = pair(options["padding"]), options["divisor_override"]
    rows, columns = (
        pooling_matrix(
            source.shape[1 + i],
            call.shape[1 + i],
            kernel[i],
            stride[i],
            padding[i],
            include_pad=options["count_include_pad"],
            divisor=divisor,
        )
        for i in range(2)
    )
    return AveragePoolNode(call.name, source, rows if divisor is None else rows / divisor, columns)


@for_modules(nn.AvgPool2d)
def _average_pool_module(call: Call) -> BoundNode:
    keys = ("kernel_size", "stride", "padding", "count_include_pad", "divisor_override")
    return _average_pool(call, call.operand(), {key: getattr(call.module, key) for key in keys})


@for_functions(functional.avg_pool2d)
def _average_pool_function(call: Call) -> BoundNode:
    args = call.bind(
        input=REQUIRED,
        kernel_size=REQUIRED,
        stride=None,
        padding=0,
        ceil_mode=False,
        count_include_pad=True,
        divisor_override=None,
    )
    operand = args.pop("input")
    return _average_pool(call, operand, {key: call.static(value) for key, value in args.items()})


@for_modules(nn.AdaptiveAvgPool2d)
@for_functions(functional.adaptive_avg_pool2d)
def _adaptive_average_pool(call: Call) -> BoundNode:
    source = _image_source(call, call.operand())
    rows, columns = (adaptive_matrix(source.shape[1 + i], call.shape[1 + i]) for i in range(2))
    return AveragePoolNode(call.name, source, rows, columns)
