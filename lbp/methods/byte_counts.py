"""How many bytes the tensors take that bounds are made of, counted from shapes before anything is computed.

Rows of back-substitution on their way down, what a layer's weight is laid out as, images with the bounds of all their
layers, and the matrices of forward bounds. `lbp.methods.memory` fits them into a budget.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from lbp.graph import BoundNode, InputNode, Network, pre_activations
from lbp.graph.conv import Conv2dNode
from lbp.graph.linear import LinearNode
from lbp.graph.shape import ReshapeNode
from lbp.graph.slicing import SliceNode
from lbp.linear import InputWindows, ReceptiveField, layer_of, window_of
from lbp.methods.forward_work import device_of, input_windows, windows_pay
from lbp.methods.names import Method
from lbp.methods.work import counted_once, insertion_points, met_first, row_steps
from lbp.ops.affine import relax_backward_conv2d_bytes, relax_backward_linear_bytes
from lbp.ops.forward import insert_forward_scratch_bytes
from lbp.ops.forward_windows import ConvolvedWindows, accumulation_bytes
from lbp.ops.interval import interval_conv2d_bytes, interval_linear_bytes
from lbp.rounding import BLOCK

COPIES_OF_ROWS = 2
"""Insertion of forward bounds takes its rows in another order, beside those that arrive."""

COPIES_OF_INSERTED_ROWS = 3
"""Insertion into whole rows makes their magnitudes, in two steps, beside the rows that arrive."""

ROWS_OF_INTERVALS = 3
"""A row over the intervals of the last activations, beside that from which it comes and its magnitudes."""

COPIES_OF_MATRICES = 3
"""Forward matrices that come of rows are collected, and arranged by neuron, beside those that are inserted."""

SCRATCH_BYTES = 2**16
"""The library's convolutions take so much for themselves, however small the layer."""


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
    groups, positions = node.geometry.groups, node.shape[1] * node.shape[2]
    _, height, width = layer_of(node.inputs[0].shape)
    of_intervals = interval_conv2d_bytes(kernel, groups, positions, max(batch, rows))
    return max(of_intervals, relax_backward_conv2d_bytes(kernel, groups, through * height * width), SCRATCH_BYTES)


def start_bytes(node: BoundNode, itemsize: int) -> int:
    """Return the bytes of what one windowed row starts with beside its window: at a convolution, all of the kernel."""
    if not isinstance(node, Conv2dNode):
        return 0
    kernel: Tensor = node.weight.read()
    geometry = node.geometry
    spread = geometry.groups > 1 or max(geometry.dilation) > 1
    return (4 if spread else 3) * kernel.numel() * geometry.groups * itemsize


@counted_once
def image_bytes(
    network: Network,
    method: Method,
    output: BoundNode,
    rows: int | None,
    itemsize: int,
    *,
    windows: bool,
    by_work: bool = False,
    rounding: str = "nearest",
) -> int:
    """Return the bytes that bounding one image takes, apart from the rows of hidden layers and of the output.

    Where bounds are let go they are those that are left when rows start; see `interval_bytes` for the time before.

    Args:
        network: the graph.
        method: the method.
        output: the bounded node.
        rows: rows of the specification; None: the output's own values.
        itemsize: bytes of a number.
        windows: whether rows are kept as windows where that is smaller.
        by_work: whether forward bounds are dense where that is less work.
        rounding: what the bounds account for, one of `lbp.rounding.LEVELS`.
    """
    nodes = network.below(output)
    widest = max(node.size for node in nodes)
    lines = 0 if method.output == "ibp" else max(node.numbers_of_lines() for node in nodes)
    if _lets_go(method, rounding):
        return (kept_numbers(network, method, output, rounding=rounding) + lines + 2 * widest) * itemsize
    total = (2 + _outward_numbers(method, rounding)) * neurons_of(nodes) + 6 * widest + lines
    if rounding != "nearest":
        total += max((node.outward_numbers() for node in nodes if isinstance(node, LinearNode)), default=0)
    if "lbp" in (method.hidden, method.output):
        carried = nodes if _forward_to_output(method, rows) else _below_activations(network, nodes)
        # Where windows do not pay for one image they may for more.
        choices = {windows, windows and (not by_work or windows_pay(carried, batch=1))}
        matrices = max(
            forward_bytes(carried, windows=choice, batch=1, itemsize=itemsize, rounding=rounding) for choice in choices
        )
        return total * itemsize + matrices
    if method.hidden == "relaxed-crown":
        # Linear bounds of every layer at which back-substitution may end, and copies of those that come of rows.
        found = input_windows(nodes, windows=windows)
        numbers = {node: matrix_numbers(network, node, found[node]) for node in pre_activations(nodes)}
        of_rows = [number for node, number in numbers.items() if network.rank[node] > 0]
        kept = (sum(numbers.values()) + COPIES_OF_MATRICES * max(of_rows)) * itemsize if of_rows else 0
        first = [node for node in numbers if network.rank[node] == 0]
        carried = [node for node in nodes if any(node in network.below(end) for end in first)]
        return total * itemsize + max(
            kept, forward_bytes(carried, windows=windows, batch=1, itemsize=itemsize, rounding=rounding)
        )
    return total * itemsize


