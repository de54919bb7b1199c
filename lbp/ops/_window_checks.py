"""What ops on windows refuse on every backend and device, before anything is computed from the numbers.

The library refuses the same once more, for what calls its registered ops (csrc/torch/windows.h).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lbp.ops._convolution import Convolution

LARGEST = 2**30
"""Sizes and steps above this are refused: products of two are 64-bit integers still."""


def check_places(windows: Tensor, image: Sequence[int] | None, scale: Sequence[int], offset: Sequence[int]) -> None:
    """Check a window matrix, and where its windows lie.

    Args:
        windows: [B, C0, kh, kw, C, H, W].
        image: C0, rows and columns of the input, or None.
        scale: see `lbp.ops.forward_windows`, as offset.
        offset: first row and column of the window of the neuron at (0, 0).

    Raises:
        RuntimeError: they do not fit.
    """
    if windows.dim() != 7:
        raise RuntimeError(f"expected windows [batch, channels, rows, columns, *layer], got {windows.dim()} dimensions")
    _check_pair("scale", scale, 1, LARGEST)
    _check_pair("offset", offset, -LARGEST, LARGEST)
    if image is not None:
        channels = windows.shape[1]
        if len(image) != 3 or image[0] != channels or min(image) < 0 or max(image[1:]) > LARGEST:
            raise RuntimeError(
                f"image: expected {channels} channels, rows and columns of 0 to {LARGEST}, got {tuple(image)}"
            )


def check_convolution(windows: Tensor, weight: Tensor, convolution: Convolution) -> None:
    """Check that a layer [C, H, W] of a window matrix can be convolved.

    Args:
        windows: as `check_places` has checked it.
        weight: [C_out, C / groups, rows, columns].
        convolution: stride, padding, dilation and groups.

    Raises:
        RuntimeError: it cannot.
    """
    stride, padding, dilation, groups = convolution
    channels, *layer = windows.shape[4:]
    _check_pair("stride", stride, 1, LARGEST)
    _check_pair("padding", padding, 0, LARGEST)
    _check_pair("dilation", dilation, 1, LARGEST)
    if groups < 1 or channels % groups != 0:
        raise RuntimeError(f"groups: expected a divisor of {channels} channels, got {groups}")
    if weight.dim() != 4 or weight.shape[1] * groups != channels or weight.shape[0] % groups != 0:
        raise RuntimeError(
            f"weight: expected [C_out, {channels // groups}, rows, columns], C_out a multiple of {groups} groups, "
            f"got {list(weight.shape)}"
        )
    for i in range(2):
        size = weight.shape[2 + i]
        if size < 1 or layer[i] + 2 * padding[i] < dilation[i] * (size - 1) + 1:
            raise RuntimeError(
                f"weight: the kernel of {weight.shape[2]} x {weight.shape[3]} does not fit in the padded layer of "
                f"{layer[0]} x {layer[1]}"
            )


def check_band(windows: Tensor, axis: int, matrix: Tensor, stride: int, size: int) -> None:
    """Check that a banded matrix multiplies an axis of a layer.

    Args:
        windows: [B, C0, kh, kw, C, H, W].
        axis: 0 for rows, 1 for columns.
        matrix: [outputs, inputs].
        stride: columns between the bands of neighbouring rows.
        size: columns of a band.

    Raises:
        RuntimeError: it does not.
    """
    if windows.dim() != 7:
        raise RuntimeError(f"expected windows [batch, channels, rows, columns, *layer], got {windows.dim()} dimensions")
    length = windows.shape[5 + axis]
    if matrix.dim() != 2 or matrix.shape[1] != length:
        raise RuntimeError(f"matrix: expected [outputs, {length}], got {list(matrix.shape)}")
    if size < 1 or stride < 1:
        raise RuntimeError(f"matrix: expected bands of 1 column and more, 1 and more apart, got {size} and {stride}")


def _check_pair(name: str, numbers: Sequence[int], least: int, most: int) -> None:
    if len(numbers) != 2 or min(numbers) < least or max(numbers) > most:
        raise RuntimeError(f"{name}: expected two numbers of {least} to {most}, got {tuple(numbers)}")
