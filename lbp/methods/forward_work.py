"""What forward linear bounds cost, counted from shapes: on windows and dense."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

import torch

from lbp.graph import BoundNode, InputNode
from lbp.graph.conv import Conv2dNode, channels_rows_columns
from lbp.graph.linear import LinearNode
from lbp.linear import InputWindows
from lbp.linear.receptive_field import Span
from lbp.ops.forward_windows import accumulation_calls, has_kernel


@dataclass(frozen=True)
class Costs:
    """What a kind of device takes besides products, in the multiply-adds that it makes meanwhile.

    Attributes:
        call: of a step's calls of small products and copies from Python.
        entry: of the passage of an entry of the matrices through an activation, and its evaluation: 24 bytes.
    """

    call: int
    entry: int


ON_CPU = Costs(call=12_000_000, entry=100)
"""Fitted, with `WINDOW_CALLS`, to the times of `benchmarks/forward_windows.py` on two cores (AMD EPYC, Zen 4): LBP of
18 small networks (images of 8x8 to 16x16, 4 to 32 channels, two or three convolutions) for 1, 4 and 16 images. Windows
took 0.15 to 1.37 times as long as dense matrices, and the choice by work at most 1.03 times as long as the other; with
16 million, which suited a processor of nearly twice the multiply-adds a second (Zen 5), up to 1.34 times. Where a
process returns freed memory to the system, dense matrices take longer. The choice depends on the number of images: at
8x8 with 16 channels and three convolutions windows take 1.2 times as long for one image and 0.9 times for 16, so that
any choice for both would be wrong for one."""

ON_CUDA = Costs(call=800_000_000, entry=160)
"""On an H100 LBP of one image took 35 to 52 ms on windows on DM-Medium, DM-Large and CNN-7+BN, 40 us for each of 900 to
1,200 calls that it made then, and plain PyTorch's dense matrices 11, 69 and 55 ms: by 20e12 multiply-adds and 3e12
bytes a second."""

WINDOW_CALLS = 1
"""Calls by which a step on windows takes longer than a dense one: what lies where, and parts at the image's edge."""


def input_windows(nodes: Collection[BoundNode], *, windows: bool) -> dict[BoundNode, InputWindows | None]:
    """Return on which windows forward bounds of the nodes are kept, None standing for dense matrices.

    Args:
        nodes: in topological order, with all that are below them.
        windows: whether rows are kept as windows where that is smaller.
    """
    found: dict[BoundNode, InputWindows | None] = {}
    for node in nodes:
        if isinstance(node, InputNode):
            image = windows and len(node.shape) == 3
            found[node] = InputWindows.of_input(channels_rows_columns(node.shape)) if image else None
        else:
            found[node] = node.windows_above(*(found[source] for source in node.inputs))
    return found


def windows_pay(nodes: Collection[BoundNode], *, batch: int, device: torch.device | None = None) -> bool:
    """Whether forward bounds on windows are less work than dense ones.

    Windows save multiply-adds, but make more calls: on small images, and of few images on a GPU, dense matrices are
    faster.

    Args:
        nodes: that bounds are carried through, in topological order.
        batch: number of images.
        device: see `forward_work`.
    """
    on_windows, dense = (forward_work(nodes, windows=windows, batch=batch, device=device) for windows in (True, False))
    return on_windows <= dense


