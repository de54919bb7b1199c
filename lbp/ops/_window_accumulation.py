"""Products of rows with matrices that are kept as windows of the input, and their gradients, by the library's products.

A window matrix is [B, C0, kh, kw, C, H, W]; see `lbp.ops.forward_windows`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lbp.ops._windows import has_kernel, operand_bytes

FEW_ROWS = 32
"""Rows up to which they are multiplied with a window matrix as it lies; more pay for laying it out."""

BLOCK_OF_ROWS = 32
"""Many rows are filled up to a multiple of this."""


def accumulate_windows(
    rows: Tensor, windows: Tensor, image: Sequence[int], scale: Sequence[int], offset: Sequence[int]
) -> Tensor:
    """Multiply rows [1 or B, S, C, H, W] with a window matrix, which gives [B, n0, S].

    The windows of one position are multiplied with the coefficients of its channels, and the products of a row of
    positions are added to the part of the input under their windows.
    """
    batch = windows.shape[0] if rows.shape[0] == 1 else rows.shape[0]
    channels, _, _, depth, height, width = windows.shape[1:]
    count = rows.shape[1]
    alone = tuple(windows.shape[2:4]) == (1, 1) and tuple(scale) == (1, 1) and tuple(offset) == (0, 0)
    if alone and tuple(image[1:]) == (height, width):
        # Each position has an element of the image to itself.
        left, right = windows[:, :, 0, 0].permute(0, 3, 4, 1, 2), rows.permute(0, 3, 4, 2, 1)
        return (left @ right).permute(0, 3, 1, 2, 4).flatten(1, 3)
    blocks = _Blocks.of(image[2], width, windows.shape[3], scale[1], offset[1])
    if blocks.count <= 0 or batch * count * depth * windows.shape[1:4].numel() == 0:
        return windows.new_zeros(batch, math.prod(image), count)
    total = windows.new_zeros(batch, channels, image[1], blocks.count, blocks.size, count)
    each = _row_numbers(image, windows.shape[2:4], windows.shape[4:], scale, count) * windows.itemsize
    together = max(operand_bytes(windows.device) // each, 1)
    by_position = _by_position(rows)
    for y in range(height):
        down, top = _inside(windows.shape[2], image[1], scale[0] * y + offset[0])
        if down.start == down.stop:
            continue
        # [1 or B, W, S C]: the positions of one row of the layer.
        coefficients = by_position[:, width * y : width * (y + 1)]
        for first in range(0, batch, together):
            examples = slice(first, min(first + together, batch))
            read = _some(windows, examples)[:, :, down, :, :, y]
            sums = _accumulate_row(read, _some(coefficients, examples).unflatten(-1, (count, depth)), blocks)
            target = total[examples, :, top : top + read.shape[2]].permute(3, 0, 4, 1, 2, 5)
            target += sums.reshape(target.shape)
    return blocks.cut(total.flatten(3, 4), image[2]).flatten(1, 3)


def _row_numbers(
    image: Sequence[int], window: Sequence[int], layer: Sequence[int], scale: Sequence[int], count: int
) -> int:
    """Return how many numbers an example takes for one row of the layer: windows in two orders, sums."""
    per_window = -(-window[1] // scale[1])
    depth, _, width = layer
    return image[0] * window[0] * scale[1] * (2 * per_window * depth * width + (width + per_window) * count)


def accumulation_bytes(
    image: Sequence[int],
    window: Sequence[int],
    layer: Sequence[int],
    scale: Sequence[int],
    count: int,
    batch: int,
    itemsize: int,
    device: torch.device,
) -> int:
    """Return the bytes that `accumulate_windows` takes beside windows, coefficients and result of `count` rows."""
    if has_kernel(device):
        if count <= FEW_ROWS:
            # The coefficients once more, rows of the layer filled up to whole vectors.
            vector = 64 // itemsize
            return count * layer[0] * layer[1] * -(-layer[2] // vector) * vector * itemsize
        # The coefficients and the sums of an image, and the windows of a row of the layer.
        padded = -(-count // BLOCK_OF_ROWS) * BLOCK_OF_ROWS
        positions = image[0] * window[0] * window[1] * layer[0] * layer[2]
        return (padded * (math.prod(layer) + math.prod(image)) + positions) * itemsize
    row = _row_numbers(image, window, layer, scale, count) * itemsize
    together = min(max(operand_bytes(device) // max(row, 1), 1), batch)
    coefficients = count * math.prod(layer) * itemsize
    # Columns beyond the image are cut off the sum at the end.
    return row * together + coefficients + batch * math.prod(image) * count * itemsize


@dataclass(frozen=True)
class _Blocks:
    """Columns of the input in blocks, as many as the windows of neighbouring positions are apart.

    A window is `per_window` blocks, the last of them filled up: block n of the window of position x is block x + n.

    Attributes:
        size: columns of a block.
        per_window: blocks of a window.
        first: the first block that meets the image.
        count: blocks that meet it.
        start: the image's column where the first one begins.
    """

    size: int
    per_window: int
    first: int
    count: int
    start: int

    @classmethod
    def of(cls, length: int, positions: int, window: int, scale: int, offset: int) -> _Blocks:
        per_window = -(-window // scale)
        first = max(-(offset // scale) - 1, 0)
        last = min((length - 1 - offset) // scale, positions + per_window - 2)
        return cls(scale, per_window, first, last - first + 1, scale * first + offset)

    def cut(self, total: Tensor, length: int) -> Tensor:
        """Return [..., columns of the blocks, S] as [..., length, S], the columns of the image."""
        first, stop = max(self.start, 0), min(self.start + total.shape[-2], length)
        inside = total[..., first - self.start : stop - self.start, :]
        return inside if stop - first == length else functional.pad(inside, (0, 0, first, length - stop))


def _some(values: Tensor, examples: slice) -> Tensor:
    """Return [B, ...] of some examples; what all share stays [1, ...]."""
    return values if len(values) == 1 else values[examples]


def _accumulate_row(read: Tensor, coefficients: Tensor, blocks: _Blocks) -> Tensor:
    """Multiply the windows of a row of positions with their coefficients, and add up where they overlap.

    Args:
        read: [B or 1, C0, kh, kw, C, W].
        coefficients: [B or 1, W, S, C].
        blocks: of the windows' columns.

    Returns:
        [blocks, B, columns of a block, C0, kh, S], with some dimensions as one.
    """
    depth, width = read.shape[4:]
    outer = len(coefficients)
    if outer > 1:
        read = read.expand(outer, -1, -1, -1, -1, -1)
    missing = blocks.size * blocks.per_window - read.shape[3]
    if missing:
        read = functional.pad(read, (0, 0, 0, 0, 0, missing))
    # [outer, B / outer, C0, kh, blocks, columns, C, W]: examples that share coefficients are rows of one product.
    by_block = read.unflatten(3, (blocks.per_window, -1)).unflatten(0, (outer, -1))
    by_block = by_block.permute(0, 4, 1, 5, 2, 3, 6, 7).reshape(-1, width)
    left = by_block.T.contiguous().reshape(width, outer, blocks.per_window, -1, depth)
    right = coefficients.transpose(0, 1).contiguous().mT
    sums = read.new_zeros(blocks.count, outer, left.shape[3], right.shape[3])
    for n in range(blocks.per_window):
        start, stop = max(blocks.first - n, 0), min(blocks.first + blocks.count - n, width)
        if start < stop:
            place = start + n - blocks.first
            into = sums[place : place + stop - start].flatten(0, 1)
            into.baddbmm_(left[start:stop, :, n].flatten(0, 1), right[start:stop].flatten(0, 1))
    return sums


def _inside(window: int, length: int, origin: int) -> tuple[slice, int]:
    """Return the entries of a window along one axis that lie on the image, and the position of the first."""
    first, stop = min(max(-origin, 0), window), max(min(length - origin, window), 0)
    return slice(first, max(stop, first)), origin + first


def _by_position(rows: Tensor) -> Tensor:
    """Return rows [B, S, C, H, W] as [B, H W, S C]; a whole matrix at a time is what the library transposes fast."""
    result = rows.new_empty(rows.shape[0], rows.shape[3:].numel(), rows.shape[1:3].numel())
    for of_example, transposed in zip(rows, result, strict=True):
        transposed.copy_(of_example.flatten(0, 1).flatten(1).T)
    return result


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
    # Columns of zeros, so that every window of a row of the layer reads as many.
    before = max(-offset[1], 0)
    after = max(scale[1] * (width - 1) + offset[1] + window_width - image[2], 0)
    arriving = functional.pad(gradient.unflatten(1, tuple(image)), (0, 0, before, after))
    to_rows = rows.new_zeros((batch, *rows.shape[1:]) if needs[0] else (0,))
    to_windows = windows.new_zeros((batch, *windows.shape[1:]) if needs[1] else (0,))
    per_position = batch * channels * windows.shape[2] * window_width * (count + depth) * windows.itemsize
    together = max(operand_bytes(windows.device) // max(per_position, 1), 1)
    for y in range(height):
        down, top = _inside(windows.shape[2], image[1], scale[0] * y + offset[0])
        if down.start == down.stop:
            continue
        size = down.stop - down.start
        # [B, C0, kh, W, S, kw]
        reached = arriving[:, :, top : top + size, max(offset[1], 0) :].unfold(3, window_width, scale[1])
        for first in range(0, width, together):
            positions = slice(first, min(first + together, width))
            part = reached[:, :, :, positions].permute(0, 3, 1, 2, 5, 4).flatten(2, 4)  # [B, W, entries, S]
            column = (
                torch.arange(positions.start, positions.stop, device=windows.device)[:, None] * scale[1] + offset[1]
            )
            column = column + torch.arange(window_width, device=windows.device)
            on_image = ((column >= 0) & (column < image[2])).repeat(1, channels * size)[..., None]  # [W, entries, 1]
            if needs[0]:
                read = windows[:, :, down, :, :, y, positions].permute(0, 5, 1, 2, 3, 4).flatten(2, 4)
                product = part.mT @ torch.where(on_image, read, 0)  # [B, W, S, C]
                to_rows[:, :, :, y, positions] = product.permute(0, 2, 3, 1)
            if needs[1]:
                product = torch.where(on_image, part @ rows[:, :, :, y, positions].permute(0, 3, 1, 2), 0)
                by_entry = product.unflatten(2, (channels, size, window_width)).permute(0, 2, 3, 4, 5, 1)
                to_windows[:, :, down, :, :, y, positions] = by_entry
    return to_rows, to_windows