@counted_once
def interval_bytes(network: Network, method: Method, output: BoundNode, itemsize: int, *, rounding: str) -> int:
    """Return the bytes of one image while intervals are propagated, before any row starts; 0 where none are let go."""
    nodes = network.below(output)
    widest = max(node.size for node in nodes)
    return (_interval_numbers(nodes) + 4 * widest) * itemsize if _lets_go(method, rounding) else 0


def _outward_numbers(method: Method, rounding: str) -> int:
    """Return how many numbers of every neuron are kept, at most, to account for rounding.

    Intervals do without. Behind them a pre-activation has the two parts of its margins and the error of its step.
    Bounds of other kinds need magnitudes besides, and some layers a region that is enlarged. An evaluation of the
    network has magnitudes and an error of its own.
    """
    if rounding == "nearest":
        return 0
    of_bounds = 0 if method.output == "ibp" else 3 if method.hidden == "ibp" else 5
    return of_bounds + (2 if rounding == "inference" else 0)


@counted_once
def kept_numbers(network: Network, method: Method, output: BoundNode, *, rounding: str) -> int:
    """Return how many numbers the bounds of one image are, of all nodes that keep theirs."""
    nodes = network.below(output)
    return 2 * sum(layer.size for layer in _kept_layers(nodes)) if _lets_go(method, rounding) else 2 * neurons_of(nodes)


@counted_once
def joined_numbers(network: Network, method: Method, output: BoundNode, *, rounding: str) -> int:
    """Return how many numbers more there are once the bounds of all images are joined, one node beside its parts.

    Those of a reshaped layer are then no longer another layer's.
    """
    nodes = network.below(output)
    if _lets_go(method, rounding):
        return 2 * max(layer.size for layer in _kept_layers(nodes))
    reshaped = sum(node.size for node in nodes if isinstance(node, ReshapeNode))
    return 2 * (max(node.size for node in nodes) + reshaped)


def _lets_go(method: Method, rounding: str) -> bool:
    """Whether bounds are let go after their last use; see `propagate_intervals`."""
    return method.hidden == "ibp" and rounding == "nearest"


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


def neurons_of(nodes: Sequence[BoundNode]) -> int:
    """Return how many neurons have numbers of their own; those of a reshaped layer are another layer's."""
    return sum(node.size for node in nodes if not isinstance(node, ReshapeNode))


def _forward_to_output(method: Method, rows: int | None) -> bool:
    """Whether the output is bounded by forward bounds of its own, so that no row starts there."""
    return method.output == "lbp" and rows is None


def output_row_bytes(network: Network, method: Method, output: BoundNode, rows: int | None, itemsize: int) -> int:
    """Return the bytes of one row of the output on its way down, for one image."""
    if _forward_to_output(method, rows) or (method.output == "ibp" and rows is None):
        return 0
    if method.output == "ibp":
        return ROWS_OF_INTERVALS * itemsize * max(node.size for node in _above_activations(network.below(output)))
    copies = COPIES_OF_INSERTED_ROWS if _inserts(method) else 1
    return copies * row_bytes(network, output, itemsize, windows=False)


def _inserts(method: Method) -> bool:
    """Whether forward bounds are inserted into rows of the output."""
    return method.output in ("lbp", "relaxed-crown")


@counted_once
def output_scratch_bytes(
    network: Network,
    method: Method,
    output: BoundNode,
    rows: int | None,
    itemsize: int,
    *,
    windows: bool,
    batch: int | None,
) -> int:
    """Return the bytes of scratch memory of the output's rows: all of those of some images, or (None) one of one."""
    if not _inserts(method) or _forward_to_output(method, rows):
        return 0
    points = [node for node in pre_activations(network.below(output)) if node is not output]
    if method.output == "relaxed-crown":
        points = insertion_points(network, points, output, method.depth)
    count = 1 if batch is None else output.size if rows is None else rows
    stops = tuple(met_first(output, points))
    return insertion_scratch_bytes(network, stops, count, itemsize, windows=windows, batch=batch or 1)


