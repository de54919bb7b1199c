"""Forward linear bounds inserted into windowed rows, and the linear bounds of a layer that come of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lbp.graph import BoundNode, InputNode
from lbp.linear import (
    ForwardBounds,
    InputWindows,
    WindowCoefficients,
    layer_of,
    move_windows,
    window_of,
)
from lbp.linear.forward_bounds import Matrices
from lbp.methods.back_substitution import Substituted, back_substitute
from lbp.methods.forward import insertable, inserted
from lbp.methods.forward_bytes import COPIES_OF_MATRICES, matrix_numbers
from lbp.methods.forward_work import input_windows
from lbp.methods.problem import Problem
from lbp.methods.row_bytes import position_rows
from lbp.methods.rows import Neurons
from lbp.ops import insert_into_windows


def linear_bounds_of_rows(
    problem: Problem,
    node: BoundNode,
    stops: Collection[BoundNode],
    forward: dict[BoundNode, ForwardBounds],
    *,
    keep: bool,
) -> tuple[Tensor, ForwardBounds | None]:
    """Bound every neuron of a node by windowed rows that end at the stops, where forward linear bounds are inserted.

    Args:
        problem: gives the graph, the region and the pre-activation bounds.
        node: the node to bound.
        stops: nodes where back-substitution ends, beside the input.
        forward: their linear bounds.
        keep: return the linear bounds of the node as well.

    Returns:
        lower and upper values [2, B, n] float64 over the region, and the linear bounds in terms of the input: on
        windows where those of the node's layer are smaller than the input.
    """
    every = Neurons.every(problem, node)
    on_windows = input_windows(problem.network.below(node), windows=True)
    windows = on_windows[node] if keep else None
    insertions = {stop: Insertion.of(insertable(problem, stop, forward[stop])) for stop in stops}
    group = position_rows(node)
    held = matrix_bytes(problem, (node, *stops), on_windows)
    rows_at_once = problem.rows_at_once(node, stops=tuple(stops), held=held)
    values, matrices, constants = [], [], []
    for part in every.chunks(max(rows_at_once // group, 1) * group):
        result = back_substitute(problem, node, part.start(problem.dtype), "both", stops)
        rows, added = _in_terms_of_input(problem, result, insertions, group)
        value = problem.add("both", problem.region.concretize_windows(rows, "both"), added)
        assert value is not None
        values.append(value)
        if keep:
            lower, upper = _over_input(rows, part, windows)
            matrices.append(((upper + lower) / 2, (upper - lower) / 2))
            constants.append(torch.zeros_like(value) if added is None else added.expand_as(value))
    found = every.arranged(torch.cat(values, 1)).flatten(2)
    return found, _forward_bounds(every, matrices, constants, windows) if keep else None


def matrix_bytes(
    problem: Problem, nodes: Collection[BoundNode], windows: Mapping[BoundNode, InputWindows | None]
) -> int:
    """Return the bytes that forward matrices of the nodes take, those of one of them being made."""
    numbers = [matrix_numbers(problem.network, node, windows[node]) for node in nodes]
    return problem.region.batch * problem.dtype.itemsize * (sum(numbers) + COPIES_OF_MATRICES * max(numbers))


def _in_terms_of_input(
    problem: Problem, result: Substituted, insertions: dict[BoundNode, Insertion], group: int
) -> tuple[WindowCoefficients, Tensor | None]:
    """Return the rows over the input, and their constants [K, R]."""
    total, constants = None, result.constants
    for node, rows in result.coefficients.items():
        assert isinstance(rows, WindowCoefficients)
        part = rows
        if not isinstance(node, InputNode):
            part, added = insertions[node].into(rows, problem.network.input.shape, group)
            constants = problem.add("both", constants, added)
        is_sum = total is not None
        total = part if total is None else total.added(part)
        if problem.outward_forward is not None:
            lost = problem.outward_forward.loss_of_insertion(node, total, "both", is_sum=is_sum)
            constants = problem.add("both", constants, lost)
    assert total is not None
    return total, constants


@dataclass(frozen=True)
class Insertion:
    """Forward linear bounds of a layer on their way into rows of that layer.

    Attributes:
        bounds: the bounds.
        by_position: where they are on windows, the same with the layer's dimensions first, as
            `lbp.ops.insert_into_windows` takes them.
    """

    bounds: ForwardBounds
    by_position: Matrices | None

    @classmethod
    def of(cls, bounds: ForwardBounds) -> Insertion:
        """Return the insertion of the bounds."""
        if bounds.windows is None:
            return cls(bounds, None)
        center, radius, center_bias, radius_bias = bounds.on_windows(bounds.windows)

        def layer_first(values: Tensor) -> Tensor:
            return values.movedim((-2, -1, -3), (1, 2, 3)).contiguous()

        radii = [None if values is None else layer_first(values) for values in (radius, radius_bias)]
        return cls(bounds, (layer_first(center), radii[0], layer_first(center_bias), radii[1]))

    def into(self, rows: WindowCoefficients, shape: tuple[int, ...], group: int) -> tuple[WindowCoefficients, Tensor]:
        """Return rows of the layer as rows of the input, and the constants [2, R] that this adds.

        Args:
            rows: both sides, or one set of rows for both.
            shape: of the input.
            group: that many rows in a row belong to one position of the layer where they started, and to one image.
        """
        windows = self.bounds.windows
        if windows is None or self.by_position is None or rows.covers or rows.shape != windows.layer:
            return self._into_matrices(rows, shape)
        A = rows.taken().expand(2, -1, *rows.A.shape[2:])
        places = rows.rows()[::group, 1:]
        coefficients, constants = insert_into_windows(A, places, *self.by_position, scale=windows.scale, sides="both")
        field = None if rows.field is None else rows.field.then(windows.field)
        layer = layer_of(shape)
        starts = rows.corners(rows.field, rows.layer) * rows.places.new_tensor(windows.scale)
        starts = starts + rows.places.new_tensor(windows.offset)
        moved = move_windows(coefficients, starts, rows.corners(field, layer), window_of(field, layer))
        return rows.stepped(moved, field, shape), constants

    def _into_matrices(self, rows: WindowCoefficients, shape: tuple[int, ...]) -> tuple[WindowCoefficients, Tensor]:
        """Insert the bounds image by image into rows over the whole layer."""
        matrix = rows.matrix().transpose(1, 2)
        matrix = matrix.expand(2, *matrix.shape[1:])
        images, counts = rows.images.unique_consecutive(return_counts=True)
        parts = [
            inserted(part, self.bounds.of_image(image), "both")
            for image, part in zip(images.tolist(), matrix.split(counts.tolist(), dim=2), strict=True)
        ]
        A, constants = (torch.cat(found, dim=2)[:, 0] for found in zip(*parts, strict=True))
        return rows.from_matrix(A[:, :, None], shape), constants


def _over_input(rows: WindowCoefficients, neurons: Neurons, windows: InputWindows | None) -> Tensor:
    """Return rows of the input as [2, R, n0], or over the windows of the neurons' layer [2, R, C0 kh kw]."""
    if windows is None:
        A = rows.matrix().flatten(2)
        return A.expand(2, *A.shape[1:])
    _, height, width = windows.layer
    pixel = neurons.neurons % (height * width)
    places = torch.stack([pixel // width, pixel % width], 1)
    starts = places * places.new_tensor(windows.scale) + places.new_tensor(windows.offset)
    A = move_windows(rows.taken(), rows.corners(rows.field, rows.layer), starts, windows.field.size)
    return A.movedim(-1, 2).flatten(2).expand(2, -1, -1)


def _forward_bounds(
    neurons: Neurons,
    matrices: list[tuple[Tensor, Tensor]],
    constants: list[Tensor],
    windows: InputWindows | None,
) -> ForwardBounds:
    """Return the linear bounds of all neurons of a layer for all images.

    Args:
        neurons: all of them.
        matrices: center and radius [R, n0] of some rows after the other.
        constants: [2, R] float64 of the same rows, lower and upper.
        windows: of the input under the layer; None: the rows are whole.
    """
    # One after the other: what is under way takes memory beside what is kept.
    center, radius = (neurons.arranged(torch.cat([part[i] for part in matrices]).mT).movedim(1, 0) for i in range(2))
    low, high = torch.cat(constants, 1)
    biases = (neurons.arranged(values).to(center.dtype) for values in ((high + low) / 2, (high - low) / 2))
    center_bias, radius_bias = biases
    return ForwardBounds(center.contiguous(), radius.contiguous(), center_bias, radius_bias, windows)
