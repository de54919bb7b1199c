"""How many bytes rows take that end at layers where forward linear bounds are inserted into them."""

from __future__ import annotations

import torch

from lbp.graph import BoundNode, Network
from lbp.linear import InputWindows
from lbp.methods.forward_work import device_of, input_windows
from lbp.methods.row_bytes import row_bytes
from lbp.methods.work import counted_once, met_first, row_steps
from lbp.ops.forward import insert_forward_scratch_bytes
from lbp.ops.forward_windows import accumulation_bytes

COPIES_OF_ROWS = 2
"""Insertion of forward bounds takes its rows in another order, beside those that arrive."""

COPIES_OF_INSERTED_ROWS = 3
"""Insertion into whole rows makes their magnitudes, in two steps, beside the rows that arrive."""


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
            sizes = (own.image, own.field.size, own.layer)
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
