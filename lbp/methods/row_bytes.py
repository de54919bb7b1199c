"""How many bytes rows of back-substitution take on their way from a node to the input."""

from __future__ import annotations

from torch import Tensor

from lbp.graph import BoundNode, Network
from lbp.graph.conv import Conv2dNode
from lbp.graph.shape import ReshapeNode
from lbp.linear import ReceptiveField, layer_of, window_of
from lbp.methods.work import counted_once


@counted_once
def row_bytes(network: Network, start: BoundNode, itemsize: int, *, windows: bool = True) -> int:
    """Return the most bytes that one row of two sides holds at a time, on its way from a node to the input.

    Args:
        network: the graph.
        start: the node.
        itemsize: bytes of a number.
        windows: whether the row is kept as a window where that is smaller; otherwise it is a row for one image.
    """
    first = ReceptiveField.identity() if windows else None
    arriving: dict[BoundNode, tuple[ReceptiveField | None, int]] = {start: (first, 0)}
    peak = held = 0
    for node in reversed(network.below(start)):
        if node not in arriving:
            continue
        field, size = arriving.pop(node)
        here = _window_bytes(field, node.shape, itemsize)
        if not node.inputs:
            peak = max(peak, held + here)
            held -= size
            continue
        own = node.receptive_field()
        below = None if field is None or own is None else field.then(own)
        made = 0
        for source in node.inputs:
            out = _window_bytes(below, source.shape, itemsize)
            earlier, kept = arriving.get(source, (below, 0))
            union = below if earlier is None or below is None else below.union(earlier)
            if kept:
                # Two paths meet: both are held while their sum is made.
                out = out + _window_bytes(union, source.shape, itemsize)
            arriving[source] = (union if kept else below, kept + out)
            made += out
        # One kernel relaxes windows and convolves them; other steps hold the relaxed row beside its copy.
        relaxed = 0 if windows and isinstance(node, Conv2dNode) and node is not start else here + made
        within = node.bytes_in_step(itemsize) * here // (2 * itemsize)
        peak = max(peak, held + made + relaxed + within)
        held += made - size
    return max(peak, itemsize) + 64


def _window_bytes(field: ReceptiveField | None, shape: tuple[int, ...], itemsize: int) -> int:
    layer = layer_of(shape)
    height, width = window_of(field, layer)
    return 2 * layer[0] * height * width * itemsize


def start_bytes(node: BoundNode, itemsize: int) -> int:
    """Return the bytes of what one windowed row starts with beside its window: at a convolution, all of the kernel."""
    if not isinstance(node, Conv2dNode):
        return 0
    kernel: Tensor = node.weight.read()
    geometry = node.geometry
    spread = geometry.groups > 1 or max(geometry.dilation) > 1
    return (4 if spread else 3) * kernel.numel() * geometry.groups * itemsize


def position_rows(node: BoundNode) -> int:
    """Return how many rows of a layer, in their order, belong to one position of it: those of its channels.

    The position is that of the layer from which other layers are read: rows pass changes of shape by number. Where such
    a change deals out the positions anew, each row is alone.
    """
    if len(node.shape) != 3:
        return 1
    below = node
    while isinstance(below, ReshapeNode):
        below = below.inputs[0]
    return node.shape[0] if below.shape[1:] in ((), node.shape[1:]) else 1
