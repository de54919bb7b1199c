"""Interval bound propagation (IBP; Lyu et al. 2021, section 2)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from lbp.graph import BoundNode, InputNode, Relaxations, last_uses
from lbp.graph.conv import Conv2dNode
from lbp.graph.linear import LinearNode
from lbp.linear import Ball, DenseCoefficients, ForwardBounds, Interval, tighter
from lbp.methods.back_substitution import back_substitute, bounds_of_neurons
from lbp.methods.problem import Problem


def propagate_intervals(problem: Problem, *, everywhere: bool = True, keep: Collection[BoundNode] = ()) -> None:
    """Find bounds of the nodes below the output by interval arithmetic, and record them.

    Over an l_p ball the first affine layer takes the dual norm of its rows, not the box around the ball. Bounds of all
    nodes that are rounded to nearest are let go after their last use, but for pre-activations, input and output.

    Args:
        problem: bounds already recorded are taken as they are.
        everywhere: for every node; otherwise only where intervals are exact.
        keep: nodes whose bounds are kept as well.
    """
    done: Mapping[BoundNode, Sequence[BoundNode]] = {}
    if everywhere and problem.outward is None:
        done = last_uses(problem.nodes, _kept(problem) | {*keep})
    for node in problem.nodes:
        if node not in problem.bounds and (everywhere or problem.network.has_exact_intervals(node)):
            if isinstance(node, InputNode):
                problem.record(node, (problem.region.lower, problem.region.upper))
            else:
                problem.record(node, _interval(problem, node))
        for source in done.get(node, ()):
            problem.bounds.pop(source, None)


def let_go(problem: Problem, nodes: Collection[BoundNode]) -> None:
    """Let the bounds of nodes go, but for those that `propagate_intervals` keeps."""
    if problem.outward is None:
        for node in {*nodes} - _kept(problem):
            problem.bounds.pop(node, None)


def _kept(problem: Problem) -> set[BoundNode]:
    ends = (problem.network.input, problem.output)
    return {*problem.pre_activations, *ends, *problem.given, *problem.known, *problem.reference}


def specification_by_intervals(problem: Problem, sides: str) -> Tensor:
    """Return bounds [K, B, S] float64 of C times the output, from intervals of the last activations.

    C is substituted back through the affine layers that follow the activations, then evaluated over the intervals.
    """
    stops = [node for node in problem.nodes if node.is_activation]
    result = back_substitute(problem, problem.output, problem.specified(), sides, stops)
    total = result.constants
    for node, dense in result.coefficients.items():
        assert isinstance(dense, DenseCoefficients)
        region = problem.region if isinstance(node, InputNode) else problem.region_at(node)
        A = dense.expanded(sides, problem.region.batch)
        total = problem.add(sides, total, region.concretize(A, sides))
    assert total is not None
    return total


def _interval(problem: Problem, node: BoundNode) -> Interval:
    ball = problem.region.ball
    over_ball = None
    if ball is not None and node.mixes and problem.network.is_first_affine(node):
        over_ball = _over_ball(problem, node, ball)
        if not problem.region.box_counts:
            return over_ball
    over_box = problem.interval(node, [problem.bounds[source] for source in node.inputs])
    return over_box if over_ball is None else tighter(over_ball, over_box)


def _over_ball(problem: Problem, node: BoundNode, ball: Ball) -> Interval:
    """Return exact bounds of the first affine layer over a ball, by the dual norm of its rows."""
    below = None if problem.outward is not None else _elementwise_map(node.inputs[0], ball)
    if below is None or not isinstance(node, LinearNode | Conv2dNode):
        return bounds_of_neurons(problem, node)  # in outward mode rounding is accounted for there
    center = node.value(below.center_bias)
    radius = ball.eps_like(center) * node.row_norms(below.center[0, 0], ball.p)
    return center - radius, center + radius


def _elementwise_map(node: BoundNode, ball: Ball) -> ForwardBounds | None:
    """Return what the nodes down to the input make of each coordinate, if they treat coordinates one by one.

    The result holds the factor of each coordinate as `center` [1, 1, *shape] and the image of the ball's center as
    `center_bias` [B, *shape].
    """
    if isinstance(node, InputNode):
        return ForwardBounds(ball.center.new_ones(1, 1, *ball.center.shape[1:]), None, ball.center, None)
    if not node.acts_per_neuron:
        return None
    below = _elementwise_map(node.inputs[0], ball)
    return None if below is None else node.forward_linear(below, relaxations=Relaxations("adaptive"))
