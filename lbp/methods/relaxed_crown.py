"""Relaxed-CROWN: back-substitution over few activations, then linear bounds of the layers reached (Lyu et al. 2021).

Section 4 of the paper; on windows see `lbp.methods.row_insertion`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lbp.graph import BoundNode
from lbp.linear import Coefficients, DenseCoefficients, ForwardBounds
from lbp.methods.back_substitution import back_substitute, both_sides, over_region
from lbp.methods.forward import insert, propagate_forward
from lbp.methods.intervals import propagate_intervals
from lbp.methods.problem import Problem
from lbp.methods.row_insertion import linear_bounds_of_rows, matrix_bytes
from lbp.methods.work import insertion_points


def relaxed_crown_pre_activations(problem: Problem, depth: int) -> dict[BoundNode, ForwardBounds]:
    """Record bounds of every pre-activation by back-substitution over `depth` activations.

    Returns:
        linear bounds of the pre-activations at which later back-substitution ends.
    """
    propagate_intervals(problem, everywhere=False)
    rank = problem.network.rank
    points = {
        below
        for node in (*problem.pre_activations, problem.output)
        for below in insertion_points(problem.network, problem.pre_activations, node, depth)
    }
    first = [node for node in problem.pre_activations if rank[node] == 0 and node in points]
    # Windowed rows end there as windows; matrices would make whole rows of them.
    forward = propagate_forward(problem, first, keep=first, windows=problem.windows)
    for node in problem.pre_activations:
        keep = node in points and node not in forward
        if keep or node not in problem.bounds:
            bounds = _linear_bounds(problem, node, depth, forward, keep=keep)
            if bounds is not None:
                forward[node] = bounds
    return forward


def _linear_bounds(
    problem: Problem, node: BoundNode, depth: int, forward: dict[BoundNode, ForwardBounds], *, keep: bool
) -> ForwardBounds | None:
    """Record the bounds of a pre-activation; return its linear bounds in terms of the input if they are to be kept."""
    stops = insertion_points(problem.network, problem.pre_activations, node, depth)
    if problem.windows and problem.region.batch > 0:
        values, bounds = linear_bounds_of_rows(problem, node, stops, forward, keep=keep)
    else:
        whole = dict.fromkeys((node, *stops))
        starts = problem.row_chunks(node, held=matrix_bytes(problem, whole, whole))
        found = substitute_to_input(problem, node, starts, "both", stops, forward, keep=keep)
        values, bounds = found.values, None
        if found.coefficients is not None and found.constants is not None:
            bounds = ForwardBounds.from_sides(found.coefficients.flatten(3), found.constants, node.shape)
    if node not in problem.bounds:
        problem.record(node, both_sides(problem, node, values))
    if bounds is not None and problem.outward_forward is not None:
        return problem.outward_forward.taken_over(node, bounds)
    return bounds


@dataclass(frozen=True)
class LinearBounds:
    """Rows bounded by linear functions of the input, and their values over the region.

    Attributes:
        values: [K, B, S] float64.
        coefficients: [K, B, S, *input shape], where they are kept.
        constants: [K, B, S] float64, like the coefficients.
    """

    values: Tensor
    coefficients: Tensor | None = None
    constants: Tensor | None = None


def substitute_to_input(
    problem: Problem,
    node: BoundNode,
    starts: Sequence[Coefficients],
    sides: str,
    stops: Collection[BoundNode],
    forward: dict[BoundNode, ForwardBounds],
    *,
    keep: bool,
) -> LinearBounds:
    """Bound the rows of all starts by back-substitution, inserting forward linear bounds at the stops.

    The linear functions are kept only where they are wanted: those of all rows take more memory than some rows need.
    """
    values, matrices, constants = [], [], []
    for start in starts:
        result = insert(problem, back_substitute(problem, node, start, sides, stops), forward, sides)
        values.append(over_region(problem, result, sides))
        if keep:
            dense = result.coefficients[problem.network.input]
            assert isinstance(dense, DenseCoefficients)
            zero = torch.zeros(1, 1, 1, dtype=torch.float64, device=dense.A.device)
            matrices.append(dense.A)
            constants.append((zero if result.constants is None else result.constants).expand(dense.A.shape[:3]))
    found = torch.cat(values, dim=2)
    return LinearBounds(found, torch.cat(matrices, dim=2), torch.cat(constants, dim=2)) if keep else LinearBounds(found)
