"""Window matrices: where their entries lie, where their products are computed, and how much is prepared at a time.

A window matrix is [B, C0, kh, kw, C, H, W]; see `lbp.ops.forward_windows`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

OPERAND_BYTES = 16 * 2**20
"""Size of what a convolution prepares at a time on a CPU: images that fit are convolved together."""


def has_kernel(device: torch.device) -> bool:
    """Whether kernels convolve windows and multiply rows with them; elsewhere the library's products do."""
    return device.type == "cpu"


def operand_bytes(device: torch.device) -> int:
    """Return the size of what a convolution prepares at a time; on a GPU each product costs its launch."""
    return OPERAND_BYTES if device.type == "cpu" else 16 * OPERAND_BYTES


def rows_and_columns(windows: Tensor, scale: Sequence[int], offset: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the rows [kh, 1, 1, H, 1] and columns [1, kw, 1, 1, W] of the image that entries belong to."""
    rows, columns = (
        scale[i] * torch.arange(windows.shape[5 + i], device=windows.device)
        + (torch.arange(windows.shape[2 + i], device=windows.device) + offset[i])[:, None]
        for i in range(2)
    )
    return rows[:, None, None, :, None], columns[None, :, None, None, :]


def on_image(windows: Tensor, image: Sequence[int], scale: Sequence[int], offset: Sequence[int]) -> Tensor:
    """Return which entries of a window matrix lie on an image of some channels, rows and columns: [kh, kw, 1, H, W]."""
    row, column = rows_and_columns(windows, scale, offset)
    return ((row >= 0) & (row < image[1])) & ((column >= 0) & (column < image[2]))
