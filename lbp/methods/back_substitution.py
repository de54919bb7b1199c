"""Back-substitution through the graph (CROWN; Lyu et al. 2021, section 3)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from lbp.graph import BoundNode, InputNode
from lbp.linear import (
    Coefficients,
    DenseCoefficients,
    Interval,
    add_constants,
    combine,
    round_down,
    round_up,
    to_dense,
)
from lbp.methods.problem import Problem
from lbp.strategies import side_names


@dataclass
class Substituted:
    """Linear bounds of the rows in terms of the nodes where back-substitution stopped.

    Attributes:
        coefficients: per node where it stopped, [K, B, S, *shape].
        constants: [K, B, S] float64, or None for zero; K and B may be 1.
    """

    coefficients: dict[BoundNode, DenseCoefficients]
    constants: Tensor | None


def back_substitute(
    problem: Problem, start: BoundNode, coefficients: Coefficients, sides: str, stops: Collection[BoundNode] = ()
) -> Substituted:
    """Push coefficients of a node down to the input, or to other nodes.

    Args:
        problem: gives the graph and the pre-activation bounds.
        start: the node that the coefficients are of.
        coefficients: rows to bound.
        sides: "lower", "upper" or "both".
        stops: nodes that are not passed; the input is always one.
    """
    relaxations = problem.relaxations(sides)
    arriving: dict[BoundNode, list[Coefficients]] = {start: [coefficients]}
    result = Substituted({}, None)
    for node in reversed(problem.network.below(start)):
        parts = arriving.pop(node, None)
        if parts is None:
            continue
        total, joined = combine(parts)
        result.constants = add_constants(result.constants, joined)
        if isinstance(node, InputNode) or node in stops:
            result.coefficients[node], added = to_dense(total)
        else:
            steps, added = node.backward_linear(total, relaxations)
            for source, step in zip(node.inputs, steps, strict=True):
                arriving.setdefault(source, []).append(step)
        result.constants = add_constants(result.constants, added)
    return result


def over_region(problem: Problem, result: Substituted, sides: str) -> Tensor:
    """Return the bounds [K, B, S] float64 of back-substitution that ended at the input."""
    shape = (len(side_names(sides)), problem.region.batch)
    dense = result.coefficients.get(problem.network.input)
    if dense is None:
        assert result.constants is not None
        return result.constants.expand(*shape, -1)
    values = problem.region.concretize(dense.A, sides)
    return values if result.constants is None else values + result.constants


def split_sides(bounds: Tensor, sides: str, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    """Return lower and upper bounds [B, S] in the network's dtype from [K, B, S] float64; None where not computed."""
    found: dict[str, Tensor] = dict(zip(side_names(sides), bounds, strict=True))
    lower, upper = found.get("lower"), found.get("upper")
    return None if lower is None else round_down(lower, dtype), None if upper is None else round_up(upper, dtype)


def bounds_of_neurons(problem: Problem, node: BoundNode) -> Interval:
    """Return bounds [B, *shape] of every neuron of a node by back-substitution to the input, in chunks of rows."""
    chunks = [
        over_region(problem, back_substitute(problem, node, rows, "both"), "both") for rows in problem.row_chunks(node)
    ]
    return both_sides(problem, node, torch.cat(chunks, dim=-1))


def both_sides(problem: Problem, node: BoundNode, values: Tensor) -> Interval:
    """Return bounds [B, *shape] of a node from lower and upper values [2, B, n] float64."""
    lower, upper = values.reshape(2, -1, *node.shape)
    return round_down(lower, problem.dtype), round_up(upper, problem.dtype)
