"""Products of rows with matrices that are kept as windows of the input, and their gradients, by the library's products.

A window matrix is [B, C0, kh, kw, C, H, W]; see `lbp.ops.forward_windows`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lbp.ops._windows import has_kernel, on_image, operand_bytes

FEW_ROWS = 32
"""Rows up to which they are multiplied with a window matrix as it lies; more pay for laying it out."""

BLOCK_OF_ROWS = 32
"""Many rows are filled up to a multiple of this."""


def accumulate_windows(
    rows: Tensor, windows: Tensor, image: Sequence[int], scale: Sequence[int], offset: Sequence[int]
) -> Tensor:
    """Multiply rows [1 or B, S, C, H, W] with a window matrix, which gives [B, n0, S].

    The windows of each position are multiplied with the coefficients of its channels, all positions in one batch of
    products, and those are added to the pixels under their windows, some rows at a time.
    """
    batch, count = max(windows.shape[0], rows.shape[0]) if len(rows) and len(windows) else 0, rows.shape[1]
    result = windows.new_zeros(batch, *image, count)
    places = _Places.of(windows, image, scale, offset)
    if places.count * result.numel() * rows.shape[2] * windows.shape[1:4].numel() > 0:
        read, weights = windows[..., places.down, places.across], rows[..., places.down, places.across]
        # [H W, entries, C], of examples that share their rows next to each other.
        entries = read.permute(5, 6, 0, 1, 2, 3, 4).flatten(0, 1).flatten(2, 4)
        factors = weights.permute(3, 4, 0, 2, 1).flatten(0, 1)  # [H W, 1 or B, C, S]
        for some in _chunks(count, batch * places.count * windows.shape[1:4].numel(), windows):
            columns = _products(entries, factors[..., some]).permute(1, 3, 2, 0).flatten(0, 1)
            spread = functional.fold(columns, places.size, windows.shape[2:4], stride=tuple(scale))
            of_rows = places.cut(spread).unflatten(0, (batch, -1))
            result[:, :, places.pixels[0], places.pixels[1], some] = of_rows.permute(0, 2, 3, 4, 1)
    return result.flatten(1, 3)


def _products(entries: Tensor, factors: Tensor) -> Tensor:
    """Return products [H W, B, entries, S] of [H W, 1 or B, entries, C] and [H W, 1 or B, C, S]."""
    if factors.shape[1] == 1:
        products: Tensor = (entries.flatten(1, 2) @ factors[:, 0]).unflatten(1, entries.shape[1:3])
        return products
    if entries.shape[1] == 1:
        together = factors.transpose(1, 2).flatten(2)  # [H W, C, B S]
        by_row: Tensor = (entries[:, 0] @ together).unflatten(2, (factors.shape[1], -1))
        return by_row.transpose(1, 2)
    return entries @ factors


def _chunks(count: int, numbers: int, like: Tensor) -> Iterator[slice]:
    """Yield chunks of rows, of which each takes some numbers three times while it is multiplied and added."""
    together = max(operand_bytes(like.device) // max(3 * numbers * like.itemsize, 1), 1)
    for first in range(0, count, together):
        yield slice(first, min(first + together, count))


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
    entries = image[0] * window[0] * window[1]
    if has_kernel(device):
        if count <= FEW_ROWS:
            # The coefficients once more, rows of the layer filled up to whole vectors.
            vector = 64 // itemsize
            return count * layer[0] * layer[1] * -(-layer[2] // vector) * vector * itemsize
        # The coefficients and the sums of an image, and the windows of a row of the layer.
        padded = -(-count // BLOCK_OF_ROWS) * BLOCK_OF_ROWS
        positions = entries * layer[0] * layer[2]
        return (padded * (math.prod(layer) + math.prod(image)) + positions) * itemsize
    if entries == 0:
        return 0
    # Windows and coefficients laid out; of some rows products, in two orders, and sums over a bordered image.
    places = batch * layer[1] * layer[2]
    bordered = batch * image[0] * math.prod(image[1 + i] + 2 * window[i] for i in range(2))
    row = 2 * places * entries + bordered
    together = min(max(operand_bytes(device) // (3 * places * entries * itemsize or 1), 1), count)
    return (places * layer[0] * entries + count * math.prod(layer) * batch + together * row) * itemsize


@dataclass(frozen=True)
class _Places:
    """The positions whose windows meet the image, and where these lie.

    Attributes:
        down: rows of the layer.
        across: columns of the layer.
        count: positions.
        origin: row and column of the image where the first of these windows begins.
        size: rows and columns that their windows cover, beyond the image as well.
        pixels: rows and columns of the image that they cover.
    """

    down: slice
    across: slice
    count: int
    origin: tuple[int, int]
    size: tuple[int, int]
    pixels: tuple[slice, slice]

    @classmethod
    def of(cls, windows: Tensor, image: Sequence[int], scale: Sequence[int], offset: Sequence[int]) -> _Places:
        meeting, origins, sizes, pixels = [], [], [], []
        for i in range(2):
            window, places, length = windows.shape[2 + i], windows.shape[5 + i], image[1 + i]
            first = max(-((window - 1 + offset[i]) // scale[i]), 0)
            stop = max(min((length - 1 - offset[i]) // scale[i] + 1, places), first)
            origin = scale[i] * first + offset[i]
            size = scale[i] * (stop - first - 1) + window if stop > first else 0
            meeting.append(slice(first, stop))
            origins.append(origin)
            sizes.append(size)
            begin = min(max(origin, 0), length)
            pixels.append(slice(begin, max(min(origin + size, length), begin)))
        count = math.prod(places.stop - places.start for places in meeting)
        down, across = meeting
        return cls(down, across, count, (origins[0], origins[1]), (sizes[0], sizes[1]), (pixels[0], pixels[1]))

    def cut(self, covered: Tensor) -> Tensor:
        """Return of what the windows cover, [..., *size], the part on the image."""
        y, x = (slice(p.start - o, p.stop - o) for p, o in zip(self.pixels, self.origin, strict=True))
        return covered[..., y, x]

    def under(self, image: Tensor) -> Tensor:
        """Return of an image [..., h, w] what the windows cover, [..., *size], with 0 beyond it."""
        part = image[..., self.pixels[0], self.pixels[1]]
        before = [p.start - o for p, o in zip(self.pixels, self.origin, strict=True)]
        after = [size - b - length for size, b, length in zip(self.size, before, part.shape[-2:], strict=True)]
        return functional.pad(part, (before[1], after[1], before[0], after[0]))


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
    to_rows = rows.new_zeros((batch, *rows.shape[1:]) if needs[0] else (0,))
    to_windows = windows.new_zeros((batch, *windows.shape[1:]) if needs[1] else (0,))
    places = _Places.of(windows, image, scale, offset)
    if places.count * gradient.numel() * rows.shape[2] * windows.shape[1:4].numel() == 0:
        return to_rows, to_windows
    layer = (..., places.down, places.across)
    read = windows[layer]
    inside = on_image(read, image, scale, places.origin)  # [kh, kw, 1, H, W]
    entries = torch.where(inside, read, 0).flatten(1, 3).permute(0, 3, 4, 1, 2) if needs[0] else read
    weights = rows[layer].permute(0, 3, 4, 1, 2)  # [1 or B, H, W, S, C]
    arriving = places.under(gradient.unflatten(1, tuple(image)).movedim(-1, 1))  # [B, S, C0, h, w]
    for some in _chunks(count, batch * places.count * windows.shape[1:4].numel(), windows):
        reached = functional.unfold(arriving[:, some].flatten(0, 1), windows.shape[2:4], stride=tuple(scale))
        # [B, H, W, S, entries]
        by_place = reached.unflatten(0, (batch, -1)).permute(0, 3, 1, 2).unflatten(1, inside.shape[-2:])
        if needs[0]:
            to_rows[:, some][layer] = (by_place @ entries).permute(0, 3, 4, 1, 2)
        if needs[1]:
            product = (by_place.mT @ weights[..., some, :]).permute(0, 3, 4, 1, 2)
            by_entry = torch.where(inside, product.unflatten(1, windows.shape[1:4]), 0)
            to_windows[layer] += by_entry
    return to_rows, to_windows
