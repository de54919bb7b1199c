"""CROWN: pre-activation bounds by back-substitution to the input (Lyu et al. 2021, section 3)."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from lbp.graph import BoundNode
from lbp.linear import Interval, WindowCoefficients, round_down, round_up, tighter
from lbp.methods.back_substitution import back_substitute, bounds_of_neurons, over_region
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
    found, layers = [], worth_evaluating(problem.network, node)
    for part in neurons.chunks(problem.rows_at_once(node)):
        race = _Race(problem, part, layers, torch.stack([part.of(bound) for bound in bounds]).double())
        result = back_substitute(problem, node, part.start(problem.dtype), "both", watch=race)
        found.append(race.finished(over_region(problem, result, "both")))
    lower, upper = torch.cat(found, dim=1)
    tightened = (
        neurons.put(bounds[0], round_down(lower, problem.dtype)),
        neurons.put(bounds[1], round_up(upper, problem.dtype)),
    )
    return tighter(bounds, tightened)


class _Race:
    """Rows on their way down, each with the best bounds so far; those that are decided drop out.

    Attributes:
        layers: where the rows are evaluated.
        best: lower and upper bounds [2, R] float64 of all rows that started.
        left: int64, which of them are still under way.
    """

    def __init__(self, problem: Problem, neurons: Neurons, layers: Collection[BoundNode], best: Tensor) -> None:
        self.problem = problem
        self.neurons = neurons
        self.layers = layers
        self.best = best
        self.left = torch.arange(neurons.count, device=best.device)
        self.decision = Decision.about(problem, neurons.node)

    def __call__(
        self, node: BoundNode, rows: WindowCoefficients, constants: Tensor | None
    ) -> tuple[WindowCoefficients, Tensor | None]:
        if node not in self.layers or self.decision.bends is None or rows.count == 0:
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
