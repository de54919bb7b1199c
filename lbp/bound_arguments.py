"""The arguments of `BoundedModule.compute_bounds`: what is refused, and the nodes that names stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from lbp.checks import checked_bounds
from lbp.errors import InvalidInputError, UnsupportedArgumentError
from lbp.graph import BoundNode, Network
from lbp.linear import Interval

_MUST_BE_UNSET = (
    "aux",
    "intermediate_constr",
    "alpha_idx",
    "aux_reference_bounds",
    "cutter",
    "decision_thresh",
    "update_mask",
    "ibp_nodes",
)
"""Arguments of auto_LiRPA's `compute_bounds` that would change results and are not implemented."""


def check_arguments(given: Mapping[str, Any]) -> None:
    """Refuse arguments of `compute_bounds` that are not implemented, and a call that wants no side."""
    for name in _MUST_BE_UNSET:
        if given[name] is not None:
            raise UnsupportedArgumentError(f"compute_bounds: {name} is not implemented; leave it at None")
    if given["reuse_alpha"] or given["average_A"]:
        raise UnsupportedArgumentError(
            "compute_bounds: reuse_alpha and average_A are not implemented; leave them False"
        )
    if not given["bound_lower"] and not given["bound_upper"]:
        raise InvalidInputError("compute_bounds: at least one of bound_lower and bound_upper must be True")


def needed_nodes(names: Mapping[str, Sequence[str] | str] | None) -> dict[str, Sequence[str]] | None:
    """Return the nodes below each node of `needed_A_dict`; a name alone is a list of one."""
    if names is None:
        return None
    if not isinstance(names, Mapping) or not all(isinstance(below, Iterable) for below in names.values()):
        raise InvalidInputError(f"needed_A_dict must be a dictionary {{node: [nodes below it]}}, got {names!r}")
    return {node: [below] if isinstance(below, str) else below for node, below in names.items()}


def named_bounds(
    argument: str, bounds: Mapping[str, Sequence[Tensor]] | None, network: Network, like: Tensor
) -> dict[BoundNode, Interval]:
    """Return bounds given by name as bounds by node, checked; those of the input follow from its region."""
    if bounds is not None and not isinstance(bounds, Mapping):
        raise InvalidInputError(
            f"{argument} must be a dictionary {{name: (lower, upper)}}, got {type(bounds).__name__}"
        )
    result: dict[BoundNode, Interval] = {}
    for name, pair in (bounds or {}).items():
        node = network[name]
        result[node] = checked_bounds(argument, name, pair, like, node.shape)
    result.pop(network.input, None)
    return result
