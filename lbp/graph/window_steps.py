"""Back-substitution of windowed rows through affine layers and pooling; see `lbp.linear.windows`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lbp import ops
from lbp.graph.base import BackwardStep
from lbp.linear import (
    NeuronRows,
    PendingWindowRelaxation,
    ReceptiveField,
    WindowCoefficients,
    WindowRows,
    layer_of,
    move_windows,
    to_windows,
    window_of,
)
from lbp.linear.receptive_field import Pair
from lbp.precision import full_precision


def through_linear(
    rows: WindowRows,
    weight: Tensor,
    bias: Tensor | None,
    source: tuple[int, ...],
) -> BackwardStep:
    """Push rows through a fully connected layer; a start takes the rows of the weight as they are."""
    if isinstance(rows, NeuronRows):
        A = weight[None, :, None, None, :]
        places = torch.zeros(len(rows.neurons), 2, dtype=torch.int64, device=weight.device)
        started = WindowCoefficients(A, rows.neurons, rows.images, places, None, source)
        return (started,), None if bias is None else bias[rows.neurons].double()[None]
    constants = None
    if isinstance(rows, PendingWindowRelaxation):
        windows, constants = rows.relaxed(bias)
        bias = None
    else:
        windows = rows
    product, added = ops.backward_linear(windows.taken().flatten(2)[:, None], weight, bias)
    A = product[:, 0, :, None, None, :]
    return (windows.stepped(A, None, source),), added[:, 0] if constants is None else constants


def through_convolution(
    rows: WindowRows,
    weight: Tensor,
    bias: Tensor | None,
    below: ReceptiveField,
    source: tuple[int, ...],
    geometry: dict[str, Any],
) -> BackwardStep:
    """Push rows through a convolution; a start takes the kernel as it is.

    Args:
        rows: of the convolution's output.
        weight: [C_out, C_in / groups, kernel height, kernel width].
        bias: [C_out] or None.
        below: receptive field of the kernel.
        source: shape of the convolution's input.
        geometry: stride, padding, dilation and groups.
    """
    layer = layer_of(source)
    if isinstance(rows, NeuronRows):
        return _kernel_rows(rows, weight, bias, source, below, geometry)
    windows = rows.coefficients if isinstance(rows, PendingWindowRelaxation) else rows
    field = windows.field_below(below)
    corners, window = windows.corners(field, layer), window_of(field, layer)
    if isinstance(rows, PendingWindowRelaxation):
        A, where, lower, upper = rows.arguments()
        A, constants = ops.relax_backward_conv2d_windows(
            A, where, lower, upper, weight, bias, corners, window, sides=rows.sides, **geometry, **rows.keywords()
        )
    else:
        A, constants = ops.backward_conv2d_windows(
            windows.A, windows.rows(), windows.layer[1:], weight, bias, corners, window, **geometry
        )
    return (windows.stepped(A, field, source),), constants


def _kernel_rows(
    rows: NeuronRows,
    weight: Tensor,
    bias: Tensor | None,
    source: tuple[int, ...],
    field: ReceptiveField,
    geometry: dict[str, Any],
) -> BackwardStep:
    """Return the rows of a convolution: its kernel, once for all positions whose window has not been moved inside."""
    channels, places = rows.places()
    layer, window = layer_of(source), window_of(field, layer_of(source))
    base = _whole_kernel(weight, field, layer[0], geometry["dilation"], geometry["groups"])
    started = WindowCoefficients(base, channels, rows.images, places, field, source)
    stride, padding, positions = geometry["stride"], geometry["padding"], layer_of(rows.shape)[1:]
    natural = places * places.new_tensor(stride) - places.new_tensor(padding)
    ends = [min(layer[1 + i] - window[i] - (positions[i] - 1) * stride[i] + padding[i], 0) for i in range(2)]
    shifts, shift_of = _unique_pairs(started.corners(field, layer) - natural, (ends[0], ends[1]), padding)
    outputs = weight.shape[0]
    every = torch.arange(outputs, device=weight.device).repeat(len(shifts))
    to = shifts.repeat_interleave(outputs, 0)
    A = move_windows(base, torch.zeros_like(to), to, window, every)
    windows = WindowCoefficients(A, shift_of * outputs + channels, rows.images, places, field, source)
    return (windows,), None if bias is None else bias[channels].double()[None]


def _unique_pairs(pairs: Tensor, least: Pair, largest: Pair) -> tuple[Tensor, Tensor]:
    """Return the different pairs among int64 [R, 2], in order, and which each is, by a table of all that may occur."""
    columns = largest[1] - least[1] + 1
    keys = (pairs[:, 0] - least[0]) * columns + (pairs[:, 1] - least[1])
    occurs = torch.zeros((largest[0] - least[0] + 1) * columns, dtype=torch.bool, device=pairs.device)
    occurs = occurs.index_fill_(0, keys, True)
    different = occurs.nonzero().squeeze(1)
    which = (occurs.cumsum(0) - 1)[keys]
    return torch.stack((different // columns + least[0], different % columns + least[1]), 1), which


def _whole_kernel(weight: Tensor, field: ReceptiveField, inputs: int, dilation: tuple[int, int], groups: int) -> Tensor:
    """Return the kernel [1, C_out, rows, columns, C_in] with its gaps, and zeros in the channels of other groups."""
    kernel = weight.movedim(1, -1)
    outputs, height, width, per_group = kernel.shape
    if groups > 1:
        spread = kernel.new_zeros(groups, outputs // groups, height, width, groups, per_group)
        group = torch.arange(groups, device=weight.device)
        spread[group, :, :, :, group] = kernel.unflatten(0, (groups, -1))
        kernel = spread.reshape(outputs, height, width, inputs)
    if field.size != (height, width):
        y = torch.arange(height, device=weight.device) * dilation[0]
        x = torch.arange(width, device=weight.device) * dilation[1]
        gaps = kernel.new_zeros(outputs, *field.size, inputs)
        gaps[:, y[:, None], x] = kernel
        kernel = gaps
    return kernel[None]


def through_lines(rows: WindowRows, scale: Any, shift: Any, sides: str) -> BackwardStep:
    """Push rows through `scale * z + shift`, elementwise; numbers, tensors that broadcast to the layer, or None."""
    windows, constants = to_windows(rows)
    layer, A = windows.layer, windows.expanded(sides) if windows.A.shape[0] == 1 else windows.A

    def line(value: Any, default: float) -> Tensor:
        value = default if value is None else value
        tensor = torch.as_tensor(value, dtype=A.dtype, device=A.device)
        return tensor.expand(windows.shape).reshape(1, *layer)

    slope, intercept = line(scale, 1.0), line(shift, 0.0)
    places = windows.rows()
    places = torch.cat([places[:, :1], torch.zeros_like(places[:, :1]), places[:, 2:]], 1)  # one image for all
    bounds = A.new_zeros(1, *layer)
    given = {"lower_slope": slope, "upper_slope": slope, "lower_intercept": intercept, "upper_intercept": intercept}
    relaxed, added = ops.relax_windows(A, places, bounds, bounds, sides=sides, strategy="lines", **given)
    return (windows.stepped(relaxed, windows.field, windows.shape),), (
        added if constants is None else constants + added
    )


def through_padding(
    rows: WindowRows,
    below: ReceptiveField | None,
    padding: tuple[int, int],
    source: tuple[int, ...],
    channels: int = 0,
) -> BackwardStep:
    """Push rows of a padded image down to the image itself; what lies over the padding is dropped.

    Args:
        rows: of the padded image.
        below: receptive field of the padding.
        padding: rows above the image and columns left of it.
        source: shape of the image.
        channels: how many there are in front of those of the image.
    """
    windows, constants = to_windows(rows)
    field = windows.field_below(below)
    layer = layer_of(source)
    corners = windows.corners(windows.field, windows.layer)
    to = windows.corners(field, layer)
    A = windows.taken()[..., channels : channels + layer[0]]
    A = move_windows(A, corners - corners.new_tensor(padding), to, window_of(field, layer))
    return (windows.stepped(A, field, source),), constants


def through_slices(
    rows: WindowRows,
    parts: tuple[slice, slice, slice],
    below: ReceptiveField | None,
    source: tuple[int, ...],
) -> BackwardStep:
    """Push rows of some channels, rows and columns of an image down to the image itself.

    Args:
        rows: of the slice.
        parts: slices of channels, rows and columns.
        below: receptive field of the slice; None: other positions than those that lie evenly.
        source: shape of the image.
    """
    windows, constants = to_windows(rows)
    channels, *axes = parts
    if windows.layer[0] != source[0]:
        taken = windows.taken()
        A = taken.new_zeros(*taken.shape[:-1], source[0])
        A[..., channels] = taken
        windows = windows.stepped(A, windows.field, (source[0], *windows.layer[1:]))
    if windows.layer[1:] == source[1:]:
        return (windows,), constants
    picks = [torch.eye(size, dtype=windows.A.dtype, device=windows.A.device) for size in source[1:]]
    matrices = picks[0][axes[0]], picks[1][axes[1]]
    return (through_average_pool(windows, matrices, below, source),), constants


def through_average_pool(
    windows: WindowCoefficients,
    matrices: tuple[Tensor, Tensor],
    below: ReceptiveField | None,
    source: tuple[int, ...],
) -> WindowCoefficients:
    """Push rows through `R x C^T` in every channel, by the part of R and C that each row's window meets.

    Args:
        windows: rows of the means.
        matrices: R [h_out, h_in] and C [w_out, w_in].
        below: receptive field of a mean; None where means of neighbouring positions do not move evenly.
        source: shape of the image.
    """
    field = windows.field_below(below)
    layer = layer_of(source)
    corners, to = windows.corners(windows.field, windows.layer), windows.corners(field, layer)
    old, new = (windows.A.shape[2], windows.A.shape[3]), window_of(field, layer)
    parts = []
    for i, matrix in enumerate(matrices):
        out = corners[:, i, None] + torch.arange(old[i], device=matrix.device)
        into = to[:, i, None] + torch.arange(new[i], device=matrix.device)
        parts.append(matrix[out[:, :, None], into[:, None, :]])
    with full_precision():
        A = torch.einsum("krhwc,rhy,rwx->kryxc", windows.taken(), *parts)
    return windows.stepped(A.contiguous(), field, source)


def through_reshape(rows: WindowRows, source: tuple[int, ...]) -> BackwardStep:
    """Push rows through a change of shape: whole layers in, whole layers out, unless the images stay images."""
    if isinstance(rows, NeuronRows):
        return (NeuronRows(source, rows.neurons, rows.images, rows.dtype),), None
    windows, constants = to_windows(rows)
    if windows.shape == source:
        return (windows,), constants
    return (windows.reshaped(source),), constants


def through_sum(rows: WindowRows, weight: float) -> BackwardStep:
    """Push rows through `first + weight * second`; both share the windows."""
    windows, constants = to_windows(rows)
    second = windows
    if weight != 1:
        second = WindowCoefficients(
            windows.A * weight, windows.sources, windows.images, windows.places, windows.field, windows.shape
        )
    return (windows, second), constants


def through_concatenation(rows: WindowRows, sources: tuple[tuple[int, ...], ...]) -> BackwardStep:
    """Push rows through a concatenation along the first dimension: each part takes its channels."""
    windows, constants = to_windows(rows)
    parts = windows.taken().split([layer_of(source)[0] for source in sources], dim=-1)
    return tuple(
        windows.stepped(part.contiguous(), windows.field, source) for part, source in zip(parts, sources, strict=True)
    ), constants
