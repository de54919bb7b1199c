"""Average pooling. Window means are separable: one small matrix for the rows of the image, one for its columns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lbp.graph.base import BackwardStep, BoundNode, Relaxations
from lbp.graph.conv import channels_rows_columns, pair
from lbp.graph.elementwise import ScaleShiftNode
from lbp.graph.registry import REQUIRED, Call, for_functions, for_modules
from lbp.graph.values import Literal
from lbp.graph.window_steps import through_average_pool
from lbp.linear import (
    Coefficients,
    DenseCoefficients,
    ForwardBounds,
    InputWindows,
    Interval,
    ReceptiveField,
    WindowRows,
    to_dense,
    to_windows,
)
from lbp.ops import combine_windows
from lbp.precision import full_precision
from lbp.rounding import Roundings


class AveragePoolNode(BoundNode):
    """`R x C^T` in every channel, with non-negative matrices R and C.

    Attributes:
        rows: R [h_out, h_in].
        columns: C [w_out, w_in].

    Its receptive field is given; None where windows are not the same everywhere.
    """

    takes_windows = True

    def __init__(
        self, name: str, source: BoundNode, rows: Tensor, columns: Tensor, field: ReceptiveField | None
    ) -> None:
        super().__init__(name, (source,), (source.shape[0], rows.shape[0], columns.shape[0]))
        self.rows = rows
        self.columns = columns
        self._field = field

    def receptive_field(self) -> ReceptiveField | None:
        return self._field

    def pooled(self, values: Tensor) -> Tensor:
        """Return the window means of values [..., h_in, w_in]."""
        rows, columns = self._matrices(values)
        with full_precision():
            return rows @ values @ columns.mT

    def interval(self, *inputs: Interval) -> Interval:
        lower, upper = inputs[0]
        return self.pooled(lower), self.pooled(upper)

    def roundings(self, dtype: torch.dtype) -> Roundings:
        forward = backward = 1
        for matrix in (self.rows, self.columns):
            used = matrix != 0
            forward *= int(used.sum(1).max())
            backward *= int(used.sum(0).max())
        # The entries of both matrices are rounded quotients; their product may be taken first.
        return Roundings(forward + 1, backward + 1, weights=4, value=1)

    def magnitude(self, *inputs: Tensor) -> Tensor:
        return self.pooled(inputs[0])

    def windows_above(self, *inputs: InputWindows | None) -> InputWindows | None:
        (before,) = inputs
        if before is None or self._field is None or before.layer != self.inputs[0].shape:
            return None
        return before.through(self._field, channels_rows_columns(self.shape))

    def forward_linear(self, *inputs: ForwardBounds, relaxations: Relaxations) -> ForwardBounds:
        (b,) = inputs
        biases = (self.pooled(b.center_bias), None if b.radius_bias is None else self.pooled(b.radius_bias))
        before, after = b.windows, self.windows_above(b.windows)
        if before is None or after is None:
            dense = b.dense()
            radius = None if dense.radius is None else self.pooled(dense.radius)
            return ForwardBounds(self.pooled(dense.center), radius, *biases)
        center = self._pooled_windows(before.split(b.center), before)
        radius = None if b.radius is None else self._pooled_windows(before.split(b.radius), before)
        return ForwardBounds.from_windows((center, radius, *biases), after)

    def _pooled_windows(self, windows: Tensor, before: InputWindows) -> Tensor:
        """Return the window means of a matrix [B, C0, kh, kw, C, h, w], whose windows grow."""
        assert self._field is not None
        for axis, (matrix, span, scale) in enumerate(
            zip(self._matrices(windows), (self._field.rows, self._field.columns), before.scale, strict=True)
        ):
            windows = combine_windows(windows, axis, matrix, scale, span.scale, span.offset, span.size)
        return windows

    def backward_linear(self, coefficients: Coefficients | WindowRows, relaxations: Relaxations) -> BackwardStep:
        if isinstance(coefficients, WindowRows):
            windows, added = to_windows(coefficients)
            matrices = self._matrices(windows.A)
            return (through_average_pool(windows, matrices, self._field, self.inputs[0].shape),), added
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
    matrix = torch.zeros(count, size, dtype=torch.float64, device="cpu")
    for i in range(count):
        start = i * stride - padding
        padded_stop = min(start + kernel, size + padding)
        first, stop = max(start, 0), min(padded_stop, size)
        length = padded_stop - start if include_pad else stop - first
        matrix[i, first:stop] = 1.0 if divisor is not None else 1.0 / length
    return matrix


def adaptive_matrix(size: int, count: int) -> Tensor:
    """Return the matrix [count, size] of adaptive window means along one dimension."""
    matrix = torch.zeros(count, size, dtype=torch.float64, device="cpu")
    for i in range(count):
        first, stop = i * size // count, -(-(i + 1) * size // count)
        matrix[i, first:stop] = 1.0 / (stop - first)
    return matrix


def image_source(call: Call, operand: Any) -> BoundNode:
    """Return the node of an operand that must be an image [B, C, H, W]."""
    source = call.node(operand)
    if len(source.shape) != 3:
        raise call.refuse(f"takes an input of shape [B, C, H, W], its input has shape {list(source.shape)} per example")
    return source


def make_average_pool(name: str, source: BoundNode, shape: tuple[int, ...], options: dict[str, Any]) -> BoundNode:
    """Return the node of average pooling.

    Args:
        name: of the node.
        source: the image.
        shape: of the result.
        options: as `nn.AvgPool2d` takes them.
    """
    kernel = pair(options["kernel_size"])
    stride = kernel if options["stride"] in (None, [], ()) else pair(options["stride"])
    padding, divisor = pair(options["padding"]), options["divisor_override"]
    rows, columns = (
        pooling_matrix(
            source.shape[1 + i],
            shape[1 + i],
            kernel[i],
            stride[i],
            padding[i],
            include_pad=options["count_include_pad"],
            divisor=divisor,
        )
        for i in range(2)
    )
    field = ReceptiveField.of_kernel(kernel, stride=stride, padding=padding)
    if divisor is None or divisor > 0:
        return AveragePoolNode(name, source, rows if divisor is None else rows / divisor, columns, field)
    pooled = AveragePoolNode(f"{name}/pooled", source, rows / -divisor, columns, field)
    return ScaleShiftNode(name, pooled, scale=Literal(-1.0))


def make_adaptive_average_pool(name: str, source: BoundNode, shape: tuple[int, ...]) -> BoundNode:
    """Return the node of average pooling of an image to a shape."""
    sizes, counts = source.shape[1:], shape[1:]
    rows, columns = (adaptive_matrix(sizes[i], counts[i]) for i in range(2))
    field = None
    if sizes[0] % counts[0] == 0 and sizes[1] % counts[1] == 0:
        kernel = (sizes[0] // counts[0], sizes[1] // counts[1])
        field = ReceptiveField.of_kernel(kernel, stride=kernel)
    return AveragePoolNode(name, source, rows, columns, field)


@for_modules(nn.AvgPool2d)
def _average_pool_module(call: Call) -> BoundNode:
    keys = ("kernel_size", "stride", "padding", "count_include_pad", "divisor_override")
    options = {key: getattr(call.module, key) for key in keys}
    return make_average_pool(call.name, image_source(call, call.operand()), call.shape, options)


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
    source = image_source(call, args.pop("input"))
    return make_average_pool(call.name, source, call.shape, {key: call.static(value) for key, value in args.items()})


@for_modules(nn.AdaptiveAvgPool2d)
@for_functions(functional.adaptive_avg_pool2d)
def _adaptive_average_pool(call: Call) -> BoundNode:
    return make_adaptive_average_pool(call.name, image_source(call, call.operand()), call.shape)
