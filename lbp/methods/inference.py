"""How far a network run in floating point may be from the network in real arithmetic (docs/rounding.md, section 10).

A running error bound: from layer to layer, per neuron, over the whole region and for every order of the sums.
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lbp.constants import side_signs
from lbp.graph import BoundNode
from lbp.graph.activation import RampNode
from lbp.methods.outward_intervals import largest_of
from lbp.rounding import SLACK, absolute_floor, gamma, raised

if TYPE_CHECKING:
    from lbp.methods.problem import Problem
    from lbp.methods.solve import Solution

ELEMENTWISE = 8
"""Roundings of a formula that takes a product apart differently than the node does (normalising by mean and scale)."""


def for_inference(problem: Problem, solution: Solution) -> Solution:
    """Return bounds of the output in every floating-point evaluation, given those of the network in real arithmetic."""
    with torch.no_grad():
        error = output_error(problem)
        lost = _of_specification(problem, error) if problem.specification is not None else error.double()
        lost = raised(lost)
    lower, upper = solution.lower, solution.upper
    constants = solution.constants
    if constants is not None:
        signs = side_signs(solution.sides, constants)
        constants = problem.add(solution.sides, constants, signs.reshape(-1, 1, 1) * lost.flatten(1))
    return replace(
        solution,
        lower=None if lower is None else lower - _room(lost, lower),
        upper=None if upper is None else upper + _room(lost, upper),
        constants=constants,
    )


def output_error(problem: Problem) -> Tensor:
    """Return a bound [B, *shape] of the error of the output in the network's floating-point format."""
    errors: dict[BoundNode, Tensor] = {}
    for node in problem.nodes:
        if node.inputs:
            errors[node] = _error(problem, node, [errors[source] for source in node.inputs])
        else:
            errors[node] = torch.zeros_like(problem.region.lower)
    return errors[problem.output]


def _error(problem: Problem, node: BoundNode, before: list[Tensor]) -> Tensor:
    """Return the error of a node's value from those of its inputs."""
    assert problem.outward is not None
    sizes = [problem.outward.magnitude(source) + error for source, error in zip(node.inputs, before, strict=True)]
    first, *others = node.evaluation_steps
    error = _error_of_step(first, sizes, before, problem.dtype)
    step = first
    for following in others:
        sizes = [_size_of_value(step, sizes, problem.dtype) + error]
        step, error = following, _error_of_step(following, sizes, [error], problem.dtype)
    return error


def _error_of_step(node: BoundNode, sizes: list[Tensor], before: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Return the error of a node's value from bounds of its inputs as a run has them, and from their errors."""
    floor, roundings = absolute_floor(dtype), node.evaluation_roundings(dtype)
    if isinstance(node, RampNode):
        # No slope is above 1; `r + eta (z - r)` is taken where |r| <= |z|, so its parts add up to 3 |z| at most.
        return raised(before[0], sizes[0] * (SLACK * gamma(3 * roundings.value, dtype)) + SLACK * roundings.shift_error)
    terms = roundings.forward if roundings.any_order is None else roundings.any_order
    if not (terms or roundings.value or roundings.shift is not None):
        return node.magnitude(*before)
    relative = SLACK * gamma(terms + roundings.weights + roundings.value + ELEMENTWISE, dtype)
    error = node.magnitude(*(error + size * relative for error, size in zip(before, sizes, strict=True)))
    if roundings.shift is not None:
        error = error + roundings.shift * relative
    # Partial sums of a run, in whatever order, are no larger than error / relative; of a mean, divided at the end, so
    # many terms times as large. Where they may overflow a run may give anything.
    most = torch.finfo(dtype).max / (4 * max(terms, 1))
    error = error.masked_fill(error > relative * most, torch.inf)
    largest = reduce(torch.add, (largest_of((size, size)) for size in sizes))
    least = (floor * (1 + largest * roundings.factor)).to(dtype).reshape(-1, *[1] * len(node.shape))
    # The magnitude is itself a rounded sum, of rounded weights.
    by = error * (SLACK * gamma(terms + roundings.weights + 4, dtype))
    return raised(error, by + SLACK * roundings.shift_error + least)


def _size_of_value(node: BoundNode, sizes: list[Tensor], dtype: torch.dtype) -> Tensor:
    """Return a bound of a node's value in real arithmetic from bounds of its inputs."""
    roundings = node.evaluation_roundings(dtype)
    terms = roundings.forward if roundings.any_order is None else roundings.any_order
    size = node.magnitude(*sizes)
    if roundings.shift is not None:
        size = size + roundings.shift
    return raised(size, size * (SLACK * gamma(terms + roundings.weights + 5, dtype)))


def _of_specification(problem: Problem, error: Tensor) -> Tensor:
    """Return what the rows [B, S] of the specification make of the errors of the output, float64."""
    assert problem.specification is not None
    rows = problem.specification.detach().double().abs()
    total = torch.einsum("bsn,bn->bs", rows.expand(error.shape[0], -1, -1), error.double().flatten(1))
    return total * (1 + 2 * gamma(error[:1].numel() + 2, torch.float64))


def _room(lost: Tensor, bound: Tensor) -> Tensor:
    """Return the errors in the dtype of a bound, so that their sum or difference with it is on the safe side."""
    room = raised(lost.to(bound.dtype).reshape(bound.shape))
    return raised(room, bound.detach().abs() * (4 * torch.finfo(bound.dtype).eps))
