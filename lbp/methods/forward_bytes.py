"""How many bytes the matrices of forward linear bounds take, on windows and dense."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from lbp.graph import BoundNode, InputNode, Network
from lbp.graph.conv import Conv2dNode
from lbp.graph.linear import LinearNode
from lbp.linear import InputWindows
from lbp.methods.forward_work import input_windows
from lbp.ops.forward_windows import ConvolvedWindows, accumulation_bytes
from lbp.rounding import BLOCK

COPIES_OF_MATRICES = 3
"""Forward matrices that come of rows are collected, and arranged by neuron, beside those that are inserted."""


def matrix_numbers(network: Network, node: BoundNode, windows: InputWindows | None) -> int:
    """Return how many numbers the forward matrices of a node hold for one image; windows None: dense ones."""
    return 2 * node.size * (network.input.size if windows is None else windows.entries)


def forward_bytes(
    nodes: Collection[BoundNode], *, windows: bool, batch: int, itemsize: int, rounding: str = "nearest"
) -> int:
    """Return the most bytes that the matrices of forward bounds take at a time, counted from shapes.

    Args:
        nodes: the nodes that bounds are carried through, in topological order.
        windows: whether rows are kept as windows where that is smaller.
        batch: number of examples.
        itemsize: bytes of a number.
        rounding: what the bounds account for, one of `lbp.rounding.LEVELS`.
    """
    readers = Counter(source for node in nodes for source in node.inputs)
    found = input_windows(nodes, windows=windows)
    held: dict[BoundNode, int] = {}
    matrices: dict[BoundNode, int] = {}
    peak = inputs = 0
    for node in nodes:
        if isinstance(node, InputNode):
            inputs = node.size
        own = found[node]
        # center and radius; before the first activation there is but one matrix, for all examples.
        relaxed = node.is_activation or any(matrices[source] > 1 for source in node.inputs)
        matrices[node] = 2 * batch if relaxed else 1
        held[node] = matrices[node] * (inputs if own is None else own.entries) * node.size * itemsize
        # Besides, a change from windows to dense matrices copies what is read, and a convolution pads its layer.
        copies = [
            matrices[source] * inputs * source.size * itemsize
            for source in set(node.inputs)
            if own is None and found[source] is not None and not isinstance(node, LinearNode)
        ]
        if own is not None and len(node.inputs) > 1:
            # Branches are brought to the windows that they share.
            aligned = [
                matrices[source] * source.size
                for source in node.inputs
                if (there := found[source]) and there.field != own.field
            ]
            copies.append(own.entries * sum(aligned) * itemsize)
        copies.append(batch * inputs * node.numbers_in_forward_step() * itemsize)
        before = found[node.inputs[0]] if node.inputs else None
        if isinstance(node, LinearNode):
            copies.append(node.weight.read().numel() * itemsize)  # |W|
            if rounding != "nearest" and before is None and node.inputs[0].size > BLOCK:
                # Parts of sums, beside what they are added to: of the center, and of the radius beside the center.
                copies.append((1 if matrices[node] > 1 else 2) * held[node])
            if before is not None:
                sizes = (before.image, before.field.size, before.layer)
                copies.append(accumulation_bytes(*sizes, node.size, batch, itemsize, node.weight.read().device))
        if own is None and isinstance(node, Conv2dNode):
            # The library's convolution arranges what it reads and writes, one matrix at a time, channels in eights.
            copies.append(batch * inputs * (_in_eights(node.inputs[0]) + _in_eights(node)) * itemsize)
        if isinstance(node, Conv2dNode) and own is not None and before is not None:
            copies.append(_convolution_bytes(node, before, batch, itemsize))
        peak = max(peak, sum(held.values()) + sum(copies))
        for source in set(node.inputs):
            readers[source] -= node.inputs.count(source)
            if readers[source] == 0:
                del held[source]
    return peak


def _in_eights(node: BoundNode) -> int:
    """Return how many numbers a layer has where the number of its channels is rounded up to a multiple of 8."""
    channels: int = node.shape[0]
    return node.size // max(channels, 1) * (-(-channels // 8) * 8)


def _convolution_bytes(node: Conv2dNode, windows: InputWindows, batch: int, itemsize: int) -> int:
    """Return the bytes that a convolution takes beside windows of its input and of its output."""
    kernel, geometry = node.weight.read(), node.geometry
    convolution = (geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
    sizes = ConvolvedWindows.of(windows.field.size, windows.layer, kernel, windows.scale, convolution)
    return sizes.extra_bytes(batch * windows.image[0], itemsize, kernel.device)
