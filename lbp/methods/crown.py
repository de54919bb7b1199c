"""CROWN: pre-activation bounds by back-substitution to the input (Lyu et al. 2021, section 3)."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from lbp.graph import BoundNode
from lbp.linear import Interval, WindowCoefficients, round_down, round_up, tighter
from lbp.methods.back_substitution import back_substitute, bounds_of_neurons, bounds_of_rows, over_region
from lbp.methods.intervals import propagate_intervals
from lbp.methods.problem import Problem
from lbp.methods.rows import Decision, Neurons, interval_of, open_neurons
from lbp.methods.work import worth_evaluating


def crown_pre_activations(problem: Problem) -> None:
    """Record bounds of every pre-activation, each by its own back-substitution to the input."""
    propagate_intervals(problem, everywhere=False)
    for node in problem.pre_activations:
        if node not in problem.bounds:
            bounds = open_bounds(problem, node) if problem.only_open else bounds_of_neurons(problem, node)
            problem.record(node, bounds)


def open_bounds(problem: Problem, node: BoundNode) -> Interval:
    """Return bounds [B, *shape] of a pre-activation with back-substitution only where it can change anything.

    Intervals come first; only neurons that they leave open are substituted back, per image, and of every neuron the
    tighter of all bounds found is kept. A row is dropped on its way down where the bounds of an activation that it
    passes decide its neuron, at the layers that `worth_evaluating` names. Without windows every neuron has its row,
    and the tighter bounds are kept.
    """
    bounds = interval_of(problem, node)
    if not problem.windows:
        return tighter(bounds, bounds_of_neurons(problem, node))
    neurons = open_neurons(problem, node, bounds)
    if neurons.count == 0:
        return bounds
    known = torch.stack(bounds)
    layers = worth_evaluating(problem.network, node)
    lower, upper = _raced(problem, neurons, known, layers) if layers else bounds_of_rows(problem, neurons)
    found = neurons.put(known, torch.stack([round_down(lower, problem.dtype), round_up(upper, problem.dtype)]))
    return tighter(bounds, (found[0], found[1]))


def _raced(problem: Problem, neurons: Neurons, known: Tensor, layers: Collection[BoundNode]) -> Tensor:
    """Return bounds [2, R] float64 of neurons whose rows are evaluated at some layers on their way, in chunks.

    Args:
        problem: gives the graph and the bounds known so far.
        neurons: to bound.
        known: lower and upper bounds [2, B, *shape] of the layer.
        layers: activations.
    """
    found = []
    for part in neurons.chunks(problem.rows_at_once(neurons.node)):
        race = _Race(problem, part, part.of(known).double())
        start = part.start(problem.dtype)
        result = back_substitute(problem, part.node, start, "both", watch=race, watched=layers)
        found.append(race.finished(over_region(problem, result, "both")))
    return torch.cat(found, dim=1)


class _Race:
    """Rows on their way down, each with the best bounds so far; those that are decided drop out.

    Attributes:
        best: lower and upper bounds [2, R] float64 of all rows that started.
        left: int64, which of them are still under way.
    """

    def __init__(self, problem: Problem, neurons: Neurons, best: Tensor) -> None:
        self.problem = problem
        self.neurons = neurons
        self.best = best
        self.left = torch.arange(neurons.count, device=best.device)
        self.decision = Decision.about(problem, neurons.node)

    def __call__(
        self, node: BoundNode, rows: WindowCoefficients, constants: Tensor | None
    ) -> tuple[WindowCoefficients, Tensor | None]:
        if self.decision.bends is None or rows.count == 0:
            return rows, constants
        values = self.problem.add("both", self.problem.region_at(node).concretize_windows(rows, "both"), constants)
        assert values is not None
        self._improve(values)
        lower, upper = self.best.detach()[:, self.left]
        keep = self.decision.open(lower, upper, self.neurons.neurons[self.left]).nonzero().squeeze(1)
        if len(keep) == rows.count:
            return rows, constants
        self.left = self.left[keep]
        return rows.chosen(keep), None if constants is None else constants[:, keep]

    def finished(self, values: Tensor) -> Tensor:
        """Return the best bounds [2, R] of all rows, given those [2, R'] of the rows that reached the input."""
        self._improve(values)
        return self.best

    def _improve(self, values: Tensor) -> None:
        lower, upper = self.best[:, self.left]
        better = torch.stack([torch.maximum(lower, values[0]), torch.minimum(upper, values[1])])
        self.best = self.best.index_copy(1, self.left, better)
