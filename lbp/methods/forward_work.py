"""What forward linear bounds cost, counted from shapes: on windows and dense."""

from __future__ import annotations

from collections.abc import Collection

from lbp.graph import BoundNode, InputNode
from lbp.graph.conv import Conv2dNode, channels_rows_columns
from lbp.graph.linear import LinearNode
from lbp.linear import InputWindows
from lbp.ops.forward_windows import ConvolvedWindows, has_kernel

CALL = 16_000_000
"""Multiply-adds in the time of a step's calls of small products and copies from Python.

Fitted, with the two below, to the times of `benchmarks/forward_windows.py` on two cores (AMD EPYC, AVX-512): LBP of 18
small networks (images of 8x8 to 16x16, 4 to 32 channels, two or three convolutions) for 1, 4 and 16 images, and chains
of up to 16 convolutions. A step there is some 60 us beside 3.7 ps for each multiply-add and 0.4 ns for each entry; the
times come out within a fifth. Windows took 0.1 to 1.35 times as long as dense matrices, and the choice by work at most
1.07 times as long as the other. Where a process returns freed memory to the system, dense matrices take longer. The
choice depends on the number of images: at 8x8 with 32 channels and three convolutions windows take 1.1 times as long
for one image and 0.65 times for 16, so that any choice for both would be wrong for one.
"""

WINDOW_CALLS = 1
"""Calls by which a step on windows takes longer than a dense one: what lies where, and parts at the image's edge."""

ENTRY = 100
"""Multiply-adds in the time in which an entry of the matrices passes an activation and is evaluated: 24 bytes."""


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


def windows_pay(nodes: Collection[BoundNode], *, batch: int) -> bool:
    """Whether forward bounds on windows are less work than dense ones.

    Windows save multiply-adds, but make more calls: on small images dense matrices are faster.

    Args:
        nodes: that bounds are carried through, in topological order.
        batch: number of images.
    """
    on_windows, dense = (forward_work(nodes, windows=windows, batch=batch) for windows in (True, False))
    return on_windows <= dense


def forward_work(nodes: Collection[BoundNode], *, windows: bool, batch: int) -> int:
    """Return the work of carrying forward bounds through nodes, in multiply-adds; calls and passes are some as well.

    Args:
        nodes: in topological order.
        windows: whether rows are kept as windows where that is smaller.
        batch: number of images.
    """
    found = input_windows(nodes, windows=windows)
    total, inputs, matrices = 0, 0, 1
    for node in nodes:
        if isinstance(node, InputNode):
            inputs = node.size
            continue
        before, own = found[node.inputs[0]], found[node]
        calls, multiply_adds = 1, 0
        if isinstance(node, Conv2dNode):
            weight = node.parameters()[0]
            multiply_adds = weight[0].numel() * node.size * (inputs if own is None else _entries(before))
            calls = 1 if own is None or before is None else _convolution_calls(node, before)
        elif isinstance(node, LinearNode):
            multiply_adds = node.parameters()[0].numel() * (inputs if before is None else before.entries)
            if before is not None and not has_kernel(node.parameters()[0].device):
                # For each row of the layer a product for every column of windows that overlap, and some copies.
                calls = before.layer[1] * (8 - (-before.field.columns.size // before.scale[1]))
        elif node.is_activation:
            matrices = 2
        if own is not None or before is not None:
            total += WINDOW_CALLS * CALL
        if own is None and before is not None and not isinstance(node, LinearNode):
            multiply_adds += ENTRY * inputs * node.inputs[0].size
        multiply_adds += ENTRY * (inputs if own is None else own.entries) * node.size
        # Before the first activation there is one matrix, for all examples.
        total += matrices * (CALL * calls + multiply_adds * (1 if matrices == 1 else batch))
    return total


def _entries(windows: InputWindows | None) -> int:
    assert windows is not None
    return windows.entries


def _convolution_calls(node: Conv2dNode, before: InputWindows) -> int:
    kernel, geometry = node.parameters()[0], node.geometry
    if has_kernel(kernel.device):
        return 1
    convolution = (geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
    sizes = ConvolvedWindows.of(before.field.size, before.layer, kernel, before.scale, convolution)
    planes = geometry.stride[0] * geometry.stride[1]
    return planes + 2 * sizes.grown[0] + before.field.size[0] * kernel.shape[2] * kernel.shape[3]
