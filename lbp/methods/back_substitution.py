"""Back-substitution through the graph (CROWN; Lyu et al. 2021, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lbp.graph import BoundNode, InputNode, Relaxations
from lbp.graph.base import BackwardStep
from lbp.linear import (
    Coefficients,
    DenseCoefficients,
    Interval,
    WindowCoefficients,
    WindowRows,
    add_constants,
    combine,
    round_down,
    round_up,
    to_dense,
    to_windows,
)
from lbp.methods.outward import lost_by_rows
from lbp.methods.problem import Problem
from lbp.methods.rows import Neurons
from lbp.strategies import side_names

Watch = Callable[
    [BoundNode, WindowCoefficients, Tensor | None],
    tuple[WindowCoefficients, Tensor | None],
]
"""Takes the rows that arrive at a node and their constants so far, and returns those that go on."""


@dataclass
class Substituted:
    """Linear bounds of the rows in terms of the nodes where back-substitution stopped.

    Attributes:
        coefficients: per node where it stopped, [K, B, S, *shape] or windows of R rows.
        constants: [K, B, S] or [K, R] float64, or None for zero; K and B may be 1.
    """

    coefficients: dict[BoundNode, DenseCoefficients | WindowCoefficients]
    constants: Tensor | None


def back_substitute(
    problem: Problem,
    start: BoundNode,
    coefficients: Coefficients | WindowRows,
    sides: str,
    stops: Collection[BoundNode] = (),
    watch: Watch | None = None,
    watched: Collection[BoundNode] = (),
) -> Substituted:
    """Push coefficients of a node down to the input, or to other nodes.

    Args:
        problem: gives the graph and the pre-activation bounds.
        start: the node that the coefficients are of.
        coefficients: rows to bound.
        sides: "lower", "upper" or "both".
        stops: nodes that are not passed; the input is always one.
        watch: sees windowed rows where they are all that is under way, and may drop some of them.
        watched: the nodes at which it is asked.
    """
    relaxations, outward = problem.relaxations(sides), problem.outward
    constants = _Constants(problem, sides)
    arriving: dict[BoundNode, list[Coefficients | WindowRows]] = {start: [coefficients]}
    result = Substituted({}, None)
    for node in reversed(problem.network.below(start)):
        parts = arriving.pop(node, None)
        if parts is None:
            continue
        total = _joined(problem, node, parts, sides, constants)
        if isinstance(node, InputNode) or node in stops:
            result.coefficients[node], added = to_windows(total) if isinstance(total, WindowRows) else to_dense(total)
            constants.end_at(node)
        else:
            if watch is not None and node in watched and not arriving and isinstance(total, WindowCoefficients):
                total, left = watch(node, total, constants.taken(total))
                constants.add(left)
            if outward is not None:
                constants.add(outward.loss(node, total, sides))
            constants.pass_through(node)
            steps, added = _step(node, total, relaxations)
            for source, step in zip(node.inputs, steps, strict=True):
                arriving.setdefault(source, []).append(step)
        constants.add(added)
    result.constants = constants.taken(next(iter(result.coefficients.values()), coefficients))
    return result


class _Constants:
    """The constants of rows on their way, and what they owe for rounding until somebody reads them."""

    def __init__(self, problem: Problem, sides: str) -> None:
        self._problem, self._sides = problem, sides
        self._sum = problem.sum()
        # Underflow on the way costs all rows of an image the same.
        self._passed: list[BoundNode] = []
        self._ends: list[BoundNode] = []

    def add(self, *parts: Tensor | None) -> None:
        """Add constants [K, B, S] or [K, R], of which any may be absent."""
        self._sum.add(*parts)

    def pass_through(self, node: BoundNode) -> None:
        """Owe what the rows may lose by underflow on their way through a node."""
        self._passed.append(node)

    def end_at(self, node: BoundNode) -> None:
        """Owe what the rows may lose by underflow where they are evaluated over the bounds of a node."""
        self._ends.append(node)

    def taken(self, rows: Coefficients | WindowRows) -> Tensor | None:
        """Return the constants of the rows after all that is owed, and begin anew."""
        outward = self._problem.outward
        lost = None if outward is None else outward.underflow(self._passed, self._ends)
        if lost is not None:
            self._sum.add(lost_by_rows(lost, rows, self._sides))
        result = self._sum.result(self._sides)
        self._sum, self._passed, self._ends = self._problem.sum(), [], []
        return result


def _joined(
    problem: Problem, node: BoundNode, parts: Sequence[Coefficients | WindowRows], sides: str, constants: _Constants
) -> Coefficients | WindowRows:
    """Add the coefficients that reach a node, and to the constants what this adds."""
    total, added, sums = combine(parts)
    constants.add(*added)
    if problem.outward is not None:
        constants.add(*(problem.outward.loss_of_sum(node, part, sides) for part in sums))
    return total


def _step(node: BoundNode, total: Coefficients | WindowRows, relaxations: Relaxations) -> BackwardStep:
    """Ask a node for its step; one that takes no windows gets each row as a matrix of an image of its own."""
    if not isinstance(total, WindowRows) or node.takes_windows:
        return node.backward_linear(total, relaxations)
    windows, constants = to_windows(total)
    steps, added = node.backward_linear(DenseCoefficients(windows.matrix()), relaxations)
    rows = []
    for source, step in zip(node.inputs, steps, strict=True):
        assert isinstance(step, DenseCoefficients)
        rows.append(windows.from_matrix(step.A, source.shape))
    return tuple(rows), add_constants(constants, None if added is None else added[..., 0])


def over_region(problem: Problem, result: Substituted, sides: str) -> Tensor:
    """Return the bounds [K, B, S], of windowed rows [K, R], float64, of back-substitution that ended at the input."""
    shape = (len(side_names(sides)), problem.region.batch)
    dense = result.coefficients.get(problem.network.input)
    if isinstance(dense, WindowCoefficients):
        return _sum(problem, sides, problem.region.concretize_windows(dense, sides), result.constants)
    if dense is None:
        assert result.constants is not None
        return result.constants.expand(*shape, -1)
    return _sum(problem, sides, problem.region.concretize(dense.A, sides), result.constants)


def _sum(problem: Problem, sides: str, values: Tensor, constants: Tensor | None) -> Tensor:
    total = problem.add(sides, values, constants)
    assert total is not None
    return total


def split_sides(bounds: Tensor, sides: str, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    """Return lower and upper bounds [B, S] in the network's dtype from [K, B, S] float64; None where not computed."""
    found: dict[str, Tensor] = dict(zip(side_names(sides), bounds, strict=True))
    lower, upper = found.get("lower"), found.get("upper")
    return None if lower is None else round_down(lower, dtype), None if upper is None else round_up(upper, dtype)


