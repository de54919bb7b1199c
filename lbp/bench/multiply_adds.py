"""The multiply-adds of methods whose rows are many, counted from the shapes of a network."""

from __future__ import annotations

from collections.abc import Sequence

from lbp.graph import BoundNode, Network
from lbp.graph.conv import Conv2dNode
from lbp.graph.linear import LinearNode
from lbp.methods.forward_work import convolution_on_image, entries_on_image, input_windows
from lbp.methods.work import row_steps
from lbp.ops.forward_windows import axis_taps


def multiply_adds(network: Network, method: str, *, windows: bool, specification: int | None = None) -> int:
    """Returns the multiply-adds of one image in the products of a method, nothing skipped.

    What a window of the input has outside of the image does not count, nor do a convolution's kernel taps over its
    padding; but in back-substitution they do.

    Args:
        network: the graph.
        method: IBP, CROWN-IBP, LBP, CROWN-LBP or CROWN.
        windows: whether rows are kept as windows of the layers, or as whole layers.
        specification: rows whose lower bounds are wanted; None for both bounds of every output.
    """
    hidden = [node.inputs[0] for node in network.activations]
    total = 0
    if method in ("CROWN", "CROWN-LBP", "CROWN-IBP"):
        starts = hidden if method == "CROWN" else []
        total += sum(start.size * _of_a_row(network, start, windows=windows) for start in starts)
        of_output = _of_a_row(network, network.output, windows=windows)
        if specification is None:
            total += network.output.size * of_output
        else:
            total += specification * (of_output // 2 + _of_a_layer(network.output))
    below = network.below(hidden[-1]) if hidden else network.nodes
    if method in ("LBP", "CROWN-LBP"):
        total += _forward_multiply_adds(network.nodes if method == "LBP" else below, windows=windows)
    if method in ("IBP", "CROWN-IBP"):
        total += 2 * sum(_of_a_layer(node) for node in (network.nodes if method == "IBP" else below))
    return total


def _of_a_row(network: Network, start: BoundNode, *, windows: bool) -> int:
    """Multiply-adds of both sides of one row on its way down."""
    return sum(step.multiply_adds for step in row_steps(network, start, windows=windows))


def _of_a_layer(node: BoundNode) -> int:
    """Multiply-adds of a layer on one image; none, unless it multiplies with weights."""
    if isinstance(node, Conv2dNode):
        return _convolution_multiply_adds(node)
    return node.parameters()[0].numel() if isinstance(node, LinearNode) else 0


def _forward_multiply_adds(nodes: Sequence[BoundNode], *, windows: bool) -> int:
    """Multiply-adds of the products of forward bounds: of the center alone up to the first activation."""
    found = input_windows(nodes, windows=windows)
    inputs = sum(node.size for node in nodes if not node.inputs)
    products: dict[BoundNode, int] = {}
    total = 0
    for node in nodes:
        products[node] = 2 if node.is_activation else max((products[source] for source in node.inputs), default=1)
        before = found[node.inputs[0]] if node.inputs else None
        if before is None:
            total += products[node] * inputs * _of_a_layer(node)
        elif isinstance(node, Conv2dNode):
            total += products[node] * convolution_on_image(node, before)
        elif isinstance(node, LinearNode):
            total += products[node] * len(node.parameters()[0]) * entries_on_image(before)
    return total


def _convolution_multiply_adds(node: Conv2dNode) -> int:
    """Multiply-adds of the convolution of one image, those of the padding left out."""
    weight, geometry = node.parameters()[0], node.geometry
    total = weight.shape[0] * weight.shape[1]
    for i in range(2):
        taps = axis_taps(
            *(node.inputs[0].shape[1 + i], node.shape[1 + i], weight.shape[2 + i], 1),
            *(geometry.stride[i], geometry.padding[i], geometry.dilation[i]),
        )
        total *= sum(tap.outputs.stop - tap.outputs.start for tap in taps)
    return total
