"""Convolutions of matrices that are kept as windows of the input, and their gradients, by the library's products.

A window matrix is [B, C0, kh, kw, C, H, W]; see `lbp.ops.forward_windows`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lbp.ops._convolution import Convolution, Pair, convolution_gradients, convolved_size
from lbp.ops._windows import has_kernel, on_image, operand_bytes

PART_POSITIONS = 128
"""Positions of the output of an entry of the windows, at most, that the kernel takes at a time."""


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


def convolved_places(scale: Sequence[int], offset: Sequence[int], convolution: Convolution) -> tuple[Pair, Pair]:
    """Return scale and offset of the windows after a convolution."""
    stride, padding, *_ = convolution
    return (
        (scale[0] * stride[0], scale[1] * stride[1]),
        (offset[0] - scale[0] * padding[0], offset[1] - scale[1] * padding[1]),
    )


def _taps(windows: Tensor, weight: Tensor, scale: Sequence[int], convolution: Convolution) -> tuple[list[Tap], ...]:
    stride, padding, dilation, _ = convolution
    layer = convolved_size(windows.shape, weight, convolution)
    return tuple(
        axis_taps(windows.shape[5 + i], layer[1 + i], weight.shape[2 + i], scale[i], stride[i], padding[i], dilation[i])
        for i in range(2)
    )


@dataclass(frozen=True)
class _Axis:
    """A layer under a convolution along one axis, as its planes have it: padded, and dealt out by the stride.

    Attributes:
        length: positions of the layer that a tap reaches.
        count: positions of the output.
        stride: of the convolution; the padded position `stride q + phase` is position q of the plane `phase`.
        padding: zeros before the first position.
        shifts: of every tap the plane that it reads, and the position there that output 0 reads.
        pitch: distance of the next row of the layer in a plane.
        reach: positions from the first to the last that a tap meets, padding included.
    """

    length: int
    count: int
    stride: int
    padding: int
    shifts: tuple[Pair, ...]
    pitch: int
    reach: int

    @classmethod
    def of(cls, length: int, count: int, kernel: int, stride: int, padding: int, dilation: int) -> _Axis:
        reach = stride * (count - 1) + dilation * (kernel - 1) + 1
        shifts = [divmod(dilation * tap, stride)[::-1] for tap in range(kernel)]
        used = max(min(length, reach - padding), 0)
        # What a tap reads behind the end of a row are the zeros before the next one.
        pitch = max(-(-max(padding + used, reach - padding) // stride), count)
        return cls(used, count, stride, padding, tuple(shifts), pitch, reach)

    def part(self, phase: int) -> tuple[slice, slice]:
        """Return the positions of a plane that are no padding, and the positions of the layer that they hold."""
        first = max(-(-(self.padding - phase) // self.stride), 0)
        start = self.stride * first + phase - self.padding
        size = max(-(-(self.length - start) // self.stride), 0)
        return slice(first, first + size), slice(start, max(self.length, start), self.stride)


@dataclass(frozen=True)
class ConvolvedWindows:
    """Sizes of a convolution of windows, all images and input channels apart.

    Attributes:
        window: rows and columns of the input's windows.
        steps: by how much a tap moves the window, along each axis.
        axes: the layer, along each axis.
        inputs: channels of the layer.
        outputs: channels of the output.
        groups: of the channels.
    """

    window: Pair
    steps: Pair
    axes: tuple[_Axis, _Axis]
    inputs: int
    outputs: int
    groups: int

    @classmethod
    def of(
        cls, window: Sequence[int], layer: Sequence[int], weight: Tensor, scale: Sequence[int], convolution: Convolution
    ) -> ConvolvedWindows:
        """Return the sizes for windows [kh, kw] of a layer [C, H, W]."""
        stride, padding, dilation, groups = convolution
        counts = convolved_size(layer, weight, convolution)[1:]
        rows, columns = (
            _Axis.of(layer[1 + i], counts[i], weight.shape[2 + i], stride[i], padding[i], dilation[i]) for i in range(2)
        )
        steps = (scale[0] * dilation[0], scale[1] * dilation[1])
        return cls((window[0], window[1]), steps, (rows, columns), layer[0], weight.shape[0], groups)

    @property
    def grown(self) -> Pair:
        """Rows and columns of the output's windows."""
        rows, columns = (self.window[i] + self.steps[i] * (len(self.axes[i].shifts) - 1) for i in range(2))
        return rows, columns

    @property
    def positions(self) -> int:
        """Positions of the output in one product, those that are dropped at the ends of rows included."""
        return self.axes[0].count * self.axes[1].pitch

    @property
    def plane_rows(self) -> int:
        """Rows of a plane, so that no tap reads behind its end."""
        rows, columns = ([shift for _, shift in axis.shifts] for axis in self.axes)
        return self.axes[0].count + max(rows) + -(-max(columns) // self.axes[1].pitch)

    def numbers(self, device: torch.device) -> int:
        """Return how many numbers an image and input channel takes beside operand and result.

        The kernel's are the layers, padded; the library's products take planes, sums, and the product of a tap, with
        its weights once for every group.
        """
        rows, columns = self.axes
        entries = self.window[0] * self.window[1] * self.inputs
        if has_kernel(device):
            return entries * rows.reach * columns.reach
        planes = rows.stride * columns.stride * self.plane_rows * columns.pitch
        window, grown = math.prod(self.window), math.prod(self.grown)
        weights = 0 if self.groups == 1 else self.inputs // self.groups
        return entries * planes + (grown * self.positions + window * (self.positions + weights)) * self.outputs

    def together(self, images: int, itemsize: int, device: torch.device) -> int:
        """Return how many of the images and input channels are convolved at a time."""
        return max(min(operand_bytes(device) // max(self.numbers(device) * itemsize, 1), images), 1)

    def extra_bytes(self, images: int, itemsize: int, device: torch.device) -> int:
        """Return the bytes that a convolution of images and input channels takes beside operand and result."""
        together = self.together(images, itemsize, device)
        numbers = self.numbers(device) * itemsize * together
        return numbers + self._bookkeeping_bytes(together, itemsize) if has_kernel(device) else numbers

    def _bookkeeping_bytes(self, images: int, itemsize: int) -> int:
        """Return what the kernel takes beside the layers: the costs of its parts, packed weights, and sums by thread.

        csrc/cpu/kernels/convolve_windows.cpp deals out the parts, and lane_products.h the columns. A vector counts as
        the widest that there is.
        """
        height, width = (axis.count for axis in self.axes)
        across = -(-width // PART_POSITIONS)
        down = -(-height // (PART_POSITIONS // -(-width // across)))
        parts = images * self.grown[0] * self.grown[1] * down * across
        taps = len(self.axes[0].shifts) * len(self.axes[1].shifts)
        columns = self.groups * _padded_columns(self.outputs // self.groups, 64 // itemsize)
        sums = min(torch.get_num_threads(), parts) * PART_POSITIONS
        return 8 * parts + columns * (taps * (self.inputs // self.groups) + sums) * itemsize


def _padded_columns(outputs: int, vector: int) -> int:
    """Return the columns of the blocks of a group's outputs: two vectors wide, or one where that is less work."""
    narrow, wide = -(-outputs // vector), -(-outputs // (2 * vector))
    return narrow * vector if 3 * narrow < 5 * wide else 2 * wide * vector


Places = tuple[Sequence[int], Sequence[int], Sequence[int]]
"""Channels, rows and columns of the image, or nothing where it is large enough for every window; scale and offset."""


def convolve_windows(windows: Tensor, weight: Tensor, places: Places, convolution: Convolution) -> Tensor:
    """Convolve a window matrix by the library's products: the windows grow, and entries outside the image are 0.

    An entry of the output's window is a sum over the taps whose own window reaches it. In planes, where the layer is
    padded and the positions that a stride visits stand side by side, what a tap reads is one stretch of memory: a
    product's operand as it lies. The product of each tap, for all entries of the input's window, is added to its part
    of the output's: two calls for a tap, as calls are what this takes on a GPU.
    """
    image, scale, offset = places
    sizes = ConvolvedWindows.of(windows.shape[2:4], windows.shape[4:], weight, scale, convolution)
    result = windows.new_empty(convolved_shape(windows, weight, scale, convolution))
    if result.numel() == 0 or weight.numel() == 0:
        return result.zero_()
    groups = convolution[3]
    source, target = windows.flatten(0, 1), result.flatten(0, 1)
    kernels = weight.unflatten(0, (groups, -1)).permute(3, 4, 0, 1, 2).contiguous()  # [taps, taps, G, outputs, inputs]
    outside = ~on_image(result, image, *convolved_places(scale, offset, convolution)) if image else None
    images = sizes.together(len(source), source.itemsize, source.device)
    for first in range(0, len(source), images):
        part = source[first : first + images]
        _convolve_images(_planes(part, sizes), kernels, sizes, outside, target[first : first + images])
    return result


def _planes(source: Tensor, sizes: ConvolvedWindows) -> Tensor:
    """Return windows [N, kh, kw, C, h, w] as planes [phases, phases, kh, kw, N, C, rows * pitch]."""
    rows, columns = sizes.axes
    moved = source.permute(1, 2, 0, 3, 4, 5)
    shape = (rows.stride, columns.stride, *moved.shape[:4], sizes.plane_rows, columns.pitch)
    planes = source.new_zeros(shape)
    for vertical in {phase for phase, _ in rows.shifts}:
        for horizontal in {phase for phase, _ in columns.shifts}:
            down, read_down = rows.part(vertical)
            across, read_across = columns.part(horizontal)
            planes[vertical, horizontal, ..., down, across] = moved[..., read_down, read_across]
    return planes.flatten(-2)


def _convolve_images(
    planes: Tensor, kernels: Tensor, sizes: ConvolvedWindows, outside: Tensor | None, target: Tensor
) -> None:
    """Write the windows [N, kh, kw, outputs, H, W] of some images, 0 where `outside` [kh, kw, 1, H, W] says so."""
    (height, width), (down, across), (rows, columns) = sizes.window, sizes.steps, sizes.axes
    count, groups, outputs = len(target), kernels.shape[2], kernels.shape[3]
    sums = target.new_zeros(*sizes.grown, count, groups * outputs, sizes.positions)
    operands = planes.unflatten(5, (groups, -1)).flatten(2, 5)  # [phases, phases, kh kw N G, inputs, ...]
    operators = kernels[:, :, None].expand(-1, -1, height * width * count, -1, -1, -1)
    for i, (vertical, first_row) in enumerate(rows.shifts):
        for j, (horizontal, first_column) in enumerate(columns.shifts):
            start = first_row * columns.pitch + first_column
            read = operands[vertical, horizontal, ..., start : start + sizes.positions]
            product = torch.bmm(operators[i, j].flatten(0, 1), read)
            reached = sums[down * i : down * i + height, across * j : across * j + width]
            reached += product.view(reached.shape)
            del product  # before the next one is made
    by_position = sums.unflatten(-1, (rows.count, columns.pitch))[..., : columns.count]
    target.copy_(by_position.permute(2, 0, 1, 3, 4, 5))
    if outside is not None:
        target.masked_fill_(outside, 0.0)


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
    images = windows.flatten(0, 3)
    to_images = images.new_zeros(images.shape if needs[0] else (0,))
    to_weight = weight.new_zeros(weight.shape if needs[1] else (0,))
    for i, vertical in enumerate(row_taps):
        rows = slice(vertical.window, vertical.window + height)
        for j, horizontal in enumerate(column_taps):
            columns = slice(horizontal.window, horizontal.window + width)
            arriving = gradient[:, :, rows, columns, :, vertical.outputs, horizontal.outputs].flatten(0, 3)
            read = images[:, :, vertical.inputs, horizontal.inputs]
            if arriving.numel() == 0 or read.numel() == 0:
                continue
            tap = (slice(None), slice(None), slice(i, i + 1), slice(j, j + 1))
            product, to_tap = _tap_gradients(arriving, read, weight[tap], groups, needs)
            if product is not None:
                to_images[:, :, vertical.inputs, horizontal.inputs] += product
            if to_tap is not None:
                to_weight[tap] = to_tap
    return to_images.reshape(windows.shape) if needs[0] else to_images, to_weight


def _tap_gradients(
    gradient: Tensor, read: Tensor, tap: Tensor, groups: int, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of what a tap [C_out, C_in / G, 1, 1] read [N, C_in, h, w], and of itself.

    On a CPU these are oneDNN's, of a convolution with a kernel of one pixel; elsewhere products.
    """
    if gradient.is_cpu:
        return convolution_gradients(gradient, read, tap, ((1, 1), (0, 0), (1, 1), groups), needs)
    arriving = gradient.unflatten(1, (groups, -1)).flatten(3)  # [N, G, C_out / G, positions]
    kernels = tap.reshape(groups, -1, tap.shape[1])
    to_read = (kernels.mT @ arriving).reshape(read.shape) if needs[0] else None
    if not needs[1]:
        return to_read, None
    return to_read, (arriving @ read.unflatten(1, (groups, -1)).flatten(3).mT).sum(0).reshape(tap.shape)
