"""What back-substitution of one row costs, counted from shapes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

from lbp.graph import BoundNode, Network
from lbp.graph.conv import Conv2dNode
from lbp.graph.linear import LinearNode
from lbp.linear import ReceptiveField, layer_of, window_of

WORTH_EVALUATING = 1000
"""Multiply-adds per coefficient that must lie ahead for an evaluation of the rows on their way to pay.

An evaluation reads every coefficient once, which takes about as long as 30 multiply-adds of a convolution's step: it
costs at most 3% of what it may save, and layers close to the input, with large windows and little below, are left out.
"""

P = ParamSpec("P")
R = TypeVar("R")


def counted_once(count: Callable[Concatenate[Network, P], R]) -> Callable[Concatenate[Network, P], R]:
    """Keep what a function counts from a network's shapes, which are those of its trace; see `lbp.graph.structure`."""

    @functools.wraps(count)
    def counted(network: Network, /, *args: P.args, **named: P.kwargs) -> R:
        key = (count, args, *named.items())
        if key not in network.counts:
            network.counts[key] = count(network, *args, **named)
        known: R = network.counts[key]
        return known

    return counted


@dataclass(frozen=True)
class RowStep:
    """The step of one row, both sides, through a node.

    Attributes:
        node: the node.
        coefficients: numbers that arrive there.
        multiply_adds: of the step; affine layers have some, but not the one where rows start, as its weights.
    """

    node: BoundNode
    coefficients: int
    multiply_adds: int


def row_steps(network: Network, start: BoundNode, *, windows: bool = True) -> list[RowStep]:
    """Return the steps of one row of a node down to the input, in their order.

    Args:
        network: the graph.
        start: the node.
        windows: whether the row is kept as a window where that is smaller.
    """
    fields: dict[BoundNode, ReceptiveField | None] = {start: ReceptiveField.identity() if windows else None}
    steps = []
    for node in reversed(network.below(start)):
        field, own = fields.pop(node), node.receptive_field()
        channels, *_ = layer = layer_of(node.shape)
        height, width = window_of(field, layer)
        multiply_adds = 0
        if node is not start and isinstance(node, Conv2dNode | LinearNode):
            multiply_adds = 2 * height * width * node.parameters()[0].numel()
        steps.append(RowStep(node, 2 * height * width * channels, multiply_adds))
        below = None if field is None or own is None else field.then(own)
        for source in node.inputs:
            known = fields.get(source, below)
            fields[source] = None if known is None or below is None else known.union(below)
    return steps


def insertion_points(
    network: Network, pre_activations: Collection[BoundNode], node: BoundNode, depth: int
) -> list[BoundNode]:
    """Return the pre-activations at which Relaxed-CROWN of that depth ends back-substitution from a node.

    Rank counts the activations on the longest path from the input; insertion happens at ranks up to rank(node) - depth.
    """
    rank, beneath = network.rank, set(network.below(node))
    return [point for point in pre_activations if point in beneath and rank[point] <= rank[node] - depth]


def met_first(node: BoundNode, stops: Collection[BoundNode]) -> list[BoundNode]:
    """Return the stops that back-substitution from a node meets first."""
    met, queue, seen = [], [node], {node}
    while queue:
        for source in queue.pop().inputs:
            if source in seen:
                continue
            seen.add(source)
            if source in stops:
                met.append(source)
            else:
                queue.append(source)
    return met


@counted_once
def worth_evaluating(network: Network, start: BoundNode) -> frozenset[BoundNode]:
    """Return the activations at which rows of a node, on their way down, are evaluated to see whether they are decided.

    The activations that the rows meet first are left out: there intervals say the same. Of the others it takes those
    where `WORTH_EVALUATING` multiply-adds or more lie ahead per coefficient.
    """
    found, ahead = set(), 0
    for step in reversed(row_steps(network, start)):
        ahead += step.multiply_adds
        node = step.node
        met_first = network.rank[node] >= network.rank[start]
        if node.is_activation and not met_first and ahead >= WORTH_EVALUATING * step.coefficients:
            found.add(node)
    return frozenset(found)
