"""Where products of window matrices are computed, and how much of them the library's products prepare at a time."""

from __future__ import annotations

import torch

OPERAND_BYTES = 16 * 2**20
"""Size of what a convolution prepares at a time on a CPU: images that fit are convolved together."""


def has_kernel(device: torch.device) -> bool:
    """Whether kernels convolve windows and multiply rows with them; elsewhere the library's products do."""
    return device.type == "cpu"


def operand_bytes(device: torch.device) -> int:
    """Return the size of what a convolution prepares at a time; on a GPU each product costs its launch."""
    return OPERAND_BYTES if device.type == "cpu" else 4 * OPERAND_BYTES
