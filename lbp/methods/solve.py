"""Running a method on a problem."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from lbp.graph import BoundNode
from lbp.graph.once import one_computation
from lbp.linear import ForwardBounds, Interval
from lbp.methods.back_substitution import back_substitute, over_region, split_sides
from lbp.methods.byte_counts import kept_numbers
from lbp.methods.crown import crown_pre_activations
from lbp.methods.forward import bounds_over_region, propagate_forward
from lbp.methods.inference import for_inference
from lbp.methods.intervals import let_go, propagate_intervals, specification_by_intervals
from lbp.methods.memory import images_at_once
from lbp.methods.names import Method
from lbp.methods.problem import Problem
from lbp.methods.relaxed_crown import relaxed_crown_pre_activations, substitute_to_input
from lbp.methods.work import insertion_points, met_first
from lbp.precision import check_products, full_precision


@dataclass(frozen=True)
class Solution:
    """Bounds of the output.

    Attributes:
        lower, upper: [B, S] with a specification, else [B, *output shape]; None for a side not computed.
        sides: the sides computed.
        coefficients, constants: linear bounds in terms of the input, [K, B, S, *input shape] and [K, B, S] float64,
            when they were asked for.
    """

    lower: Tensor | None
    upper: Tensor | None
    sides: str = "both"
    coefficients: Tensor | None = None
    constants: Tensor | None = None


@one_computation()
@full_precision()  # once, instead of around every product
def solve(problem: Problem, method: Method, *, keep_linear: bool = False) -> Solution:
    """Bound the problem's output; bounds of other nodes are left in `problem.bounds`.

    IBP and LBP always give both sides; the others give `problem.sides`. Images are taken as many at a time as the
    problem's budget allows.

    Args:
        problem: the question.
        method: how to answer it.
        keep_linear: return the linear bounds of the output in terms of the input as well (not for IBP).

    Raises:
        InvalidInputError: a strict budget is too small for a single image.
        UnanalysedRoundingError: the rounding errors of a layer, or of products in this environment, are not analysed.
    """
    if problem.rounding != "nearest":
        check_products(problem.region.lower.device)
    images = images_at_once(problem, method, keep_linear=keep_linear)
    batch = problem.region.batch
    if images >= batch:
        return _solve(problem, method, keep_linear=keep_linear)
    solutions, bounds = [], []
    numbers = kept_numbers(problem.network, problem.computation(method))
    images = -(-batch // -(-batch // images))  # as many parts as it takes, of about one size
    for first in range(0, batch, images):
        part = problem.part(first, min(first + images, batch))
        kept = first * numbers * problem.dtype.itemsize
        # Beside a budget that nobody asked for, what is kept has as much memory of its own; see `images_at_once`.
        part.kept_bytes = max(kept - (0 if problem.budget_is_strict else problem.budget or 0), 0)
        solutions.append(_solve(part, method, keep_linear=keep_linear))
        bounds.append(part.bounds)
    for node in list(bounds[0]):
        # Those of the parts are let go as they are joined.
        lower, upper = zip(*(found.pop(node) for found in bounds), strict=True)
        whole = node is problem.network.input
        problem.bounds[node] = _of_region(problem) if whole else (torch.cat(lower), torch.cat(upper))
    return Solution(
        _joined([solution.lower for solution in solutions], 0),
        _joined([solution.upper for solution in solutions], 0),
        solutions[0].sides,
        _joined([solution.coefficients for solution in solutions], 1),
        _joined([solution.constants for solution in solutions], 1),
    )


def _of_region(problem: Problem) -> Interval:
    return problem.region.lower, problem.region.upper


def _joined(parts: list[Tensor | None], dim: int) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present, dim) if present else None


def _solve(problem: Problem, method: Method, *, keep_linear: bool) -> Solution:
    solution = _in_real_arithmetic(problem, method, keep_linear=keep_linear)
    return for_inference(problem, solution) if problem.rounding == "inference" else solution


def _in_real_arithmetic(problem: Problem, method: Method, *, keep_linear: bool) -> Solution:
    if method.output == "ibp":
        return _by_intervals(problem)
    if method.output == "lbp":
        return _by_forward_bounds(problem, keep_linear=keep_linear)
    if method.output == "relaxed-crown":
        forward = relaxed_crown_pre_activations(problem, method.depth)
        stops = insertion_points(problem.network, problem.pre_activations, problem.output, method.depth)
        return _by_substitution(problem, problem.sides, stops, forward, keep_linear=keep_linear)
    if problem.outward is not None:
        problem.outward.by_intervals = method.hidden == "ibp"
    if method.hidden == "ibp":
        propagate_intervals(problem)
    elif method.hidden == "lbp":
        propagate_forward(problem, problem.pre_activations)
    else:
        crown_pre_activations(problem)
    return _by_substitution(problem, problem.sides, keep_linear=keep_linear)


def _by_intervals(problem: Problem) -> Solution:
    if problem.specification is None:
        propagate_intervals(problem)
        return Solution(*problem.bounds[problem.output])
    last = met_first(problem.output, [node for node in problem.nodes if node.is_activation])
    propagate_intervals(problem, keep=last)
    bounds = specification_by_intervals(problem, "both")
    let_go(problem, last)
    return Solution(*split_sides(bounds, "both", problem.dtype))


def _by_forward_bounds(problem: Problem, *, keep_linear: bool) -> Solution:
    output = problem.output
    if problem.specification is not None:
        stops = [node for node in problem.pre_activations if node is not output]
        forward = propagate_forward(problem, problem.pre_activations, keep=met_first(output, stops))
        return _by_substitution(problem, "both", stops, forward, keep_linear=keep_linear)
    bounds = propagate_forward(problem, [*problem.pre_activations, output], keep=[output])[output]
    lower, upper = problem.record(output, bounds_over_region(problem, output, bounds))
    if not keep_linear:
        return Solution(lower, upper)
    if problem.outward_forward is not None:
        bounds = problem.outward_forward.separable(output, bounds)
    matrices, constants = bounds.to_sides(problem.region.batch)
    return Solution(lower, upper, "both", matrices.unflatten(-1, problem.network.input.shape), constants)


def _by_substitution(
    problem: Problem,
    sides: str,
    stops: Collection[BoundNode] = (),
    forward: dict[BoundNode, ForwardBounds] | None = None,
    *,
    keep_linear: bool,
) -> Solution:
    inserted = (matrix for bounds in (forward or {}).values() for matrix in bounds.matrices if matrix is not None)
    held = sum(matrix.nbytes for matrix in inserted)
    coefficients = constants = None
    if keep_linear or stops:
        starts = problem.starts(stops=tuple(stops), held=held)
        found = substitute_to_input(problem, problem.output, starts, sides, stops, forward or {}, keep=keep_linear)
        coefficients, constants, values = found.coefficients, found.constants, found.values
    else:
        values = torch.cat([_over_region(part, sides, held) for part in problem.cached_parts(sides)], dim=1)
    lower, upper = split_sides(values, sides, problem.dtype)
    if problem.specification is None:
        shape = problem.output.shape
        lower = None if lower is None else lower.reshape(-1, *shape)
        upper = None if upper is None else upper.reshape(-1, *shape)
    return Solution(lower, upper, sides, coefficients, constants)


def _over_region(problem: Problem, sides: str, held: int) -> Tensor:
    """Return bounds [K, B, S] float64 of the output by back-substitution to the input."""
    parts = [
        over_region(problem, back_substitute(problem, problem.output, start, sides), sides)
        for start in problem.starts(held=held)
    ]
    return torch.cat(parts, dim=-1)
