"""How many bytes the tensors take that bounds are made of, counted from shapes before anything is computed.

What rows of back-substitution take on their way down, what forward linear bounds take, and what their insertion into
rows takes is counted in `row_bytes`, `forward_bytes` and `insertion_bytes`. Here it comes together: for an image with
the bounds of all its layers, for the rows of the output and of hidden layers, and for what a layer's weight is laid out
as. `lbp.methods.memory` fits it all into a budget.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence

from torch import Tensor

from lbp.graph import BoundNode, Network, pre_activations
from lbp.graph.conv import Conv2dNode
from lbp.graph.linear import LinearNode
from lbp.graph.shape import ReshapeNode
from lbp.graph.slicing import SliceNode
from lbp.linear import layer_of
from lbp.methods.computation import Computation
from lbp.methods.forward_bytes import COPIES_OF_MATRICES, forward_bytes, matrix_numbers
from lbp.methods.forward_work import input_windows, windows_pay
from lbp.methods.insertion_bytes import (
    COPIES_OF_INSERTED_ROWS,
    hidden_scratch_bytes,
    inserted_row_bytes,
    insertion_scratch_bytes,
)
from lbp.methods.names import Method
from lbp.methods.row_bytes import position_rows, row_bytes, start_bytes
from lbp.methods.work import counted_once, insertion_points, met_first
from lbp.ops.affine import relax_backward_conv2d_bytes, relax_backward_linear_bytes
from lbp.ops.interval import interval_conv2d_bytes, interval_linear_bytes

ROWS_OF_INTERVALS = 3
"""A row over the intervals of the last activations, beside that from which it comes and its magnitudes."""

SCRATCH_BYTES = 2**16
"""The library's convolutions take so much for themselves, however small the layer."""


@counted_once
def shared_bytes(
    network: Network,
    itemsize: int,
    *,
    batch: int = 1,
    rows: int | None = None,
    through: int = sys.maxsize,
    forward: bool = False,
    rounding: str = "nearest",
) -> int:
    """Return the bytes that rows and images take together: weights laid out anew, and the lines of one image.

    Args:
        network: the graph.
        itemsize: bytes of a number.
        batch: number of images.
        rows: windowed rows of a hidden layer that start at a time; None: however many. Without any, no lines are kept.
        through: rows of any kind that pass through a layer at a time, each side and image counting.
        forward: whether forward bounds are carried through layers.
        rounding: what the bounds account for, one of `lbp.rounding.LEVELS`.
    """
    lines = 0 if rows == 0 else 8 * itemsize
    outward = rounding != "nearest"
    return max(
        lines * node.size
        + _weight_bytes(network, node, itemsize, batch, rows, outward=outward)
        + _layer_scratch_bytes(network, node, batch, through, forward=forward)
        for node in network.nodes
    )


