"""LBP: linear bounds in terms of the input, layer after layer (Lyu et al. 2021, section 4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import torch
from torch import Tensor

from lbp.graph import BoundNode, InputNode, Network, Relaxations
from lbp.linear import DenseCoefficients, ForwardBounds, Interval
from lbp.methods.back_substitution import Substituted
from lbp.methods.forward_work import windows_pay
from lbp.methods.problem import Problem
from lbp.methods.work import counted_once
from lbp.ops import insert_forward, insert_forward_windows


def propagate_forward(
    problem: Problem, targets: Collection[BoundNode], keep: Collection[BoundNode] = (), *, windows: bool | None = None
) -> dict[BoundNode, ForwardBounds]:
    """Carry linear bounds forward to the targets, recording pre-activation bounds on the way.

    The matrices of a node are let go as soon as no later node reads them.

    Args:
        problem: pre-activation bounds already recorded are taken as they are.
        targets: nodes to reach.
        keep: targets whose linear bounds are returned.
        windows: whether matrices are kept as windows where that is smaller; None: where the problem allows it and that
            is less work.
    """
    needed = _needed(problem, targets)
    readers = Counter(source for node in needed for source in node.inputs)
    held: dict[BoundNode, ForwardBounds] = {}
    if windows is None:
        batch, device = problem.region.batch, problem.region.lower.device
        windows = problem.windows and (not problem.by_work or _pays(problem.network, tuple(needed), batch, device))
    for node in needed:
        held[node] = _step(problem, node, [held[source] for source in node.inputs], windows=windows)
        if node in problem.pre_activations and node not in problem.bounds:
            problem.record(node, bounds_over_region(problem, node, held[node]))
        for source in set(node.inputs):
            readers[source] -= node.inputs.count(source)
            if readers[source] == 0 and source not in keep:
                del held[source]
    return {node: held[node] for node in keep}


@counted_once
def _pays(network: Network, nodes: tuple[BoundNode, ...], batch: int, device: torch.device) -> bool:
    """Keep what `windows_pay` says of nodes whose parameters are on a device."""
    return windows_pay(nodes, batch=batch)


def _step(problem: Problem, node: BoundNode, sources: list[ForwardBounds], *, windows: bool) -> ForwardBounds:
    """Return the forward bounds of a node from those of its inputs."""
    forward = problem.outward_forward
    if isinstance(node, InputNode):
        if forward is not None:
            forward.start(node)
        return ForwardBounds.identity(problem.region.lower, windows=windows)
    relaxations = Relaxations(problem.strategy, "both", problem.bounds)
    if forward is not None:
        return forward.step(node, sources, relaxations)
    return node.forward_linear(*sources, relaxations=relaxations)


def bounds_over_region(problem: Problem, node: BoundNode, bounds: ForwardBounds) -> Interval:
    """Return lower and upper bounds [B, *shape] of a node from its forward linear bounds."""
    if problem.outward_forward is not None:
        return problem.outward_forward.bounds(node, bounds)
    return problem.region.concretize_forward(bounds)


def insert(problem: Problem, result: Substituted, forward: dict[BoundNode, ForwardBounds], sides: str) -> Substituted:
    """Replace coefficients of pre-activations by coefficients of the input, through their forward linear bounds."""
    source, outward = problem.network.input, problem.outward_forward
    total: Tensor | None = None
    constants = result.constants
    for node, dense in result.coefficients.items():
        assert isinstance(dense, DenseCoefficients)
        A = dense.expanded(sides, problem.region.batch)
        if isinstance(node, InputNode):
            part = A.flatten(3)
        else:
            part, added = inserted(A, insertable(problem, node, forward[node]), sides)
            constants = problem.add(sides, constants, added)
        is_sum = total is not None
        total = part if total is None else total + part
        if outward is not None:
            rows = DenseCoefficients(total.reshape(*total.shape[:3], *source.shape))
            constants = problem.add(sides, constants, outward.loss_of_insertion(node, rows, sides, is_sum=is_sum))
    assert total is not None
    return Substituted({source: DenseCoefficients(total.reshape(*total.shape[:3], *source.shape))}, constants)


def insertable(problem: Problem, node: BoundNode, bounds: ForwardBounds) -> ForwardBounds:
    """Return forward linear bounds of a node as they are inserted into coefficients of it."""
    return bounds if problem.outward_forward is None else problem.outward_forward.insertable(node, bounds)


def inserted(A: Tensor, bounds: ForwardBounds, sides: str) -> tuple[Tensor, Tensor]:
    """Insert forward linear bounds into coefficients A [K, B, S, *shape] of their layer.

    Returns:
        coefficients of the input [K, B, S, n0], and the constants [K, B, S] float64 that this adds.
    """
    windows = bounds.windows
    if windows is None:
        return insert_forward(A, *bounds.matrices, sides=sides)
    return insert_forward_windows(
        A.reshape(*A.shape[:3], *windows.layer),
        *bounds.on_windows(windows),
        image=windows.image,
        scale=windows.scale,
        offset=windows.offset,
        sides=sides,
    )


def _needed(problem: Problem, wanted: Collection[BoundNode]) -> list[BoundNode]:
    """Return the nodes below the wanted ones, in topological order."""
    found = set(wanted)
    for node in reversed(problem.nodes):
        if node in found:
            found.update(node.inputs)
    return [node for node in problem.nodes if node in found]
