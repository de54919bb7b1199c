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
    passes decide its neuron, at the layers that `worth_evaluating` names. Where intervals decide hardly any neuron, all
    of the layer have rows, of which those are not read. Without windows every neuron has its row, and the tighter
    bounds are kept.
    """
    bounds = interval_of(problem, node)
    if not problem.windows:
        return tighter(bounds, bounds_of_neurons(problem, node))
    neurons = open_neurons(problem, node, bounds)
    if neurons.count == 0:
        return bounds
    layers = worth_evaluating(problem.network, node)
    values = _raced(problem, neurons, bounds, layers) if layers else bounds_of_rows(problem, neurons)
    lower, upper = round_down(values[0], problem.dtype), round_up(values[1], problem.dtype)
    return tighter(bounds, (neurons.put(bounds[0], lower), neurons.put(bounds[1], upper)))


def _raced(problem: Problem, neurons: Neurons, known: Interval, layers: Collection[BoundNode]) -> Tensor:
    """Return bounds [2, R] float64 of neurons whose rows are evaluated at some layers on their way, in chunks.

    Args:
        problem: gives the graph and the bounds known so far.
        neurons: to bound.
        known: bounds [B, *shape] of the layer.
        layers: activations.
    """
    found, both = [], torch.stack(known)
    for part in neurons.chunks(problem.rows_at_once(neurons.node)):
        race = _Race(problem, part, part.of(both).double())
        start = part.start(problem.dtype)
        result = back_substitute(problem, part.node, start, "both", watch=race, watched=layers)
        found.append(race.finished(over_region(problem, result, "both")))
    return torch.cat(found, dim=1)


class _Race:
    """Rows on their way down, each with the best bounds so far; those that are decided drop out.

    Attributes:
        best: lower and upper bounds [2, R] float64 of all rows that started.
        left: int64, which of them are still under way; None: all.
    """

    def __init__(self, problem: Problem, neurons: Neurons, best: Tensor) -> None:
        self.problem = problem
        self.neurons = neurons
        self.best = best
        self.left: Tensor | None = None
        self.decision = Decision.about(problem, neurons.node)

    def __call__(
        self, node: BoundNode, rows: WindowCoefficients, constants: Tensor | None
    ) -> tuple[WindowCoefficients, Tensor | None]:
        if self.decision.bends is None or rows.count == 0:
            return rows, constants
        values = self.problem.add("both", self.problem.region_at(node).concretize_windows(rows, "both"), constants)
        assert values is not None
        lower, upper = self._improve(values).detach()
        neurons = self.neurons.neurons if self.left is None else self.neurons.neurons[self.left]
        keep = self.decision.open(lower, upper, neurons).nonzero().squeeze(1)
        if len(keep) == rows.count:
            return rows, constants
        self.left = keep if self.left is None else self.left[keep]
        return rows.chosen(keep), None if constants is None else constants[:, keep]

    def finished(self, values: Tensor) -> Tensor:
        """Return the best bounds [2, R] of all rows, given those [2, R'] of the rows that reached the input."""
        self._improve(values)
        return self.best

    def _improve(self, values: Tensor) -> Tensor:
        """Take bounds [2, R'] of the rows under way where they are better; return the best of these rows."""
        lower, upper = self.best if self.left is None else self.best[:, self.left]
        better = torch.stack([torch.maximum(lower, values[0]), torch.minimum(upper, values[1])])
        self.best = better if self.left is None else self.best.index_copy(1, self.left, better)
        return better
