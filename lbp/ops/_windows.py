"""Products of matrices that are kept as windows of the input, and their gradients, by the library's products.

A window matrix is [B, C0, kh, kw, C, H, W]; see `lbp.ops.forward_windows`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lbp.ops._convolution import Convolution, Pair, convolved_size

OPERAND_BYTES = 4 * 2**20
"""Size of the operand that is gathered for one product on a CPU: small enough to stay in a cache."""


def operand_bytes(device: torch.device) -> int:
    """Return the size of the operand that is gathered for one product; on a GPU each costs its launches."""
    return OPERAND_BYTES if device.type == "cpu" else 16 * OPERAND_BYTES


class Tap(NamedTuple):
    """One tap of a kernel along one axis.

    Attributes:
        window: first entry of the output's window that the tap writes; it writes as many as the input's window has.
        outputs: positions of the output for which the tap stands on the layer and not on its padding.
        inputs: the positions of the layer on which it stands then.
    """

    window: int
    outputs: slice
    inputs: slice


def axis_taps(length: int, count: int, kernel: int, scale: int, stride: int, padding: int, dilation: int) -> list[Tap]:
    """Return the taps of a kernel along one axis.

    Args:
        length: positions of the layer.
        count: positions of the output.
        kernel: number of taps.
        scale: distance of the windows of neighbouring positions of the layer.
        stride: of the convolution, as the following.
        padding: zeros before the first position.
        dilation: distance of the taps.
    """
    taps = []
    for tap in range(kernel):
        start = dilation * tap - padding
        first = max(-(start // stride), 0)
        stop = min((length - 1 - start) // stride + 1, count)
        read = start + first * stride
        outputs = slice(first, max(stop, first))
        inputs = slice(read, max(start + (stop - 1) * stride + 1, read), stride)
        taps.append(Tap(scale * dilation * tap, outputs, inputs))
    return taps


def grown_window(windows: Tensor, weight: Tensor, scale: Sequence[int], dilation: Sequence[int]) -> Pair:
    """Return the rows and columns of the windows after a convolution."""
    height, width = (windows.shape[2 + i] + scale[i] * dilation[i] * (weight.shape[2 + i] - 1) for i in range(2))
    return height, width


def convolved_shape(windows: Tensor, weight: Tensor, scale: Sequence[int], convolution: Convolution) -> tuple[int, ...]:
    """Return the shape of the windows after a convolution."""
    layer = convolved_size(windows.shape, weight, convolution)
    return (*windows.shape[:2], *grown_window(windows, weight, scale, convolution[2]), *layer)


def _taps(windows: Tensor, weight: Tensor, scale: Sequence[int], convolution: Convolution) -> tuple[list[Tap], ...]:
    stride, padding, dilation, _ = convolution
    layer = convolved_size(windows.shape, weight, convolution)
    return tuple(
        axis_taps(windows.shape[5 + i], layer[1 + i], weight.shape[2 + i], scale[i], stride[i], padding[i], dilation[i])
        for i in range(2)
    )


class _Run(NamedTuple):
    """Entries of the output's window, along one axis, to which the same taps contribute."""

    start: int
    stop: int
    first_tap: int
    stop_tap: int


def _runs(window: int, taps: list[Tap]) -> Iterator[_Run]:
    """Split the output's window, along one axis, by the taps that contribute."""
    ends = sorted({0} | {tap.window for tap in taps} | {tap.window + window for tap in taps})
    for start, stop in pairwise(ends):
        touching = [i for i, tap in enumerate(taps) if tap.window <= start < tap.window + window]
        first = touching[0] if touching else 0
        yield _Run(start, stop, first, first + len(touching))


