"""The bound functions on windows as one writes them in PyTorch for speed: none makes a dense matrix.

Arguments are those of `lbp.ops`; windows are read and written by indices of whole pixels, or by slices per entry.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lbp.bench.plain_parts import (
    Image,
    Lines,
    Matrices,
    Pair,
    added_slices,
    around_center,
    column_norm,
    dual,
    ends,
    inserted,
    relaxed_by,
    taken,
)
from lbp.precision import full_precision


def _seen(values: Tensor, rows: Tensor, window: Pair) -> Tensor:
    """Return what every row's window sees of values [..., B, C, h, w], as [..., R, height, width, C]."""
    height, width = values.shape[-2:]
    y = rows[:, 2, None] + torch.arange(window[0], device=rows.device)
    x = rows[:, 3, None] + torch.arange(window[1], device=rows.device)
    pixels = (rows[:, 1, None, None] * height + y[:, :, None]) * width + x[:, None, :]
    chosen = values.movedim(-3, -1).flatten(-4, -2).index_select(-2, pixels.flatten())
    return chosen.reshape(*chosen.shape[:-2], *pixels.shape, chosen.shape[-1])


def _window_sums(rows: Tensor, weights: Tensor) -> Tensor:
    """Return the sums of rows [R, height, width, C] times weights that broadcast to them: [R]."""
    return (rows * weights).flatten(1).sum(-1)


def relax_windows(A: Tensor, rows: Tensor, lines: Lines, bias: Tensor | None, sides: str) -> tuple[Tensor, Tensor]:
    """See `lbp.ops.relax_windows`; lines, and the bias as well, are those of the layer, [B, C, h, w]."""
    window = (A.shape[2], A.shape[3])
    seen = lines.of_sides(sides, lambda line: _seen(line, rows, window))
    offset = None if bias is None else _seen(bias, rows, window)
    return relaxed_by(taken(A, rows), seen, offset, _window_sums)


