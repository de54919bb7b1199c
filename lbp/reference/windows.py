"""Coefficients kept as windows of a layer, in plain PyTorch; windows lie inside the layer, channels stand last."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lbp.precision import full_precision
from lbp.reference.bounding_lines import bounding_lines
from lbp.reference.concretize import dual_norm, ends_in_order
from lbp.reference.ramp import as_parameter
from lbp.reference.relax import Relaxation, relaxed_by
from lbp.strategies import BoundingLines, side_names

Pair = tuple[int, int]


def pixels_of(corners: Tensor, window: Pair) -> tuple[Tensor, Tensor]:
    """Return rows [R, height, 1] and columns [R, 1, width] of the pixels of windows whose corners are [R, 2]."""
    rows = corners[:, 0, None, None] + torch.arange(window[0], device=corners.device)[:, None]
    columns = corners[:, 1, None, None] + torch.arange(window[1], device=corners.device)
    return rows, columns


def gather_windows(values: Tensor, rows: Tensor, window: Pair) -> Tensor:
    """Return what every row's window sees of values [B, C, h, w], as [R, height, width, C]."""
    y, x = pixels_of(rows[:, 2:], window)
    return values.movedim(1, -1)[rows[:, 1, None, None], y, x]


def move_windows(A: Tensor, corners: Tensor, to: Tensor, window: Pair) -> Tensor:
    """Return rows A [K, R, height, width, C] over other windows, whose corners are `to` [R, 2].

    The old windows get a border of zeros, and a pixel that lies outside of them is read there.
    """
    y, x = pixels_of(to - corners + 1, window)
    row = torch.arange(A.shape[1], device=A.device)[:, None, None]
    bordered = F.pad(A, (0, 0, 1, 1, 1, 1))
    return bordered[:, row, y.clamp(0, A.shape[2] + 1), x.clamp(0, A.shape[3] + 1)]


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
    images = taken.flatten(0, 1).movedim(-1, 1)
    with full_precision():
        spread = F.conv_transpose2d(images, weight, None, stride, (0, 0), (0, 0), groups, dilation)
    # The pixel at (y, x) reaches those of the input from (stride y - padding, stride x - padding) on.
    reached = rows[:, 2:] * rows.new_tensor(stride) - rows.new_tensor(padding)
    natural = spread.movedim(1, -1).unflatten(0, taken.shape[:2])
    return move_windows(natural, reached, corners, window), constants


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
    low, high = (gather_windows(end, rows, window) for end in ends_in_order(x_L, x_U))
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