def forward_work(nodes: Collection[BoundNode], *, windows: bool, batch: int, device: torch.device | None = None) -> int:
    """Return the work of carrying forward bounds through nodes, in multiply-adds; calls and passes are some as well.

    Args:
        nodes: in topological order.
        windows: whether rows are kept as windows where that is smaller.
        batch: number of images.
        device: where that is; None: where the layers' parameters are.
    """
    device = device or device_of(nodes)
    costs = ON_CPU if device.type == "cpu" else ON_CUDA
    found = input_windows(nodes, windows=windows)
    total, inputs, matrices = 0, 0, 1
    for node in nodes:
        if isinstance(node, InputNode):
            inputs = node.size
            continue
        before, own = found[node.inputs[0]], found[node]
        calls, multiply_adds = 1, 0
        if isinstance(node, Conv2dNode):
            multiply_adds = node.parameters()[0][0].numel() * node.size * inputs
            if own is not None and before is not None:
                multiply_adds = convolution_work(node, before, device)
                calls = _convolution_calls(node, device)
        elif isinstance(node, LinearNode):
            weight = node.parameters()[0]
            multiply_adds = weight.numel() * inputs
            if before is not None:
                multiply_adds = len(weight) * entries_on_image(before)
                images = 1 if matrices == 1 else batch
                sizes = (before.image, before.field.size, before.layer, len(weight))
                calls = accumulation_calls(*sizes, images, weight.itemsize, device)
        elif node.is_activation:
            matrices = 2
        if own is not None or before is not None:
            total += WINDOW_CALLS * costs.call
        if own is None and before is not None and not isinstance(node, LinearNode):
            multiply_adds += costs.entry * inputs * node.inputs[0].size
        multiply_adds += costs.entry * (inputs if own is None else own.entries) * node.size
        # Before the first activation there is one matrix, for all examples.
        total += matrices * (costs.call * calls + multiply_adds * (1 if matrices == 1 else batch))
    return total


def device_of(nodes: Collection[BoundNode]) -> torch.device:
    """Return where the parameters of nodes are, the CPU where there are none."""
    layers = (node for node in nodes if isinstance(node, Conv2dNode | LinearNode))
    return next((node.weight.read().device for node in layers), torch.device("cpu"))


def entries_on_image(windows: InputWindows) -> int:
    """Return how many entries of the windows of all neurons lie on the image."""
    rows, columns = (
        _products(span, count, 1, 1, 0, 1, length)
        for span, count, length in zip(_spans(windows), windows.layer[1:], windows.image[1:], strict=True)
    )
    return windows.image[0] * windows.layer[0] * rows * columns


def convolution_work(node: Conv2dNode, before: InputWindows, device: torch.device) -> int:
    """Return the multiply-adds of a convolution of windows; kernels make none for an entry outside the image."""
    weight = node.parameters()[0]
    if not has_kernel(device):
        return weight[0].numel() * node.size * before.entries
    return convolution_on_image(node, before)


def convolution_on_image(node: Conv2dNode, before: InputWindows) -> int:
    """Return the multiply-adds of a convolution of those entries of windows that lie on the image."""
    weight, geometry = node.parameters()[0], node.geometry
    outputs, *layer = channels_rows_columns(node.shape)
    steps = zip(weight.shape[2:], geometry.stride, geometry.padding, geometry.dilation, strict=True)
    rows, columns = (
        _products(span, count, *step, length)
        for span, count, step, length in zip(_spans(before), layer, steps, before.image[1:], strict=True)
    )
    return before.image[0] * outputs * weight.shape[1] * rows * columns


def _spans(windows: InputWindows) -> tuple[Span, Span]:
    return windows.field.rows, windows.field.columns


@lru_cache
def _products(span: Span, count: int, kernel: int, stride: int, padding: int, dilation: int, length: int) -> int:
    """Return how many entries on an image of some length the taps of a kernel meet along an axis, at all positions."""
    starts = (span.start(stride * at + dilation * tap - padding) for at in range(count) for tap in range(kernel))
    return sum(max(min(start + span.size, length) - max(start, 0), 0) for start in starts)


def _convolution_calls(node: Conv2dNode, device: torch.device) -> int:
    kernel, geometry = node.parameters()[0], node.geometry
    if has_kernel(device):
        return 1
    # What deals out the planes, two for every tap, and what brings the sums into order.
    return geometry.stride[0] * geometry.stride[1] + 2 * kernel.shape[2] * kernel.shape[3] + 3
