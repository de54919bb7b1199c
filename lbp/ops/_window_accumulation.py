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

from lbp.ops._convolution import Pair
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
    products, and those are added to the pixels under their windows.
    """
    batch, count = max(windows.shape[0], rows.shape[0]) if len(rows) and len(windows) else 0, rows.shape[1]
    result = windows.new_zeros(batch, *image, count)
    places = _Places.of(windows, image, scale, offset)
    entries, channels = windows.shape[1:4].numel(), rows.shape[2]
    if places.count * result.numel() * channels * entries > 0:
        factors = places.factors(rows)
        for images, chunks in _parts(batch, count, entries * places.count, channels, windows):
            operands = places.operands(_of(windows, images))
            for some in chunks:
                columns = _columns(operands, _of(factors, images, 1)[:, :, some])
                spread = functional.fold(columns.flatten(0, 1), places.size, windows.shape[2:4], stride=tuple(scale))
                del columns
                of_rows = places.cut(spread).unflatten(0, (-1, some.stop - some.start))
                result[images, :, places.pixels[0], places.pixels[1], some] = of_rows.permute(0, 2, 3, 4, 1)
                del spread, of_rows
    return result.flatten(1, 3)


def _columns(operands: Tensor, factors: Tensor) -> Tensor:
    """Return products [B, S, entries, H W] of [H W, 1 or B, entries, C] and rows [H W, 1 or B, S, C]."""
    product: Tensor
    if factors.shape[1] == 1:
        product = (operands.flatten(1, 2) @ factors[:, 0].mT).unflatten(1, operands.shape[1:3])
        return product.permute(1, 3, 2, 0)
    if operands.shape[1] == 1:
        product = (factors.flatten(1, 2) @ operands[:, 0].mT).unflatten(1, factors.shape[1:3])
        return product.permute(1, 2, 3, 0)
    product = operands @ factors.mT
    return product.permute(1, 3, 2, 0)


def _of(tensor: Tensor, images: slice, dim: int = 0) -> Tensor:
    """Return the part of some images, of what all images share all of it."""
    return tensor if tensor.shape[dim] == 1 else tensor.narrow(dim, images.start, images.stop - images.start)


LEAST_ROWS = 32
"""Rows, at least, that are multiplied with the windows of an image at a time: each time these are read once."""


def _together(batch: int, count: int, positions: int, channels: int, itemsize: int, device: torch.device) -> Pair:
    """Return how many images, and rows of each, are taken at a time; of more than one image all rows.

    The windows of an image are laid out once, by position, and as large is what the gradient adds to them; a row takes
    products in two orders, and sums in as much memory.

    Args:
        batch: images.
        count: rows of each.
        positions: of the layer, times the entries of a window.
        channels: of the layer.
        itemsize: bytes of a number.
        device: where they are.
    """
    numbers = operand_bytes(device) // itemsize
    image, row = 2 * positions * channels, 3 * positions
    images = numbers // max(image + count * row, 1)
    if images >= 1:
        return min(images, batch), count
    return 1, min(max((numbers - image) // max(row, 1), LEAST_ROWS), count)


def _parts(
    batch: int, count: int, positions: int, channels: int, like: Tensor
) -> Iterator[tuple[slice, Sequence[slice]]]:
    """Yield images that are taken together, and the chunks of their rows; see `_together`."""
    images, rows = _together(batch, count, positions, channels, like.itemsize, like.device)
    chunks = [slice(first, min(first + rows, count)) for first in range(0, count, rows)]
    for first in range(0, batch, images):
        yield slice(first, min(first + images, batch)), chunks


def accumulation_bytes(
    image: Sequence[int],
    window: Sequence[int],
    layer: Sequence[int],
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
    # The coefficients laid out; of some images windows as well, products, in two orders, and sums.
    positions = layer[1] * layer[2] * entries
    images, together = _together(batch, count, positions, layer[0], itemsize, device)
    return (count * math.prod(layer) + images * positions * (layer[0] + 3 * together)) * itemsize


def accumulation_calls(
    image: Sequence[int],
    window: Sequence[int],
    layer: Sequence[int],
    count: int,
    batch: int,
    itemsize: int,
    device: torch.device,
) -> int:
    """Return how many times `accumulate_windows` calls a kernel, or the library."""
    if has_kernel(device):
        return 1
    positions = layer[1] * layer[2] * image[0] * window[0] * window[1]
    images, rows = _together(batch, count, positions, layer[0], itemsize, device)
    # What lays out rows, and the windows of images; what multiplies, adds up and arranges some rows.
    return 1 + -(-batch // images) * (1 + 5 * -(-count // rows))


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

    def factors(self, rows: Tensor) -> Tensor:
        """Return the coefficients of rows [1 or B, S, C, H, W] by position: [H W, 1 or B, S, C]."""
        return rows[..., self.down, self.across].permute(3, 4, 0, 1, 2).flatten(0, 1).contiguous()

    def operands(self, windows: Tensor, outside: Tensor | None = None) -> Tensor:
        """Return windows [1 or B, C0, kh, kw, C, H, W] by position: [H W, 1 or B, entries, C].

        Args:
            windows: the matrix.
            outside: [kh, kw, 1, H, W], which entries are read as 0.
        """
        read = windows[..., self.down, self.across]
        if outside is not None:
            read = read.masked_fill(outside, 0)
        return read.permute(5, 6, 0, 1, 2, 3, 4).flatten(0, 1).flatten(2, 4).contiguous()

    def reached(self, arriving: Tensor, window: Sequence[int], scale: Sequence[int]) -> Tensor:
        """Return what windows see of images [B, S, C0, h, w], 0 beyond: [B, S, entries, H W].

        All images and rows are channels of one, as for every image the library launches a kernel.
        """
        channels = self.under(arriving).flatten(0, 2)[None]
        found = functional.unfold(channels, tuple(window), stride=tuple(scale))
        by_row: Tensor = found[0].unflatten(0, (*arriving.shape[:2], -1))
        return by_row

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
    """Return the gradients of `accumulate_windows` by rows and by windows, empty where not needed; as above."""
    batch, _, count = gradient.shape
    to_rows = rows.new_zeros(rows.shape if needs[0] else (0,))
    to_windows = windows.new_zeros(windows.shape if needs[1] else (0,))
    places = _Places.of(windows, image, scale, offset)
    entries, channels = windows.shape[1:4].numel(), rows.shape[2]
    if places.count * gradient.numel() * channels * entries == 0:
        return to_rows, to_windows
    layer = (..., places.down, places.across)
    outside = ~on_image(windows[layer], image, scale, places.origin)  # [kh, kw, 1, H, W]
    factors = places.factors(rows)
    arriving = gradient.unflatten(1, tuple(image)).movedim(-1, 1)  # [B, S, C0, h, w]
    for images, chunks in _parts(batch, count, entries * places.count, channels, windows):
        operands = places.operands(_of(windows, images), outside) if needs[0] else windows[:0]
        for some in chunks:
            reached = places.reached(arriving[images, some], windows.shape[2:4], scale)
            by_rows, by_windows = _part_gradients(
                reached, operands, _of(factors, images, 1)[:, :, some], needs, shared_windows=len(windows) == 1
            )
            if needs[0]:
                part = _of(to_rows, images)[:, some][layer]
                part += by_rows.permute(1, 2, 3, 0).unflatten(-1, part.shape[-2:])
            if needs[1]:
                part = _of(to_windows, images)[layer]
                part += by_windows.permute(1, 2, 3, 0).reshape(part.shape)
            del reached, by_rows, by_windows
    if needs[1]:
        to_windows[layer].masked_fill_(outside, 0)
    return to_rows, to_windows


def _part_gradients(
    reached: Tensor, operands: Tensor, factors: Tensor, needs: tuple[bool, bool], *, shared_windows: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradients by rows [H W, 1 or B, S, C] and by windows [H W, 1 or B, entries, C].

    Those of what all images share are summed over them.

    Args:
        reached: what arrives under every window, [B, S, entries, H W].
        operands: windows [H W, 1 or B, entries, C], where rows need gradients.
        factors: rows [H W, 1 or B, S, C].
        needs: of rows, and of windows.
        shared_windows: whether all images share the windows.
    """
    batch, count, entries, _ = reached.shape
    to_rows, to_windows = factors[:0], factors[:0]
    if factors.shape[1] == 1:
        of_entries = reached.permute(3, 0, 2, 1).flatten(1, 2).contiguous()  # [H W, B entries, S]
        if needs[0]:
            to_rows = (of_entries.mT @ operands.flatten(1, 2)).unsqueeze(1)
        if needs[1]:
            to_windows = (of_entries @ factors[:, 0]).unflatten(1, (batch, entries))
        return to_rows, to_windows
    of_rows = reached.permute(3, 0, 1, 2).contiguous()  # [H W, B, S, entries]
    if shared_windows:
        of_rows, operands, factors = of_rows.flatten(1, 2), operands[:, :1].flatten(1, 2), factors.flatten(1, 2)
    if needs[0]:
        to_rows = of_rows @ operands
        to_rows = to_rows.unflatten(1, (batch, count)) if shared_windows else to_rows
    if needs[1]:
        to_windows = of_rows.mT @ factors
        to_windows = to_windows.unsqueeze(1) if shared_windows else to_windows
    return to_rows, to_windows
