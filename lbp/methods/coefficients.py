"""Linear bounds as users ask for them: the coefficients of one node in terms of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lbp.errors import InvalidInputError
from lbp.graph import BoundNode, Network
from lbp.graph.once import one_computation
from lbp.linear import Coefficients, DenseCoefficients
from lbp.methods.back_substitution import back_substitute, split_sides
from lbp.methods.names import Method
from lbp.methods.problem import Problem
from lbp.methods.solve import Solution
from lbp.precision import full_precision
from lbp.strategies import side_names

NodeCoefficients = dict[str, Tensor | None]
"""lA, uA [B, S, *shape of the lower node] and lbias, ubias [B, S]; None for a side that was not computed."""


def wanted_coefficients(
    network: Network, output: BoundNode, scheme: Method, needed: Mapping[str, Sequence[str]] | None
) -> dict[BoundNode, list[BoundNode]]:
    """Return the nodes whose linear bounds are wanted, and in terms of which nodes.

    Args:
        network: the graph.
        output: the node that is bounded.
        scheme: the method that bounds it.
        needed: names of nodes, and per name those of nodes below; None: the output in terms of the input.

    Raises:
        InvalidInputError: the method has no linear bounds, or a node lies elsewhere.
        UnknownNodeError: a name that no node has.
    """
    if scheme.output == "ibp":
        raise InvalidInputError("return_A: IBP has no linear bounds; use another method")
    if needed is None:
        return {output: [network.input]}
    wanted = {network[name]: [network[below] for below in sources] for name, sources in needed.items()}
    reachable = set(network.below(output))
    for node, sources in wanted.items():
        if node not in reachable or not set(sources) <= set(network.below(node)):
            raise InvalidInputError(
                f"needed_A_dict: {node.name!r} must be {output.name!r} or below it, and the nodes asked for below "
                f"{node.name!r}; got {[source.name for source in sources]}"
            )
    return {node: sources or [network.input] for node, sources in wanted.items()}


@one_computation()
@full_precision()
def linear_coefficients(
    problem: Problem, solution: Solution, wanted: Mapping[BoundNode, Sequence[BoundNode]]
) -> dict[str, dict[str, NodeCoefficients]]:
    """Return linear bounds of nodes in terms of nodes below them.

    Args:
        problem: solved, so that the pre-activation bounds are known.
        solution: of the problem, with linear bounds.
        wanted: per bounded node the nodes in terms of which it is wanted.

    Raises:
        InvalidInputError: a bounded node depends on the input also on paths around the node asked for.
    """
    result: dict[str, dict[str, NodeCoefficients]] = {}
    for node, sources in wanted.items():
        result[node.name] = {}
        for source in sources:
            if node is problem.output and source is problem.network.input:
                A, constants, sides = solution.coefficients, solution.constants, solution.sides
                assert A is not None
                assert constants is not None
            else:
                sides = solution.sides
                A, constants = _between(problem, node, source, sides)
            result[node.name][source.name] = _named(A, constants, sides, problem.dtype)
    return result


def _between(problem: Problem, node: BoundNode, source: BoundNode, sides: str) -> tuple[Tensor, Tensor]:
    """Return coefficients [K, B, S, *shape] and constants [K, B, S] of a node in terms of a node below it."""
    starts: Sequence[Coefficients] = [problem.identity(node, 0, node.size)]
    if node is problem.output:
        starts = problem.starts()
    matrices, constants = [], []
    for start in starts:
        found = back_substitute(problem, node, start, sides, [source])
        if set(found.coefficients) != {source}:
            raise InvalidInputError(
                f"needed_A_dict: {node.name!r} is not a function of {source.name!r} alone; ask for a node that every "
                "path from the input passes"
            )
        dense = found.coefficients[source]
        assert isinstance(dense, DenseCoefficients)
        A = dense.expanded(sides, problem.region.batch)
        zero = torch.zeros(1, 1, 1, dtype=torch.float64, device=A.device)
        matrices.append(A)
        constants.append((zero if found.constants is None else found.constants).expand(A.shape[:3]))
    return torch.cat(matrices, dim=2), torch.cat(constants, dim=2)


def _named(A: Tensor, constants: Tensor, sides: str, dtype: torch.dtype) -> NodeCoefficients:
    matrices = dict(zip(side_names(sides), A, strict=True))
    lower, upper = split_sides(constants, sides, dtype)
    return {"lA": matrices.get("lower"), "uA": matrices.get("upper"), "lbias": lower, "ubias": upper}