def bounds_of_neurons(problem: Problem, node: BoundNode) -> Interval:
    """Return bounds [B, *shape] of every neuron of a node by back-substitution to the input, in chunks of rows."""
    if problem.windows:
        every = Neurons.every(problem, node)
        return both_sides(problem, node, every.arranged(bounds_of_rows(problem, every)))
    chunks = [
        over_region(problem, back_substitute(problem, node, rows, "both"), "both") for rows in problem.row_chunks(node)
    ]
    return both_sides(problem, node, torch.cat(chunks, dim=-1))


def both_sides(problem: Problem, node: BoundNode, values: Tensor) -> Interval:
    """Return bounds [B, *shape] of a node from lower and upper values [2, B, n] float64."""
    lower, upper = values.reshape(2, -1, *node.shape)
    return round_down(lower, problem.dtype), round_up(upper, problem.dtype)


def bounds_of_rows(problem: Problem, neurons: Neurons) -> Tensor:
    """Return lower and upper bounds [2, R] float64 of single neurons by back-substitution to the input, in chunks."""
    values = [
        over_region(problem, back_substitute(problem, part.node, part.start(problem.dtype), "both"), "both")
        for part in neurons.chunks(problem.rows_at_once(neurons.node))
    ]
    return torch.cat(values, dim=1)