def least_rows(network: Network, method: Method, output: BoundNode, rows: int | None, *, rounding: str) -> int:
    """Return how many rows of one image pass through a layer at a time, at least, both sides counting."""
    if method.output == "ibp" and rows:
        return 2 * rows
    if method.output == "ibp" and rounding == "nearest":
        return 0  # outward, over a ball, bounds of the first layer come of rows
    if method.hidden != "relaxed-crown":
        return 2
    return 2 * max((position_rows(node) for node in pre_activations(network.below(output))), default=1)


def carries_forward(method: Method) -> bool:
    """Whether forward bounds are carried through layers."""
    return "lbp" in (method.hidden, method.output) or method.hidden == "relaxed-crown"


def insertion_scratch_bytes(
    network: Network, stops: tuple[BoundNode, ...], rows: int, itemsize: int, *, windows: bool, batch: int
) -> int:
    """Return the bytes that forward bounds of the stops take while they are inserted into whole rows, copies apart.

    Args:
        network: the graph.
        stops: where rows end, beside the input.
        rows: of each image, both sides counting as one.
        itemsize: bytes of a number.
        windows: whether forward bounds are kept as windows where that is smaller.
        batch: number of images.
    """
    if not stops:
        return 0
    device, most = _device_of_parameters(network), 0
    for stop, own in zip(stops, _windows_of(network, stops, windows=windows), strict=True):
        most = max(most, insert_forward_scratch_bytes(stop.size, network.input.size, itemsize, device))
        if own is not None:
            sizes = (own.image, own.field.size, own.layer, own.scale)
            most = max(most, accumulation_bytes(*sizes, 2 * rows, batch, itemsize, device))
    return most


@counted_once
def _device_of_parameters(network: Network) -> torch.device:
    """Return where the parameters of a network are; to read them may be to compute them."""
    return device_of(network.nodes)


@counted_once
def inserted_row_bytes(network: Network, node: BoundNode, stops: tuple[BoundNode, ...], itemsize: int) -> int:
    """Return the most bytes of a windowed row of a node, two sides, into which forward bounds are inserted.

    Args:
        network: the graph.
        node: where the row starts.
        stops: where it ends, beside the input.
        itemsize: bytes of a number.
    """
    arriving = {step.node: step.coefficients for step in row_steps(network, node)}
    found = input_windows(network.below(node), windows=True)
    inputs, numbers = 2 * network.input.size, 0
    for stop in met_first(node, stops):
        row, own = 2 * stop.size, found[stop]
        if own is None:
            # The whole row and its magnitudes; of the input two products, or what they are brought into order by.
            numbers = max(numbers, arriving[stop] + row + max(row + 2 * inputs, 3 * inputs))
    return max(COPIES_OF_ROWS * row_bytes(network, node, itemsize), numbers * itemsize)


def hidden_scratch_bytes(
    network: Network, node: BoundNode, stops: tuple[BoundNode, ...], rows: int, itemsize: int
) -> int:
    """Return the bytes of scratch memory of windowed rows that are made whole where forward bounds are inserted.

    Args:
        network: the graph.
        node: where they start.
        stops: where they end, beside the input.
        rows: their number, both sides counting as one.
        itemsize: bytes of a number.
    """
    # Image by image.
    whole = _made_whole(network, node, stops)
    return insertion_scratch_bytes(network, whole, rows, itemsize, windows=True, batch=1)


@counted_once
def _made_whole(network: Network, node: BoundNode, stops: tuple[BoundNode, ...]) -> tuple[BoundNode, ...]:
    """Return the stops at which windowed rows of a node are whole, or made so for forward bounds that are."""
    arriving = {step.node: step.coefficients for step in row_steps(network, node)}
    met = met_first(node, stops)
    found = _windows_of(network, tuple(met), windows=True)
    return tuple(stop for stop, own in zip(met, found, strict=True) if own is None or arriving[stop] == 2 * stop.size)


@counted_once
def _windows_of(network: Network, nodes: tuple[BoundNode, ...], *, windows: bool) -> tuple[InputWindows | None, ...]:
    """Return on which windows forward bounds of some nodes are kept; see `input_windows`."""
    return tuple(input_windows(network.below(node), windows=windows)[node] for node in nodes)


@counted_once
def hidden_row_bytes(network: Network, method: Method, output: BoundNode, itemsize: int, *, windows: bool) -> int:
    """Return the bytes of the fewest rows of a hidden layer that start at a time.

    Windows go one by one, those of all images together; insertion takes the rows of a position.
    """
    if method.hidden not in ("crown", "relaxed-crown"):
        return 0
    starts = pre_activations(network.below(output))
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


def matrix_numbers(network: Network, node: BoundNode, windows: InputWindows | None) -> int:
    """Return how many numbers the forward matrices of a node hold for one image; windows None: dense ones."""
    return 2 * node.size * (network.input.size if windows is None else windows.entries)


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
                sizes = (before.image, before.field.size, before.layer, before.scale)
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