def relax_backward_conv2d_windows(
    A: Tensor,
    rows: Tensor,
    lines: Lines,
    weight: Tensor,
    bias: Tensor | None,
    corners: Tensor,
    window: Pair,
    sides: str,
    geometry: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """See `lbp.ops.relax_backward_conv2d_windows`; lines are those of the layer."""
    relaxed, constants = relax_windows(A, rows, lines, None, sides)
    if bias is not None:
        constants = constants + relaxed.sum((2, 3)) @ bias
    return _windows_below(relaxed, rows, weight, corners, window, **geometry), constants


def backward_conv2d_windows(
    A: Tensor,
    rows: Tensor,
    layer: Pair,
    weight: Tensor,
    bias: Tensor | None,
    corners: Tensor,
    window: Pair,
    **geometry: Any,
) -> tuple[Tensor, Tensor]:
    """See `lbp.ops.backward_conv2d_windows`."""
    chosen = taken(A, rows)
    constants = chosen.new_zeros(chosen.shape[:2]) if bias is None else chosen.sum((2, 3)) @ bias
    return _windows_below(chosen, rows, weight, corners, window, **geometry), constants.double()


def _windows_below(
    A: Tensor,
    rows: Tensor,
    weight: Tensor,
    corners: Tensor,
    window: Pair,
    *,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Tensor:
    """Return coefficients A [K, R, height, width, C] behind a convolution over the windows of its input."""
    images = A.flatten(0, 1).permute(0, 3, 1, 2)
    with full_precision():
        spread = F.conv_transpose2d(images, weight, None, stride, 0, 0, groups, dilation)
    # Windows that are moved read a border of zeros.
    bordered = F.pad(spread, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    height, width = bordered.shape[1:3]
    shift = corners - rows[:, 2:] * rows.new_tensor(stride) + rows.new_tensor(padding) + 1
    y = (shift[:, 0, None] + torch.arange(window[0], device=rows.device)).clamp(0, height - 1)
    x = (shift[:, 1, None] + torch.arange(window[1], device=rows.device)).clamp(0, width - 1)
    inside = (y[:, :, None] * width + x[:, None, :]).repeat(A.shape[0], 1, 1)
    pixels = inside + torch.arange(len(inside), device=rows.device)[:, None, None] * (height * width)
    moved = bordered.flatten(0, 2).index_select(0, pixels.flatten())
    return moved.reshape(*A.shape[:2], *window, -1)


def concretize_windows_box(A: Tensor, rows: Tensor, x_L: Tensor, x_U: Tensor, *, sides: str) -> Tensor:
    """See `lbp.ops.concretize_windows_box`."""
    window = (A.shape[2], A.shape[3])
    middle, half = (_seen(image, rows, window) for image in ((x_U + x_L) / 2, (x_U - x_L) / 2))
    chosen = taken(A, rows)
    return around_center(chosen, middle, lambda row: _window_sums(row.abs(), half), sides, _window_sums)


def concretize_windows_ball(
    A: Tensor, rows: Tensor, x0: Tensor, eps: Tensor | float, p: float, *, sides: str
) -> Tensor:
    """See `lbp.ops.concretize_windows_ball`."""
    radius = eps.to(A.dtype).expand(len(x0)).index_select(0, rows[:, 1]) if isinstance(eps, Tensor) else eps
    norm = functools.partial(torch.linalg.vector_norm, ord=dual(p), dim=-1)
    chosen, point = taken(A, rows), _seen(x0, rows, (A.shape[2], A.shape[3]))
    return around_center(chosen, point, lambda row: radius * norm(row.flatten(1)), sides, _window_sums)


def _under_windows(x: Tensor, center: Tensor, scale: Pair, offset: Pair) -> Tensor:
    """Return the image's values under windows [B, C0, kh, kw, 1, H, W]; 0 outside of it."""
    window, places = center.shape[2:4], center.shape[5:]
    after = [scale[i] * (places[i] - 1) + offset[i] + window[i] - x.shape[2 + i] for i in range(2)]
    bordered = F.pad(x, (-offset[1], after[1], -offset[0], after[0]))
    columns = F.unfold(bordered, (window[0], window[1]), stride=scale)
    return columns.reshape(x.shape[0], x.shape[1], *window, 1, *places)


def concretize_forward_windows_box(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    x_L: Tensor,
    x_U: Tensor,
    *,
    scale: Pair,
    offset: Pair,
) -> tuple[Tensor, Tensor]:
    """See `lbp.ops.concretize_forward_windows_box`."""
    middle, half = (_under_windows(x, center, scale, offset) for x in ((x_U + x_L) / 2, (x_U - x_L) / 2))
    (lower, upper), (lower_bias, upper_bias) = ends(center, radius), ends(center_bias, radius_bias)
    l = torch.addcmul(lower * middle, lower.abs(), half, value=-1).sum((1, 2, 3)) + lower_bias
    return l, torch.addcmul(upper * middle, upper.abs(), half).sum((1, 2, 3)) + upper_bias


def concretize_forward_windows_box_with_magnitude(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    x_L: Tensor,
    x_U: Tensor,
    *,
    scale: Pair,
    offset: Pair,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `lbp.ops.concretize_forward_windows_box_with_magnitude`."""
    places: dict[str, Any] = {"scale": scale, "offset": offset}
    l, u = concretize_forward_windows_box(center, radius, center_bias, radius_bias, x_L, x_U, **places)
    with torch.no_grad():
        entries = center.abs() if radius is None else center.abs() + radius.abs()
        largest = _under_windows(torch.maximum(x_L.abs(), x_U.abs()), center, **places)
        return l, u, (entries * largest).sum((1, 2, 3))


def concretize_forward_windows_ball(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    x0: Tensor,
    eps: Tensor | float,
    p: float,
    *,
    scale: Pair,
    offset: Pair,
) -> tuple[Tensor, Tensor]:
    """See `lbp.ops.concretize_forward_windows_ball`."""
    point = _under_windows(x0, center, scale, offset)
    inside = _under_windows(torch.ones_like(x0[:1]), center, scale, offset)
    spread = eps.to(center.dtype).reshape(-1, 1, 1, 1) if isinstance(eps, Tensor) else eps
    (lower, upper), (lower_bias, upper_bias) = ends(center, radius), ends(center_bias, radius_bias)
    bounds = []
    for entries, bias, sign in ((lower, lower_bias, -1), (upper, upper_bias, 1)):
        norm = column_norm(entries * inside, p, (1, 2, 3))
        bounds.append((entries * point).sum((1, 2, 3)) + sign * (spread * norm) + bias)
    return bounds[0], bounds[1]


def forward_conv2d_windows(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    image: Image | None,
    scale: Pair,
    offset: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Matrices:
    """See `lbp.ops.forward_conv2d_windows`."""
    convolution = (stride, padding, dilation, groups)
    magnitude = weight.abs()
    with full_precision():
        new_center = _convolved_windows(center, weight, scale, *convolution)
        new_radius = None if radius is None else _convolved_windows(radius, magnitude, scale, *convolution)
        new_center_bias = F.conv2d(center_bias, weight, bias, *convolution)
        new_radius_bias = None if radius_bias is None else F.conv2d(radius_bias, magnitude, None, *convolution)
    if image is not None:
        origin = (offset[0] - scale[0] * padding[0], offset[1] - scale[1] * padding[1])
        after = (scale[0] * stride[0], scale[1] * stride[1])
        inside = _under_windows(center.new_ones(1, *image), new_center, after, origin)
        new_center = new_center * inside
        new_radius = None if new_radius is None else new_radius * inside
    return new_center, new_radius, new_center_bias, new_radius_bias


def _convolved_windows(
    windows: Tensor, weight: Tensor, scale: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """Return windows [B, C0, kh, kw, C, H, W] behind a convolution: its taps add up in windows that are shifted."""
    *window, _, height, width = windows.shape[2:]
    kernel = weight.shape[2:]
    places = [
        (size + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i, size in enumerate((height, width))
    ]
    images = windows.flatten(0, 3)
    # Copied: of a view into the weight the compiler takes the layout of the result to be another.
    taps = weight.permute(2, 3, 0, 1).contiguous()[..., None, None]
    grown = [window[i] + scale[i] * dilation[i] * (kernel[i] - 1) for i in range(2)]
    slices: list[tuple[Any, ...]] = []
    parts = []
    for i in range(kernel[0]):
        y, read_y = _read_by_tap(dilation[0] * i - padding[0], stride[0], places[0], height)
        a = scale[0] * dilation[0] * i
        for j in range(kernel[1]):
            x, read_x = _read_by_tap(dilation[1] * j - padding[1], stride[1], places[1], width)
            b = scale[1] * dilation[1] * j
            if y.stop > y.start and x.stop > x.start:
                tap = F.conv2d(images[:, :, read_y, read_x], taps[i, j], groups=groups)
                slices.append((..., slice(a, a + window[0]), slice(b, b + window[1]), slice(None), y, x))
                parts.append(tap.unflatten(0, windows.shape[:4]))
    shape = (*windows.shape[:2], *grown, weight.shape[0], *places)
    return added_slices(shape, slices, parts) if parts else windows.new_zeros(shape)


def _read_by_tap(first: int, stride: int, places: int, size: int) -> tuple[slice, slice]:
    """Return the places of a convolution's output where a tap lies on its input, and where it lies there.

    Args:
        first: where the tap lies at the first place.
        stride: of the convolution.
        places: rows or columns of the output.
        size: rows or columns of the input.
    """
    begin = max(0, -(first // stride))
    end = max(begin, min(places, (size - 1 - first) // stride + 1))
    return slice(begin, end), slice(first + stride * begin, first + stride * end, stride)


def forward_linear_windows(
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    image: Image,
    scale: Pair,
    offset: Pair,
) -> Matrices:
    """See `lbp.ops.forward_linear_windows`."""
    places: tuple[Image, Pair, Pair] = (image, scale, offset)
    rows = weight.reshape(1, -1, *center.shape[4:])
    magnitude = weight.abs()
    with full_precision():
        return (
            _accumulated(rows, center, *places).mT,
            None if radius is None else _accumulated(rows.abs(), radius, *places).mT,
            F.linear(center_bias.flatten(1), weight, bias),
            None if radius_bias is None else F.linear(radius_bias.flatten(1), magnitude),
        )


def insert_forward_windows(
    A: Tensor,
    center: Tensor,
    radius: Tensor | None,
    center_bias: Tensor,
    radius_bias: Tensor | None,
    *,
    image: Image,
    scale: Pair,
    offset: Pair,
    sides: str,
) -> tuple[Tensor, Tensor]:
    """See `lbp.ops.insert_forward_windows`."""
    insert = functools.partial(_accumulated, image=image, scale=scale, offset=offset)
    with full_precision():
        return inserted(A, (center, radius, center_bias, radius_bias), sides, insert)


def _accumulated(rows: Tensor, windows: Tensor, image: Image, scale: Pair, offset: Pair) -> Tensor:
    """Return rows [B, S, C, H, W] times windows [B, C0, kh, kw, C, H, W]: what falls on each pixel, [B, S, n0]."""
    layer = (rows.shape[3], rows.shape[4])
    entries = windows.permute(0, 5, 6, 1, 2, 3, 4).flatten(3, 5)  # [B, H, W, C0 kh kw, C]
    weights = rows.permute(0, 3, 4, 2, 1).contiguous()
    # With one channel nothing is summed, and a batched product of matrices takes long for that.
    products = entries * weights if rows.shape[2] == 1 else entries @ weights
    parts = products.unflatten(3, (image[0], -1)).movedim(3, 1).unbind(4)  # [B, C0, H, W, S]
    slices: list[tuple[Any, ...]] = []
    added = []
    for part, (i, j) in zip(parts, itertools.product(range(windows.shape[2]), range(windows.shape[3])), strict=True):
        from_y, to_y = _read_by_tap(offset[0] + i, scale[0], layer[0], image[1])
        from_x, to_x = _read_by_tap(offset[1] + j, scale[1], layer[1], image[2])
        slices.append((slice(None), slice(None), to_y, to_x))
        added.append(part[:, :, from_y, from_x])
    pixels = added_slices((products.shape[0], *image, rows.shape[1]), slices, added)
    return pixels.flatten(1, 3).mT