def convolve_windows(windows: Tensor, weight: Tensor, scale: Sequence[int], convolution: Convolution) -> Tensor:
    """Convolve a window matrix: the windows grow, and every product is one that the result needs.

    An entry of the output's window is a sum over the taps whose own window reaches it. Their operands are gathered, and
    multiplied with the part of the kernel that they meet in one product.
    """
    groups = convolution[3]
    row_taps, column_taps = _taps(windows, weight, scale, convolution)
    result = windows.new_empty(convolved_shape(windows, weight, scale, convolution))
    source, target = windows.flatten(0, 1), result.flatten(0, 1)
    kernels = weight.unflatten(0, (groups, -1)).permute(0, 1, 3, 4, 2)  # [G, C_out / G, taps, taps, C_in / G]
    for rows in _runs(windows.shape[2], row_taps):
        for columns in _runs(windows.shape[3], column_taps):
            kernel = kernels[:, :, rows.first_tap : rows.stop_tap, columns.first_tap : columns.stop_tap]
            if kernel.numel() == 0 or target.numel() == 0:
                target[:, rows.start : rows.stop, columns.start : columns.stop] = 0
                continue
            chosen = (row_taps[rows.first_tap : rows.stop_tap], column_taps[columns.first_tap : columns.stop_tap])
            _convolve_run(source, target, kernel, rows, columns, chosen)
    return result


