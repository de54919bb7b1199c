"""Where the windows of rows lie in a layer: what they see of it, and the same rows over other windows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lbp.ops._arguments import take_at
from lbp.ops._convolution import Pair


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


def move_windows(A: Tensor, corners: Tensor, to: Tensor, window: Pair, sources: Tensor | None = None) -> Tensor:
    """Return the same rows over other windows, zero where the old ones have nothing.

    Args:
        A: [K, sources, height, width, C].
        corners: int64 [R, 2], first row and column of the old windows.
        to: int64 [R, 2], those of the new ones.
        window: rows and columns of the new windows.
        sources: int64 [R], the source of each row; None: one per row, in order.

    Returns:
        [K, R, *window, C].
    """
    sides, count, height, width, channels = A.shape
    # One pixel of zeros stands after those of both sides, which lie in one row: the fastest to take from, at the memory
    # of one copy however small the windows are. Whatever lies outside gets at least its index and is clamped to it.
    pixels = F.pad(A.reshape(-1, channels), (0, 0, 0, 1))
    zeros = sides * count * height * width
    shift = to - corners
    y, x = (torch.arange(window[i], device=A.device) + shift[:, i, None] for i in range(2))
    if sources is None:
        sources = torch.arange(count, device=A.device)
    starts = torch.where(y == y.clamp(0, height - 1), ((sources * height)[:, None] + y) * width, zeros)
    columns = torch.where(x == x.clamp(0, width - 1), x, zeros)
    places = starts[:, :, None] + columns[:, None, :]
    if sides > 1:
        places = places + (torch.arange(sides, device=A.device) * (count * height * width))[:, None, None, None]
    taken = take_at(pixels, 0, places.flatten().clamp_(max=zeros))
    return taken.reshape(sides, len(to), *window, channels)


def natural_windows(
    rows: Tensor, window: Pair, weight: Tensor, *, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[Tensor, Pair]:
    """Return corners [R, 2] and size of the windows that a transposed convolution makes, padding included."""
    corners = torch.stack([rows[:, 2 + i] * stride[i] - padding[i] for i in range(2)], 1)
    height, width = (stride[i] * (window[i] - 1) + dilation[i] * (weight.shape[2 + i] - 1) + 1 for i in range(2))
    return corners, (height, width)
