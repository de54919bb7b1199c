"""Convolutions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lbp import ops
from lbp.graph.base import BackwardStep, BoundNode, Ends, Relaxations
from lbp.graph.gather import gathered
from lbp.graph.registry import REQUIRED, Call, for_functions, for_modules
from lbp.graph.shape import ZeroPadNode
from lbp.graph.values import Value
from lbp.graph.window_steps import through_convolution
from lbp.linear import (
    Coefficients,
    DenseCoefficients,
    ForwardBounds,
    IdentityCoefficients,
    InputWindows,
    Interval,
    PendingRelaxation,
    ReceptiveField,
    WindowRows,
    to_dense,
)
from lbp.ops._convolution import conv2d
from lbp.ops.norms import dual_exponent
from lbp.ops.outward_intervals import Widening, outward_interval_conv2d
from lbp.precision import check_convolution, full_precision
from lbp.rounding import Roundings, magnitude_of

Pair = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """How a kernel moves over the image."""

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def keywords(self) -> dict[str, Any]:
        """Return the geometry as the ops take it."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }


class Conv2dNode(BoundNode):
    """A convolution with zero padding.

    Attributes:
        weight: reads the present kernel [C_out, C_in / groups, kh, kw].
        bias: reads the present bias [C_out], or None.
    """

    def __init__(
        self, name: str, source: BoundNode, shape: tuple[int, ...], weight: Value, bias: Value, geometry: Geometry
    ) -> None:
        super().__init__(name, (source,), shape)
        self.weight = weight
        self.bias = bias
        self.geometry = geometry

    takes_windows = True

    def parameters(self) -> tuple[Tensor, Tensor | None]:
        """Return the present kernel and bias."""
        return self.weight.read(), self.bias.read()

    def receptive_field(self) -> ReceptiveField:
        kernel = self.weight.read().shape[-2:]
        stride, padding, dilation = self.geometry.stride, self.geometry.padding, self.geometry.dilation
        return ReceptiveField.of_kernel(tuple(kernel), stride=stride, padding=padding, dilation=dilation)

    def row_norms(self, diagonal: Tensor, p: float) -> Tensor:
        """Return the dual norms [C_out, H, W] of the rows of `W diag(diagonal)`, diagonal [C_in, h, w].

        A row holds the kernel where it meets the image; what lies over the padding does not count.
        """
        weight, _ = self.parameters()
        geometry, diagonal = self.geometry, diagonal.abs()
        if p == 2:
            with full_precision():
                squares = conv2d(diagonal.square()[None], weight.square(), None, **geometry.keywords())[0]
            return torch.where(squares > 0, squares, 1).sqrt() * (squares > 0)
        patches = functional.unfold(
            diagonal[None], weight.shape[-2:], geometry.dilation, geometry.padding, geometry.stride
        )[0]
        patches = patches.reshape(geometry.groups, 1, -1, patches.shape[-1])  # [G, 1, taps, positions]
        rows = weight.abs().reshape(geometry.groups, -1, patches.shape[2], 1)  # [G, C_out / G, taps, 1]
        return _tap_norm(rows, patches, dual_exponent(p)).reshape(self.shape)

    def value(self, x: Tensor) -> Tensor:
        """Return the layer's value at x [B, C_in, h, w]."""
        weight, bias = self.parameters()
        with full_precision():
            return conv2d(x, weight, bias, **self.geometry.keywords())

    def interval(self, *inputs: Interval) -> Interval:
        return ops.interval_conv2d(*inputs[0], *self.parameters(), **self.geometry.keywords())

    def outward_interval(
        self, *inputs: Interval, by: Widening, margin: Tensor, of_example: Tensor | None = None
    ) -> Interval:
        weight, bias = self.parameters()
        per_channel = margin.expand(self.shape[0], 1, 1).flatten()
        return outward_interval_conv2d(
            *inputs[0], weight, bias, by, per_channel, of_example=of_example, **self.geometry.keywords()
        )

    def roundings(self, dtype: torch.dtype) -> Roundings:
        weight, bias = self.weight.read(), self.bias.read()
        check_convolution(self.name, weight, self.geometry.stride, self.geometry.dilation)
        taps = weight.shape[2] * weight.shape[3]
        return Roundings(
            forward=weight.shape[1] * taps,
            backward=weight.shape[0] // self.geometry.groups * taps,
            value=1,  # that of center -/+ radius
            shift=None if bias is None else bias.detach().abs()[:, None, None],
        )

    def magnitude(self, *inputs: Tensor) -> Tensor:
        with full_precision():
            return conv2d(inputs[0], self.parameters()[0].detach().abs(), None, **self.geometry.keywords())

    def weight_sums(self) -> tuple[Tensor, ...]:
        return (self.parameters()[0].detach().abs().sum((-2, -1)).unflatten(0, (self.geometry.groups, -1)),)

    def magnitude_at_most(self, *inputs: Ends, sums: tuple[Tensor, ...]) -> Tensor:
        # The largest magnitude of every channel, at every place.
        lower, upper = inputs[0]
        least = None if lower is None else lower.detach().amin((-2, -1))
        largest = magnitude_of((least, upper.detach().amax((-2, -1)))).unflatten(1, (self.geometry.groups, -1))
        with full_precision():
            return torch.einsum("bgi,goi->bgo", largest, *sums).flatten(1)[:, :, None, None]

    def windows_above(self, *inputs: InputWindows | None) -> InputWindows | None:
        (before,) = inputs
        if before is None or before.layer != self.inputs[0].shape:
            return None
        return before.through(self.receptive_field(), channels_rows_columns(self.shape))

    def forward_linear(self, *inputs: ForwardBounds, relaxations: Relaxations) -> ForwardBounds:
        (b,) = inputs
        weight, bias = self.parameters()
        before, after = b.windows, self.windows_above(b.windows)
        if before is None or after is None:
            dense = b.dense().matrices
            return ForwardBounds(*ops.forward_conv2d(*dense, weight, bias, **self.geometry.keywords()))
        matrices = ops.forward_conv2d_windows(
            *b.on_windows(before),
            weight,
            bias,
            image=before.image,
            scale=before.scale,
            offset=before.offset,
            **self.geometry.keywords(),
        )
        return ForwardBounds.from_windows(matrices, after)

    def backward_linear(self, coefficients: Coefficients | WindowRows, relaxations: Relaxations) -> BackwardStep:
        weight, bias = self.parameters()
        _, height, width = self.inputs[0].shape
        input_size = (height, width)
        if isinstance(coefficients, WindowRows):
            return through_convolution(
                coefficients,
                weight,
                bias,
                self.receptive_field(),
                self.inputs[0].shape,
                self.geometry.keywords(),
            )
        if isinstance(coefficients, IdentityCoefficients):
            rows = convolution_rows(weight, self.inputs[0].shape, self.shape, self.geometry, coefficients)
            channels = _channels(coefficients, self.shape, weight.device)
            return (DenseCoefficients(rows),), None if bias is None else bias[channels].double()[None, None]
        if isinstance(coefficients, PendingRelaxation):
            A, constants = ops.relax_backward_conv2d(
                coefficients.expanded(),
                coefficients.lower,
                coefficients.upper,
                weight,
                bias,
                input_size,
                sides=coefficients.sides,
                **self.geometry.keywords(),
                **coefficients.relaxation,
            )
        else:
            dense = to_dense(coefficients)[0].A
            A, constants = ops.backward_conv2d(dense, weight, bias, input_size, **self.geometry.keywords())
        return (DenseCoefficients(A),), constants