def _weight_bytes(
    network: Network, node: BoundNode, itemsize: int, batch: int, rows: int | None, *, outward: bool
) -> int:
    """Return the most bytes that are made of a layer's weight at a time; forward bounds apart."""
    if isinstance(node, LinearNode):
        norms = node.norm_numbers() if network.is_first_affine(node) else 0
        return max(norms, node.interval_numbers(batch, outward=outward)) * itemsize
    if not isinstance(node, Conv2dNode):
        return 0
    kernel: Tensor = node.weight.read()
    # Columns of the kernel as products read them, and as the library's convolutions arrange it.
    columns = -(-kernel.shape[1] // 32) * 32 * kernel.shape[0] * kernel.shape[2] * kernel.shape[3] * itemsize
    # The kernel once for every way in which the windows that start with it are moved inside the layer.
    moved = 1
    for i in range(2):
        moved *= min(node.shape[1 + i], 1 + 2 * node.geometry.padding[i])
    return max((moved if rows is None else min(moved, rows)) * start_bytes(node, itemsize), columns)


def _layer_scratch_bytes(network: Network, node: BoundNode, batch: int, through: int, *, forward: bool) -> int:
    """Return the most bytes of scratch memory of a layer's products; see `shared_bytes`."""
    # A matrix has a row for each input, and one of constants.
    rows = batch * (network.input.size + 1) if forward else 0
    if isinstance(node, LinearNode):
        weight: Tensor = node.weight.read()
        return max(interval_linear_bytes(weight, batch, rows), relax_backward_linear_bytes(weight, through))
    if not isinstance(node, Conv2dNode):
        return 0
    kernel: Tensor = node.weight.read()
    geometry, positions = node.geometry, node.shape[1] * node.shape[2]
    _, height, width = layer_of(node.inputs[0].shape)
    of_intervals = interval_conv2d_bytes(kernel, geometry.groups, positions, max(batch, rows))
    of_rows = relax_backward_conv2d_bytes(
        *(kernel, geometry.groups, through * height * width), stride=geometry.stride, dilation=geometry.dilation
    )
    return max(of_intervals, of_rows, SCRATCH_BYTES)


@counted_once
def image_bytes(network: Network, computation: Computation) -> int:
    """Return the bytes that bounding one image takes, apart from the rows of hidden layers and of the output.

    Where bounds are let go they are those that are left when rows start; see `interval_bytes` for the time before.
    """
    nodes, itemsize = network.below(computation.output), computation.itemsize
    widest = max(node.size for node in nodes)
    lines = 0 if computation.method.output == "ibp" else max(node.numbers_of_lines() for node in nodes)
    if _lets_go(computation):
        return (kept_numbers(network, computation) + lines + 2 * widest) * itemsize
    total = (2 + _outward_numbers(computation)) * _neurons_of(nodes) + 6 * widest + lines
    if computation.rounding != "nearest":
        total += max((node.outward_numbers() for node in nodes if isinstance(node, LinearNode)), default=0)
    return total * itemsize + _matrix_bytes(network, computation)


def _matrix_bytes(network: Network, computation: Computation) -> int:
    """Return the most bytes that the matrices of forward bounds of one image take at a time."""
    method = computation.method
    if method.hidden == "relaxed-crown":
        return _inserted_matrix_bytes(network, computation)
    if "lbp" not in (method.hidden, method.output):
        return 0
    nodes = network.below(computation.output)
    carried = nodes if computation.is_forward_to_output else _below_activations(network, nodes)
    # Where windows do not pay for one image they may for more.
    windows = computation.windows
    choices = {windows, windows and (not computation.by_work or windows_pay(carried, batch=1))}
    return max(_carried_bytes(carried, computation, windows=choice) for choice in choices)


def _inserted_matrix_bytes(network: Network, computation: Computation) -> int:
    """Return the most bytes of matrices for linear bounds of every layer at which back-substitution may end."""
    nodes, windows = network.below(computation.output), computation.windows
    found = input_windows(nodes, windows=windows)
    numbers = {node: matrix_numbers(network, node, found[node]) for node in pre_activations(nodes)}
    # Beside all of them, copies of those that come of rows.
    of_rows = [number for node, number in numbers.items() if network.rank[node] > 0]
    kept = (sum(numbers.values()) + COPIES_OF_MATRICES * max(of_rows)) * computation.itemsize if of_rows else 0
    first = [node for node in numbers if network.rank[node] == 0]
    carried = [node for node in nodes if any(node in network.below(end) for end in first)]
    return max(kept, _carried_bytes(carried, computation, windows=windows))


def _carried_bytes(nodes: Collection[BoundNode], computation: Computation, *, windows: bool) -> int:
    """Return the most bytes of matrices that are carried through nodes for one image."""
    itemsize, rounding = computation.itemsize, computation.rounding
    return forward_bytes(nodes, windows=windows, batch=1, itemsize=itemsize, rounding=rounding)


@counted_once
def interval_bytes(network: Network, computation: Computation) -> int:
    """Return the bytes of one image while intervals are propagated, before any row starts; 0 where none are let go."""
    nodes = network.below(computation.output)
    widest = max(node.size for node in nodes)
    return (_interval_numbers(nodes) + 4 * widest) * computation.itemsize if _lets_go(computation) else 0


def _outward_numbers(computation: Computation) -> int:
    """Return how many numbers of every neuron are kept, at most, to account for rounding.

    Intervals do without. Behind them a pre-activation has the two parts of its margins and the error of its step.
    Bounds of other kinds need magnitudes besides, and some layers a region that is enlarged. An evaluation of the
    network has magnitudes and an error of its own.
    """
    method, rounding = computation.method, computation.rounding
    if rounding == "nearest":
        return 0
    of_bounds = 0 if method.output == "ibp" else 3 if method.hidden == "ibp" else 5
    return of_bounds + (2 if rounding == "inference" else 0)


@counted_once
def kept_numbers(network: Network, computation: Computation) -> int:
    """Return how many numbers the bounds of one image are, of all nodes that keep theirs."""
    nodes = network.below(computation.output)
    if _lets_go(computation):
        return 2 * sum(layer.size for layer in _kept_layers(nodes))
    return 2 * _neurons_of(nodes)


@counted_once
def joined_numbers(network: Network, computation: Computation) -> int:
    """Return how many numbers more there are once the bounds of all images are joined, one node beside its parts.

    Those of a reshaped layer are then no longer another layer's.
    """
    nodes = network.below(computation.output)
    if _lets_go(computation):
        return 2 * max(layer.size for layer in _kept_layers(nodes))
    reshaped = sum(node.size for node in nodes if isinstance(node, ReshapeNode))
    return 2 * (max(node.size for node in nodes) + reshaped)


def _lets_go(computation: Computation) -> bool:
    """Whether bounds are let go after their last use; see `propagate_intervals`."""
    return computation.method.hidden == "ibp" and computation.rounding == "nearest"


def _above_activations(nodes: Sequence[BoundNode]) -> set[BoundNode]:
    """Return the nodes through which rows of the output pass on their way to the last activations, these included."""
    reached = {nodes[-1]}
    for node in reversed(nodes):
        if node in reached and not node.is_activation:
            reached.update(node.inputs)
    return reached


def _layers(nodes: Sequence[BoundNode]) -> dict[BoundNode, BoundNode]:
    """Return by node the one whose memory its bounds are in: that of a reshaped layer, or of one that a slice is of."""
    layers: dict[BoundNode, BoundNode] = {}
    for node in nodes:
        layers[node] = layers[node.inputs[0]] if isinstance(node, ReshapeNode | SliceNode) else node
    return layers


def _kept_layers(nodes: Sequence[BoundNode]) -> set[BoundNode]:
    """Return the nodes whose memory the bounds are in that `propagate_intervals` keeps."""
    layers = _layers(nodes)
    return {layers[node] for node in (nodes[0], nodes[-1], *pre_activations(nodes))}


def _interval_numbers(nodes: Sequence[BoundNode]) -> int:
    """Return the most numbers of bounds that are held while intervals are propagated and let go."""
    layers, kept = _layers(nodes), _kept_layers(nodes)
    last = {layers[source]: node for node in nodes for source in node.inputs}
    held = peak = 0
    for node in nodes:
        held += 2 * node.size if layers[node] is node else 0
        peak = max(peak, held)
        held -= sum(2 * layer.size for layer, user in last.items() if user is node and layer not in kept)
    return peak


def _neurons_of(nodes: Sequence[BoundNode]) -> int:
    """Return how many neurons have numbers of their own; those of a reshaped layer are another layer's."""
    return sum(node.size for node in nodes if not isinstance(node, ReshapeNode))


def output_row_bytes(network: Network, computation: Computation) -> int:
    """Return the bytes of one row of the output on its way down, for one image."""
    by_intervals, output = computation.method.output == "ibp", computation.output
    if computation.is_forward_to_output or (by_intervals and computation.rows is None):
        return 0
    if by_intervals:
        widest = max(node.size for node in _above_activations(network.below(output)))
        return ROWS_OF_INTERVALS * computation.itemsize * widest
    copies = COPIES_OF_INSERTED_ROWS if _inserts(computation.method) else 1
    return copies * row_bytes(network, output, computation.itemsize, windows=False)


def _inserts(method: Method) -> bool:
    """Whether forward bounds are inserted into rows of the output."""
    return method.output in ("lbp", "relaxed-crown")


@counted_once
def output_scratch_bytes(network: Network, computation: Computation, *, batch: int | None) -> int:
    """Return the bytes of scratch memory of the output's rows: all of those of some images, or (None) one of one."""
    method, output = computation.method, computation.output
    if not _inserts(method) or computation.is_forward_to_output:
        return 0
    points = [node for node in pre_activations(network.below(output)) if node is not output]
    if method.output == "relaxed-crown":
        points = insertion_points(network, points, output, method.depth)
    count = 1 if batch is None else computation.row_count
    stops = tuple(met_first(output, points))
    itemsize, windows = computation.itemsize, computation.windows
    return insertion_scratch_bytes(network, stops, count, itemsize, windows=windows, batch=batch or 1)


def least_rows(network: Network, computation: Computation) -> int:
    """Return how many rows of one image pass through a layer at a time, at least, both sides counting."""
    method, rows = computation.method, computation.rows
    if method.output == "ibp" and rows:
        return 2 * rows
    if method.output == "ibp" and computation.rounding == "nearest":
        return 0  # outward, over a ball, bounds of the first layer come of rows
    if method.hidden != "relaxed-crown":
        return 2
    starts = pre_activations(network.below(computation.output))
    return 2 * max((position_rows(node) for node in starts), default=1)


def carries_forward(method: Method) -> bool:
    """Whether forward bounds are carried through layers."""
    return "lbp" in (method.hidden, method.output) or method.hidden == "relaxed-crown"


@counted_once
def hidden_row_bytes(network: Network, computation: Computation) -> int:
    """Return the bytes of the fewest rows of a hidden layer that start at a time.

    Windows go one by one, those of all images together; insertion takes the rows of a position.
    """
    method, itemsize, windows = computation.method, computation.itemsize, computation.windows
    if method.hidden not in ("crown", "relaxed-crown"):
        return 0
    starts = pre_activations(network.below(computation.output))
    if method.hidden == "crown" or not windows:
        return max((row_bytes(network, node, itemsize, windows=windows) for node in starts), default=0)
    stops = {node: tuple(insertion_points(network, starts, node, method.depth)) for node in starts}
    together = {node: position_rows(node) for node in starts}
    sizes = (
        together[node] * inserted_row_bytes(network, node, stops[node], itemsize)
        + hidden_scratch_bytes(network, node, stops[node], together[node], itemsize)
        for node in starts
    )
    return max(sizes, default=0)


def _below_activations(network: Network, nodes: Sequence[BoundNode]) -> list[BoundNode]:
    """Return those of the nodes, in topological order, on which a pre-activation depends."""
    needed = {below for node in pre_activations(nodes) for below in network.below(node)}
    return [node for node in nodes if node in needed]
