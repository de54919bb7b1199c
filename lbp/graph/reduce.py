"""Means and sums over dimensions, as average pooling of whole images."""

from __future__ import annotations

import math
from typing import Any

import torch

from lbp.graph.average_pool import AveragePoolNode
from lbp.graph.base import BoundNode
from lbp.graph.registry import REQUIRED, Call, for_functions
from lbp.graph.shape import PermuteNode, ReshapeNode
from lbp.linear import ReceptiveField


@for_functions(torch.mean, "mean")
def _mean(call: Call) -> BoundNode:
    return _reduced(call, mean=True)


@for_functions(torch.sum, "sum")
def _sum(call: Call) -> BoundNode:
    return _reduced(call, mean=False)


def _reduced(call: Call, *, mean: bool) -> BoundNode:
    args = call.bind(input=REQUIRED, dim=None, keepdim=False, dtype=None, axis=None)
    source, rank = call.node(args["input"]), call.rank_of(args["input"])
    dims = _dimensions(call, args, rank)
    if 0 in dims:
        raise call.refuse("reduces over the batch dimension; name the others, as in x.mean((2, 3))")
    axes = sorted(dim - 1 for dim in dims)
    sizes = [source.shape[axis] for axis in axes]
    if math.prod(sizes) == 0:
        raise call.refuse(f"reduces over dimensions of sizes {sizes}, in which there is nothing")
    image = source if len(source.shape) == 3 and axes == [1, 2] else _last(call, source, axes)
    height, width = image.shape[1:]
    weights = [
        torch.full((1, size), 1 / size if mean else 1.0, dtype=torch.float64, device="cpu") for size in (height, width)
    ]
    field = ReceptiveField.of_kernel((height, width), stride=(height, width))
    pooled = AveragePoolNode(f"{call.name}/pooled", image, weights[0], weights[1], field)
    return ReshapeNode(call.name, pooled, call.shape)


def _dimensions(call: Call, args: dict[str, Any], rank: int) -> set[int]:
    """Return the dimensions to reduce over, the batch being 0."""
    dim = call.static(args["dim"] if args["axis"] is None else args["axis"])
    given = range(rank) if dim is None or dim in ([], ()) else [dim] if isinstance(dim, int) else dim
    return {one % rank for one in given}


def _last(call: Call, source: BoundNode, axes: list[int]) -> BoundNode:
    """Return a node with dimensions moved last, as images of one row."""
    kept = [axis for axis in range(len(source.shape)) if axis not in axes]
    shape = (math.prod(source.shape[axis] for axis in kept), 1, math.prod(source.shape[axis] for axis in axes))
    order = (*kept, *axes)
    ordered = source if list(order) == sorted(order) else PermuteNode(f"{call.name}/ordered", source, order)
    return ReshapeNode(f"{call.name}/image", ordered, shape)