def _channels(rows: IdentityCoefficients, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the output channel of each neuron that the rows stand for."""
    return torch.arange(rows.start, rows.stop, device=device) // (shape[1] * shape[2])


def convolution_rows(
    weight: Tensor,
    input_shape: tuple[int, ...],
    shape: tuple[int, ...],
    geometry: Geometry,
    rows: IdentityCoefficients,
) -> Tensor:
    """Return rows of a convolution written as a matrix, without multiplying anything.

    Args:
        weight: kernel [C_out, C_in / groups, kh, kw].
        input_shape: (C_in, h, w).
        shape: (C_out, H, W).
        geometry: of the convolution.
        rows: which neurons of the output.

    Returns:
        [1, 1, S, C_in, h, w]: the kernel where a neuron's receptive field lies, zero elsewhere.
    """
    _, height, width = input_shape
    _, per_group, *kernel = weight.shape
    neurons = torch.arange(rows.start, rows.stop, device=weight.device)
    channel = _channels(rows, shape, weight.device)
    places = (neurons // shape[2] % shape[1], neurons % shape[2])
    # Where each tap of the kernel lies in the input, [S, kh] and [S, kw], and whether that is inside.
    y, x = (
        place[:, None] * geometry.stride[i]
        - geometry.padding[i]
        + geometry.dilation[i] * torch.arange(kernel[i], device=weight.device)
        for i, place in enumerate(places)
    )
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    first = channel // (shape[0] // geometry.groups) * per_group
    source = first[:, None] + torch.arange(per_group, device=weight.device)
    columns = (source[:, :, None, None] * height + y[:, None, :, None]) * width + x[:, None, None, :]
    # Taps over the padding add zero to column 0.
    inside = inside[:, None].expand_as(columns)
    taps = torch.where(inside, weight[channel], weight.new_zeros(()))
    matrix = weight.new_zeros(len(neurons), math.prod(input_shape))
    matrix = matrix.scatter_add(1, torch.where(inside, columns, 0).flatten(1), taps.flatten(1))
    return matrix.reshape(1, 1, len(neurons), *input_shape)


def _tap_norm(rows: Tensor, patches: Tensor, q: float) -> Tensor:
    """Return the l_q norm over taps of rows * patches, one tap at a time and scaled by the largest entry."""
    taps = range(rows.shape[2])
    largest = rows[:, :, 0] * patches[:, :, 0]
    for tap in taps[1:]:
        largest = torch.maximum(largest, rows[:, :, tap] * patches[:, :, tap])
    if math.isinf(q):
        return largest
    scale = torch.where(largest > 0, largest, 1).detach()
    powers = torch.zeros_like(largest)
    for tap in taps:
        powers = powers + (rows[:, :, tap] * patches[:, :, tap] / scale) ** q
    root = torch.where(powers > 0, powers, 1) ** (1 / q)
    return torch.where(powers > 0, root * scale, powers)


_OPTIONS = ("stride", "padding", "dilation", "groups")


def make_conv2d(
    call: Call,
    name: str,
    source: BoundNode,
    shape: tuple[int, ...],
    weight: Value,
    bias: Value,
    options: dict[str, Any],
) -> BoundNode:
    """Return the node of a convolution, with its padding as a node of its own where the two ends differ.

    Args:
        call: for messages.
        name: of the node.
        source: the image.
        shape: of the result.
        weight: [C_out, C_in / groups, kernel height, kernel width].
        bias: [C_out] or None.
        options: stride, padding, dilation and groups, as nn.Conv2d takes them.
    """
    if len(source.shape) != 3:
        raise call.refuse(f"takes an input of shape [B, C, H, W], its input has shape [B, {_listed(source.shape)}]")
    kernel = tuple(weight.read().shape[-2:])
    stride, dilation = pair(options["stride"]), pair(options["dilation"])
    padding = options["padding"]
    if padding == "same":
        totals = [dilation[i] * (kernel[i] - 1) for i in range(2)]
        if any(total % 2 for total in totals):
            (top, left), (bottom, right) = (t // 2 for t in totals), (t - t // 2 for t in totals)
            source = ZeroPadNode(f"{name}/padding", source, (left, right, top, bottom))
            totals = [0, 0]
        padding = [total // 2 for total in totals]
    elif padding == "valid":
        padding = 0
    geometry = Geometry(stride, pair(padding), dilation, options["groups"])
    return Conv2dNode(name, source, shape, weight, bias, geometry)


def channels_rows_columns(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the three dimensions of an image-shaped layer."""
    channels, rows, columns = shape
    return channels, rows, columns


def pair(value: Any) -> Pair:
    """Return an option of a two-dimensional layer, one number or two, as two numbers."""
    if isinstance(value, int):
        return value, value
    numbers = tuple(value)
    return (numbers[0], numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


@for_modules(nn.Conv2d)
def _conv2d_module(call: Call) -> BoundNode:
    source, options = padded_source(call, call.node(call.operand()))
    weight, bias = call.attribute("weight"), call.attribute("bias")
    return make_conv2d(call, call.name, source, call.shape, weight, bias, options)


def padded_source(call: Call, source: BoundNode) -> tuple[BoundNode, dict[str, Any]]:
    """Return the input of a convolution and its options, padded already where the padding is no zeros."""
    module: Any = call.module
    options = {name: getattr(module, name) for name in _OPTIONS}
    if module.padding_mode == "zeros":
        return source, options
    pad = partial(functional.pad, pad=module._reversed_padding_repeated_twice, mode=module.padding_mode)
    return gathered(call, f"{call.name}/padding", source, pad, (2, *source.shape)), options | {"padding": 0}


@for_functions(functional.conv2d, torch.conv2d)
def _conv2d_function(call: Call) -> BoundNode:
    args = call.bind(input=REQUIRED, weight=REQUIRED, bias=None, stride=1, padding=0, dilation=1, groups=1)
    options = {name: call.static(args[name]) for name in _OPTIONS}
    weight, bias = call.value(args["weight"]), call.value(args["bias"])
    return make_conv2d(call, call.name, call.node(args["input"]), call.shape, weight, bias, options)