def _convolve_run(
    source: Tensor, target: Tensor, kernel: Tensor, rows: _Run, columns: _Run, taps: tuple[list[Tap], list[Tap]]
) -> None:
    """Write the entries of one run of rows and one of columns of the target [N, kh, kw, C, H, W]."""
    groups, _, row_taps, column_taps, depth = kernel.shape
    channels, *places = target.shape[3:]
    flat_kernel = kernel.flatten(2)
    entry_bytes = kernel[:, 0].numel() * places[0] * places[1] * source.itemsize
    entries = max(operand_bytes(source.device) // max(entry_bytes, 1), 1)
    width = columns.stop - columns.start
    images = min(max(entries // width, 1), len(source))
    grouped = source.unflatten(3, (groups, depth))
    # What lies over the layer's padding is the same in every chunk, and stays zero.
    operand = source.new_zeros(images, width, groups, row_taps, column_taps, depth, *places)
    for row in range(rows.start, rows.stop):
        for first in range(0, len(source), images):
            part = grouped[first : first + images]
            patches = operand[: len(part)]
            for i, vertical in enumerate(taps[0]):
                for j, horizontal in enumerate(taps[1]):
                    begin = columns.start - horizontal.window
                    read = part[:, row - vertical.window, begin : begin + width]
                    patches[:, :, :, i, j, :, vertical.outputs, horizontal.outputs] = read[
                        ..., vertical.inputs, horizontal.inputs
                    ]
            product = flat_kernel @ patches.flatten(3, 5).flatten(4)
            target[first : first + images, row, columns.start : columns.stop] = product.reshape(
                len(part), width, channels, *places
            )


def convolve_windows_gradient(
    gradient: Tensor,
    windows: Tensor,
    weight: Tensor,
    scale: Sequence[int],
    convolution: Convolution,
    needs: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `convolve_windows` by the windows and by the weight; empty where not needed."""
    groups = convolution[3]
    height, width = windows.shape[2:4]
    row_taps, column_taps = _taps(windows, weight, scale, convolution)
    to_windows = windows.new_zeros(windows.shape if needs[0] else (0,))
    to_weight = weight.new_zeros(weight.shape if needs[1] else (0,))
    for i, vertical in enumerate(row_taps):
        for j, horizontal in enumerate(column_taps):
            rows, columns = (
                slice(tap.window, tap.window + size) for tap, size in ((vertical, height), (horizontal, width))
            )
            arriving = gradient[:, :, rows, columns, :, vertical.outputs, horizontal.outputs]
            shape = arriving.shape[5:]
            arriving = arriving.unflatten(4, (groups, -1)).flatten(6)  # [B, C0, kh, kw, G, C_out / G, positions]
            kernel = weight[:, :, i, j].unflatten(0, (groups, -1))  # [G, C_out / G, C_in / G]
            if needs[0]:
                product = (kernel.mT @ arriving).flatten(4, 5).unflatten(-1, shape)
                to_windows[..., vertical.inputs, horizontal.inputs] += product
            if needs[1]:
                read = windows[..., vertical.inputs, horizontal.inputs].unflatten(4, (groups, -1)).flatten(6)
                to_weight[:, :, i, j] = (arriving @ read.mT).sum((0, 1, 2, 3)).flatten(0, 1)
    return to_windows, to_weight


def accumulate_windows(
    rows: Tensor, windows: Tensor, image: Sequence[int], scale: Sequence[int], offset: Sequence[int]
) -> Tensor:
    """Multiply rows [1 or B, S, C, H, W] with a window matrix, which gives [B, n0, S].

    The windows of one position are multiplied with the coefficients of its channels, and the product is added to the
    part of the input under that window.
    """
    batch = windows.shape[0] if rows.shape[0] == 1 else rows.shape[0]
    channels, _, _, depth, height, width = windows.shape[1:]
    count = rows.shape[1]
    if tuple(windows.shape[2:4]) == (1, 1) and tuple(scale) == (1, 1) and tuple(image[1:]) == (height, width):
        # Each position has an element of the image to itself.
        left, right = windows[:, :, 0, 0].permute(0, 3, 4, 1, 2), rows.permute(0, 3, 4, 2, 1)
        return (left @ right).permute(0, 3, 1, 2, 4).flatten(1, 3)
    result = windows.new_zeros(batch, *image, count)
    for y in range(height):
        down, top = _inside(windows.shape[2], image[1], scale[0] * y + offset[0])
        if result.numel() == 0 or down.start == down.stop:
            continue
        # [B, W, C0 kh kw, C] and [B, W, C, S]: the positions of one row of the layer.
        left = _transposed(windows[:, :, down, :, :, y].flatten(1, 4)).unflatten(-1, (-1, depth))
        right = _transposed(rows[:, :, :, y].flatten(1, 2)).unflatten(-1, (count, depth)).mT
        for x in range(width):
            across, start = _inside(windows.shape[3], image[2], scale[1] * x + offset[1])
            product = left[:, x] @ right[:, x]
            shaped = product.reshape(batch, channels, -1, windows.shape[3], count)[:, :, :, across]
            target = result[:, :, top : top + shaped.shape[2], start : start + shaped.shape[3]]
            target += shaped
    return result.flatten(1, 3)


def _inside(window: int, length: int, origin: int) -> tuple[slice, int]:
    """Return the entries of a window along one axis that lie on the image, and the position of the first."""
    first, stop = min(max(-origin, 0), window), max(min(length - origin, window), 0)
    return slice(first, max(stop, first)), origin + first


def _transposed(matrix: Tensor) -> Tensor:
    """Return [B, n, W] as [B, W, n], contiguous; one example at a time is what the library transposes fast."""
    return torch.stack([part.contiguous().T.contiguous() for part in matrix]) if len(matrix) else matrix.mT


def accumulate_windows_gradient(
    gradient: Tensor,
    rows: Tensor,
    windows: Tensor,
    image: Sequence[int],
    scale: Sequence[int],
    offset: Sequence[int],
    needs: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `accumulate_windows` by rows and by windows, in the batch of the result, as above."""
    batch, _, count = gradient.shape
    channels, _, window_width, depth, height, width = windows.shape[1:]
    arriving = gradient.unflatten(1, tuple(image))
    to_rows = rows.new_zeros((batch, *rows.shape[1:]) if needs[0] else (0,))
    to_windows = windows.new_zeros((batch, *windows.shape[1:]) if needs[1] else (0,))
    for y in range(height):
        down, top = _inside(windows.shape[2], image[1], scale[0] * y + offset[0])
        for x in range(width):
            across, start = _inside(window_width, image[2], scale[1] * x + offset[1])
            size = (down.stop - down.start, across.stop - across.start)
            if 0 in size:
                continue
            part = arriving[:, :, top : top + size[0], start : start + size[1]].flatten(1, 3)  # [B, entries, S]
            if needs[0]:
                read = windows[:, :, down, across, :, y, x].flatten(1, 3)  # [B, entries, C]
                to_rows[..., y, x] = (part.mT @ read).reshape(batch, count, depth)
            if needs[1]:
                product = part @ rows[..., y, x]
                to_windows[:, :, down, across, :, y, x] = product.unflatten(1, (channels, *size))
    return to_rows, to_windows
