"""Coefficients kept as windows of a layer, in plain PyTorch; windows lie inside the layer, channels stand last."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lbp.precision import full_precision
from lbp.reference.bounding_lines import BoundingLines, bounding_lines
from lbp.reference.concretize import dual_norm
from lbp.reference.ramp import as_parameter
from lbp.reference.relax import Relaxation, relaxed_by
from lbp.strategies import side_names

Pair = tuple[int, int]


def window_places(rows: Tensor, layer: Pair, window: Pair) -> Tensor:
    """Return where the pixels of every row's window stand among the pixels of all images.

    Args:
        rows: int64 [R, 4]: row of A, image, first row and column of the window.
        layer: rows and columns of the layer.
        window: rows and columns of the windows.

    Returns:
        int64 [R, height, width], into [B h w].
    """
    y = rows[:, 2, None] + torch.arange(window[0], device=rows.device)
    x = rows[:, 3, None] + torch.arange(window[1], device=rows.device)
    return (rows[:, 1, None, None] * layer[0] + y[:, :, None]) * layer[1] + x[:, None, :]


def gather_windows(values: Tensor, rows: Tensor, window: Pair) -> Tensor:
    """Return what every row's window sees of values [B, C, h, w], as [R, height, width, C]."""
    layer = (values.shape[2], values.shape[3])
    return values.movedim(1, -1).flatten(0, 2)[window_places(rows, layer, window)]


def move_windows(A: Tensor, corners: Tensor, to: Tensor, window: Pair) -> Tensor:
    """Return the same rows over other windows, zero where the old ones have nothing.

    Args:
        A: [K, R, height, width, C].
        corners: int64 [R, 2], first row and column of the old windows.
        to: int64 [R, 2], those of the new ones.
        window: rows and columns of the new windows.
    """
    height, width = A.shape[2:4]
    shift = to - corners
    y = shift[:, 0, None] + torch.arange(window[0], device=A.device)
    x = shift[:, 1, None] + torch.arange(window[1], device=A.device)
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    row = torch.arange(A.shape[1], device=A.device)[:, None, None]
    moved = A[:, row, y.clamp(0, max(height - 1, 0))[:, :, None], x.clamp(0, max(width - 1, 0))[:, None, :]]
    return torch.where(inside[..., None], moved, moved.new_zeros(()))


def relax_windows(
    A: Tensor, rows: Tensor, l: Tensor, u: Tensor, *, sides: str, bias: Tensor | None = None, **relaxation: Relaxation
) -> tuple[Tensor, Tensor]:
    """See `lbp.ops.relax_windows`."""
    lines = bounding_lines(l, u, **relaxation)  # type: ignore[arg-type]
    window = (A.shape[2], A.shape[3])
    lines = BoundingLines(*torch.broadcast_tensors(*lines))
    seen = BoundingLines(*(gather_windows(line, rows, window) for line in lines))
    offset = None
    if bias is not None:
        offset = gather_windows(bias.expand(lines.lower_slope.shape[1:]).expand_as(lines.lower_slope), rows, window)
    return relaxed_by(A[:, rows[:, 0]], seen, sides, offset, rows=1)


def natural_windows(
    rows: Tensor, window: Pair, weight: Tensor, *, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[Tensor, Pair]:
    """Return corners [R, 2] and size of the windows that a transposed convolution makes, padding included."""
    corners = torch.stack([rows[:, 2 + i] * stride[i] - padding[i] for i in range(2)], 1)
    height, width = (stride[i] * (window[i] - 1) + dilation[i] * (weight.shape[2 + i] - 1) + 1 for i in range(2))
    return corners, (height, width)


def backward_conv2d_windows(
    A: Tensor,
    rows: Tensor,
    layer: Pair,
    weight: Tensor,
    bias: Tensor | None,
    corners: Tensor,
    window: Pair,
    *,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> tuple[Tensor, Tensor]:
    """See `lbp.ops.backward_conv2d_windows`."""
    taken = A[:, rows[:, 0]]
    constants = torch.zeros(taken.shape[:2], dtype=torch.float64, device=A.device)
    if bias is not None:
        constants = (taken * bias).flatten(2).sum(-1, dtype=torch.float64)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    old_corners, size = natural_windows(rows, (A.shape[2], A.shape[3]), weight, **geometry)
    images = taken.flatten(0, 1).movedim(-1, 1)
    with full_precision():
        spread = F.conv_transpose2d(images, weight, None, stride, (0, 0), (0, 0), groups, dilation)
    natural = spread.movedim(1, -1).reshape(*taken.shape[:2], *size, spread.shape[1])
    return move_windows(natural, old_corners, corners, window), constants


def relax_backward_conv2d_windows(
    A: Tensor,
    rows: Tensor,
    l: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    corners: Tensor,
    window: Pair,
    *,
    sides: str,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    **relaxation: Relaxation,
) -> tuple[Tensor, Tensor]:
    """See `lbp.ops.relax_backward_conv2d_windows`."""
    channel_bias = None if bias is None else bias[:, None, None]
    relaxed, constants = relax_windows(A, rows, l, u, sides=sides, bias=channel_bias, **relaxation)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    coefficients, _ = backward_conv2d_windows(
        relaxed, in_order(rows), (l.shape[2], l.shape[3]), weight, None, corners, window, groups=groups, **geometry
    )
    return coefficients, constants


def in_order(rows: Tensor) -> Tensor:
    """Return the rows for coefficients that are stored one after the other, as every op returns them."""
    return torch.cat([torch.arange(len(rows), device=rows.device)[:, None], rows[:, 1:]], 1)


def concretize_windows_box(A: Tensor, rows: Tensor, x_L: Tensor, x_U: Tensor, *, sides: str) -> Tensor:
    """See `lbp.ops.concretize_windows_box`."""
    window = (A.shape[2], A.shape[3])
    low = gather_windows(torch.minimum(x_L, x_U), rows, window)
    high = gather_windows(torch.maximum(x_L, x_U), rows, window)
    bounds = []
    for side_coefficients, side in zip(A[:, rows[:, 0]], side_names(sides), strict=True):
        at_positive, at_negative = (low, high) if side == "lower" else (high, low)
        extreme = side_coefficients.double() * torch.where(side_coefficients >= 0, at_positive, at_negative).double()
        bounds.append(extreme.flatten(1).sum(-1))
    return torch.stack(bounds)


def concretize_windows_ball(
    A: Tensor, rows: Tensor, x0: Tensor, eps: Tensor | float, p: float, *, sides: str
) -> Tensor:
    """See `lbp.ops.concretize_windows_ball`."""
    radius = as_parameter(eps, A).double().reshape(-1)
    radius = radius.expand(x0.shape[0])[rows[:, 1]]
    point = gather_windows(x0, rows, (A.shape[2], A.shape[3])).double().flatten(1)
    bounds = []
    for side_coefficients, side in zip(A[:, rows[:, 0]].double().flatten(2), side_names(sides), strict=True):
        at_center = (side_coefficients * point).sum(-1)
        spread = radius * dual_norm(side_coefficients, p, -1)
        bounds.append(at_center - spread if side == "lower" else at_center + spread)
    return torch.stack(bounds)
